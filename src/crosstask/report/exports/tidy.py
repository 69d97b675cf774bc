"""Records as CSV: one line a cell, one column a figure, and the protocol beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from crosstask.bench.records import Record
from crosstask.report.summary.comparable import check, protocol_of, without_repeats

_FIGURES = (
    "label", "method", "dataset", "corruption", "severity", "seed", "steps", "n", "accuracy", "accuracy_before", "ece",
    "nll", "right_to_wrong", "wrong_to_right", "ms_per_batch", "images_per_second", "forwards", "backwards", "missed",
    "peak_memory_mb",
)  # fmt: skip
_PROTOCOL = (
    "preset", "model", "reset", "predict", "shift", "stream", "delta", "slots", "rounds", "batch_size", "rate",
    "precision", "table", "copies",
)  # fmt: skip
_ORIGIN = ("checkpoint", "device", "commit", "key")


def csv_of(records: Iterable[Record]) -> str:
    """Return a heading and a line a cell; what is not known is empty.

    Raises:
        DataError: there are no records, or they follow protocols that do not compare.
    """
    records = without_repeats(records)
    check(records)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_FIGURES, *_PROTOCOL, *_ORIGIN])
    for record in records:
        protocol = protocol_of(record)
        measured = [getattr(record, name) for name in _FIGURES]
        writer.writerow(
            [*measured, *(protocol.get(name) for name in _PROTOCOL), *(getattr(record, name) for name in _ORIGIN)]
        )
    return file.getvalue()
