"""All methods from one recipe: each source-time stage, its checkpoint, and a column for each method in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from crosstask import checkpoint
from crosstask.bench import records
from crosstask.config import JointKind, load_recipe
from crosstask.methods import METHODS, make_adapter
from test_pipeline import RECIPE, crosstask, names, stripes, weights

FAST = {"memo": {"views": 2}, "cotta": {"views": 2}, "rotta": {"every": 16}}
STAGES = """
[tasks.ttt]
views = 8
[tasks.clust3]
projectors = 2
clusters = 3
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    stripes(folder / "train.npz", 96, 0)
    stripes(folder / "test.npz", 32, 1)
    text = RECIPE.format(train=folder / "train.npz", test=folder / "test.npz").partition("[bench.columns.source]")[0]
    text = text.replace("seeds = [0, 1]", "seeds = [0]").replace('"clean", "contrast", ', "")
    text = text.replace("epochs = 4", "epochs = 1").replace("epochs = 3", "epochs = 1")
    for name, method in METHODS.items():
        steps = {"steps": 1} if method.defaults.get("steps") else {}
        arguments = ", ".join(f"{key} = {value}" for key, value in {**steps, **FAST.get(name, {})}.items())
        text += f'[bench.columns."{name}"]\nmethod = "{name}"\nreset = "corruption"\narguments = {{ {arguments} }}\n'
    text += '[bench.columns.joint]\nmethod = "cta"\ncheckpoint = "joint"\narguments = { steps = 1 }\n'
    path = folder / "all.toml"
    path.write_text(text + STAGES)
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("everything")
    crosstask("run", recipe, "--out", out)
    return out


@pytest.mark.slow
def test_one_command_fills_the_table_with_every_method(finished: Path) -> None:
    found = records.read(finished / "records.jsonl")
    assert {record.label for record in found} == {*METHODS, "joint"} and "report.html" in names(finished)
    assert set(weights(finished)) == {"supervised", "self-supervised", "aligned", *get_args(JointKind)}
    by_label = {record.label: record for record in found}
    for label, record in by_label.items():
        assert record.protocol["model"] == ("joint" if label == "joint" else METHODS[label].needs)
        assert record.images_per_second > 0 and record.peak_memory_mb > 0
    assert by_label["t3a"].steps == 1, "what joins the supports is an update"
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("ReC-TTT", "TTT++", "CoTTA", "over Source"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_a_checkpoint_that_was_loaded(finished: Path, method: str) -> None:
    loaded = checkpoint.load(finished / "checkpoints" / METHODS[method].needs)
    adapter = make_adapter(method, loaded, **FAST.get(method, {}))
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert adapter(x).shape == (4, 3) and adapter(x).isfinite().all()


@pytest.mark.slow
def test_a_stage_by_itself_gives_the_very_weights_of_the_whole_run(finished: Path, recipe: Path, tmp_path) -> None:
    done = crosstask("pretrain", recipe, "--out", tmp_path / "alone", "--only", "rec-ttt")
    alone = weights(tmp_path / "alone")
    assert set(alone) == {"supervised", "rec-ttt"} and str(tmp_path / "alone") in done.stdout
    assert alone.items() <= weights(finished).items()
    about = checkpoint.read_about(tmp_path / "alone" / "checkpoints" / "rec-ttt")
    assert about["parents"] == {"supervised": alone["supervised"]}


@pytest.mark.slow
def test_a_stage_beside_a_task_has_epochs_of_its_own(finished: Path, recipe: Path, tmp_path: Path) -> None:
    setting = "supervised.joint_epochs=2"
    crosstask("pretrain", recipe, "--out", tmp_path / "own", "--only", "joint", "--set", setting)
    own, others = weights(tmp_path / "own"), weights(finished)
    assert own["supervised"] == others["supervised"] and own["joint"] != others["joint"]
    made = {kind: checkpoint.read_about(tmp_path / "own" / "checkpoints" / kind)["settings"] for kind in own}
    assert {kind: about["supervised"]["epochs"] for kind, about in made.items()} == {"supervised": 1, "joint": 2}


@pytest.mark.slow
def test_a_second_run_finds_every_stage_and_cell(finished: Path, recipe: Path) -> None:
    before = weights(finished)
    done = crosstask("run", recipe, "--out", finished)
    assert done.stderr.count("found") == len(before) + 1 and weights(finished) == before


def test_mistakes_in_stages_are_named_before_anything_runs(recipe: Path, tmp_path: Path) -> None:
    for setting, message in {
        "tasks.clust3.clusters=1": "clusters: input should be greater than or equal to 2",
        "tasks.clust3.cluster=4": "cluster: unknown key; did you mean 'clusters'?",
        "tasks.clust4.clusters=4": "unknown joint task 'clust4'; did you mean 'clust3'?",
        "bench.columns.ttt.checkpoint=supervised": "ttt needs the checkpoint 'ttt'",
    }.items():
        done = crosstask("run", recipe, "--out", tmp_path / "no", "--set", setting, check=False)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "no" / "checkpoints").exists()
    done = crosstask("pretrain", recipe, "--only", "clust4", check=False)
    assert done.returncode == 2 and "--only takes one of supervised, self-supervised, joint, ttt" in done.stderr


def test_methods_are_listed_with_all_their_facts() -> None:
    rows = json.loads(crosstask("methods", "--json").stdout)
    assert [row["name"] for row in rows] == [
        "source", "ptbn", "tent", "eata", "sar", "shot", "t3a", "lame", "memo", "cotta", "rotta", "deyo", "roid",
        "ttt", "ttt++", "tttflow", "clust3", "nc-ttt", "rec-ttt", "ttac", "cta",
    ]  # fmt: skip
    for row in rows:
        assert all(row[key] for key in ("summary", "family", "needs", "moves", "cost", "paper"))
    table = crosstask("methods").stdout
    assert all(name in table for name in METHODS)
    told = crosstask("methods", "nc-ttt").stdout
    assert "Osowiechi" in told and "learning_rate=" in told and "Needs a checkpoint: nc-ttt" in told


def test_the_recipe_of_all_methods_has_them_all() -> None:
    recipe = load_recipe("fashion-mnist-all")
    assert {column.method for column in recipe.bench.columns.values()} == set(METHODS)
    assert len(recipe.bench.seeds) >= 3
