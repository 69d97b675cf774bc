"""Every error crosstask raises on purpose, and the words it uses.

    CrosstaskError
    ├── ConfigError        a recipe, an option or an argument is wrong
    │   └── UnknownName    a name that is in no table; carries "did you mean"
    ├── DataError          images, labels, files or shapes are not what was promised
    │   └── DownloadError  a data set could not be obtained or did not match its checksum
    ├── CheckpointError    a checkpoint is missing, damaged, of another format or architecture
    ├── AdapterError       an adapter was asked for something it cannot do
    ├── TrainingError      a training run cannot go on, as when its loss is no longer finite
    ├── WorkerLost         a process that measured for us died, again and again
    └── StorageError       the disk is full, read-only or otherwise refuses

A message says what was expected, what came, and what to do. The command line prints it alone, without a
traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CrosstaskError(Exception):
    """The root of the tree: catch this one to catch all of them."""


class ConfigError(CrosstaskError):
    """A recipe, an option or an argument is wrong."""


class DataError(CrosstaskError):
    """Images, labels, files or shapes are not what was promised."""


class DownloadError(DataError):
    """A data set could not be obtained or did not match its checksum."""


class CheckpointError(CrosstaskError):
    """A checkpoint is missing, damaged, of another format or of another architecture."""


class AdapterError(CrosstaskError):
    """An adapter was asked for something it cannot do."""


class TrainingError(CrosstaskError):
    """A training run cannot go on, as when its loss is no longer finite."""


class WorkerLost(CrosstaskError):
    """A process that measured for us died, again and again."""


class StorageError(CrosstaskError):
    """The disk is full, read-only or otherwise refuses."""


class UnknownName(ConfigError):
    """A name that is in no table. The message lists the table and guesses what was meant."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)} Known: {', '.join(self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: `"; did you mean 'x'?"` for the closest known name, or a full stop."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
