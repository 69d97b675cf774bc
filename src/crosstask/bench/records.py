"""One JSON line per measured cell (method, data, corruption, severity, seed): versioned, crash-safe, without torch.

A file of records loads into pandas in one call: `pandas.read_json("records.jsonl", lines=True)`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from crosstask.errors import DataError
from crosstask.files import storage_errors, written_whole

FORMAT = 2

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
Whole = Annotated[int, Field(strict=True)]
Severity = Annotated[int, Field(strict=True, ge=0, le=5)]
Steps = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one cell of a benchmark measured, and everything needed to measure it again.

    Attributes:
        format: version of this layout.
        method: the algorithm, in lower case: source, ptbn, tent, cta ...
        label: the column it stands in; a recipe may run one method under several labels.
        dataset: as in `fashion-mnist`.
        corruption: its name, or `clean`.
        severity: 1 to 5, of a gradual stream the highest; 0 for clean images.
        seed: of the stream and of the method.
        steps: updates per batch at which `accuracy` is reported; 0 for methods that do not learn.
        n: images.
        accuracy: share in 0..1 of the predictions that the protocol counts: after `steps` updates, or before them.
        accuracy_before: share in 0..1: this method's own prediction before any update.
        curve: accuracy by number of updates; the keys are the numbers as text.
        over_stream: accuracy in up to 20 equal parts of the stream, in order of arrival; None in format 1.
        right: on which of the n images, in order of arrival, it is right: see `unpacked`; None in format 1.
        ece: expected calibration error in 0..1.
        nll: mean negative log-likelihood in nats.
        right_to_wrong, wrong_to_right: shares of the n images on which this method lost or gained against the
            frozen source model; None where no such model ran.
        ms_per_batch: milliseconds to adapt on one batch and predict it.
        images_per_second: the same cost seen from the other side.
        forwards, backwards: passes of an image through the network, its prediction included; None in format 1.
        missed: the share of batches that came while the method was still learning; None in format 1.
        peak_memory_mb: the most memory held, in MB, in the column's first cell of its process.
        protocol: what makes two numbers comparable: reset, batch_size, n, stream, steps ...
        images: content hash of the images that are corrupted, and of what corrupts them where it is no built-in
            corruption; None where it was not kept.
        checkpoint: hash or path of the checkpoint that was adapted.
        config: the method's arguments.
        versions: of crosstask, torch, Python ...
        device: in words.
        commit: of the code, or None outside a repository.
        command: that writes this record again.
        key: content hash of whatever determines the numbers; equal keys, the same cell.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    format: Whole = FORMAT
    method: Name
    label: Name
    dataset: Name
    corruption: Name
    severity: Severity
    seed: Whole
    steps: Steps
    n: Count
    accuracy: Share
    accuracy_before: Share
    curve: dict[Annotated[str, Field(pattern=r"^\d+$")], Share]
    over_stream: list[Share] | None = None
    right: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")] | None = None
    ece: Share
    nll: NotNegative
    right_to_wrong: Share | None
    wrong_to_right: Share | None
    ms_per_batch: NotNegative
    images_per_second: Annotated[float, Field(strict=True, gt=0)]
    forwards: NotNegative | None = None
    backwards: NotNegative | None = None
    missed: Share | None = None
    peak_memory_mb: NotNegative
    images: str | None = None
    protocol: dict[str, Any]
    checkpoint: str
    config: dict[str, Any]
    versions: dict[str, Any]
    device: str
    commit: str | None
    command: str
    key: str


_SCHEMA = TypeAdapter(Record)
_NAMES = [field.name for field in fields(Record)]
_NEEDED = [field.name for field in fields(Record) if field.default is MISSING or field.name == "format"]


def unpacked(record: Record) -> np.ndarray | None:
    """Return on which of its n images, in order of arrival, a record is right, bool [n]; None if it does not say."""
    if record.right is None:
        return None
    return np.unpackbits(np.frombuffer(base64.b64decode(record.right), np.uint8))[: record.n].astype(bool)


def append(path: Path, *records: Record) -> None:
    """Add `records` to the file at `path` as whole lines, all or none, that are on the disk when this returns.

    A line that a killed process left unfinished is cut off first. Several processes may append to one file.

    Raises:
        DataError: a field of the record is not what `Record` promises; nothing was written.
        StorageError: the disk refuses; the file is as it was.
    """
    path = Path(path)
    lines = b"".join(_line(record) for record in records)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path) as descriptor:
            end = _end_of_whole_lines(descriptor)
            os.ftruncate(descriptor, end)
            _write_whole(descriptor, lines, end)


def read(path: Path) -> list[Record]:
    """Return the records of the file at `path`, in the order they were written.

    An unterminated last line is what a killed process leaves behind: it is ignored, since its cell will run again.

    Raises:
        DataError: the file cannot be read, or any other line is not a record this version understands.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no records at {path}; `crosstask bench` or `crosstask run` writes them") from error
    except OSError as error:
        raise DataError(f"cannot read records from {path}: {error.strerror}") from error
    lines = content.split(b"\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def set_aside(path: Path, wanted: Collection[str], aside: Path) -> None:
    """Move the records whose keys are not `wanted` from the file at `path` to the end of the file at `aside`.

    Raises:
        StorageError: the disk refuses; no record is lost.
    """
    with storage_errors(path), _locked(path):
        found = read(path)
        if all(record.key in wanted for record in found):
            return
        for record in found:
            if record.key not in wanted:
                append(aside, record)
        with written_whole(path) as temporary:
            temporary.write_bytes(b"".join(_line(record) for record in found if record.key in wanted))


def arrange(path: Path, keys: Sequence[str]) -> None:
    """Bring the records of the file at `path` into the order of `keys`, others behind them.

    Raises:
        StorageError: the disk refuses; the file is as it was.
    """
    place = {key: number for number, key in enumerate(keys)}
    with storage_errors(path), _locked(path):
        lines = path.read_bytes().splitlines(keepends=True)
        pairs = zip(read(path), lines, strict=False)
        ordered = [line for _, line in sorted(pairs, key=lambda pair: place.get(pair[0].key, len(place)))]
        if ordered != lines:
            with written_whole(path) as temporary:
                temporary.write_bytes(b"".join(ordered))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yield a descriptor of the file at `path`, made if need be, that no other process writes to meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: one process at a time, then
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _line(record: Record) -> bytes:
    values = asdict(record)
    _check(values, f"record of {record.label!r} on {record.corruption!r}")
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"record of {record.label!r} on {record.corruption!r} is not plain JSON: {error}") from error


