"""Data sets by name: where each is looked for, how it is fetched, and the checksums its files must have.

Fashion-MNIST is looked for in a folder the user names, in the cache, in Debian's package and at its official
address, in this order. Whatever the route, the decompressed content of every file must have the SHA-256 in
`FASHION_MNIST_SHA256`, and it enters the cache in one step: a file in the cache is whole or not there.
This file imports neither torch nor numpy, so that listing data sets is instant.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crosstask.errors import DataError, DownloadError
from crosstask.files import storage_errors, written_whole

Report = Callable[[str], None]

FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""File name without `.gz` -> SHA-256 of the decompressed content (every mirror compresses in its own way)."""

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"

HTTP_TIMEOUT_S = 30.0
APT_TIMEOUT_S = 180.0
_CHUNK_BYTES = 1 << 18
_PROGRESS_EVERY_S = 5.0


def cache_dir() -> Path:
    """Return the folder fetched data lie in: $CROSSTASK_CACHE, $XDG_CACHE_HOME/crosstask or ~/.cache/crosstask."""
    if own := os.environ.get("CROSSTASK_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "crosstask"
    return Path.home() / ".cache" / "crosstask"


# --- files -----------------------------------------------------------------------------------------------------


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file `name` or `name.gz` in `folder`, or None."""
    with _permission(folder):
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _holds(folder: Path, patterns: Iterable[str]) -> bool:
    """Tell whether each pattern matches some finished file in `folder`."""
    with _permission(folder):
        names = [path.name for path in folder.glob("*") if path.suffix not in (".part", ".bad", ".tmp")]
    return all(any(fnmatch.fnmatchcase(name, pattern) for name in names) for pattern in patterns)


@contextlib.contextmanager
def _permission(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DataError(f"cannot look into {folder}: permission denied. Change that, or name another folder") from error


def idx_content(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzip (told by its first bytes, not by its name).

    Raises:
        DataError: the file cannot be read or its gzip stream is broken.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. The file is truncated or damaged; fetch it again") from error


def _mismatch(name: str, path: Path) -> str | None:
    """Return what is wrong with the content of `path`, expected to be the file `name`, or None when it is right."""
    try:
        got = hashlib.sha256(idx_content(path)).hexdigest()
    except DataError as error:
        return str(error)
    expected = FASHION_MNIST_SHA256[name]
    return None if got == expected else f"{path}: wrong checksum, expected SHA-256 {expected}, got {got}"


def _named_folders(data_dir: Path | str | None, name: str) -> list[tuple[Path, ...]]:
    """Return (folder, its subfolder `name`) for each folder the user named, by argument or by $CROSSTASK_DATA."""
    named = [data_dir, os.environ.get("CROSSTASK_DATA")]
    roots = [Path(folder).expanduser() for folder in named if folder]
    return [(root, root / name) for root in roots]


def _silent(_: str) -> None:
    """Report nothing."""


# --- Fashion-MNIST ---------------------------------------------------------------------------------------------


def ensure_fashion_mnist(data_dir: Path | str | None = None, report: Report | None = None) -> Path:
    """Return a folder that holds the four checked idx files of Fashion-MNIST, fetching them if need be.

    Looked for in order: `data_dir` and $CROSSTASK_DATA (each also with a subfolder `fashion-mnist`), the cache,
    Debian's package, the official address. Safe when several processes ask at once; an interrupted download
    is taken up where it stopped.

    Args:
        data_dir: a folder with the four files, gzipped or not.
        report: called with one line of text for each step; `print` will do.

    Raises:
        DownloadError: a file in a folder the user named is missing or wrong, or every route failed.
        DataError: a folder may not be looked into.
        StorageError: the cache cannot be written.
    """
    report = report or _silent
    failures = []
    for folders in _named_folders(data_dir, "fashion-mnist"):
        for folder in folders:
            if any(find_idx(folder, name) for name in FASHION_MNIST_SHA256):
                _check_named_folder(folder)
                return folder
        failures.append(f"{folders[0]}: none of the four files is there")
        report(f"no Fashion-MNIST in {folders[0]}; looking further")
    target = cache_dir() / "fashion-mnist"
    if not _missing(target):
        return target
    with _one_at_a_time(target, report):
        failures.append(f"the cache {target}: {len(_missing(target))} of the four files missing or damaged")
        for route in (_from_debian, _from_official):
            if _missing(target):
                try:
                    route(target, report)
                except DownloadError as error:
                    failures.append(str(error))
                    report(f"one way failed: {error}")
    if _missing(target):
        raise DownloadError(_nothing_answered(target, failures))
    return target


def _nothing_answered(target: Path, failures: list[str]) -> str:
    tried = "\n".join(f"  - {failure}" for failure in failures)
    files = ", ".join(f"{name}.gz" for name in FASHION_MNIST_SHA256)
    return (
        f"Fashion-MNIST could not be obtained. Tried:\n{tried}\n"
        f"To bring it yourself, put {files} (or the same files unpacked) into one folder and name that folder with "
        f"--data-dir or the environment variable CROSSTASK_DATA, or put them into {target}"
    )


def _check_named_folder(folder: Path) -> None:
    """Check the four files in a folder the user named. The files are the user's: they are never moved."""
    for name in FASHION_MNIST_SHA256:
        path = find_idx(folder, name)
        if path is None:
            raise DownloadError(
                f"{folder} holds a part of Fashion-MNIST: {name}.gz is missing. Add it, or name another folder"
            )
        if wrong := _mismatch(name, path):
            raise DownloadError(f"{wrong}. Replace the file, or name another folder")


def _missing(target: Path) -> list[str]:
    """Return the names of the files that are not in the cache; a damaged one is set aside and counts as missing."""
    missing = []
    for name in FASHION_MNIST_SHA256:
        path = find_idx(target, name)
        if path is not None and _mismatch(name, path):
            _set_aside(path)
            path = find_idx(target, name)
        if path is None:
            missing.append(name)
    return missing


def _set_aside(path: Path, folder: Path | None = None) -> Path:
    """Move a bad file to `<its name>.bad`, in `folder` or where it is, and return the new path."""
    bad = (folder or path.parent) / f"{path.name.removesuffix('.part')}.bad"
    with storage_errors(bad), contextlib.suppress(FileNotFoundError):  # another process may have moved it first
        shutil.move(path, bad)
    return bad


def _store(name: str, fetched: Path, target: Path) -> None:
    """Check a fetched file and put it, unpacked, into the cache; set it aside and raise if its content is wrong."""
    if wrong := _mismatch(name, fetched):
        raise DownloadError(f"{wrong}. The bad file is kept as {_set_aside(fetched, target)}")
    with written_whole(target / name) as temporary:
        temporary.write_bytes(idx_content(fetched))


@contextlib.contextmanager
def _one_at_a_time(target: Path, report: Report) -> Iterator[None]:
    """Let one process fetch into `target`; the others wait here and then find the files."""
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        lock = (target / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is fetching Fashion-MNIST; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: the checksum still guards the result
            report(f"{target} cannot be locked; going on without")
        yield


# --- route 1: Debian's package -----------------------------------------------------------------------------------


def _from_debian(target: Path, report: Report) -> None:
    """Take the missing files from Debian's package, downloaded and unpacked without root."""
    route = f"Debian's package {DEBIAN_PACKAGE}"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DownloadError(f"{route}: {tool} is not on PATH")
    report(f"fetching {route} (31 MB)")
    with tempfile.TemporaryDirectory(prefix="crosstask-") as scratch:
        folder = Path(scratch)
        try:
            package = _apt_download(folder)
            _run(["dpkg-deb", "-x", str(package), str(folder / "unpacked")], folder)
        except DownloadError as error:
            raise DownloadError(f"{route}: {error}") from error
        for name in _missing(target):
            path = find_idx(folder / "unpacked" / DEBIAN_FOLDER, name)
            if path is None:
                raise DownloadError(f"{route}: it holds no {DEBIAN_FOLDER}/{name}.gz")
            _store(name, path, target)


def _apt_download(folder: Path) -> Path:
    """Download the package into `folder`; where the machine's package lists do not know it, with lists of our own."""
    download = ["download", DEBIAN_PACKAGE]
    patience = ["-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    try:
        _run(["apt-get", *patience, *download], folder)
    except DownloadError:
        for own_folder in ("lists", "cache/archives"):
            (folder / own_folder / "partial").mkdir(parents=True)
        lists = [f"Dir::State::Lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}", "Debug::NoLocking=1"]
        own = [part for option in lists for part in ("-o", option)]
        _run(["apt-get", *patience, *own, "update"], folder)
        _run(["apt-get", *patience, *own, *download], folder)
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise DownloadError("apt-get download left no .deb file")
    return packages[0]


def _run(command: list[str], folder: Path) -> None:
    """Run a command quietly in `folder`, for at most `APT_TIMEOUT_S`."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"{command[0]} did not finish within {APT_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise DownloadError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise DownloadError(f"{command[0]} failed: {said[-1].strip() if said else f'exit code {done.returncode}'}")


# --- route 2: the official address -------------------------------------------------------------------------------


def _from_official(target: Path, report: Report) -> None:
    """Fetch the missing files from the official address, taking up what an earlier attempt left."""
    missing = _missing(target)
    report(f"fetching {', '.join(missing)} from {FASHION_MNIST_URL}")
    for name in missing:
        part = target / f"{name}.gz.part"
        fetch(f"{FASHION_MNIST_URL}{name}.gz", part, report)
        _store(name, part, target)
        part.unlink(missing_ok=True)


def fetch(url: str, part: Path, report: Report) -> None:
    """Download `url` into the file `part`, continuing after the bytes it already holds.

    A broken connection is taken up again as long as each attempt brings new bytes.

    Raises:
        DownloadError: the address does not answer, or answers with an error or an HTML page.
    """
    while True:
        before = _size(part)
        try:
            return _fetch_rest(url, part, report)
        except (OSError, http.client.HTTPException) as error:
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
        response = urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # every byte is here already
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    with response:
        chunk = response.read1(_CHUNK_BYTES)
        if _is_html(response.headers.get("Content-Type", ""), chunk):
            raise DownloadError(f"{url}: answered with an HTML page, not with the file (a proxy or a login page?)")
        resumed = (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        expected = start + int(length) if length else None
        _write(response, chunk, part, start, expected, report)
    if expected is not None and _size(part) < expected:
        raise ConnectionError(f"only {_size(part):,} of {expected:,} bytes came")


def _is_html(content_type: str, beginning: bytes) -> bool:
    return content_type.startswith("text/html") or beginning.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _write(
    response: http.client.HTTPResponse, chunk: bytes, part: Path, start: int, expected: int | None, report: Report
) -> None:
    """Write `chunk` and what follows it in `response` into `part` from byte `start` on, with progress lines."""
    began = spoke = time.monotonic()
    with storage_errors(part), part.open("ab" if start else "wb") as file:
        while chunk:
            file.write(chunk)
            now = time.monotonic()
            if expected and now - spoke > _PROGRESS_EVERY_S:
                spoke, done = now, file.tell()
                left = (expected - done) * (now - began) / max(done - start, 1)
                report(f"{part.name}: {done / 1e6:.1f} of {expected / 1e6:.1f} MB, about {left:.0f} s left")
            chunk = response.read1(_CHUNK_BYTES)


# --- CIFAR-10 --------------------------------------------------------------------------------------------------


def ensure_cifar10(data_dir: Path | str | None = None, report: Report | None = None) -> Path:
    """Return the folder that holds CIFAR-10 as parquet shards (`train-*.parquet`, `test-*.parquet`).

    Looked for in order: `data_dir`, $CROSSTASK_DATA and the cache, each also with the subfolders `cifar10` and
    `plain_text` (the name the hub gives it).

    Raises:
        DownloadError: it is nowhere; CIFAR-10 is never fetched by itself.
    """
    roots = [*_named_folders(data_dir, "cifar10"), (cache_dir() / "cifar10",)]
    folders = [sub for root in roots for folder in root for sub in (folder, folder / "plain_text")]
    for folder in folders:
        if _holds(folder, _CIFAR10_FILES):
            return folder
    looked = "\n".join(f"  - {folder}" for folder in folders)
    raise DownloadError(
        f"CIFAR-10 was not found. Looked for train-*.parquet and test-*.parquet in:\n{looked}\nPlease {_CIFAR10_HOW}"
    )


_CIFAR10_FILES = ("train-*.parquet", "test-*.parquet")
_CIFAR10_HOW = (
    "bring the parquet files of https://huggingface.co/datasets/uoft-cs/cifar10 (train-*.parquet, test-*.parquet) "
    "and name their folder with --data-dir or CROSSTASK_DATA, or put them into the cache's folder cifar10"
)


# --- the table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """A data set that can be asked for by name; each has the splits `train` and `test`."""

    what: str
    """One line for people."""
    size: str
    """Bytes to fetch, for people."""
    how: str
    """How to get it."""
    ensure: Callable[[Path | str | None, Report | None], Path]
    """Return the folder that holds it, or raise DownloadError."""
    files: tuple[str, ...]
    """Patterns, each of which some file in the cache matches when the set is there."""


KNOWN: dict[str, KnownData] = {
    "fashion-mnist": KnownData(
        what="clothes, 10 classes, 60,000 + 10,000 gray images of 28 x 28",
        size="31 MB",
        how="fetched by itself on first use, or: crosstask data get fashion-mnist",
        ensure=ensure_fashion_mnist,
        files=tuple(f"{name}*" for name in FASHION_MNIST_SHA256),
    ),
    "cifar10": KnownData(
        what="objects, 10 classes, 50,000 + 10,000 colour images of 32 x 32",
        size="about 140 MB",
        how=_CIFAR10_HOW,
        ensure=ensure_cifar10,
        files=_CIFAR10_FILES,
    ),
}
"""The one table of data sets known by name."""


class DataRow(NamedTuple):
    """One row of `crosstask data list`."""

    name: str
    what: str
    size: str
    cached: bool
    how: str


def data_table() -> list[DataRow]:
    """Return one row for each data set known by name. Presence is told by file names; nothing is read or fetched."""
    return [
        DataRow(name, known.what, known.size, _is_cached(name, known.files), known.how) for name, known in KNOWN.items()
    ]


def _is_cached(name: str, files: tuple[str, ...]) -> bool:
    try:
        return _holds(cache_dir() / name, files)
    except DataError:  # a cache that may not be looked into holds nothing for this user
        return False
