"""The whole way at small size: a recipe on generated images, from nothing to a report, killed and taken up again."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosstask import checkpoint, cli, pipeline
from crosstask.bench import records
from crosstask.config import load_recipe
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.errors import ConfigError
from crosstask.report import commands
from crosstask.report.summary import summarise

ROOT = Path(__file__).parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
RECIPE = """
name = "tiny"
precision = "float32"
[data]
name = "{train}"
test = "{test}"
[supervised]
epochs = 4
batch_size = 32
learning_rate = 0.05
crop = [0.6, 1.0]
[task]
hidden = 16
out = 8
[self_supervised]
epochs = 3
batch_size = 32
learning_rate = 0.05
[align]
epochs = 3
batch_size = 32
learning_rate = 0.05
[bench]
corruptions = ["clean", "contrast", "gaussian_noise"]
seeds = [0, 1]
images = 32
batch_size = 16
curve = [0, 1, 2]
[bench.columns.source]
method = "source"
[bench.columns.ptbn]
method = "ptbn"
[bench.columns.tent-online]
method = "tent"
reset = "corruption"
[bench.columns.cta]
method = "cta"
arguments = {{ steps = 2 }}
"""


def stripes(path: Path, count: int, seed: int) -> None:
    """Write `count` gray images of 16 x 16 pixels: stripes of three directions, at random phases and contrasts."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows, columns = np.mgrid[:16, :16]
    waves = np.stack([rows, columns, rows + columns])[labels]
    phase = random.uniform(0, 6, (count, 1, 1))
    clean = 0.5 + random.uniform(0.2, 0.4, (count, 1, 1)) * np.sin(waves * 1.2 + phase)
    pixels = clean + random.normal(0, 0.05, clean.shape)
    np.savez(path, images=(pixels.clip(0, 1) * 255).astype(np.uint8), labels=labels)


def recipe_of_stripes(folder: Path) -> Path:
    """Write stripes to train and to test on, and a recipe for them; return its path."""
    stripes(folder / "train.npz", 240, 0)
    stripes(folder / "test.npz", 60, 1)
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(train=folder / "train.npz", test=folder / "test.npz"))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe_of_stripes(tmp_path_factory.mktemp("recipe"))


