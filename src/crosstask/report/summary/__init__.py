"""Records in, small dataclasses out: every number that a report shows is computed here, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from crosstask.bench.records import Record
from crosstask.data.severities import CLEAN
from crosstask.report.summary import columns as _columns
from crosstask.report.summary.cells import Cells, by_label, row_of
from crosstask.report.summary.comparable import SHARED, check, without_repeats
from crosstask.report.summary.estimates import over_seeds, t_quantile
from crosstask.report.summary.shapes import Column, Cost, Estimate, Origin, Row, Summary

__all__ = ["Column", "Cost", "Estimate", "Origin", "Row", "Summary", "over_seeds", "summarise", "t_quantile"]


def summarise(records: Iterable[Record]) -> Summary:
    """Return what `records` say.

    Raises:
        DataError: there are no records, or they are of several data sets or of protocols that do not compare.
    """
    records = without_repeats(records)
    protocols = check(records)
    labels = sorted({(_columns.rank(record.method, record.protocol), record.label) for record in records})
    cells = by_label(records)
    table = {label: cells[label] for _, label in labels}
    corrupted = list(dict.fromkeys(row_of(record) for record in records if record.corruption != CLEAN))
    clean = next((row_of(record) for record in records if record.corruption == CLEAN), None)
    scored = corrupted or [row for row in [clean] if row]
    made = [_columns.make(own, scored, protocols[label]) for label, own in table.items()]
    columns = _columns.compared(made, table, scored)
    return Summary(
        dataset=records[0].dataset,
        protocol={key: columns[0].protocol[key] for key in SHARED},
        columns=columns,
        rows=corrupted,
        clean=clean,
        source=_columns.source(columns),
        adapted=_columns.adapted(columns),
        seeds=sorted({record.seed for record in records}),
        n=records[0].n,
        gaps=_gaps(records, table),
        origin=_origin(records),
    )


def _gaps(records: Sequence[Record], table: Mapping[str, Cells]) -> dict[str, list[str]]:
    """Name, for each label, the corruptions that lack a seed which there are records of."""
    rows, seeds = ({make(record) for record in records} for make in (row_of, attrgetter("seed")))
    gaps = {}
    for label, cells in table.items():
        missing = {row.corruption for row in rows if seeds - cells.get(row, {}).keys()}
        if missing:
            gaps[label] = sorted(missing)
    return gaps


def _origin(records: Sequence[Record]) -> Origin:
    packages = sorted({package for record in records for package in record.versions})
    once = _columns.once
    return Origin(
        commands=once(record.command for record in records),
        commits=once(record.commit for record in records if record.commit),
        devices=once(record.device for record in records),
        versions={name: once(str(record.versions.get(name, "unknown")) for record in records) for name in packages},
    )
