"""Checksums of data files: what a file must hash to, and what was once computed, remembered in the cache."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from crosstask.data.download.places import Report, cache_dir
from crosstask.errors import DataError, StorageError
from crosstask.files import write_text

_CHUNK_BYTES = 1 << 20
_LONG_BYTES = 100_000_000


@dataclass(frozen=True)
class Checksum:
    """What the content of a file must hash to."""

    kind: Literal["MD5", "SHA-256", "git blob"]
    """`git blob` is the name git gives a file: SHA-1 over `blob SIZE`, a zero byte and the content."""
    value: str
    """Hexadecimal digits."""
    unpacked: bool = False
    """Whether a gzipped file is hashed decompressed (every mirror compresses in its own way)."""

    def of(self, path: Path) -> str:
        """Return what the file at `path` hashes to.

        Raises:
            DataError: the file cannot be read or its gzip stream is broken.
        """
        if self.kind == "git blob":
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        else:
            digest = hashlib.new(self.kind.replace("-", ""), usedforsecurity=False)
        with _opened(path, self.unpacked) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def mismatch(self, path: Path, report: Report) -> str | None:
        """Return what is wrong with the content of the file at `path`, or None when it is right.

        What was computed for a file of the same place, size and time of change is taken from the cache.

        Args:
            path: an existing file.
            report: told before a long computation.
        """
        got = _recall(path, self)
        if got is None:
            if path.stat().st_size > _LONG_BYTES:
                report(f"computing the checksum of {path} (once)")
            try:
                got = self.of(path)
            except DataError as error:
                return str(error)
            remember(path, self, got)
        return None if got == self.value else f"{path}: wrong checksum, expected {self.kind} {self.value}, got {got}"


def content(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzip (told by its first bytes, not by its name).

    Raises:
        DataError: the file cannot be read or its gzip stream is broken.
    """
    with _opened(path, unpacked=True) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path, unpacked: bool) -> Iterator[IO[bytes]]:
    """Open a file for reading, through gzip where it is gzipped and wanted `unpacked`."""
    try:
        with path.open("rb") as file:
            is_packed = unpacked and file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if is_packed else file  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. The file is truncated or damaged; fetch it again") from error


# --- what was computed before ----------------------------------------------------------------------------------


def remember(path: Path, checksum: Checksum, got: str) -> None:
    """Keep in the cache that the file at `path`, as it is now, hashes to `got`; where that fails, forget it."""
    found = _remembered().items()
    kept = {name: entry for name, entry in found if os.path.exists(name)}  # noqa: PTH110  Path.exists may be refused
    kept[str(path.absolute())] = {"state": _state(path), "kind": _kind(checksum), "digest": got}
    with contextlib.suppress(StorageError):
        write_text(_memory(), json.dumps(kept, indent=1))


def _recall(path: Path, checksum: Checksum) -> str | None:
    entry = _remembered().get(str(path.absolute()))
    if not isinstance(entry, dict) or entry.get("state") != _state(path) or entry.get("kind") != _kind(checksum):
        return None
    return entry.get("digest")


def _memory() -> Path:
    return cache_dir() / "checksums.json"


def _remembered() -> dict[str, dict]:
    """Return absolute path -> what was computed; nothing where the file is missing or damaged."""
    try:
        read = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _state(path: Path) -> list[int]:
    """Return (bytes, time of the last change in ns), by which a file is known again."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _kind(checksum: Checksum) -> str:
    return f"{checksum.kind}, unpacked" if checksum.unpacked else checksum.kind
