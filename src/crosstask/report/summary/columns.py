"""One column: a label's records become its figures, and columns are compared with one another."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from crosstask.bench.records import Record
from crosstask.data.severities import CLEAN
from crosstask.report.summary import curves
from crosstask.report.summary.cells import Cells, difference, mean, mean_accuracy
from crosstask.report.summary.shapes import Column, Cost, Estimate, Row


def make(cells: Cells, rows: Sequence[Row], protocol: Mapping[str, Any]) -> Column:
    """Return the column of one label, not yet compared with others."""
    records = [record for seeds in cells.values() for record in seeds.values()]
    first = records[0]
    accuracies = {row: found for row in cells if (found := mean_accuracy(cells, [row]))}
    clean = [row for row in cells if row.corruption == CLEAN]
    return Column(
        label=first.label,
        method=first.method,
        protocol=protocol,
        config=_constant([_without_own_seed(record) for record in records]),
        steps=first.steps,
        checkpoints=sorted({record.checkpoint for record in records}),
        commands=once(record.command for record in records),
        cells=accuracies,
        mean=mean_accuracy(cells, rows),
        before=mean_accuracy(cells, rows, curves.before),
        added=curves.added(cells, rows),
        clean_before=mean_accuracy(cells, clean, curves.before) if clean else None,
        oracle=curves.oracle(cells, rows),
        worst=min(rows, key=lambda row: accuracies[row].mean) if accuracies.keys() >= set(rows) else None,
        curve=curves.curve(cells, rows),
        row_curves={row: curves.row_curve(cells, row) for row in rows if row in cells},
        over_stream={row: parts for row in cells if (parts := curves.over_stream(cells, row))},
        row_gains={},
        figures=_figures(cells, rows),
        cost=_cost(records),
    )


def compared(columns: Sequence[Column], table: Mapping[str, Cells], rows: Sequence[Row]) -> list[Column]:
    """Return `columns` with their differences from the source column and from the adapted one."""
    frozen, ours = source(columns), adapted(columns)

    def lead(one: Column | None, other: Column | None, rows: Sequence[Row]) -> Estimate | None:
        if not one or not other or one is other:
            return None
        return difference(table[one.label], table[other.label], rows)

    def with_differences(column: Column) -> Column:
        gains = {row: gain for row in column.cells if (gain := lead(column, frozen, [row]))}
        returned = [gain for row, gain in gains.items() if row.corruption == CLEAN and _ends_clean(column.protocol)]
        return replace(
            column,
            gain=lead(column, frozen, rows),
            row_gains=gains,
            recovery=returned[0] if returned else None,
            lead=lead(ours, column, rows),
        )

    return [with_differences(column) for column in columns]


def source(columns: Sequence[Column]) -> Column | None:
    """Return the column of the frozen supervised model, if there is one."""
    frozen = (column for column in columns if column.method == "source")
    return next((column for column in frozen if column.protocol.get("model", "supervised") == "supervised"), None)


def adapted(columns: Sequence[Column]) -> Column | None:
    """Return our column; without one, the last that is not the frozen model."""
    ours = [column for column in columns if is_ours(column.method, column.protocol)]
    others = [column for column in columns if column.method != "source"]
    return next(iter(ours), None) or (others[-1] if others else None)


def rank(method: str, protocol: Mapping[str, Any]) -> int:
    """Return a column's place; columns of one place stand in the order of their labels."""
    if is_ours(method, protocol):
        return 4
    return {"source": 0, "ptbn": 1, "tent": 2}.get(method, 3)


def is_ours(method: str, protocol: Mapping[str, Any]) -> bool:
    """Say whether a column is CTA as it is meant, on an aligned model."""
    return method == "cta" and protocol.get("model", "aligned") == "aligned"


def once(values: Iterable[str]) -> list[str]:
    """Return each value once, in order."""
    return list(dict.fromkeys(values))


def _ends_clean(protocol: Mapping[str, Any]) -> bool:
    """Say whether a stream of several corruptions shows clean images after all others, and never before."""
    sequence = protocol["sequence"]
    after_all = sequence[-1:] == [CLEAN] and sequence.count(CLEAN) == 1 and len(sequence) > 1
    return after_all and protocol["shift"] == "continual" and protocol["rounds"] == 1 and not protocol["shuffled"]


def _without_own_seed(record: Record) -> dict[str, Any]:
    """Return a record's arguments, without a seed that is the record's."""
    return {name: value for name, value in record.config.items() if name != "seed" or value != record.seed}


def _constant(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that all configs have alike."""
    first = configs[0]
    return {name: value for name, value in first.items() if all(config.get(name) == value for config in configs)}


def _figures(cells: Cells, rows: Sequence[Row]) -> dict[str, Estimate]:
    names = ("ece", "nll", "right_to_wrong", "wrong_to_right")
    return {name: found for name in names if (found := mean(cells, rows, attrgetter(name)))}


def _cost(records: Sequence[Record]) -> Cost:
    return Cost(
        ms_per_image=statistics.fmean(1000 / record.images_per_second for record in records),
        images_per_second=statistics.fmean(record.images_per_second for record in records),
        peak_memory_mb=max(record.peak_memory_mb for record in records),
        forwards=_known(records, attrgetter("forwards")),
        backwards=_known(records, attrgetter("backwards")),
        missed=_known(records, attrgetter("missed")),
    )


def _known(records: Sequence[Record], figure: Callable[[Record], float | None]) -> float | None:
    """Return the mean of a figure that every record says, or None."""
    values = [value for record in records if (value := figure(record)) is not None]
    return statistics.fmean(values) if len(values) == len(records) else None