def _end_of_whole_lines(descriptor: int) -> int:
    """Return the offset behind the last newline of an open file."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_whole(descriptor: int, lines: bytes, end: int) -> None:
    """Write `lines` in one call and flush them to the disk, or leave the file as long as it was."""
    try:
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _parse(line: bytes, where: str) -> Record:
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise DataError(f"{where}: not a line of JSON ({error}); remove the line and run its cell again") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(values).__name__}")
    number = values.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise DataError(f"{where}: format {number} is newer than this crosstask reads (up to {FORMAT}); upgrade it")
    return _check(values, where)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check(values: dict[str, Any], where: str) -> Record:
    """Return `values` as a record, or raise a `DataError` that names every mistake at once."""
    mistakes = [
        *_listed("missing", [name for name in _NEEDED if name not in values]),
        *_listed("unknown", [name for name in values if name not in _NAMES]),
    ]
    try:
        record = _SCHEMA.validate_python({name: values[name] for name in _NAMES if name in values})
    except ValidationError as error:
        mistakes += [_explain(mistake) for mistake in error.errors() if mistake["type"] != "missing"]
    else:
        if record.right is not None and len(record.right) != 4 * -(-record.n // 24):
            mistakes.append(f"right: expected {4 * -(-record.n // 24)} characters for {record.n} images")
    if mistakes:
        raise DataError(f"{where}: " + "; ".join(mistakes))
    return record


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{what} field{'s' * (len(names) > 1)} {', '.join(names)}"] if names else []


def _explain(mistake: Any) -> str:
    field = ".".join(str(part) for part in mistake["loc"])
    return f"{field}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, got {mistake['input']!r}"
