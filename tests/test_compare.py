"""Two runs side by side: what is computed, what is said to differ, what is refused. All numbers are invented."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from crosstask import cli, report
from crosstask.bench.records import Record, unpacked
from crosstask.errors import DataError
from crosstask.report.comparison import Comparison, Pair, compare
from invented import (
    CORRUPTIONS,
    METHODS,
    changed,
    fake_records,
    modern,
    modern_records,
    seed_means,
    t_half,
    wobble,
    write_run,
)


def better(records: list[Record], label: str = "tent", by: float = 0.05) -> list[Record]:
    """Return a second run: one label is more accurate, by a little more or less from seed to seed."""
    return [replace(r, accuracy=r.accuracy + by + 0.01 * wobble(r.seed)) if r.label == label else r for r in records]


def pair_of(found: Comparison, label: str) -> Pair:
    return next(pair for pair in found.pairs if pair.label == label)


def shown(found: Comparison) -> str:
    console = Console(width=110, file=io.StringIO())
    console.print(report.comparison_text(found))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_differences_are_paired_by_seed_over_what_both_have() -> None:
    first, second = fake_records(), better(fake_records())
    found = compare(first, second)
    assert [pair.label for pair in found.pairs] == list(METHODS) and len(found.rows) == len(CORRUPTIONS)
    tent, change = pair_of(found, "tent"), seed_means(second, "tent") - seed_means(first, "tent")
    assert tent.first.mean == pytest.approx(seed_means(first, "tent").mean())
    assert tent.second.mean == pytest.approx(seed_means(second, "tent").mean())
    assert (tent.difference.mean, tent.difference.half) == pytest.approx((change.mean(), t_half(change)), abs=2e-5)
    assert not tent.difference.holds_zero and pair_of(found, "cta").difference.holds_zero
    text = shown(found)
    assert text.count("no difference shown") == len(METHODS) - 1 and "by seed (Student's t)" in text


def test_only_common_corruptions_and_seeds_count() -> None:
    first = fake_records(seeds=(0, 1, 2))
    second = [r for r in better(fake_records(seeds=(1, 2, 3))) if r.corruption != "fog"]
    found = compare(first, second, ("old", "new"))
    rest = [name for name in CORRUPTIONS if name != "fog"]
    assert [row.corruption for row in found.rows] == rest
    common = [r.accuracy for r in first if r.label == "tent" and r.corruption in rest and r.seed in (1, 2)]
    assert pair_of(found, "tent").first.mean == pytest.approx(np.mean(common))
    assert pair_of(found, "tent").difference.count == 2
    assert found.only == [
        "Only old was measured under fog 5.",
        "Only old has the seeds 0.",
        "Only new has the seeds 3.",
    ]
    lacking = [r for r in second if (r.label, r.corruption) != ("cta", "contrast")]
    assert "No seed has every common corruption in both runs for cta." in compare(first, lacking).only


def test_with_one_seed_differences_are_paired_by_image() -> None:
    one_seed = fake_records(seeds=(3,))
    first, second = modern_records(one_seed), modern_records(better(one_seed))

    def right(records: list[Record]) -> Any:
        return np.mean([unpacked(r) for r in records if r.label == "tent" and r.corruption != "clean"], axis=0)

    change = right(second) - right(first)
    difference = pair_of(compare(first, second), "tent").difference
    assert (difference.over, difference.count) == ("images", 256)
    assert difference.half == pytest.approx(1.959964 * change.std(ddof=1) / 16, abs=1e-6)
    assert "image by image" in shown(compare(first, second))
    assert pair_of(compare(one_seed, second), "tent").difference.half is None


def test_what_else_differs_is_listed_in_words_labels_alike_together() -> None:
    first = modern_records(fake_records())
    second = [
        modern(replace(r, protocol=r.protocol | {"batch_size": 64}, checkpoint="ab" * 32), rate=0.5)
        for r in fake_records()
    ]
    second = changed(second, lambda r: r.label == "tent", config={"learning_rate": 0.02, "steps": 20})
    second = changed(second, lambda r: True, commit="feed", versions={**first[0].versions, "torch": "3.0"})
    found = compare(first, second, ("old", "new"))
    for sentence in (
        "batch_size of source, ptbn, tent, tent-online, cta: 128 in old, 64 in new",
        "rate of source, ptbn, tent, tent-online, cta: none in old, 0.5 in new",
        "learning_rate of tent: 0.01 in old, 0.02 in new",
        "checkpoint of source, ptbn, tent, tent-online, cta: 9f2c9f2c9f2c in old, abababababab in new",
        "torch: 2.13.0 in old, 3.0 in new",
        "commit: 0123456789abcdef in old, feed in new",
    ):
        assert sentence in found.others and sentence in " ".join(shown(found).split())
    assert len(found.others) == 6
    assert compare(first, first).others == [] and "What differs" not in shown(compare(first, first))


def test_old_and_new_records_compare() -> None:
    assert compare(fake_records(), modern_records(fake_records())).others == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, dataset="cifar10"), "A is of fashion-mnist and B of cifar10"),
        (lambda r: modern(replace(r, n=512, protocol=r.protocol | {"n": 512})), r"same test images \(n: 256 and 512\)"),
        (lambda r: modern(r, shift="mixed"), r"\(shift: constant and mixed\); measure one of them again"),
        (lambda r: modern(r, table="imagenet"), r"\(table: cifar and imagenet\)"),
        (lambda r: modern(r, copies="cifar10-c"), r"\(copies: none and cifar10-c\)"),
        (lambda r: modern(r, stream="clumped", delta=0.1), r"\(stream: iid and clumped; delta: none and 0\.1\)"),
        (lambda r: replace(r, label=f"my-{r.label}"), "no column that both measured.*A has source, ptbn.*my-cta"),
        (lambda r: replace(r, seed=r.seed + 7), "no column that both measured"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(change: Callable[[Record], Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare(fake_records(), [change(r) for r in fake_records()])


def test_other_images_of_the_same_name_are_refused_where_both_say_which() -> None:
    jan, feb = (changed(fake_records(), lambda r: True, images=images) for images in ("jan", "feb"))
    with pytest.raises(DataError, match="other images under the name 'fashion-mnist'"):
        compare(jan, feb)
    assert compare(jan, fake_records()).pairs and compare(jan, jan).pairs


def test_frost_matters_only_where_both_have_it() -> None:
    first, second = fake_records(), modern_records(fake_records(), frost="procedural")
    assert compare(first, second).pairs
    with pytest.raises(DataError, match="frost: photographs and procedural"):
        compare(modern_records(first, frost="photographs"), second)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "old", fake_records())
    write_run(tmp_path / "new", changed(better(fake_records()), lambda r: r.label == "cta", label="ours"))

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["crosstask", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    assert run("compare", tmp_path / "old", tmp_path / "new") == 0
    out = capsys.readouterr().out
    assert "Only old has cta." in out and "Only new has ours." in out and "no difference shown" in out
    assert run("compare", tmp_path / "old", tmp_path / "new", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    tent = next(column for column in found["columns"] if column["label"] == "tent")
    assert found["runs"] == ["old", "new"] and tent["difference"]["mean"] > 0.03
    assert run("compare", tmp_path / "old", tmp_path / "nowhere") == 2
    assert "no records at" in capsys.readouterr().err
