"""What every reader returns, and what the readers agree on: splits, hidden files, classes without names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from crosstask.errors import DataError

SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test", "val", "valid", "validation"),
}
"""Split -> the folder names or shard prefixes that hold it, the first one found counts."""

ALL_SPLIT_NAMES = frozenset(name for names in SPLIT_NAMES.values() for name in names)
_MOST_CLASSES = 1 << 16


class Arrays(NamedTuple):
    """What a reader returns."""

    images: np.ndarray
    """uint8 [N, C, H, W]."""
    labels: np.ndarray | None = None
    """int64 [N], or None."""
    class_names: tuple[str, ...] = ()
    """Label -> name; empty when unlabelled."""
    items: tuple[str, ...] | None = None
    """Image -> file name relative to its folder, or None."""


def numbered_classes(labels: np.ndarray) -> tuple[str, ...]:
    """Return the class names "0", "1", ... for labels [N] that come without names."""
    highest = int(labels.max(initial=-1))
    if highest >= _MOST_CLASSES:
        raise DataError(f"labels go up to {highest}: expected class numbers below {_MOST_CLASSES}")
    return tuple(str(number) for number in range(highest + 1))


def are_splits(names: set[str]) -> bool:
    """Tell whether the names of what lies in a folder are those of splits: `train` and another, or no other names."""
    both = "train" in names and not names.isdisjoint(SPLIT_NAMES["test"])
    return both or (bool(names) and names <= ALL_SPLIT_NAMES)


def is_hidden(path: Path) -> bool:
    """Tell whether a file or folder is none of the images' own, as `.DS_Store` is."""
    return path.name.startswith((".", "__MACOSX"))
