"""Where the files of an uncompressed archive lie in it, without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    start: int
    """The byte at which its header begins."""
    offset: int
    """The byte at which its content begins."""
    size: int
    """Bytes of content."""


def members(path: Path, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """Yield the files of an uncompressed `.tar` in their order, those whose header lies in the bytes [start, end).

    Raises:
        tarfile.TarError: it is compressed, truncated or no archive.
    """
    with path.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (found := archive.next()) is not None and (end is None or found.offset < end):
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep a million of them
                if found.isfile():
                    yield Member(found.name, found.offset, found.offset_data, found.size)