@pytest.mark.parametrize("place", ["{}", "~"])
def test_images_to_train_on_are_not_tested_on(recipe: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HOME", str(recipe.parent))
    read = load_recipe(str(recipe), [f"data.name={place.format(recipe.parent)}/train.npz"])
    read = dataclasses.replace(read, data=dataclasses.replace(read.data, test=None))
    with pytest.raises(ConfigError, match="is not divided into train and test"):
        pipeline.target_images(read)


def crosstask(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crosstask", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one unbroken run."""
    out = tmp_path_factory.mktemp("unbroken")
    crosstask("run", recipe, "--out", out)
    return out


def numbers(folder: Path) -> list[tuple[object, ...]]:
    """What must not depend on when a run was interrupted: every record's figures, without its times."""
    found = records.read(folder / "records.jsonl")
    return sorted((r.label, r.corruption, r.seed, r.accuracy, r.nll, r.ece, tuple(r.curve.items())) for r in found)


def weights(folder: Path) -> dict[str, str]:
    return {p.name: checkpoint.read_about(p)["weights_sha256"] for p in (folder / "checkpoints").iterdir()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    assert names(finished) == {
        "checkpoints", "config.toml", "examples.json", "log.txt", "records.jsonl", "report.html",
    }  # fmt: skip
    assert set(weights(finished)) == {"supervised", "self-supervised", "aligned"}
    assert len(numbers(finished)) == 3 * 2 * 4
    about = checkpoint.read_about(finished / "checkpoints" / "aligned")
    assert about["parents"] == {k: v for k, v in weights(finished).items() if k != "aligned"}


def test_the_classifier_learned_and_the_records_agree_with_a_recomputation(finished: Path) -> None:
    import torch

    from crosstask.data.images import load_images
    from crosstask.data.streams import draw_stream

    config = (finished / "config.toml").read_text()
    test = next(line.split('"')[1] for line in config.splitlines() if line.startswith("test = "))
    model = checkpoint.load(finished / "checkpoints" / "supervised").classifier.eval()
    for record in records.read(finished / "records.jsonl"):
        if record.label != "source":
            continue
        stream = draw_stream(load_images(test), record.corruption, 5, count=32, batch_size=16, seed=record.seed)
        with torch.no_grad():
            predicted = model(stream.images.images / 255).argmax(dim=1)
        assert record.accuracy == pytest.approx((predicted == stream.images.labels).float().mean().item())
        assert record.corruption != "clean" or record.accuracy > 0.6


def test_colour_works_the_whole_way(recipe: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("train", "test"):
        gray = np.load(recipe.parent / f"{name}.npz")
        tint = random.uniform(0.6, 1, (len(gray["labels"]), 1, 1, 3))
        np.savez(
            tmp_path / f"{name}.npz", images=(gray["images"][..., None] * tint).astype(np.uint8), labels=gray["labels"]
        )
    paths = [f"--set=data.name={tmp_path}/train.npz", f"--set=data.test={tmp_path}/test.npz", "--set=bench.seeds=[0]"]
    crosstask("run", recipe, "--out", tmp_path / "run", *paths)
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "aligned").image_shape == (3, 16, 16)
    assert len(numbers(tmp_path / "run")) == 3 * 4


def test_a_second_run_finds_everything(finished: Path, recipe: Path) -> None:
    before = numbers(finished), weights(finished), (finished / "records.jsonl").stat().st_mtime_ns
    done = crosstask("run", recipe, "--out", finished)
    assert (numbers(finished), weights(finished), (finished / "records.jsonl").stat().st_mtime_ns) == before
    assert done.stderr.count("found") == 4


def test_a_kill_after_the_last_cell_leaves_records_that_the_next_run_puts_in_order(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    """Workers finish in any order; the command may die between the last record and the sorting of them all."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    whole = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(b"".join(reversed(whole.splitlines(keepends=True))))
    assert "found all" in crosstask("bench", recipe, "--out", folder).stderr
    assert (folder / "records.jsonl").read_bytes() == whole


def test_records_of_other_settings_are_set_aside_not_mixed(finished: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    crosstask("run", recipe, "--out", tmp_path / "run", "--set", "bench.columns.cta.arguments.steps=1")
    kept = records.read(tmp_path / "run" / "records.jsonl")
    assert {r.steps for r in kept if r.label == "cta"} == {1}
    aside = records.read(tmp_path / "run" / "superseded.jsonl")
    assert {(r.label, r.steps) for r in aside} == {("cta", 2)}


def test_checkpoints_may_be_kept_in_half_the_bytes_and_go_together(recipe: Path, tmp_path: Path) -> None:
    import torch

    crosstask("run", recipe, "--out", tmp_path, "--set=weights=bfloat16", "--set=bench.seeds=[0]")
    made = {kind: checkpoint.load(tmp_path / "checkpoints" / kind) for kind in ("supervised", "aligned")}
    for weights in (made["supervised"].encoder.conv.weight, made["aligned"].encoder.conv.weight):
        assert torch.equal(weights, weights.bfloat16().float())
    assert made["aligned"].parents["supervised"] == made["supervised"].weights_hash
    crosstask("run", recipe, "--out", tmp_path, "--set=weights=bfloat16", "--set=bench.seeds=[0]")
    assert (tmp_path / "log.txt").read_text().count("trained in") == 3, "the second run finds them"


def test_checkpoints_of_other_settings_are_kept(finished: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = weights(finished)["aligned"]
    crosstask("align", recipe, "--out", tmp_path / "run", "--set", "align.epochs=1")
    kept = checkpoint.read_about(tmp_path / "run" / "checkpoints" / f"aligned-{before[:8]}")
    assert kept["weights_sha256"] == before != weights(tmp_path / "run")["aligned"]


@pytest.mark.parametrize("keys", ["in a run", "in adapt"])
def test_after_ctrl_c_it_says_what_holds(keys: str, finished: Path, recipe: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros((4000, 16, 16), np.uint8))
    model = finished / "checkpoints" / "aligned"
    arguments, message = {
        "in a run": (["run", recipe, "--out", tmp_path / "run", "--set=supervised.epochs=5000"], "goes on from here"),
        "in adapt": (["adapt", "--model", model, "--images", tmp_path / "own.npy"], "nothing was written"),
    }[keys]
    command = [sys.executable, "-m", "crosstask", *map(str, arguments)]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background does not
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ONE_THREAD, preexec_fn=listens
    )
    process.stderr.readline()  # it is under way
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "predictions.csv").exists()


def test_a_name_that_is_not_utf8_comes_out_as_it_went_in(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "0.png").rename(tmp_path / "images" / os.fsdecode(b"\xff.png"))
    out, model = tmp_path / "predictions.csv", finished / "checkpoints" / "aligned"
    done = crosstask("adapt", "--model", model, "--images", tmp_path / "images", "--out", out)
    assert b"\xff.png," in out.read_bytes()
    assert "fewer than 16 images mislead" in done.stderr


def test_predictions_that_are_not_finite_are_no_success(finished: Path, recipe: Path, tmp_path: Path) -> None:
    images, out = recipe.parent / "test.npz", tmp_path / "predictions.csv"
    command = ["adapt", "--model", finished / "checkpoints" / "aligned", "--images", images, "--out", out]
    done = crosstask(*command, "--set", "learning_rate=1e38", check=False)
    assert done.returncode == 2 and not out.exists()
    assert "cta ended in predictions that are not finite; lower its learning rate" in done.stderr


def test_the_example_with_a_network_of_ones_own_runs(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "own_network.py", recipe.parent / "train.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ONE_THREAD)
    expected = ["logits, not aligned (64, 10)", "logits (64, 10)", "loaded aligned"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_the_command_says_its_version_and_a_methods_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in ((["--version"], "crosstask 0.1.0"), (["methods", "cta"], "learning_rate=0.01")):
        assert cli.app(arguments, standalone_mode=False) in (None, 0)
        assert expected in capsys.readouterr().out


def test_a_lost_example_is_made_again_and_a_stale_one_goes(finished: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shown = tmp_path / "run" / "examples.json"
    shown.write_text("{")
    crosstask("bench", recipe, "--out", tmp_path / "run")
    assert json.loads(shown.read_text()) == json.loads((finished / "examples.json").read_text())
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == (finished / "records.jsonl").read_bytes()
    crosstask("bench", recipe, "--out", tmp_path / "run", "--set", 'bench.corruptions=["clean","contrast"]')
    assert [e["corruption"] for e in json.loads(shown.read_text())["examples"]] == ["clean", "contrast"]


def test_a_column_may_start_from_the_other_checkpoint(finished: Path, recipe: Path, tmp_path: Path) -> None:
    aligned = '{method="ptbn", checkpoint="aligned"}'
    parents = [f"--{kind}={finished}/checkpoints/{kind}" for kind in ("supervised", "aligned")]
    crosstask("bench", recipe, "--out", tmp_path, "--set", f"bench.columns.ptbn-aligned={aligned}", *parents)
    found = records.read(tmp_path / "records.jsonl")
    before = {(r.corruption, r.seed): r.accuracy_before for r in found if r.label == "cta"}
    assert {(r.corruption, r.seed): r.accuracy for r in found if r.label == "ptbn-aligned"} == before
    assert {r.protocol["model"] for r in found if "ptbn" in r.label} == {"supervised", "aligned"}


def test_a_shift_of_ones_own_stands_in_a_recipe_and_is_measured_anew_when_its_code_changes(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    code = "def dim(images, severity, random):\n    return images // {}\n"
    (tmp_path / "mine.py").write_text(code.format(2))
    parents = [f"--{kind}={finished}/checkpoints/{kind}" for kind in ("supervised", "aligned")]
    settings = [
        f'bench.shifts={{dim="{tmp_path}/mine.py:dim"}}',
        'bench.corruptions=["dim","frost"]',
        "bench.seeds=[0]",
    ]
    arguments = [part for setting in (*settings, 'bench.table="imagenet"') for part in ("--set", setting)]
    command = ("bench", recipe, "--out", tmp_path / "run", *arguments, *parents)
    crosstask(*command)
    before = records.read(tmp_path / "run" / "records.jsonl")
    assert {r.corruption for r in before} == {"dim", "frost"}
    assert {(r.protocol["table"], r.protocol["frost"]) for r in before} == {("imagenet", texture())}
    (tmp_path / "mine.py").write_text(code.format(3))
    crosstask(*command)
    after = {(r.corruption, r.label): r.key for r in records.read(tmp_path / "run" / "records.jsonl")}
    assert {r.corruption for r in before if after[r.corruption, r.label] != r.key} == {"dim"}
    crosstask("report", tmp_path / "run")
    assert "The severities are those of imagenet. Frost is cut from" in (tmp_path / "run/report.html").read_text()


def test_single_steps_give_what_run_gives(finished: Path, recipe: Path, tmp_path: Path) -> None:
    for step in ("pretrain", "align", "bench"):
        crosstask(step, recipe, "--out", tmp_path)
    crosstask("report", tmp_path)
    assert numbers(tmp_path) == numbers(finished)
    assert weights(tmp_path) == weights(finished)
    assert (tmp_path / "report.html").exists()


def test_kill_it_in_any_write_and_it_ends_in_the_same_bits(finished: Path, recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("kill_in_every_write.py"), recipe, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    kinds = ("supervised", "self-supervised", "aligned")
    stages = {f"{k}/{file}" for k in kinds for file in ("model.safetensors", "config.json")}
    states = {f"checkpoints/.{k}.state" for k in kinds}
    rest = {"run/config.toml", "run/examples.json", "run/records.jsonl", "run/report.html"}
    rest |= {"the first record", "a later record"}
    assert set(done.stdout.splitlines()) == stages | states | rest
    assert numbers(tmp_path / "run") == numbers(finished)
    assert weights(tmp_path / "run") == weights(finished)
    crosstask("run", recipe, "--out", tmp_path / "run")
    for place in (".", "checkpoints"):
        assert names(tmp_path / "run" / place) == names(finished / place), "something half-written lies about"


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0, reason="needs a disk of its own"
)
def test_a_full_disk_is_one_message_and_with_more_space_the_run_goes_on(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    """The disk is a real one, of two megabytes at first, in a mount namespace of this test's own."""
    again = shlex.join([sys.executable, "-m", "crosstask", "run", str(recipe), "--out", f"{tmp_path}/disk/run"])
    script = f"""
        mkdir {tmp_path}/disk && mount -t tmpfs -o size=2m tmpfs {tmp_path}/disk || exit 9
        {again}; test $? = 2 || exit 8
        mount -o remount,size=64m {tmp_path}/disk && {again} && cp -r {tmp_path}/disk/run {tmp_path}/run
    """
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("the disk is full; free some space") == 1
    assert numbers(tmp_path / "run") == numbers(finished)
    assert weights(tmp_path / "run") == weights(finished)


def test_alignment_takes_a_folder_of_images_without_labels(finished: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(np.load(recipe.parent / "train.npz")["images"]):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:03}.png")
    parents = [f"--{kind}={finished}/checkpoints/{kind}" for kind in ("supervised", "self-supervised")]
    folder = f"--set=data.name={tmp_path}/images"
    crosstask("align", recipe, "--out", tmp_path / "run", folder, *parents)
    assert weights(tmp_path / "run")["aligned"] == weights(finished)["aligned"], "the labels made a difference"


@pytest.mark.parametrize("kind", ["aligned", "supervised"])
def test_adapt_writes_predictions_in_input_order(finished: Path, tmp_path: Path, kind: str) -> None:
    stripes(tmp_path / "own.npz", 40, 2)
    images = np.load(tmp_path / "own.npz")["images"]
    np.save(tmp_path / "own.npy", images)
    out = tmp_path / "predictions.csv"
    model = finished / "checkpoints" / kind
    done = crosstask("adapt", "--model", model, "--images", tmp_path / "own.npy", "--out", out, "--json")
    assert json.loads(done.stdout)["images"] == 40
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0]) == ["file", "prediction", "label_name", "confidence", "changed"]
    assert [row["file"] for row in rows] == [str(i) for i in range(40)]
    assert json.loads(done.stdout)["changed"] == sum(row["changed"] == "true" for row in rows)
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)


def test_batches_are_mixed_where_files_come_class_by_class(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Black images first, white ones after: each batch has some of both, and the answers come in the files' order."""
    import torch

    from crosstask import adapt
    from crosstask.data.images import ImageSet

    shades = torch.arange(64, dtype=torch.uint8) // 32 * 255
    images = ImageSet(images=shades.view(64, 1, 1, 1).expand(64, 1, 16, 16).contiguous(), name="shades")
    model, seen = checkpoint.load(finished / "checkpoints" / "aligned"), []
    make = adapt.make_adapter

    def watched(*arguments: object, **options: object) -> torch.nn.Module:
        adapter = make(*arguments, **options)
        adapter.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean().item()))
        return adapter

    monkeypatch.setattr(adapt, "make_adapter", watched)
    found = adapt.adapt_images(model, images, method="source", batch_size=16)
    assert len(seen) == 4 and all(0.1 < mean < 0.9 for mean in seen)
    assert [p.file for p in found] == [str(row) for row in range(64)]
    assert len({(p.prediction, p.confidence) for p in found[:32]}) == 1 and not any(p.changed for p in found)


