"""Protocols: what a preset decides, what an adapter meets under each, and what a record says of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import presets
from crosstask.bench import grid as bench_grid
from crosstask.bench import metrics, records
from crosstask.bench.benchmark import predict
from crosstask.bench.cells import Grid, cells, check, missing
from crosstask.bench.grid import measure
from crosstask.bench.protocol import Protocol
from crosstask.config import Bench, load_recipe, validate
from crosstask.data.images import ImageSet
from crosstask.data.streams import StreamPlan, build_stream
from crosstask.errors import ConfigError, UnknownName
from crosstask.methods import Method
from crosstask.methods.adapter import Adapter

CPU = torch.device("cpu")
SEVERAL = ("contrast", "brightness", "gaussian_noise")


class Tally(Adapter):
    """Answers with how often it has learned since the last reset."""

    learned: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), steps=2, batch_norm="batch")
        self.register_buffer("learned", torch.zeros(()))
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.learned += 1

    def predict(self, x: Tensor) -> Tensor:
        return self.learned.expand(len(x), 2).clone()


def images(count: int = 60) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % 5,
        class_names=tuple("abcde"),
        name="numbers",
    )


def tallies(
    protocol: Protocol, shift: str = "constant", passes: int = 1, first_passes: int | None = None
) -> tuple[list[float], int]:
    """Return what a tally answered on each of six batches of two images, and how many batches it missed."""
    names = ("contrast",) if shift == "constant" else SEVERAL
    count = 12 if shift in ("constant", "mixed") else 4
    plan = StreamPlan(shift=shift, corruptions=names, severity=5, count=count, batch_size=2, seed=0)
    found = predict(Tally(), build_stream(images(), plan), protocol, CPU, passes, first_passes)
    return found.logits[protocol.scored][::2, 0].tolist(), found.missed


def protocol(**settings: Any) -> Protocol:
    usual = {"model": "supervised", "reset": "never", "batch_size": 2, "n": 12, "steps": 2, "curve": (0, 2)}
    return Protocol(**(usual | {"precision": "float32"} | settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reset": "batch"}, [2] * 6),
        ({"reset": "batch", "predict": "before"}, [0] * 6),
        ({}, [2, 4, 6, 8, 10, 12]),
        ({"predict": "before"}, [0, 2, 4, 6, 8, 10]),
    ],
)
@pytest.mark.parametrize("shift", ["constant", "mixed", "continual"])
def test_what_a_batch_owes_to_its_own_updates_and_to_those_before(settings, expected, shift):
    assert tallies(protocol(**settings), shift) == (expected, 0)


@pytest.mark.parametrize(
    ("rate", "passes", "expected", "missed"),
    [
        (None, 3, [2, 4, 6, 8, 10, 12], 0),
        (1.0, 1, [2, 4, 6, 8, 10, 12], 0),
        (1.0, 2, [2, 2, 4, 4, 6, 6], 3),
        (1.0, 3, [2, 2, 2, 4, 4, 4], 4),
        (0.5, 3, [2, 2, 4, 4, 6, 6], 3),
        (1 / 3, 3, [2, 4, 6, 8, 10, 12], 0),
        (1.0, 100, [2] * 6, 5),
    ],
)
def test_a_stream_that_does_not_wait_is_predicted_by_the_model_as_last_adapted(rate, passes, expected, missed):
    """Alfarra et al.: what comes meanwhile is no chance to learn. A batch each 1 / rate passes, one passes long."""
    assert tallies(protocol(rate=rate), passes=passes) == (expected, missed)
    assert tallies(protocol(rate=rate, reset="batch"), passes=passes)[0] == [2] * 6


def test_more_passes_on_the_first_batch_miss_what_comes_right_after_it():
    assert tallies(protocol(rate=1.0), first_passes=4) == ([2, 2, 2, 2, 4, 6], 3)
    assert tallies(protocol(rate=1.0, reset="batch"), first_passes=4)[1] == 4, "each batch is a first one"


def bench(**settings: Any) -> Bench:
    usual = {"corruptions": SEVERAL, "seeds": (0,), "images": 10, "batch_size": 4, "curve": (0, 1)}
    columns = {"source": {"method": "source"}, "tent": {"method": "tent", "arguments": {"steps": 1}}}
    if settings.get("shift", "constant") != "constant":
        columns = {name: column | {"reset": "never"} for name, column in columns.items()}
    return validate(Bench, usual | {"columns": columns} | settings, "the bench")


def grid(tiny: Any, plan: Bench) -> Grid:
    checkpoint = dataclasses.replace(
        tiny.checkpoint(kind="supervised"), image_shape=(1, 16, 16), class_names=tuple("abcde")
    )
    return Grid(
        bench=plan,
        images=images(),
        checkpoints={"supervised": checkpoint},
        device=CPU,
        precision="float32",
        command="crosstask bench it",
    )


@pytest.mark.parametrize(
    ("settings", "n"),
    [
        ({}, 10),
        ({"shift": "continual"}, 10),
        ({"shift": "continual", "rounds": 2, "shuffled": True}, 20),
        ({"shift": "gradual", "severity": 3}, 50),
        ({"shift": "mixed"}, 10),
        ({"shift": "mixed", "delta": 0.1}, 10),
    ],
    ids=str,
)
def test_every_stream_ends_in_a_record_a_corruption_that_agrees_with_a_recomputation(tiny, settings, n):
    made = grid(tiny, bench(**settings))
    measured = list(measure(made, cells(made)))
    assert len(measured) == (2 if "shift" in settings else 6)
    found = {(r.label, r.corruption): r for each in measured for r in each.records}
    assert set(found) == {(label, name) for label in ("source", "tent") for name in SEVERAL}
    model = made.checkpoints["supervised"].classifier.eval()
    for each in measured:
        if each.cell.label != "source":
            continue
        count = 10 * (3 if settings.get("shift") == "mixed" else 1)
        plan = StreamPlan(
            **{"shift": "constant", "severity": 5} | settings,
            corruptions=each.cell.corruptions, count=count, batch_size=4, seed=0,
        )  # fmt: skip
        stream = build_stream(images(), plan)
        with torch.no_grad():
            right = model(stream.images.images.float() / 255).argmax(dim=1) == stream.labels
        names = [stream.shifts[number].corruption for number in stream.shift_of.tolist()]
        for name in each.cell.corruptions:
            own = [hit for hit, where in zip(right.tolist(), names, strict=True) if where == name]
            record = found["source", name]
            assert record.n == len(own) == n
            assert records.unpacked(record).tolist() == own
            assert record.accuracy == record.accuracy_before == pytest.approx(sum(own) / len(own))
            assert record.severity == settings.get("severity", 5)
            assert record.right_to_wrong == record.wrong_to_right == record.missed == 0
            assert (record.forwards, record.backwards) == (1, 0)
    tent = found["tent", "contrast"]
    assert (tent.forwards, tent.backwards) == (2, 1)
    assert tent.protocol["labels"] == "never" and tent.protocol["shift"] == settings.get("shift", "constant")
    assert tent.protocol["sequence"] == (list(SEVERAL) if "shift" in settings else [])


@pytest.mark.parametrize(("reset", "updates"), [("batch", 5), ("corruption", 1 + 4 / 3)])
def test_more_steps_on_the_first_batch_count_once_a_reset(tiny, reset, updates):
    online = {"method": "cta", "checkpoint": "supervised", "reset": reset, "arguments": {"steps": 1, "first_steps": 5}}
    columns = {"source": {"method": "source"}, "cta": online}
    made = grid(tiny, bench(columns=columns, corruptions=("fog",)))  # 10 images in batches of 4
    _, measured = measure(made, cells(made))
    assert measured.cell.batches == 3 and measured.cell.passes == pytest.approx(1 + 6 * updates)
    assert measured.records[0].forwards == pytest.approx(1 + 2 * updates)
    assert measured.records[0].backwards == pytest.approx(2 * updates)


def test_accuracy_over_the_stream_is_that_of_its_parts():
    right = torch.tensor([1, 1, 1, 0, 0, 0, 1], dtype=torch.bool)
    assert metrics.over_stream(right, windows=3) == [1, 0, 0.5]
    assert metrics.over_stream(right) == right.float().tolist()


def test_a_stream_of_several_corruptions_is_whole_or_measured_again(tiny, tmp_path):
    made, path = grid(tiny, bench(shift="continual")), tmp_path / "records.jsonl"
    for each in measure(made, cells(made)):
        records.append(path, *each.records)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6 and missing(cells(made), path) == []
    path.write_bytes(b"".join(lines[:-1]))
    assert [cell.label for cell in missing(cells(made), path)] == ["tent"]


def test_the_frozen_model_runs_once_a_stream_and_is_the_same_wherever_it_comes_from(tiny, monkeypatch):
    made = grid(tiny, bench())
    whole = [each.records[0] for each in measure(made, cells(made))]
    alone = [next(measure(made, [cell])).records[0] for cell in cells(made)]
    for found, expected in zip(whole, alone, strict=True):
        for name in ("key", "right_to_wrong", "wrong_to_right", "accuracy", "right", "nll"):
            assert getattr(found, name) == getattr(expected, name)
    assert {(r.right_to_wrong, r.wrong_to_right) for r in whole if r.label == "source"} == {(0, 0)}
    monkeypatch.setattr(bench_grid, "_frozen", lambda *_: pytest.fail("its own cell has answered already"))
    assert len(list(measure(made, cells(made)))) == len(cells(made))


def test_each_setting_of_a_protocol_is_another_number(tiny):
    variants = [{}, {"batch_size": 5}, {"rate": 0.5}, {"shift": "continual"}, {"shift": "mixed"}, {"delta": 0.1}]
    variants += [{"shift": "continual", "rounds": 2}, {"shift": "continual", "shuffled": True}, {"steps": 3}]
    variants += [{"delta": 0.1, "slots": 3}]
    keys = [{key for cell in cells(grid(tiny, bench(**each))) for key in cell.keys} for each in variants]
    columns = {"source": {"method": "source"}, "tent": {"method": "tent"}, "three": {"method": "tent"}}
    (a, b) = [grid(tiny, bench(columns=columns, **each)) for each in ({}, {"steps": 3})]
    assert [cell.protocol.steps for cell in cells(a)][:3] == [0, 1, 1]
    assert [cell.protocol.steps for cell in cells(b)][:3] == [0, 3, 3]
    for place, own in enumerate(keys[:8]):
        assert all(not own & other for other in keys[:place]), variants[place]
    assert not keys[5] & keys[9]


def test_a_record_under_older_defaults_is_not_taken_for_a_new_one(tiny, monkeypatch):
    before = {cell.label: cell.keys for cell in cells(grid(tiny, bench()))}
    own = Method.defaults.fget
    monkeypatch.setattr(Method, "defaults", property(lambda m: own(m) | ({"learning_rate": 9.0} if m.backward else {})))
    after = {cell.label: cell.keys for cell in cells(grid(tiny, bench()))}
    assert after["source"] == before["source"] and not set(after["tent"]) & set(before["tent"])


@pytest.mark.parametrize(
    ("settings", "column", "message"),
    [
        ({}, {"reset": "never"}, "each corruption is a stream of its own; say reset = 'corruption'"),
        ({"shift": "continual"}, {"reset": "corruption"}, "nothing tells where it changes; say reset = 'never' or"),
        ({"rounds": 2}, {}, "a constant stream has no sequence of corruptions"),
        ({"slots": 2}, {}, "slots are those of a class-correlated stream"),
        ({"shift": "mixed", "images": 21}, {"reset": "never"}, "63 different images are asked for, numbers has 60"),
        ({}, {"method": "cta", "arguments": {"memory": 64}}, "column 'source': with a memory .* not 20 and 1"),
        ({"steps": 5}, {"method": "cta", "arguments": {"first_steps": 9}}, "one step a batch: steps=1, not 5"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(settings, column, message):
    columns = {"source": {"method": "source"} | column}
    with pytest.raises(ConfigError, match=message):
        check(bench(**settings, columns=columns), images())


def test_steps_that_are_still_to_be_chosen_are_not_the_methods_own():
    columns = {"source": {"method": "source"}, "cta": {"method": "cta", "arguments": {"memory": 64}}}
    check(bench(columns=columns), images(), steps=1)
    with pytest.raises(ConfigError, match="column 'cta': with a memory"):
        check(bench(columns=columns), images(), steps=5)


def test_a_preset_decides_what_it_names(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\n[data]\nname = "cifar10"\n[supervised]\nepochs = 1\n[self_supervised]\nepochs = 1\n'
        '[align]\nepochs = 1\n[bench]\nprotocol = "wild"\ncorruptions = ["fog", "snow"]\n'
        '[bench.columns.source]\nmethod = "source"\n[bench.columns.cta]\nmethod = "cta"\n'
    )
    made = load_recipe(str(path)).bench
    assert (made.shift, made.delta, made.batch_size, made.steps) == ("mixed", 0.1, 16, 1)
    assert {(column.reset, column.predict) for column in made.columns.values()} == {("never", "before")}
    made = load_recipe(str(path), ["bench.protocol=tent"]).bench
    assert (made.shift, made.delta, made.batch_size, made.steps) == ("constant", None, 200, 1)
    assert {(column.reset, column.predict) for column in made.columns.values()} == {("corruption", "before")}
    with pytest.raises(
        ConfigError, match=r"protocol 'ets' has bench.batch_size = 128, the recipe says 64; take one away"
    ):
        load_recipe(str(path), ["bench.protocol=ets", "bench.batch_size=64"])
    with pytest.raises(ConfigError, match=r"has bench.columns.cta.arguments.steps = 1, the recipe says 20"):
        load_recipe(str(path), ["bench.columns.cta.arguments.steps=20"])
    with pytest.raises(ConfigError, match=r"has bench.delta = 0.1, the recipe says 0.5"):
        load_recipe(str(path), ["bench.delta=0.5"])
    with pytest.raises(ConfigError, match=r"has bench.rate = None, the recipe says 0.5"):
        load_recipe(str(path), ["bench.rate=0.5"])
    with path.open("a") as file:
        file.write("arguments = { steps = 20 }\n")
    with pytest.raises(ConfigError, match=r"has bench.columns.cta.arguments.steps = 1, the recipe says 20"):
        load_recipe(str(path))
    named = load_recipe(str(path), ["bench.protocol=tent", "bench.images=64"]).bench
    assert named.columns["cta"].arguments == {"steps": 1} and (named.batch_size, named.images) == (200, 64)
    assert load_recipe(str(path), ["bench.protocol=ets"]).bench.columns["cta"].arguments == {"steps": 20}
    with pytest.raises(UnknownName, match="unknown protocol 'tents'; did you mean 'tent'"):
        load_recipe(str(path), ["bench.protocol=tents"])


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_a_bench_that_holds(name):
    tree = {"bench": {"protocol": name, "corruptions": list(SEVERAL), "images": 10, "columns": {}}}
    tree["bench"]["columns"] = {"source": {"method": "source"}, "tent": {"method": "tent"}}
    presets.apply(tree)
    made = validate(Bench, tree["bench"], "the bench")
    check(made, images())
    assert made.protocol == name
