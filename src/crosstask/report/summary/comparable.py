"""What must not stand in one table is refused: other data, two protocols in a column, columns of unlike streams."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from crosstask.bench.protocol import Protocol
from crosstask.bench.records import Record
from crosstask.errors import DataError

PIXELS = ("n", "stream", "delta", "slots", "shift", "sequence", "rounds", "shuffled", "table", "frost", "copies")
"""What decides, beside data set, corruption, severity and seed, which images come, in which order."""

SHARED = ("preset", "batch_size", *PIXELS, "rate", "precision")
"""What every column of one table must have in common; reset policy and steps may differ between columns."""

_NEEDED = ("batch_size", "n", "precision", "stream", "reset")
"""What every record says, the oldest too."""

_DEFAULTS = {field.name: field.default for field in fields(Protocol) if field.default is not MISSING}


def protocol_of(record: Record) -> dict[str, Any]:
    """Return a record's protocol, with the defaults of what older records leave out: there was no choice then."""
    return json.loads(json.dumps({**_DEFAULTS, **record.protocol}))


def without_repeats(records: Iterable[Record]) -> list[Record]:
    """Keep the last record of each cell: one that was killed before it was noted as done is measured again.

    Raises:
        DataError: there are no records, or two of one cell that different settings made.
    """
    cells: dict[tuple[Any, ...], Record] = {}
    for record in records:
        cell = (record.label, record.dataset, record.corruption, record.severity, record.seed)
        if cell in cells and cells[cell].key != record.key:
            raise DataError(
                f"two different records for label {record.label!r} on {record.corruption!r}, seed {record.seed} "
                f"(keys {cells[cell].key[:12]} and {record.key[:12]}): the settings changed between them. "
                "Start a fresh run folder, or remove the older records"
            )
        cells[cell] = record
    if not cells:
        raise DataError("there are no records to report; `crosstask bench` or `crosstask run` writes them")
    return list(cells.values())


def check(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Return the one protocol of each label.

    Raises:
        DataError: the records are of several data sets or of protocols that do not compare; both are named.
    """
    datasets = {record.dataset for record in records}
    if len(datasets) > 1:
        raise DataError(f"records of several data sets ({', '.join(sorted(datasets))}); report one at a time")
    check_images(records)
    by_label: dict[str, list[Record]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    protocols = {label: _check_column(label, own) for label, own in by_label.items()}
    for key in SHARED:
        _check_shared(key, protocols)
    return protocols


def check_images(records: Iterable[Record]) -> None:
    """Refuse records of other test images, or of another shift, under the same name; the oldest do not say."""
    seen: dict[tuple[str, int, int], Record] = {}
    for record in (record for record in records if record.images):
        first = seen.setdefault((record.corruption, record.severity, record.seed), record)
        if record.images != first.images:
            raise DataError(
                f"{first.label!r} and {record.label!r} were measured on other images under the name "
                f"{record.dataset!r}, {record.corruption!r}, seed {record.seed}: the files have changed, or what "
                "corrupts them. Measure both anew, or give the data another name"
            )


def _check_column(label: str, records: Sequence[Record]) -> dict[str, Any]:
    """Return the protocol that all records of a label follow."""
    first = records[0]
    missing = [key for key in _NEEDED if key not in first.protocol]
    if missing:
        raise DataError(f"the protocol of label {label!r} does not say {', '.join(missing)}")
    protocol, sizes = protocol_of(first), {(first.corruption, first.severity): first.n}
    for record in records[1:]:
        differences = [f"{key}: {a!r} and {b!r}" for key, a, b in _differences(protocol, protocol_of(record))]
        differences += [
            f"{key}: {first.config[key]!r} and {value!r}"
            for key, value in record.config.items()
            if key != "seed" and first.config.get(key, value) != value
        ]
        if record.method != first.method:
            differences.append(f"method: {first.method!r} and {record.method!r}")
        n = sizes.setdefault((record.corruption, record.severity), record.n)
        if record.n != n:
            differences.append(f"n: {n} and {record.n} on {record.corruption}")
        if differences:
            raise DataError(
                f"label {label!r} mixes two protocols, which no column may do ({'; '.join(differences)}). "
                "Give each its own label, or report them apart"
            )
    return protocol


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    if one == other:
        return []
    keys = sorted(one.keys() | other.keys())
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _check_shared(key: str, protocols: Mapping[str, Mapping[str, Any]]) -> None:
    values: dict[str, str] = {}
    for label, protocol in protocols.items():
        values.setdefault(json.dumps(protocol.get(key)), label)
    if len(values) > 1:
        told = ", ".join(f"{value} for {label!r}" for value, label in values.items())
        raise DataError(f"columns of one table must share {key}, got {told}. Report them apart, or measure them alike")