def test_changed_tells_what_the_model_would_have_said_without_adaptation(finished: Path) -> None:
    import torch

    from crosstask.adapt import adapt_images
    from crosstask.data.images import ImageSet

    generator = torch.Generator().manual_seed(0)
    dark = torch.randint(0, 40, (32, 1, 16, 16), generator=generator, dtype=torch.uint8)
    model, images = checkpoint.load(finished / "checkpoints" / "aligned"), ImageSet(images=dark, name="dark")
    frozen, moved = (adapt_images(model, images, method=method) for method in ("source", "ptbn"))
    different = [one.prediction != other.prediction for one, other in zip(frozen, moved, strict=True)]
    assert [p.changed for p in moved] == different and any(different)


def test_the_readme_works_as_written(finished: Path, tmp_path: Path) -> None:
    """Its Python and its `adapt` command run on the tiny model, in a folder that looks like the reader's."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fashion-mnist").symlink_to(finished)
    (tmp_path / "my-images").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "my-images" / f"{number}.png")
    along_a_stream, python, as_it_is = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    stream, shape = "stream = images.split(2)\n", "print(tuple(logits.shape))\n"
    network = "import torch\nnetwork = torch.nn.Sequential(model.classifier.encoder, model.classifier.head)\n"
    (tmp_path / "example.py").write_text(python + shape + stream + along_a_stream + shape + network + as_it_is + shape)
    example = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert example.stdout.splitlines() == ["(5, 3)", "(1, 3)", "(5, 3)"], example.stderr
    (command,) = re.findall(r"^crosstask (adapt .*)$", readme, re.MULTILINE)
    done = subprocess.run([sys.executable, "-m", "crosstask", *shlex.split(command)], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 6


MISTAKES = {
    "unknown recipe": (("run", "fashon-mnist"), "did you mean 'fashion-mnist'"),
    "unknown key": (("run", "{recipe}", "--set", "align.epoch=2"), "did you mean 'epochs'"),
    "two mistakes at once": (("run", "{recipe}", "--set", "align.epochs=-1", "--set", "bench.severity=9"), "2 mistake"),
    "unknown method": (("run", "{recipe}", "--set", "bench.columns.x.method=tnet"), "did you mean 'tent'"),
    "unknown argument": (("run", "{recipe}", "--set", "bench.columns.cta.arguments.step=3"), "did you mean 'steps'"),
    "unknown corruption": (("run", "{recipe}", "--set", 'bench.corruptions=["fogg"]'), "did you mean 'fog'"),
    "unknown task": (("run", "{recipe}", "--set", "task.name=simclrr"), "did you mean 'simclr'"),
    "unknown encoder": (("run", "{recipe}", "--set", "encoder=resnet81"), "did you mean 'resnet18'"),
    "unknown device": (("run", "{recipe}", "--set", "device=tpu"), "not available"),
    "too many images": (("run", "{recipe}", "--set", "bench.images=100"), "has 60"),
    "no training images": (("run", "{recipe}", "--set", "data.name=/nowhere/at/all"), "does not exist"),
    "nothing to test on": (
        ("run", "{recipe}", "--set", "data.name={folder}", "--set", "data.test="),
        "data.test=FOLDER",
    ),
    "other classes": (("run", "{recipe}", "--set", "data.test={other}"), "has other classes than the model"),
    "other colours": (("run", "{recipe}", "--set", "data.test={coloured}"), "colour (3 channels)"),
    "images too small": (
        ("run", "{recipe}", "--set", "data.name={little}", "--set", "data.test={little}", "--set", "bench.images=4"),
        "at least 16x16 pixels",
    ),
    "a wrong argument": (("run", "{recipe}", "--set", "bench.columns.cta.arguments.steps=2.5"), "valid integer"),
    "a word for a number": (("run", "{recipe}", "--set", "bench.columns.cta.arguments.steps=abc"), "valid integer"),
    "no seeds": (("run", "{recipe}", "--set", "bench.seeds=[]"), "at least 1 item"),
    "nothing left to train on": (("run", "{recipe}", "--set", "data.validation=9999"), "leaves nothing of the"),
    "an endless stage": (("run", "{recipe}", "--set", "align.epochs=inf"), "finite number"),
    "a crop the wrong way round": (("run", "{recipe}", "--set", "supervised.crop=[0.9,0.2]"), "smaller number first"),
    "a recipe of bytes": (("run", "{bytes}"), "UTF-8"),
    "strangers": (("bench", "{recipe}", "--supervised", "{model}", "--aligned", "{model}"), "was not made from this"),
    "not aligned": (
        ("bench", "{recipe}", "--supervised", "{model}", "--aligned", "{supervised}"),
        "that is aligned, got",
    ),
    "a folder to write to": (
        ("adapt", "--model", "{model}", "--images", "{own}", "--out", "{folder}"),
        "folder stands",
    ),
    "its own input to write to": (("adapt", "--model", "{model}", "--images", "{own}", "--out", "{own}"), "overwrite"),
    "a pipe to write to": (("adapt", "--model", "{model}", "--images", "{own}", "--out", "{pipe}"), "no ordinary file"),
    "a long name to write to": (
        ("adapt", "--model", "{model}", "--images", "{own}", "--out", "{folder}/" + "n" * 300),
        "name is too long",
    ),
    "a long name to read": (("adapt", "--model", "n" * 300, "--images", "{own}"), "is no checkpoint"),
    "a column on the wrong model": (
        ("run", "{recipe}", "--set", "bench.columns.cta.checkpoint=self-supervised"),
        "cta needs the checkpoint 'aligned'",
    ),
    "a wrong adapt argument": (("adapt", "--model", "{model}", "--images", "{own}", "--set", "steps=abc"), "integer"),
    "no such images": (("adapt", "--model", "{model}", "--images", "/nowhere/at/all"), "does not exist"),
    "no such model": (("adapt", "--model", "/nowhere", "--images", "{own}"), "is no checkpoint"),
    "wrong channels": (("adapt", "--model", "{model}", "--images", "{colour}"), "colour"),
    "wrong size": (("adapt", "--model", "{model}", "--images", "{large}"), "resize"),
    "ttt on a supervised model": (
        ("adapt", "--model", "{supervised}", "--images", "{own}", "--method", "ttt"),
        "crosstask pretrain RECIPE --only ttt",
    ),
    "read-only place": (("adapt", "--model", "{model}", "--images", "{own}", "--out", "/proc/p.csv"), "cannot write"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_message_and_exit_code_2(
    case: str, finished: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    labels = np.arange(32) % 2
    black = np.zeros((32, 16, 16), np.uint8)
    np.savez(tmp_path / "other.npz", images=black, labels=labels, class_names=["1", "2"])
    np.savez(tmp_path / "coloured.npz", images=np.zeros((33, 16, 16, 3), np.uint8), labels=np.arange(33) % 3)
    np.savez(tmp_path / "little.npz", images=np.zeros((32, 8, 8), np.uint8), labels=labels)
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "folder" / "0.png")
    np.save(tmp_path / "own.npy", np.zeros((4, 16, 16), np.uint8))
    np.save(tmp_path / "colour.npy", np.zeros((4, 16, 16, 3), np.uint8))
    np.save(tmp_path / "large.npy", np.zeros((4, 20, 20), np.uint8))
    places = {name: tmp_path / f"{name}.npy" for name in ("own", "colour", "large")}
    places |= {name: tmp_path / f"{name}.npz" for name in ("other", "coloured", "little")}
    places |= {"bytes": tmp_path / "bytes.toml", "pipe": tmp_path / "pipe"}
    places |= {"folder": tmp_path / "folder", "recipe": recipe, "model": finished / "checkpoints/aligned"}
    places |= {"supervised": finished / "checkpoints/supervised"}
    arguments, message = MISTAKES[case]
    before = set(tmp_path.rglob("*"))
    command = [argument.format(**places) for argument in arguments]
    command += ["--out", str(tmp_path / "made")] if "--out" not in command else []
    monkeypatch.setattr(sys, "argv", ["crosstask", *command])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert set(tmp_path.rglob("*")) == before


def test_the_command_itself_prints_no_traceback() -> None:
    done = crosstask("run", "fashon-mnist", check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_reports_command_for_a_column_measures_the_same_numbers_again(finished: Path, tmp_path: Path) -> None:
    summary = summarise(records.read(finished / "records.jsonl"))
    column = next(column for column in summary.columns if column.label == "tent-online")
    command = shlex.split(commands.of_column(summary, column) + " " + commands.one_cell(summary))
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, env=ONE_THREAD
    )
    assert done.returncode == 0, done.stderr
    again = {figures for figures in numbers(tmp_path / "again") if figures[0] == "tent-online"}
    assert len(again) == 1 and again <= set(numbers(finished))
