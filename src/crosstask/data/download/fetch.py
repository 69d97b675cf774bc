"""One file over HTTP: taken up where it stopped, told from an HTML page, with the time left."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from crosstask.data.download.places import Report
from crosstask.data.download.progress import Progress
from crosstask.errors import DownloadError, StorageError
from crosstask.files import storage_errors

TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18


def fetch_file(url: str, part: Path, report: Report) -> None:
    """Download `url` into the file `part`, continuing after the bytes it already holds.

    A broken connection is taken up again as long as each attempt brings new bytes.

    Args:
        url: an address of http, https or, for a file of this machine, file.
        part: the file to write, `<name>.part`; it stays when the download breaks off.
        report: called with one line of text every few seconds.

    Raises:
        DownloadError: the address does not answer, or answers with an error or an HTML page.
        StorageError: the disk refuses, or has less room than the file needs; then nothing is written.
    """
    while True:
        before = _size(part)
        try:
            return _fetch_rest(url, part, report)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no address at all
            if _size(part) <= before:
                raise DownloadError(f"{url}: {error}") from error
            report(f"the connection broke ({error}); going on")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(url: str, part: Path, report: Report) -> None:
    """Make one request for the bytes that `part` lacks and write them as they come."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # every byte is here already
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    with response:
        chunk = response.read1(_CHUNK_BYTES)
        if _is_html(response.headers.get("Content-Type") or "", chunk):
            raise DownloadError(f"{url}: answered with an HTML page, not with the file (a proxy or a login page?)")
        resumed = (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        expected = start + int(length) if length else None
        _check_room(part, expected)
        _write(response, chunk, part, start, expected, report)
    if expected is not None and _size(part) < expected:
        raise ConnectionError(f"only {_size(part):,} of {expected:,} bytes came")


def _is_html(content_type: str, beginning: bytes) -> bool:
    return content_type.startswith("text/html") or beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _check_room(part: Path, expected: int | None) -> None:
    """Raise a `StorageError` if the disk has too little room for `part` to grow to `expected` bytes."""
    with storage_errors(part):
        free = shutil.disk_usage(part.parent).free
    needed = (expected or 0) - _size(part)
    if needed > free:
        raise StorageError(
            f"cannot write {part}: {needed / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free; "
            "free some space and run the same command again"
        )


def _write(
    response: http.client.HTTPResponse, chunk: bytes, part: Path, start: int, expected: int | None, report: Report
) -> None:
    """Write `chunk` and what follows it in `response` into `part` from byte `start` on, with progress lines."""
    progress = Progress(part.name.removesuffix(".part"), expected, start, report)
    with storage_errors(part), part.open("ab" if start else "wb") as file:
        while chunk:
            file.write(chunk)
            progress.at(file.tell())
            chunk = response.read1(_CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())
