"""What a summary computes, re-computed here with SciPy and NumPy, and what it refuses. All numbers are invented."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crosstask import report
from crosstask.bench.records import Record, unpacked
from crosstask.errors import DataError
from crosstask.report import words
from crosstask.report.summary import Estimate, Row, summarise, t_quantile
from invented import (
    CORRUPTIONS,
    METHODS,
    accuracies,
    changed,
    column_of,
    fake_record,
    fake_records,
    modern,
    modern_records,
    seed_means,
    t_half,
    wobble,
)

# What is computed


@pytest.mark.parametrize("freedom", [*range(1, 40), 100, 10_000])
def test_t_quantile_is_that_of_scipy(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


def test_means_and_intervals_are_those_of_scipy() -> None:
    records = fake_records()
    summary = summarise(records)
    for label in METHODS:
        column = column_of(summary, label)
        for row in summary.rows:
            values = accuracies(records, label, row.corruption)
            assert (column.cells[row].mean, column.cells[row].half) == pytest.approx(
                (values.mean(), t_half(values)), abs=2e-5
            )
        means = seed_means(records, label)
        assert column.mean and (column.mean.mean, column.mean.half) == pytest.approx(
            (means.mean(), t_half(means)), abs=2e-5
        )


def test_differences_are_paired_by_seed() -> None:
    records = fake_records()
    summary = summarise(records)
    ours, source = seed_means(records, "cta"), seed_means(records, "source")
    for label in ("source", "ptbn", "tent", "tent-online"):
        column, theirs = column_of(summary, label), seed_means(records, label)
        assert column.lead
        assert (column.lead.mean, column.lead.half) == pytest.approx(
            ((ours - theirs).mean(), t_half(ours - theirs)), abs=2e-5
        )
        if label != "source":
            assert column.gain and column.gain.mean == pytest.approx((theirs - source).mean())
    assert column_of(summary, "source").gain is None
    assert column_of(summary, "cta").lead is None
    fog = next(row for row in summary.rows if row.corruption == "fog")
    difference = accuracies(records, "cta", "fog") - accuracies(records, "source", "fog")
    assert column_of(summary, "cta").row_gains[fog].half == pytest.approx(t_half(difference), abs=2e-5)


def test_one_seed_has_wilsons_interval_over_images_and_says_so() -> None:
    records = fake_records(seeds=(4,))
    summary = summarise(records)
    column = column_of(summary, "cta")
    for row in summary.rows:
        share = accuracies(records, "cta", row.corruption)[0]
        expected = stats.binomtest(round(share * 256), 256).proportion_ci(method="wilson")
        assert column.cells[row].half == pytest.approx(max(expected.high - share, share - expected.low), abs=1e-4)
        assert (column.cells[row].over, column.cells[row].count) == ("images", 256)
    assert column.mean and column.mean.over == "images"
    assert column.gain and column.gain.half is None
    assert "Wilson" in report.table_markdown(records) and "Student" not in report.table_markdown(records)


def test_images_that_a_stream_shows_more_than_once_count_once_in_an_interval() -> None:
    """A gradual stream shows the same images at nine severities, whose answers are no nine times the evidence."""
    once = fake_records(seeds=(4,))
    nine = [replace(r, n=9 * 256) for r in once]
    for label in METHODS:
        assert column_of(summarise(nine), label).mean.half == column_of(summarise(once), label).mean.half  # type: ignore[union-attr]


def test_the_frozen_supervised_model_is_what_all_are_compared_with() -> None:
    records = fake_records()
    joint = [replace(r, label="a", key=f"a{r.key}") for r in records if r.label == "source"]
    joint = [replace(r, protocol=r.protocol | {"model": "joint"}) for r in joint]
    assert summarise([*records, *joint]).source == column_of(summarise(records), "source")


def test_columns_stand_source_first_and_ours_last_in_any_order_of_records() -> None:
    records = fake_records()
    summary = summarise(reversed(records))
    assert [column.label for column in summary.columns] == list(METHODS)
    assert summary.adapted is column_of(summary, "cta") and summary.source is column_of(summary, "source")


def test_clean_images_are_no_part_of_the_mean() -> None:
    records = fake_records()
    worse = [replace(r, accuracy=0.1) if r.corruption == "clean" else r for r in records]
    assert [c.mean for c in summarise(worse).columns] == [c.mean for c in summarise(records).columns]
    assert len(summarise(records).rows) == len(CORRUPTIONS)


def test_a_mean_waits_until_a_seed_has_every_corruption() -> None:
    records = [r for r in fake_records() if (r.label, r.corruption, r.seed) != ("tent", "fog", 1)]
    summary = summarise(records)
    tent = column_of(summary, "tent")
    assert tent.mean and tent.mean.count == 2 and summary.gaps == {"tent": ["fog"]}
    assert tent.lead and tent.lead.count == 2
    told = "TENT lacks cells of fog: its mean is over the seeds that are complete."
    made = report.table_markdown(records), str(report.table_text(records).caption), report.table_latex(records)
    assert all(told in text for text in made)
    killed = [r for r in fake_records() if r.seed < 2 or r.corruption in ("clean", "gaussian_noise", "fog")]
    assert summarise(killed).gaps.keys() == set(METHODS) and "fog" not in summarise(killed).gaps["cta"]
    without = [r for r in fake_records() if (r.label, r.corruption) != ("cta", "fog")]
    assert column_of(summarise(without), "cta").mean is None
    assert report.headline(without) == "Frozen 48.7 %; CTA is not measured on every corruption yet"


def test_curves_run_from_the_prediction_before_any_update_to_the_reported_one() -> None:
    records = [replace(r, curve={"5": 0.6}) for r in fake_records(labels=("cta",))]
    curve = summarise(records).columns[0].curve
    assert list(curve) == [0, 5, 20]
    assert curve[0].mean == pytest.approx(np.mean([r.accuracy_before for r in records if r.corruption != "clean"]))
    assert curve[5].mean == pytest.approx(0.6)
    assert curve[20].mean == pytest.approx(seed_means(records, "cta").mean())


def test_a_cell_that_was_measured_twice_counts_once() -> None:
    records = fake_records()
    assert summarise([*records, *records[:5]]) == summarise(records)


def test_arguments_that_differ_between_records_are_left_out() -> None:
    records = [replace(r, config={"seed": 7 * r.seed, "steps": 20}) for r in fake_records(labels=("cta",))]
    assert summarise(records).columns[0].config == {"steps": 20}
    own = [replace(r, config={"seed": r.seed, "steps": 20}) for r in records]
    assert summarise([r for r in own if r.seed == 1]).columns[0].config == {"steps": 20}, "the seed is the record's"
    same = [replace(r, config={"seed": 7, "steps": 20}) for r in records]
    assert summarise(same).columns[0].config == {"seed": 7, "steps": 20}


def images(records: list[Record], label: str, corruption: str) -> np.ndarray:
    """Return on which images a label is right, as numbers [n]."""
    (record,) = [r for r in records if (r.label, r.corruption) == (label, corruption)]
    right = unpacked(record)
    assert right is not None
    return right.astype(float)


def by_image(differences: np.ndarray) -> tuple[float, float]:
    """Return a mean and 1.96 standard errors of it."""
    return differences.mean(), 1.959964 * differences.std(ddof=1) / np.sqrt(len(differences))


def told(estimate: Estimate | None) -> tuple[float, float | None]:
    assert estimate
    return estimate.mean, estimate.half


def test_with_one_seed_differences_are_paired_by_image() -> None:
    """Under a constant shift the same images stand under every corruption: an image counts with its mean over them."""
    records = modern_records(fake_records(seeds=(4,)))
    summary = summarise(records)
    mean = {label: np.mean([images(records, label, name) for name in CORRUPTIONS], axis=0) for label in METHODS}
    for label in ("ptbn", "tent", "cta"):
        column = column_of(summary, label)
        assert column.gain and told(column.gain) == pytest.approx(by_image(mean[label] - mean["source"]), abs=1e-6)
        assert (column.gain.over, column.gain.count) == ("images", 256)
        fog = images(records, label, "fog") - images(records, "source", "fog")
        assert told(column.row_gains[Row("fog", 5)]) == pytest.approx(by_image(fog), abs=1e-6)
        if label != "cta":
            assert told(column.lead) == pytest.approx(by_image(mean["cta"] - mean[label]), abs=1e-6)
    assert "image by image" in words.pairing(summary)


def test_intervals_over_images_need_images_that_are_known_and_count_once() -> None:
    old = summarise(fake_records(seeds=(4,)))
    assert column_of(old, "cta").gain.half is None and "no interval" in words.pairing(old)  # type: ignore[union-attr]
    several = {"sequence": CORRUPTIONS, "reset": "never"}
    records = modern_records(fake_records(seeds=(4,)), shift="mixed", **several)
    mixed = column_of(summarise(records), "cta").gain
    differences = [images(records, "cta", name) - images(records, "source", name) for name in CORRUPTIONS]
    errors = [by_image(each)[1] for each in differences]
    assert told(mixed) == pytest.approx((np.mean(differences), np.sqrt(np.square(errors).sum()) / 7), abs=1e-6)
    continual = column_of(summarise(modern_records(fake_records(seeds=(4,)), shift="continual", **several)), "cta")
    assert continual.gain and continual.gain.half is None, "the same images come again, in another order"
    assert told(continual.row_gains[Row("fog", 5)]) == pytest.approx(by_image(differences[CORRUPTIONS.index("fog")]))
    rounds = [replace(modern(r, shift="continual", rounds=2, **several), n=256) for r in fake_records(seeds=(4,))]
    twice = [replace(r, protocol=r.protocol | {"n": 128}) for r in rounds]
    assert column_of(summarise(twice), "cta").row_gains[Row("fog", 5)].half is None


def test_two_seeds_go_before_images() -> None:
    records = fake_records(seeds=(0, 1))
    assert column_of(summarise(modern_records(records)), "cta").gain == column_of(summarise(records), "cta").gain


def test_a_difference_whose_interval_holds_zero_is_called_so_wherever_it_stands() -> None:
    level = changed(fake_records(), lambda r: r.label == "ptbn" and r.corruption != "clean", accuracy=0.5)
    level = [replace(r, accuracy=0.5 + 0.01 * (r.seed - 1)) if r.label == "cta" and r.severity else r for r in level]
    summary = summarise(level)
    ptbn = column_of(summary, "ptbn")
    assert ptbn.lead and ptbn.lead.holds_zero and not column_of(summary, "tent").lead.holds_zero  # type: ignore[union-attr]
    assert words.leads(summary).endswith("points (no difference shown from PTBN).")
    same = [replace(r, accuracy=0.5 + 0.01 * wobble(r.label, r.seed)) if r.severity else r for r in level]
    assert column_of(summarise(same), "cta").gain.holds_zero  # type: ignore[union-attr]
    assert "points, no difference shown) without a label" in report.headline(same)
    assert not Estimate(mean=0.0, half=None, count=1).holds_zero


def test_the_worst_corruption_and_the_clean_accuracy_before_any_update() -> None:
    records = [replace(r, accuracy_before=r.accuracy_before - 0.01 * (1 + wobble(r.key))) for r in fake_records()]
    column = column_of(summarise(records), "cta")
    means = {name: accuracies(records, "cta", name).mean() for name in CORRUPTIONS}
    assert column.worst == Row(min(means, key=means.__getitem__), 5)
    before = np.array([r.accuracy_before for r in records if (r.label, r.corruption) == ("cta", "clean")])
    assert told(column.clean_before) == pytest.approx((before.mean(), t_half(before)), abs=2e-5)
    added = seed_means(records, "cta") - seed_means([replace(r, accuracy=r.accuracy_before) for r in records], "cta")
    assert told(column.added) == pytest.approx((added.mean(), t_half(added)), abs=2e-5)
    gap = [r for r in records if (r.label, r.corruption) != ("cta", "fog")]
    assert column_of(summarise(gap), "cta").worst is None


def test_the_oracle_takes_for_each_corruption_the_best_point_of_the_curve() -> None:
    """One number of updates a corruption, the same for all seeds, chosen by the mean over them."""
    records = [
        replace(
            r, curve={step: 0.5 + 0.1 * wobble(r.corruption, step) + 0.01 * wobble(r.key, step) for step in r.curve}
        )
        for r in fake_records(labels=("cta",))
    ]
    records = [replace(r, accuracy_before=r.curve["0"], accuracy=r.curve["20"]) for r in records]
    by_corruption = []
    for name in CORRUPTIONS:
        points = np.array([list(r.curve.values()) for r in records if r.corruption == name])
        by_corruption.append(points[:, points.mean(axis=0).argmax()])
    seeds = np.mean(by_corruption, axis=0)
    (column,) = summarise(records).columns
    assert told(column.oracle) == pytest.approx((seeds.mean(), t_half(seeds)), abs=2e-5)
    assert column.oracle.mean > column.mean.mean  # type: ignore[union-attr]
    assert column_of(summarise(fake_records()), "ptbn").oracle is None, "it has no choice"


def test_predictions_from_before_the_updates_are_what_counts_where_the_protocol_says_so() -> None:
    records = [
        replace(r, accuracy=r.accuracy_before, curve={"0": r.accuracy_before, "20": 0.99})
        for r in modern_records(fake_records(labels=("source", "tent")), predict="before")
        if r.label == "source" or r.steps
    ]
    records = [r if r.steps else replace(r, accuracy=0.4, accuracy_before=0.4, curve={"0": 0.4}) for r in records]
    summary = summarise(records)
    tent = column_of(summary, "tent")
    assert tent.mean and tent.curve[0].mean == pytest.approx(tent.mean.mean)
    assert tent.curve[20].mean == pytest.approx(0.99)
    assert tent.oracle is None and tent.added is None and words.before(summary) == ""


def test_recovery_is_the_gain_on_clean_images_after_all_shifts() -> None:
    after = (*CORRUPTIONS, "clean")
    settings = {"shift": "continual", "reset": "never"}
    records = modern_records(fake_records(), sequence=after, **settings)
    column = column_of(summarise(records), "tent")
    difference = accuracies(records, "tent", "clean") - accuracies(records, "source", "clean")
    assert told(column.recovery) == pytest.approx((difference.mean(), t_half(difference)), abs=2e-5)
    for other in (
        {"sequence": ("clean", *CORRUPTIONS)},
        {"sequence": ("clean", *after)},
        {"sequence": after, "shuffled": True},
        {"sequence": after, "rounds": 2},
        {"sequence": after, "shift": "mixed"},
    ):
        assert column_of(summarise(modern_records(fake_records(), **(settings | other))), "tent").recovery is None


def test_the_stream_is_averaged_over_seeds_part_by_part() -> None:
    records = modern_records(fake_records())
    parts = [r.over_stream for r in records if (r.label, r.corruption) == ("cta", "fog")]
    column = column_of(summarise(records), "cta")
    assert column.over_stream[Row("fog", 5)] == pytest.approx(np.mean(np.array(parts), axis=0))
    assert column_of(summarise(fake_records()), "cta").over_stream == {}


def test_passes_and_missed_batches_are_told_where_every_record_says_them() -> None:
    records = modern_records(fake_records())
    cost = column_of(summarise(records), "cta").cost
    assert (cost.forwards, cost.backwards, cost.missed) == (41, 20, 0)
    some = [*records[:1], *(replace(r, forwards=None) for r in records[1:])]
    assert column_of(summarise(some), "cta").cost.forwards is None


def test_what_older_records_leave_out_is_what_there_was_no_choice_about() -> None:
    records = fake_records()
    mixed = [modern(r) if r.seed else r for r in records]
    assert summarise(mixed).protocol == summarise(records).protocol
    assert summarise(records).protocol | {"shift": "constant", "rate": None, "table": "cifar"} == (
        summarise(records).protocol
    )


# What is refused


def protocol(**changes: Any) -> dict[str, Any]:
    return fake_record("tent", "fog", 0).protocol | changes


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records to report"),
        (
            changed(fake_records(), lambda r: r.label == "tent" and r.seed == 2, protocol=protocol(reset="never")),
            "label 'tent' mixes two protocols.*reset: 'batch' and 'never'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(batch_size=64)),
            "must share batch_size, got 128 for 'source', 64 for 'tent'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol={"n": 256}),
            "does not say batch_size, precision, stream",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(precision="float32")),
            "must share precision, got \"bfloat16\" for 'source', \"float32\" for 'tent'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(table="imagenet")),
            "must share table, got \"cifar\" for 'source', \"imagenet\" for 'tent'",
        ),
        (changed(fake_records(), lambda r: r.seed == 1, dataset="cifar10"), "several data sets"),
        (changed(fake_records(), lambda r: r.key == "cta-fog-1", method="tent"), "method: 'cta' and 'tent'"),
        (
            changed(fake_records(), lambda r: r.key == "cta-fog-1", config={"learning_rate": 0.1, "steps": 20}),
            "label 'cta' mixes two protocols.*learning_rate: 0.01 and 0.1",
        ),
        (
            changed(changed(fake_records(), lambda r: True, images="a"), lambda r: r.key == "cta-fog-1", images="b"),
            "'source' and 'cta' were measured on other images under the name 'fashion-mnist', 'fog', seed 1",
        ),
        ([*fake_records(), fake_record("cta", "fog", 0, key="other")], "two different records for label 'cta'"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(records: list[Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        report.table_markdown(records)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preset", "tent"),
        ("shift", "mixed"),
        ("sequence", ("fog", "contrast")),
        ("rounds", 2),
        ("shuffled", True),
        ("delta", 0.1),
        ("slots", 7),
        ("rate", 0.5),
        ("frost", "procedural"),
        ("copies", "cifar10-c"),
    ],
)
def test_columns_of_unlike_streams_share_no_table(key: str, value: Any) -> None:
    """Old records count with the defaults of what they leave out; both values and both labels are named."""
    for old in (fake_records(), modern_records(fake_records())):
        records = [modern(r, **{key: value}) if r.label == "tent" else r for r in old]
        said = re.escape(json.dumps(value))
        with pytest.raises(DataError, match=rf"must share {key}, got \S+ for 'source', {said} for 'tent'"):
            summarise(records)
        half = [modern(r, **{key: value}) if r.label == "tent" and r.seed else r for r in old]
        with pytest.raises(DataError, match=rf"label 'tent' mixes two protocols.*{key}"):
            summarise(half)


def test_a_corruption_has_one_number_of_images_and_each_may_have_its_own() -> None:
    records = fake_records()
    twice = changed(records, lambda r: r.corruption == "fog", n=512)
    assert column_of(summarise(twice), "cta").mean == column_of(summarise(records), "cta").mean
    with pytest.raises(DataError, match="n: 256 and 512 on fog"):
        summarise(changed(records, lambda r: (r.corruption, r.seed) == ("fog", 1), n=512))
