"""Accuracy over the number of updates, and over the stream."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from operator import attrgetter

from crosstask.bench.records import Record
from crosstask.report.summary.cells import Cells, Figure, mean, mean_accuracy, row_of
from crosstask.report.summary.shapes import Estimate, Row


def curve(cells: Cells, rows: Sequence[Row]) -> dict[int, Estimate]:
    """Return the mean accuracy over `rows` by number of updates."""
    means = {step: mean(cells, rows, _at(step)) for step in _steps(cells, rows)}
    return {step: found for step, found in means.items() if found}


def row_curve(cells: Cells, row: Row) -> dict[int, float]:
    """Return the same for one row, as plain means over seeds."""
    return {step: found.mean for step, found in curve(cells, [row]).items()}


def oracle(cells: Cells, rows: Sequence[Row]) -> Estimate | None:
    """Return the mean accuracy over `rows`, each at the number of updates that is best there on test labels.

    None where there is one number only, or where predictions come before the updates: nothing is chosen there.
    """
    records = [record for row in rows for record in cells.get(row, {}).values()]
    if not records or not records[0].steps or any(record.protocol.get("predict") == "before" for record in records):
        return None
    curves = {row: row_curve(cells, row) for row in rows}
    if any(len(found) < 2 for found in curves.values()):
        return None
    best = {row: max(found, key=found.__getitem__) for row, found in curves.items()}
    return mean_accuracy(cells, rows, lambda record: _curve(record).get(best[row_of(record)]))


def over_stream(cells: Cells, row: Row) -> list[float]:
    """Return the accuracy in equal parts of a row's images, in order of arrival, as means over seeds; or nothing."""
    parts = [found for record in cells.get(row, {}).values() if (found := record.over_stream)]
    if not parts or len({len(each) for each in parts}) > 1:
        return []
    return [statistics.fmean(each) for each in zip(*parts, strict=True)]


def added(cells: Cells, rows: Sequence[Row]) -> Estimate | None:
    """Return what the updates add to the accuracy before them; None where nothing is scored after an update."""
    records = [record for seeds in cells.values() for record in seeds.values()]
    if not records[0].steps or records[0].protocol.get("predict") == "before":
        return None
    return mean(cells, rows, lambda record: record.accuracy - record.accuracy_before)


before: Figure = attrgetter("accuracy_before")


def _at(step: int) -> Figure:
    return lambda record: _curve(record).get(step)


def _steps(cells: Cells, rows: Sequence[Row]) -> list[int]:
    return sorted({step for row in rows for record in cells.get(row, {}).values() for step in _curve(record)})


def _curve(record: Record) -> dict[int, float]:
    """Return a record's whole curve, from before any update to the number of them that is scored."""
    noted = {int(step): accuracy for step, accuracy in record.curve.items()}
    scored = 0 if record.protocol.get("predict") == "before" else record.steps
    return {0: record.accuracy_before} | noted | {scored: record.accuracy}
