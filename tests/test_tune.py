"""Choosing steps and learning rates: the best wins, at one budget for all, without a look at the test set."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosstask import cli, pipeline
from crosstask.bench import candidates as tried
from crosstask.bench import records
from crosstask.checkpoint import Checkpoint
from crosstask.config import Positive, Recipe, Steps, Tune, load_recipe, validate
from crosstask.data.images import ImageSet
from crosstask.data.severities import HELD_OUT
from crosstask.data.streams import draw_stream
from crosstask.errors import AdapterError, ConfigError, DataError
from crosstask.methods import METHODS, Method, make_adapter
from crosstask.methods.adapter import Adapter
from crosstask.methods.state import RefusedUpdate
from crosstask.pipeline import tuned, tuning
from crosstask.report.summary import summarise
from test_pipeline import ONE_THREAD, RECIPE, names, numbers, stripes


def worth(learned: int, rate: float) -> float:
    """Return below which threshold an image is recognised: best after 4 updates at a rate of 0.03."""
    return 200 - 40 * round(abs(math.log10(rate / 0.03)), 3) - 3 * abs(learned - 4)


class Scripted(Adapter):
    """Reads an image's class in its first pixel, and says it where the second pixel is below what it is worth."""

    learned: Tensor

    def __init__(self, model: nn.Module, *, steps: Steps = 2, learning_rate: Positive = 0.01) -> None:
        super().__init__(model, steps=steps, batch_norm="source")
        self.rate = learning_rate
        self.register_buffer("learned", torch.zeros(()))
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        if self.rate > 50:
            raise AdapterError("far too fast")
        if self.rate > 5 and self.learned >= 2:
            warnings.warn("too fast", RefusedUpdate, stacklevel=2)
        self.learned += 1

    def predict(self, x: Tensor) -> Tensor:
        label, threshold = (255 * x[:, 0, 0, :2]).round().long().T
        said = torch.where(threshold < worth(int(self.learned), self.rate), label, (label + 1) % 5)
        ill = 0.5 < self.rate < 5 and self.learned >= 3
        return nn.functional.one_hot(said, 5) * (math.nan if ill else 1.0)


