"""Where data lie: the cache and the folders a user names; who may fetch into them, and what is set aside there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crosstask.errors import DataError
from crosstask.files import storage_errors

Report = Callable[[str], None]


def cache_dir() -> Path:
    """Return the folder fetched data lie in: $CROSSTASK_CACHE, $XDG_CACHE_HOME/crosstask or ~/.cache/crosstask."""
    if own := os.environ.get("CROSSTASK_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "crosstask"
    return Path.home() / ".cache" / "crosstask"


def named_folders(data_dir: Path | str | None, name: str) -> list[tuple[Path, Path]]:
    """Return (folder, its subfolder `name`) for each folder the user named, by argument or by $CROSSTASK_DATA."""
    named = [data_dir, os.environ.get("CROSSTASK_DATA")]
    roots = [Path(folder).expanduser() for folder in named if folder]
    return [(root, root / name) for root in roots]


def holds(folder: Path, patterns: Iterable[str]) -> bool:
    """Tell whether each pattern (`train-*.parquet`, `train/*`) matches something in `folder`.

    Raises:
        DataError: the folder may not be looked into.
    """
    with may_be_looked_into(folder):
        return all(any(True for _ in folder.glob(pattern)) for pattern in patterns)


@contextlib.contextmanager
def may_be_looked_into(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to look into `folder` into a `DataError` that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"cannot look into {folder}: permission denied. Change that, or name another folder") from error


def set_aside(path: Path) -> Path:
    """Move a bad file to `<its name>.bad` beside it and return the new path."""
    bad = path.with_name(f"{path.name.removesuffix('.part')}.bad")
    with storage_errors(bad), contextlib.suppress(FileNotFoundError):  # another process may have moved it first
        path.replace(bad)
    return bad


@contextlib.contextmanager
def one_at_a_time(folder: Path, name: str, report: Report) -> Iterator[None]:
    """Let one process fetch the data set `name` into `folder`; the others wait here and then find the files."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process is fetching {name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: the checksum still guards the result
            report(f"{folder} cannot be locked; going on without")
        yield
