"""Files that are either whole or not there: atomic writes, hashes, and the disk's refusals in plain words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from crosstask.errors import StorageError

_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.ENOENT: "there is no such place and it cannot be made; choose another",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.EACCES: "permission denied; choose another place or change its permissions",
    errno.EPERM: "permission denied; choose another place or change its permissions",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk does not work; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into a `StorageError` that names the fix."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StorageError(f"cannot write {path}: {_REFUSALS[error.errno]}") from error


def check_writable(path: Path) -> None:
    """Raise a `StorageError` now if a file could not be written at `path` later; leave nothing behind."""
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot write {path}: it is no ordinary file; choose another place")
        made = [parent for parent in path.absolute().parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(own_name(path, "tmp"))
        trial.touch()
        trial.unlink()
        for parent in made:
            parent.rmdir()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it takes `path`'s name in one step, on failure it vanishes.

    Two processes may write the same path at once: each has its own temporary file and the last rename wins.
    """
    path = Path(path)
    temporary = path.with_name(own_name(path, "tmp"))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes `path`'s place, on failure it vanishes."""
    path = Path(path)
    temporary, replaced = path.with_name(own_name(path, "tmp")), path.with_name(own_name(path, "old"))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _sync_all(temporary)
            if path.exists():
                path.rename(replaced)
            try:
                temporary.rename(path)
            except OSError:
                if replaced.exists():
                    replaced.rename(path)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written in `folder`, and put back what they took away."""
    pattern = re.compile(rf"\.(.+)\.{re.escape(platform.node())}-(\d+)\.(tmp|old)")
    for left in list(folder.iterdir()):
        found = pattern.fullmatch(left.name)
        if found is None or _is_alive(int(found[2])):
            continue
        if found[3] == "old" and not left.with_name(found[1]).exists():
            left.rename(left.with_name(found[1]))
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step (UTF-8)."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def own_name(path: Path, kind: str) -> str:
    """Return a name for beside `path` that no other living process uses; `sweep` knows it."""
    return f".{path.name}.{platform.node()}-{os.getpid()}.{kind}"


def _is_alive(pid: int) -> bool:
    """Say whether another process has this number; our own number on something left was a dead process's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _sync_all(folder: Path) -> None:
    """Have a folder's files on the disk: each on its own if they are few, everything at once if they are many."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) > 100:
        os.sync()
    else:
        for file in files:
            _sync(file)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
