"""Two runs side by side: per label what each reached on what both measured, and what else differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosstask.bench.records import Record
from crosstask.data.severities import CLEAN
from crosstask.errors import DataError
from crosstask.report.summary import Estimate, Row
from crosstask.report.summary.cells import Cells, by_label, difference, mean_accuracy
from crosstask.report.summary.comparable import PIXELS, check, check_images, without_repeats


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One label in both runs.

    Attributes:
        first, second: its accuracy in each, over the corruptions and seeds that both have.
        difference: the second minus the first, paired.
    """

    label: str
    first: Estimate
    second: Estimate
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs say of one another.

    Attributes:
        dataset: the one that both are of.
        names: of the runs.
        rows: the corruptions that every pair was measured on in both; clean images if that is all there is.
        pairs: the labels that both have.
        only: what one of them lacks, in words.
        others: what else differs, in words.
    """

    dataset: str
    names: tuple[str, str]
    rows: Sequence[Row]
    pairs: Sequence[Pair]
    only: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run: its name, its records, and by label its cells and its protocol."""

    name: str
    records: Sequence[Record]
    cells: Mapping[str, Cells]
    protocols: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> list[Row]:
        """The rows in the order of the records."""
        return list(dict.fromkeys(row for cells in self.cells.values() for row in cells))


def compare(first: Iterable[Record], second: Iterable[Record], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Return what two runs, called by `names`, have in common, and what not.

    Raises:
        DataError: one of them does not compare with itself, or they are of other data or other test images.
    """
    one, other = (_run(name, records) for name, records in zip(names, (first, second), strict=True))
    _check_images(one, other)
    common = [row for row in one.rows if row in other.rows]
    rows = [row for row in common if row.corruption != CLEAN] or common
    labels = [label for label in one.cells if label in other.cells]
    pairs = [pair for label in labels if (pair := _pair(label, rows, one, other))]
    if not pairs:
        raise DataError(
            f"{one.name} and {other.name} have no column that both measured under the same corruptions with the same "
            f"seeds; {one.name} has {', '.join(one.cells)}, {other.name} has {', '.join(other.cells)}"
        )
    return Comparison(
        dataset=one.records[0].dataset,
        names=names,
        rows=rows,
        pairs=pairs,
        only=list(_unpaired(one, other, {pair.label for pair in pairs})),
        others=[*_labels_differ(labels, one, other), *_runs_differ(one, other)],
    )


def _run(name: str, records: Iterable[Record]) -> _Run:
    found = without_repeats(records)
    return _Run(name=name, records=found, cells=by_label(found), protocols=check(found))


def _check_images(one: _Run, other: _Run) -> None:
    """Refuse runs that did not see the same test images in the same order."""
    datasets = [run.records[0].dataset for run in (one, other)]
    if datasets[0] != datasets[1]:
        raise DataError(
            f"{one.name} is of {datasets[0]} and {other.name} of {datasets[1]}: there is nothing to compare"
        )
    check_images([*one.records, *other.records])
    mine, theirs = (next(iter(run.protocols.values())) for run in (one, other))
    unlike = [key for key in PIXELS if mine[key] != theirs[key] and (key != "frost" or (mine[key] and theirs[key]))]
    if unlike:
        told = "; ".join(f"{key}: {_said(mine[key])} and {_said(theirs[key])}" for key in unlike)
        raise DataError(
            f"{one.name} and {other.name} do not have the same test images ({told}); measure one of them again with "
            "the settings of the other"
        )


def _pair(label: str, rows: Sequence[Row], one: _Run, other: _Run) -> Pair | None:
    """Return a label's accuracies over `rows` on the seeds that are complete in both runs; None if there are none."""
    sides = [run.cells[label] for run in (one, other)]
    seeds = set.intersection(*(set(side.get(row, {})) for side in sides for row in rows)) if rows else set()
    first, second = ({row: {seed: side[row][seed] for seed in seeds} for row in rows if seeds} for side in sides)
    ends, moved = [mean_accuracy(cells, rows) for cells in (first, second)], difference(second, first, rows)
    if not ends[0] or not ends[1] or not moved:
        return None
    return Pair(label=label, first=ends[0], second=ends[1], difference=moved)


def _unpaired(one: _Run, other: _Run, paired: set[str]) -> Iterator[str]:
    """Say which labels, corruptions and seeds are left out, and why."""
    for run, missing in ((one, other), (other, one)):
        if labels := [label for label in run.cells if label not in missing.cells]:
            yield f"Only {run.name} has {', '.join(labels)}."
        if rows := [_row_name(row) for row in run.rows if row not in missing.rows]:
            yield f"Only {run.name} was measured under {', '.join(rows)}."
        there = {record.seed for record in missing.records}
        if seeds := sorted({record.seed for record in run.records} - there):
            yield f"Only {run.name} has the seeds {', '.join(map(str, seeds))}."
    if lacking := [label for label in one.cells if label in other.cells and label not in paired]:
        yield f"No seed has every common corruption in both runs for {', '.join(lacking)}."


def _labels_differ(labels: Sequence[str], one: _Run, other: _Run) -> Iterator[str]:
    """Say what differs between the runs within a label, labels that differ alike together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for label in labels:
        sides = [_settings(run, label) for run in (one, other)]
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            mine, theirs = (_said(side.get(key)) for side in sides)
            if mine != theirs:
                found.setdefault((key, mine, theirs), []).append(label)
    for (key, mine, theirs), alike in found.items():
        yield f"{key} of {', '.join(alike)}: {mine} in {one.name}, {theirs} in {other.name}"


def _settings(run: _Run, label: str) -> dict[str, Any]:
    """Return all that decides a label's numbers, beside the images."""
    records = [record for seeds in run.cells[label].values() for record in seeds.values()]
    protocol = {key: value for key, value in run.protocols[label].items() if key not in (*PIXELS, "curve")}
    arguments = {key: value for key, value in records[0].config.items() if key not in ("steps", "seed")}
    checkpoints = ", ".join(sorted({record.checkpoint[:12] for record in records}))
    return {"method": records[0].method, **protocol, **arguments, "checkpoint": checkpoints}


def _runs_differ(one: _Run, other: _Run) -> Iterator[str]:
    """Say what differs between the runs as wholes: versions, commits, devices."""
    sides = [_origin(run.records) for run in (one, other)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        mine, theirs = (side.get(key, "none") for side in sides)
        if mine != theirs:
            yield f"{key}: {mine} in {one.name}, {theirs} in {other.name}"


def _origin(records: Sequence[Record]) -> dict[str, str]:
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        facts = {**record.versions, "commit": record.commit or "none", "device": record.device}
        for key, value in facts.items():
            seen.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(sorted(values)) for key, values in sorted(seen.items())}


def _row_name(row: Row) -> str:
    return f"{row.corruption.replace('_', ' ')}{f' {row.severity}' if row.severity else ''}"


def _said(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
