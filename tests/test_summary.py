"""What a summary computes, re-computed here with SciPy and NumPy, and what it refuses. All numbers are invented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crosstask import report
from crosstask.bench.records import Record
from crosstask.errors import DataError
from crosstask.report.summary import summarise, t_quantile
from invented import (
    CORRUPTIONS,
    METHODS,
    accuracies,
    changed,
    column_of,
    fake_record,
    fake_records,
    seed_means,
    t_half,
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
        assert column.cells[row].half == pytest.approx((expected.high - expected.low) / 2, abs=1e-4)
        assert (column.cells[row].over, column.cells[row].count) == ("images", 256)
    assert column.mean and column.mean.over == "images"
    assert column.gain and column.gain.half is None
    assert "Wilson" in report.table_markdown(records) and "Student" not in report.table_markdown(records)


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
            "must share table, got null for 'source', \"imagenet\" for 'tent'",
        ),
        (changed(fake_records(), lambda r: r.seed == 1, dataset="cifar10"), "several data sets"),
        (changed(fake_records(), lambda r: r.key == "cta-fog-1", method="tent"), "method: 'cta' and 'tent'"),
        ([*fake_records(), fake_record("cta", "fog", 0, key="other")], "two different records for label 'cta'"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(records: list[Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        report.table_markdown(records)
