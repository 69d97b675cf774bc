"""Streams: what comes when, under which shift, and that a record can call the very same one back."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstask import runtime
from crosstask.data import streams
from crosstask.data.corruptions import corrupt, own
from crosstask.data.images import ImageSet
from crosstask.data.streams import StreamPlan, build_stream, dirichlet_order, draw_stream, rebuild_stream
from crosstask.errors import ConfigError, DataError, UnknownName


def numbers(count: int = 60, classes: int = 5, size: int = 16) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % classes,
        class_names=tuple("abcdefghij"[:classes]),
        name="numbers",
    )


IMAGES = numbers()


def plan(**changes: object) -> StreamPlan:
    values = {"shift": "constant", "corruptions": ("contrast",), "severity": 3, "count": 20, "batch_size": 8, "seed": 4}
    return StreamPlan(**(values | changes))


PLANS = {
    "constant": plan(),
    "correlated": plan(delta=0.1),
    "mixed": plan(shift="mixed", corruptions=("fog", "gaussian_noise", "clean")),
    "gradual": plan(shift="gradual", corruptions=("fog", "shot_noise"), severity=5, count=4),
    "continual": plan(shift="continual", corruptions=("fog", "impulse_noise", "snow"), shuffled=True, rounds=2),
    "continual-correlated": plan(shift="continual", corruptions=("fog", "contrast"), delta=0.1, slots=7),
}
every_plan = pytest.mark.parametrize("name", PLANS)


@every_plan
def test_every_image_is_what_corrupt_makes_of_it_alone(name):
    stream = build_stream(IMAGES, PLANS[name])
    arrived = torch.cat(list(stream.batches()))
    assert len(arrived) == len(stream) == len(stream.indices)
    for pixels, index, number in zip(arrived, stream.indices, stream.shift_of.tolist(), strict=True):
        expected, shift = IMAGES.images[index][None], stream.shifts[number]
        if shift.corruption != "clean":
            expected = corrupt(expected, *shift, seed=4, indices=index[None])
        assert torch.equal(pixels, expected[0])


@every_plan
def test_a_record_calls_the_same_stream_back(name):
    stream = build_stream(IMAGES, PLANS[name])
    description = json.loads(json.dumps(stream.to_dict()))
    same = rebuild_stream(IMAGES, description)
    assert torch.equal(same.indices, stream.indices)
    assert torch.equal(same.shift_of, stream.shift_of)
    assert same.shifts == stream.shifts
    assert torch.equal(same.images.images, stream.images.images)
    with pytest.raises(DataError, match="was drawn from numbers with the fingerprint"):
        rebuild_stream(numbers(61), description)
    with pytest.raises(DataError, match=r"expected a stream with the digest 0*1,.*take that one"):
        rebuild_stream(IMAGES, description | {"digest": "1"})
    with pytest.raises(DataError, match="lacks digest"):
        rebuild_stream(IMAGES, {key: value for key, value in description.items() if key != "digest"})


@every_plan
def test_the_seed_decides_and_the_batch_size_does_not(name):
    stream = build_stream(IMAGES, PLANS[name])
    changed = {"batch_size": 3}
    other_batches = build_stream(IMAGES, StreamPlan(**(vars(PLANS[name]) | changed)))
    assert torch.equal(torch.cat(list(other_batches.batches())), torch.cat(list(stream.batches())))
    other_seed = build_stream(IMAGES, StreamPlan(**(vars(PLANS[name]) | {"seed": 5})))
    assert not torch.equal(other_seed.indices, stream.indices)


@every_plan
def test_labels_come_in_the_order_of_arrival(name):
    stream = build_stream(IMAGES, PLANS[name])
    assert torch.equal(stream.labels, IMAGES.labels[stream.indices])
    assert torch.equal(stream.images.labels, stream.labels)
    assert torch.equal(stream.originals.images, IMAGES.images[stream.indices])


def test_a_continual_stream_goes_through_its_corruptions_one_after_the_other():
    stream = build_stream(IMAGES, plan(shift="continual", corruptions=("fog", "snow", "fog"), rounds=2))
    names = [stream.shifts[number].corruption for number in stream.shift_of.tolist()]
    assert names == (["fog"] * 20 + ["snow"] * 20 + ["fog"] * 20) * 2
    parts = stream.indices.view(6, 20)
    assert all(set(part.tolist()) == set(parts[0].tolist()) for part in parts)
    assert not torch.equal(parts[0], parts[1])


def test_a_seed_may_order_the_corruptions():
    names = ("fog", "snow", "contrast", "shot_noise", "pixelate", "brightness")
    made = build_stream(IMAGES, plan(shift="continual", corruptions=names, shuffled=True, count=1))
    order = [made.shifts[number].corruption for number in made.shift_of.tolist()]
    assert sorted(order) == sorted(names)
    assert order != list(names)


@pytest.mark.parametrize(("height", "ramp"), [(1, [1]), (3, [1, 2, 3, 2, 1]), (5, [1, 2, 3, 4, 5, 4, 3, 2, 1])])
def test_severities_climb_to_the_height_and_down_again(height, ramp):
    stream = build_stream(IMAGES, plan(shift="gradual", corruptions=("fog", "snow"), severity=height, count=2))
    shifts = [stream.shifts[number] for number in stream.shift_of[::2].tolist()]
    assert shifts == [("fog", severity) for severity in ramp] + [("snow", severity) for severity in ramp]


@given(count=st.integers(1, 60), kinds=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_a_mixed_stream_deals_corruptions_out_evenly(count, kinds, seed):
    names = ("fog", "snow", "contrast", "shot_noise", "clean")[:kinds]
    stream = build_stream(IMAGES, plan(shift="mixed", corruptions=names, count=count, seed=seed))
    dealt = Counter(stream.shift_of.tolist())
    assert len(set(stream.indices.tolist())) == count
    assert max(dealt.values()) - min([*dealt.values(), *[0] * (kinds > len(dealt))]) <= 1


@given(
    shift=st.sampled_from(["mixed", "gradual", "continual"]),
    names=st.lists(st.sampled_from(["fog", "snow", "contrast", "frost"]), min_size=1, max_size=4),
    severity=st.integers(1, 5),
    count=st.integers(1, 60),
    seed=st.integers(-(2**40), 2**40),
    delta=st.one_of(st.none(), st.floats(1e-6, 1e6)),
)
def test_any_plan_survives_json(shift, names, severity, count, seed, delta):
    changes = {"corruptions": tuple(names), "severity": severity, "count": count, "seed": seed, "delta": delta}
    stream = build_stream(IMAGES, plan(shift=shift, **changes))
    same = rebuild_stream(IMAGES, json.loads(json.dumps(stream.to_dict())))
    assert same.plan == stream.plan
    assert torch.equal(same.indices, stream.indices)
    assert torch.equal(same.shift_of, stream.shift_of)


def test_a_plan_with_a_slip_is_not_rebuilt():
    description = build_stream(IMAGES, plan()).to_dict()
    with pytest.raises(ConfigError, match="sed: unknown key; did you mean 'seed'"):
        rebuild_stream(IMAGES, description | {"plan": description["plan"] | {"sed": 1}})


def test_what_else_decides_the_pixels_must_be_the_same(monkeypatch):
    frosty = build_stream(IMAGES, plan(corruptions=("frost",))).to_dict()
    assert set(frosty["made_with"]) == {"frost"}
    assert build_stream(IMAGES, plan()).to_dict()["made_with"] == {}
    monkeypatch.setattr(streams, "texture", lambda: "wallpaper")
    with pytest.raises(DataError, match=r"was made with \{'frost': .*same sheets of frost"):
        rebuild_stream(IMAGES, frosty)

    monkeypatch.setitem(own.REGISTERED, "dusk", lambda images, severity, random: images // 2)
    dusky = build_stream(IMAGES, plan(corruptions=("dusk",))).to_dict()
    assert torch.equal(rebuild_stream(IMAGES, dusky).images.images, rebuild_stream(IMAGES, dusky).originals.images // 2)
    monkeypatch.setitem(own.REGISTERED, "dusk", lambda images, severity, random: images // 3)
    with pytest.raises(DataError, match="the same code of your own shift"):
        rebuild_stream(IMAGES, dusky)


def runs(labels: torch.Tensor) -> int:
    """Return in how many runs of one class the labels come."""
    return 1 + int((labels[1:] != labels[:-1]).sum())


def test_classes_clump_the_more_the_smaller_delta_is():
    images = numbers(1000, 10)
    counts = []
    for delta in (0.01, 0.1, 1.0, 100.0):
        made = [build_stream(images, plan(count=1000, delta=delta, slots=100, seed=seed)).labels for seed in range(5)]
        counts.append(np.mean([runs(labels) for labels in made]))
    assert counts == sorted(counts)
    assert counts[0] < 100
    chance = build_stream(images, plan(count=1000)).labels
    assert counts[-1] > 0.8 * runs(chance)


def class_entropy(labels: torch.Tensor, batch_size: int = 50) -> float:
    """Return the mean over batches of the entropy of their classes in nats."""
    shares = torch.stack([torch.bincount(batch, minlength=10) / len(batch) for batch in labels.split(batch_size)])
    return float(-torch.xlogy(shares, shares).sum(dim=1).mean())


def test_a_batch_has_the_more_classes_the_larger_delta_is():
    images = numbers(1000, 10)
    made = [build_stream(images, plan(count=1000, delta=delta, slots=100)) for delta in (0.001, 0.01, 0.1, 1.0, 100.0)]
    entropies = [class_entropy(stream.labels) for stream in made]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.5
    assert entropies[-1] > 0.98 * class_entropy(build_stream(images, plan(count=1000)).labels)


def test_with_a_slot_a_class_runs_are_as_long_as_in_the_published_streams():
    """However large delta is, each of the ten classes comes once in each of the ten slots: 100 runs, less those met."""
    labels = build_stream(numbers(1000, 10), plan(count=1000, delta=1e4)).labels
    assert 90 <= runs(labels) <= 100
    extreme = build_stream(numbers(1000, 10), plan(count=1000, delta=1e-6)).labels
    assert runs(extreme) == 10


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    delta=st.floats(0.01, 50),
    slots=st.one_of(st.none(), st.integers(1, 20)),
    seed=st.integers(0, 1000),
)
def test_the_correlated_order_takes_every_image_once(labels, delta, slots, seed):
    given_labels = torch.tensor(labels)
    order = dirichlet_order(given_labels, delta, slots, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    for name in set(labels):
        places = order[given_labels[order] == name]
        assert places.tolist() == sorted(places.tolist()), "images of a class keep their order"
    assert runs(given_labels[order]) <= len(set(labels)) * (slots or len(set(labels)))


def test_no_more_than_a_batch_is_made_at_a_time(monkeypatch):
    sizes = []

    def counted(images, *args, **kwargs):
        sizes.append(len(images))
        return corrupt(images, *args, **kwargs)

    monkeypatch.setattr(streams, "corrupt", counted)
    stream = build_stream(IMAGES, plan(shift="continual", corruptions=("fog", "snow"), count=50, batch_size=8))
    assert not sizes, "nothing is made before it is asked for"
    batches = stream.batches()
    next(batches)
    assert sizes == [8]
    assert max(len(batch) for batch in batches) == 8
    assert sum(sizes) == 100
    assert max(sizes) == 8


def test_images_that_are_kept_are_not_made_again(monkeypatch):
    stream = build_stream(IMAGES, PLANS["mixed"])
    made = torch.cat(list(stream.batches()))
    assert torch.equal(stream.images.images, made)
    monkeypatch.setattr(streams, "corrupt", None)
    assert torch.equal(torch.cat(list(stream.batches())), made)
    assert torch.equal(stream.pixels(torch.tensor([7, 2])), made[[7, 2]])


def test_the_order_is_that_of_the_records_that_were_published():
    generator = runtime.generator(torch.device("cpu"), "stream", 4)
    order = torch.randperm(60, generator=generator)[:20]
    assert torch.equal(draw_stream(IMAGES, "contrast", 3, count=20, batch_size=8, seed=4).indices, order)
    assert torch.equal(build_stream(IMAGES, PLANS["mixed"]).indices, order)
    longer = build_stream(IMAGES, plan(shift="continual", corruptions=("contrast", "fog")))
    assert torch.equal(longer.indices[:20], order), "the first part is the stream under one corruption"


def test_a_constant_stream_is_what_draw_stream_draws():
    drawn = draw_stream(IMAGES, "contrast", 3, count=20, batch_size=8, seed=4)
    assert torch.equal(drawn.indices, build_stream(IMAGES, plan()).indices)
    assert (drawn.corruption, drawn.severity, drawn.seed, drawn.batch_size) == ("contrast", 3, 4, 8)
    clean = draw_stream(IMAGES, "clean", 5, count=20, batch_size=8, seed=4)
    assert (clean.corruption, clean.severity) == ("clean", 0)
    assert torch.equal(clean.images.images, IMAGES.images[drawn.indices])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shift": "sudden"}, UnknownName, "unknown shift 'sudden'"),
        ({"corruptions": ()}, ConfigError, "at least one name, got"),
        ({"corruptions": ("fogg",)}, UnknownName, "unknown corruption 'fogg'; did you mean 'fog'"),
        ({"table": "cifer"}, UnknownName, "unknown severity table 'cifer'; did you mean 'cifar'"),
        ({"severity": 6}, ConfigError, "a severity of 1, 2, 3, 4 or 5, got 6"),
        ({"severity": 0}, ConfigError, "got 0"),
        ({"batch_size": 0}, ConfigError, "batch_size of at least 1, got 0"),
        ({"count": 0}, ConfigError, "count of at least 1"),
        ({"delta": 0.0}, ConfigError, "a delta above 0, got 0.0"),
        ({"delta": float("nan")}, ConfigError, "a delta above 0"),
        ({"slots": 3}, ConfigError, "give a delta, or leave slots out"),
        ({"corruptions": ("fog", "snow")}, ConfigError, "a constant stream has one corruption, got 2"),
        ({"shift": "gradual", "corruptions": ("clean", "fog")}, ConfigError, "take 'clean' away"),
        ({"rounds": 2}, ConfigError, "leave rounds and shuffled out"),
    ],
)
def test_a_wrong_plan_is_refused_in_plain_words(changes, error, message):
    with pytest.raises(error, match=message):
        plan(**changes)


def test_unfit_images_are_refused():
    with pytest.raises(ConfigError, match="61 different images are asked for, numbers has 60"):
        build_stream(IMAGES, plan(count=61))
    with pytest.raises(DataError, match="needs labels, and numbers has none"):
        build_stream(IMAGES.unlabelled(), plan(delta=0.1))
    with pytest.raises(DataError, match="at least 16x16 pixels, and numbers has 12x12"):
        build_stream(numbers(size=12), plan(count=20))