def images(count: int = 80) -> ImageSet:
    random = torch.Generator().manual_seed(0)
    pixels = torch.zeros(count, 1, 16, 16, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = labels = torch.randint(5, (count,), generator=random)
    pixels[:, 0, 0, 1] = torch.randint(256, (count,), generator=random)
    return ImageSet(images=pixels, labels=labels.long(), class_names=tuple("abcde"), name="scripted")


@pytest.fixture
def world(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Checkpoint]:
    """Make the method `scripted` known, and return the checkpoints of a model for the images above."""
    method = Method(
        adapter=Scripted, family="adaptation", needs="supervised", moves="", forward=1, backward=1, paper="none"
    )
    monkeypatch.setitem(METHODS, "scripted", method)
    made = tiny.checkpoint(kind="supervised")
    return {"supervised": dataclasses.replace(made, image_shape=(1, 16, 16), class_names=tuple("abcde"))}


def recipe(columns: dict[str, Any] | None = None, bench: dict[str, Any] | None = None, **tune: Any) -> Recipe:
    """Return a recipe that tunes on clean images, which the scripted method can read."""
    usual = {"criterion": "clean", "images": 40, "seeds": [0, 1], "steps": [1, 3, 6], "factors": [0.1, 1, 10]}
    columns = columns or {"online": {"method": "scripted", "reset": "corruption"}, "episodic": {"method": "scripted"}}
    tree = {
        "name": "scripted",
        "data": {"name": "nowhere"},
        "precision": "float32",
        **{stage: {"epochs": 1} for stage in ("supervised", "self_supervised", "align")},
        "bench": {
            "corruptions": ["fog"], "images": 40, "batch_size": 16,
            "columns": {"source": {"method": "source"}, **columns},
        } | (bench or {}),
        "tune": usual | tune,
    }  # fmt: skip
    return validate(Recipe, tree, "the recipe")


def choose(folder: Path, world: dict[str, Checkpoint], made: Recipe) -> tuned.Tuned:
    experiment = pipeline.Experiment(recipe=made, folder=folder, command="a test")
    return pipeline.tune_stage(experiment, images(), world)


def by_hand(reset: str, steps: int, rate: float, seed: int) -> float:
    """Return the accuracy that a candidate must have on a stream of clean images."""
    stream = draw_stream(images(), "clean", 0, count=40, batch_size=16, seed=seed)
    right = 0
    for number, batch in enumerate(stream.batches(), start=1):
        learned = steps * (number if reset == "corruption" else 1)
        right += int((batch[:, 0, 0, 1] < worth(learned, rate)).sum())
    return right / 40


def test_the_best_candidate_wins_as_its_formula_has_it(world: dict[str, Checkpoint], tmp_path: Path) -> None:
    found = choose(tmp_path, world, recipe())
    for label, reset in {"online": "corruption", "episodic": "batch"}.items():
        expected = {
            (steps, rate): np.mean([by_hand(reset, steps, rate, seed) for seed in (0, 1)])
            for steps in (1, 3, 6)
            for rate in (0.001, 0.01, 0.1)
        }
        ranked = sorted(expected, key=lambda one: (-round(expected[one], 6), *one))
        choice = found.columns[label]
        for told, which in ((choice.chosen, ranked[0]), (choice.runner_up, ranked[1])):
            assert told and (told.steps, told.learning_rate) == which
            assert told.accuracy == pytest.approx(expected[which], abs=1e-6)
        assert choice.as_given is None and choice.lost == 0
        values = [by_hand(reset, *ranked[0], seed) for seed in (0, 1)]
        half = 12.7062 * np.std(values, ddof=1) / math.sqrt(2)
        low, high = choice.chosen.interval
        assert low == pytest.approx(max(0, np.mean(values) - half), abs=1e-5)
        assert high == pytest.approx(min(1, np.mean(values) + half), abs=1e-5)
    assert found.columns["online"].chosen.steps < found.columns["episodic"].chosen.steps, "the world tells them apart"


def test_the_file_says_all_of_it_and_reads_back(world: dict[str, Checkpoint], tmp_path: Path) -> None:
    found = choose(tmp_path, world, recipe(steps=[2, 3]))
    assert tuned.read(tmp_path / "tuned.toml") == found
    tree = tomllib.loads((tmp_path / "tuned.toml").read_text())
    assert (tree["criterion"], tree["images"], tree["seeds"], tree["candidates"]) == ("clean", 40, [0, 1], 6)
    assert (tree["corruptions"], tree["severity"], tree["dataset"]) == (["clean"], 0, "scripted")
    assert set(tree["columns"]) == {"online", "episodic"}
    given = tree["columns"]["episodic"]["as_given"]
    assert (given["steps"], given["learning_rate"]) == (2, 0.01)
    applied = found.applied(recipe().bench)
    assert applied.columns["source"] == recipe().bench.columns["source"]
    for label, choice in found.columns.items():
        chosen = {"steps": choice.chosen.steps, "learning_rate": choice.chosen.learning_rate}
        assert applied.columns[label].arguments == chosen


def test_every_method_has_the_same_budget_and_those_that_do_not_learn_have_none() -> None:
    columns = {name: {"method": name} for name in METHODS if name != "source"} | {
        "slow": {"method": "tent", "arguments": {"learning_rate": 1e-5, "steps": 7}},
        "idle": {"method": "tent", "arguments": {"steps": 0}},
    }
    made = recipe(columns)
    assert made.tune
    found = tried.candidates(made.bench, made.tune)
    assert set(METHODS) - set(found) == {"source", "ptbn", "t3a", "lame"} and "idle" not in found
    for label, mine in found.items():
        usual = 1e-5 if label == "slow" else METHODS[label].defaults["learning_rate"]
        settings = [(one.steps, one.learning_rate / usual) for one in mine]
        assert len({*settings}) == len(settings) == 9
        assert {steps for steps, _ in settings} == {1, 3, 6}
        assert sorted({round(factor, 6) for _, factor in settings}) == [0.1, 1, 10]


def test_a_number_of_steps_is_measured_anew_only_where_a_curve_cannot_tell(
    world: dict[str, Checkpoint], tmp_path: Path
) -> None:
    choose(tmp_path, world, recipe())
    found = records.read(tmp_path / "tune" / "records.jsonl")
    count = {label: sum(r.label.split(" · ")[0] == label for r in found) for label in ("source", "online", "episodic")}
    assert count == {"source": 2, "online": 9 * 2, "episodic": 3 * 2}
    assert {r.steps for r in found if r.label.startswith("episodic")} == {6}
    assert {r.protocol["chosen"] for r in found} == {"recipe"} and {r.corruption for r in found} == {"clean"}


@pytest.mark.parametrize(
    ("column", "bench", "whole"),
    [
        ({}, {}, True),
        ({"predict": "before"}, {}, False),
        ({}, {"rate": 0.5}, False),
        ({"reset": "corruption"}, {}, False),
    ],
)
def test_a_curve_tells_all_where_each_batch_starts_anew(
    column: dict[str, Any], bench: dict[str, Any], whole: bool
) -> None:
    made = recipe({"one": {"method": "tent"} | column}, bench)
    assert tried.one_pass_tells_all(made.bench, made.bench.columns["one"]) == whole


@pytest.mark.filterwarnings("ignore::crosstask.methods.state.RefusedUpdate")
@pytest.mark.parametrize("factors", [[0.1, 1, 10], [1, 100, 1000, 10000]], ids=["all are scored", "some are lost"])
def test_curves_choose_what_separate_passes_choose(
    factors: list[float], world: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that is lost after many steps leaves those with fewer where they are."""
    columns = {name: {"method": name} for name in ("tent", "shot")} | {"scripted": {"method": "scripted"}}
    made = recipe(columns, factors=factors, steps=[1, 2, 6], seeds=[0])
    found = choose(tmp_path / "curves", world, made)
    monkeypatch.setattr(tried, "one_pass_tells_all", lambda bench, column: False)
    choose(tmp_path / "passes", world, made)
    files = [(tmp_path / name / "tuned.toml").read_text() for name in ("curves", "passes")]
    assert files[0] == files[1]
    # at a rate of 1 NaN comes after the third step; at 10 the third is refused; at 100 there is no first
    assert found.columns["scripted"].lost == (0 if 10 in factors else 1 + 1 + 3)


def test_killed_after_any_cell_it_ends_in_the_same_file(
    world: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(seeds=[0], factors=[0.1, 1, 1e5])
    choose(tmp_path / "unbroken", world, made)
    expected = (tmp_path / "unbroken" / "tuned.toml").read_bytes()
    append, written = records.append, []

    def dying(path: Path, *found: records.Record) -> None:
        append(path, *found)
        written.extend(record.key for record in found)
        with path.open("ab") as file:
            file.write(b'{"format": 2, "lab')
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "append", dying)
    kills = 0
    while not (tmp_path / "killed" / "tuned.toml").exists():
        try:
            choose(tmp_path / "killed", world, made)
        except KeyboardInterrupt:
            kills += 1
    assert kills == len(written) == len(set(written)) == 1 + 6 + 2
    assert (tmp_path / "killed" / "tuned.toml").read_bytes() == expected


def test_what_was_chosen_is_found_and_chosen_anew_under_other_settings(
    world: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose(tmp_path, world, recipe())
    for changed in (
        recipe(steps=[1, 2]),
        recipe(seeds=[0]),
        recipe(bench={"batch_size": 8}),
        recipe(bench={"steps": 3}),
    ):
        assert choose(tmp_path, world, changed).key != first.key
    assert choose(tmp_path, world, recipe()) == first
    monkeypatch.setattr(tuning, "measure", lambda *_: pytest.fail("measured again"))
    assert choose(tmp_path, world, recipe()) == first
    assert choose(tmp_path, world, recipe(bench={"corruptions": ["snow"], "seeds": [7], "images": 3})) == first


def test_on_a_tie_fewer_steps_win_then_the_smaller_rate(world: dict[str, Checkpoint], tmp_path: Path) -> None:
    """3 and 5 steps are as far from 4 as 0.003 and 0.3 are from 0.03."""
    found = choose(tmp_path, world, recipe({"a": {"method": "scripted"}}, steps=[5, 3], factors=[30, 0.3]))
    choice = found.columns["a"]
    assert choice.runner_up and choice.chosen.accuracy == choice.runner_up.accuracy
    assert (choice.chosen.steps, choice.chosen.learning_rate) == (3, 0.003)
    assert (choice.runner_up.steps, choice.runner_up.learning_rate) == (3, 0.3)


@pytest.mark.filterwarnings("ignore::crosstask.methods.state.RefusedUpdate")
@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (
            100,
            "column .* ended in predictions that are not finite on clean, seed 0; lower its learning rate or its steps",
        ),
        (1000, "too fast"),
        (10000, "far too fast"),
    ],
)
@pytest.mark.parametrize("column", [{}, {"reset": "corruption"}], ids=["episodic", "online"])
def test_where_all_candidates_are_lost_the_reason_is_said(
    column: dict[str, Any], factor: float, reason: str, world: dict[str, Checkpoint], tmp_path: Path
) -> None:
    made = recipe({"a": {"method": "scripted"} | column}, factors=[factor], steps=[3, 6])
    with pytest.raises(AdapterError, match=rf"none of the 2 candidates of column 'a'.*: {reason}; lower tune.factors"):
        choose(tmp_path, world, made)
    assert not (tmp_path / "tuned.toml").exists()


def test_a_bench_takes_no_file_of_other_settings_or_checkpoints(world: dict[str, Checkpoint], tmp_path: Path) -> None:
    def found(made: Recipe, checkpoints: dict[str, Checkpoint]) -> tuned.Tuned | None:
        return tuned.find_tuned(pipeline.Experiment(recipe=made, folder=tmp_path, command="a test"), checkpoints)

    with pytest.raises(ConfigError, match=r"tuned.toml is not there; run `crosstask tune` first"):
        found(recipe(), world)
    chosen = choose(tmp_path, world, recipe())
    assert found(recipe(), world) == chosen
    others = {"supervised": dataclasses.replace(world["supervised"], weights_hash="others")}
    for made, checkpoints in ((recipe(images=39), world), (recipe(), others)):
        with pytest.raises(ConfigError, match=r"made with other settings or checkpoints; run `crosstask tune` first"):
            found(made, checkpoints)
    path = tmp_path / "tuned.toml"
    for text, message in (("key = ", "delete it and run"), (path.read_text() + "more = 1\n", "more: unknown key")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            found(recipe(), world)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: recipe({"ptbn": {"method": "ptbn"}}), ConfigError, r"no column .* to choose; take \[tune\] away"),
        (lambda: recipe(images=81), ConfigError, "needs 81 source images a stream, and scripted has 80; lower tune.im"),
        (
            lambda: recipe({"t": {"method": "tent", "reset": "never"}}, {"shift": "gradual"}),
            ConfigError,
            "no clean form; say tune.criterion = 'held-out'",
        ),
        (
            lambda: recipe({"t": {"method": "tent", "reset": "never"}}, {"shift": "mixed"}, criterion="held-out"),
            ConfigError,
            "needs 160 source images a stream",
        ),
        (
            lambda: recipe(bench={"corruptions": ["fog", "spatter"]}, criterion="held-out"),
            ConfigError,
            "the bench reports spatter, so nothing may be chosen on it; take it out of bench.corruptions",
        ),
        (lambda: recipe(steps=[1, 1]), ConfigError, "tune.steps: value error, expected different values"),
        (lambda: recipe(step=[1]), ConfigError, "tune.step: unknown key; did you mean 'steps'"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(
    made: Any, error: type[Exception], message: str, world: dict[str, Checkpoint]
) -> None:
    with pytest.raises(error, match=message):
        tuning.check_tuning(made(), images())


def test_labels_and_a_table_of_trials_are_needed(world: dict[str, Checkpoint]) -> None:
    with pytest.raises(DataError, match="needs labelled source images, and scripted has none"):
        tuning.check_tuning(recipe(), images().unlabelled())
    bare = dataclasses.replace(recipe(), tune=None)
    with pytest.raises(ConfigError, match=r"has no \[tune\].*add one, as with --set tune.criterion=held-out"):
        tuning.check_tuning(bare, images())


def test_a_column_is_not_chosen_in_two_ways(world: dict[str, Checkpoint], tmp_path: Path) -> None:
    choose(tmp_path, world, recipe())
    first, second = [r for r in records.read(tmp_path / "tune" / "records.jsonl") if r.label == "source"]
    other = dataclasses.replace(second, protocol=second.protocol | {"chosen": "clean"})
    with pytest.raises(DataError, match=r"mixes two protocols.*chosen: 'recipe' and 'clean'"):
        summarise([first, other])


def test_trials_follow_the_recipes_protocol_and_touch_none_of_its_corruptions() -> None:
    shift = {"shift": "continual", "delta": 0.1, "batch_size": 7, "rate": 0.5, "shuffled": True}
    columns = {"t": {"method": "tent", "reset": "never", "predict": "before", "arguments": {"batch_norm": "mixed"}}}
    made = recipe(columns, shift, criterion="held-out", severity=3)
    assert made.tune
    bench = tried.trial(made.bench, made.tune)
    assert bench.corruptions == HELD_OUT and bench.severity == 3 and bench.seeds == (0, 1)
    for name in ("shift", "delta", "batch_size", "rate", "shuffled", "table", "protocol"):
        assert getattr(bench, name) == getattr(made.bench, name)
    own = [column for label, column in bench.columns.items() if label != "source"]
    assert len(own) == 9 and {(c.reset, c.predict, c.arguments["batch_norm"]) for c in own} == {
        ("never", "before", "mixed")
    }
    assert next(iter(bench.columns)) == "source"


def test_a_protocol_that_decides_the_steps_leaves_the_rate_to_choose(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = RECIPE.format(train="nowhere", test="nowhere").replace("arguments = { steps = 2 }", "")
    path.write_text(text.replace("batch_size = 16", 'protocol = "tent"') + "[tune]\nimages = 20\n")
    assert load_recipe(str(path)).tune == Tune(images=20, steps=(1,))
    assert load_recipe(str(path), ["tune.steps=[1]"]).tune == Tune(images=20, steps=(1,))
    assert load_recipe(str(path), ["tune=false"]).tune is None
    with pytest.raises(ConfigError, match=r"'tent' has tune.steps = \[1\], the recipe says \[1, 5\]; take one away"):
        load_recipe(str(path), ["tune.steps=[1,5]"])


TUNED = """
[tune]
images = 48
seeds = [0]
steps = [1, 4]
factors = [0.1, 10.0, 10000.0]
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of the tiny pipeline with TENT online and in episodes, and a [tune]."""
    folder = tmp_path_factory.mktemp("tuned")
    stripes(folder / "train.npz", 240, 0)
    stripes(folder / "test.npz", 60, 1)
    text = RECIPE.format(train=folder / "train.npz", test=folder / "test.npz").replace("epochs = 3", "epochs = 1")
    text = text.replace("seeds = [0, 1]", "seeds = [0]")
    text = text.partition("[bench.columns.cta]")[0] + '[bench.columns.tent]\nmethod = "tent"\n' + TUNED
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


def run(recipe: Path, folder: Path, *settings: str) -> Path:
    experiment = pipeline.Experiment(recipe=load_recipe(str(recipe), settings), folder=folder, command="a test")
    pipeline.run_recipe(experiment)
    return folder


@pytest.fixture(scope="module")
def finished(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(real, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.slow
def test_on_a_trained_model_the_choice_is_that_of_trials_by_hand(real: Path, finished: Path) -> None:
    from crosstask import checkpoint
    from crosstask.data.images import load_images

    model = checkpoint.load(finished / "checkpoints" / "supervised")
    train = load_images(real.parent / "train.npz")
    streams = [draw_stream(train, name, 5, count=48, batch_size=16, seed=0) for name in HELD_OUT]
    found = tuned.read(finished / "tuned.toml")
    assert found and found.criterion == "held-out" and found.corruptions == HELD_OUT
    for label, episodic in {"tent-online": False, "tent": True}.items():
        accuracy: dict[tuple[int, float], float] = {}
        for steps in (1, 4):
            for rate in (1e-4, 1e-2, 10.0):
                right = 0
                for stream in streams:
                    adapter = make_adapter("tent", model, steps=steps, learning_rate=rate)
                    said = []
                    for batch in stream.batches():
                        said.append(adapter(batch / 255).argmax(dim=1))
                        if episodic:
                            adapter.reset()
                    right += int((torch.cat(said) == stream.labels).sum())
                accuracy[steps, rate] = right / (4 * 48)
        best = min(accuracy, key=lambda one: (-round(accuracy[one], 6), *one))
        choice = found.columns[label]
        assert (choice.chosen.steps, choice.chosen.learning_rate) == best
        assert choice.chosen.accuracy == pytest.approx(accuracy[best], abs=1e-6)
        assert accuracy[4, 10.0] < accuracy[best] - 0.1, "ten thousand times the usual rate does harm"


@pytest.mark.slow
def test_a_run_tunes_before_it_measures_and_says_so(real: Path, finished: Path) -> None:
    found, kept = tuned.read(finished / "tuned.toml"), records.read(finished / "records.jsonl")
    assert found
    by_label = {record.label: record for record in kept}
    assert set(found.columns) == {"tent-online", "tent"}
    for label, choice in found.columns.items():
        config = by_label[label].config
        assert (config["steps"], config["learning_rate"]) == (choice.chosen.steps, choice.chosen.learning_rate)
        assert by_label[label].steps == choice.chosen.steps and by_label[label].protocol["chosen"] == "held-out"
    assert {by_label[label].protocol["chosen"] for label in ("source", "ptbn")} == {"recipe"}
    page = (finished / "report.html").read_text()
    assert page.count("steps and learning rate chosen under held-out corruptions of source images") == 2
    before = [(finished / name).stat().st_mtime_ns for name in ("tuned.toml", "records.jsonl", "tune/records.jsonl")]
    run(real, finished)
    after = [(finished / name).stat().st_mtime_ns for name in ("tuned.toml", "records.jsonl", "tune/records.jsonl")]
    assert before == after


def test_images_for_validation_are_what_is_tuned_on_and_no_stage_trains_on_them(real: Path) -> None:
    from crosstask.data.images import load_images

    every = load_images(real.parent / "train.npz")
    plain, kept = (load_recipe(str(real), [f"data.validation={count}"]) for count in (0, 60))
    assert {images.fingerprint for images in pipeline.source_images(plain)} == {every.fingerprint}
    train, choose = pipeline.source_images(kept)
    assert (len(train), len(choose)) == (len(every) - 60, 60)
    rows = {image.numpy().tobytes() for image in every.images}
    trained, chosen = ({image.numpy().tobytes() for image in part.images} for part in (train, choose))
    assert trained | chosen == rows and (not trained & chosen or len(rows) < len(every))
    assert pipeline.source_images(kept)[1].fingerprint == choose.fingerprint, "the same ones each time"
    other = load_recipe(str(real), ["data.validation=60", "seed=1"])
    assert pipeline.source_images(other)[1].fingerprint != choose.fingerprint


@pytest.mark.slow
def test_a_run_with_validation_trains_and_tunes_on_different_images(real: Path, tmp_path: Path) -> None:
    from crosstask import checkpoint

    recipe = load_recipe(str(real), ["data.validation=60"])
    training, kept = pipeline.source_images(recipe)
    folder = run(real, tmp_path / "run", "data.validation=60")
    model = checkpoint.load(folder / "checkpoints" / "supervised")
    trained = pipeline.supervised_stage(
        pipeline.Experiment(recipe=recipe, folder=tmp_path / "again", command="a test"), training
    )
    assert model.weights_hash == trained.weights_hash
    for record in records.read(folder / "tune" / "records.jsonl"):
        if record.label == "source":
            stream = draw_stream(kept, record.corruption, 5, count=48, batch_size=16, seed=record.seed)
            said = torch.cat([make_adapter("source", model)(batch / 255) for batch in stream.batches()]).argmax(dim=1)
            assert record.accuracy == pytest.approx((said == stream.labels).double().mean().item())


@pytest.mark.slow
def test_labels_of_the_test_set_choose_nothing(real: Path, finished: Path, tmp_path: Path) -> None:
    test = np.load(real.parent / "test.npz")
    np.savez(tmp_path / "test.npz", images=test["images"], labels=(test["labels"] + 1) % 3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(finished / "checkpoints")
    run(real, tmp_path / "run", f"data.test={tmp_path}/test.npz")
    assert (tmp_path / "run" / "tuned.toml").read_bytes() == (finished / "tuned.toml").read_bytes()
    accuracy = [
        [record.accuracy for record in records.read(folder / "records.jsonl") if record.corruption == "clean"]
        for folder in (finished, tmp_path / "run")
    ]
    assert min(accuracy[0]) > max(accuracy[1]), "the bench itself does look at them"


@pytest.mark.slow
def test_the_command_tunes_without_a_test_set_and_the_bench_asks_for_it(
    real: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: object) -> str:
        cli.app([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    (tmp_path / "checkpoints").symlink_to(finished / "checkpoints")
    with pytest.raises(ConfigError, match=r"tuned.toml is not there; run `crosstask tune` first"):
        command("bench", real, "--out", tmp_path)
    told = command("tune", real, "--out", tmp_path, "--set", "data.test=/nowhere/at/all")
    assert "tent-online" in told and "as given" in told and str(tmp_path / "tuned.toml") in told.replace("\n", "")
    assert (tmp_path / "tuned.toml").read_bytes() == (finished / "tuned.toml").read_bytes()
    command("bench", real, "--out", tmp_path)
    assert {r.key for r in records.read(tmp_path / "records.jsonl")} == {
        r.key for r in records.read(finished / "records.jsonl")
    }


@pytest.mark.slow
def test_kill_it_in_any_write_and_it_ends_in_the_same_choice(real: Path, finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("kill_in_every_write.py"), real, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert {"run/tuned.toml", "the first record", "a later record"} <= set(done.stdout.splitlines())
    assert (tmp_path / "run" / "tuned.toml").read_bytes() == (finished / "tuned.toml").read_bytes()
    for folder in ("", "tune"):
        assert numbers(tmp_path / "run" / folder) == numbers(finished / folder)
        assert names(tmp_path / "run" / folder) == names(finished / folder), "something half-written lies about"
