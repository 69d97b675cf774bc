"""The records of one label by row and seed, and the figures that are averaged from them.

Figures that methods are compared by are averaged over corruptions within each seed first, so that a seed is the unit of
every interval; differences between methods are paired by seed, and with a single seed by image.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np

from crosstask.bench.records import Record, unpacked
from crosstask.report.summary.comparable import protocol_of
from crosstask.report.summary.estimates import over_images, over_seeds, paired_over_images
from crosstask.report.summary.shapes import Estimate, Row

Cells = Mapping[Row, Mapping[int, Record]]
"""The records of one label, by row and seed."""

Figure = Callable[[Record], float | None]
"""What is taken from a record; None where it does not say."""

accuracy: Figure = attrgetter("accuracy")


def row_of(record: Record) -> Row:
    """Return the row in which a record stands."""
    return Row(record.corruption, record.severity)


def by_label(records: Iterable[Record]) -> dict[str, Cells]:
    """Return the cells of each label."""
    table: dict[str, dict[Row, dict[int, Record]]] = {}
    for record in records:
        table.setdefault(record.label, {}).setdefault(row_of(record), {})[record.seed] = record
    return dict(table)


def by_seed(cells: Cells, rows: Sequence[Row], figure: Figure) -> dict[int, float]:
    """Average a figure over `rows` within each seed; a seed that lacks it anywhere is left out."""
    averages = {}
    for seed in sorted({seed for row in rows for seed in cells.get(row, {})}):
        present = [cells[row][seed] for row in rows if seed in cells.get(row, {})]
        values = [value for record in present if (value := figure(record)) is not None]
        if len(values) == len(rows):
            averages[seed] = statistics.fmean(values)
    return averages


def mean(cells: Cells, rows: Sequence[Row], figure: Figure) -> Estimate | None:
    """Return the mean of a figure over `rows`, with an interval over seeds; None if no seed has all of them."""
    values = list(by_seed(cells, rows, figure).values())
    return over_seeds(values) if values else None


def mean_accuracy(cells: Cells, rows: Sequence[Row], figure: Figure = accuracy) -> Estimate | None:
    """Return the same of an accuracy, with Wilson's interval over images where there is a single seed."""
    found = mean(cells, rows, figure)
    if found is None or found.count > 1:
        return found
    (seed,) = by_seed(cells, rows, figure)
    return over_images(found.mean, min(_different_images(cells[row][seed]) for row in rows))


def _different_images(record: Record) -> int:
    """Return how many images a record is of; a gradual stream, or several rounds, shows each more than once."""
    return min(record.n, protocol_of(record)["n"])


def difference(ours: Cells, theirs: Cells, rows: Sequence[Row]) -> Estimate | None:
    """Return how much more accurate ours are over `rows`, paired by the seeds that both have.

    With a single seed the interval is over the images, where the records say which of them are right.
    """
    ends = [by_seed(side, rows, accuracy) for side in (ours, theirs)]
    seeds = sorted(ends[0].keys() & ends[1].keys())
    if not seeds:
        return None
    found = over_seeds([ends[0][seed] - ends[1][seed] for seed in seeds])
    if found.count > 1:
        return found
    return _by_image(found.mean, [(ours[row][seeds[0]], theirs[row][seeds[0]]) for row in rows]) or found


def _by_image(mean: float, pairs: Sequence[tuple[Record, Record]]) -> Estimate | None:
    """Return the mean difference of pairs of records with an interval over images, if they say what is right."""
    differences = []
    for pair in pairs:
        ours, theirs = (unpacked(record) for record in pair)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return None
        differences.append(ours.astype(np.int8) - theirs.astype(np.int8))
    return paired_over_images(mean, differences, protocol_of(pairs[0][0]))
