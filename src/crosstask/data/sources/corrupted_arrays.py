"""CIFAR-C's layout: one array a corruption, the severities one after the other, mapped from the disk."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crosstask.data.sources.arrays import Arrays, is_hidden, numbered_classes
from crosstask.data.sources.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from crosstask.data.sources.numpy_files import channels_first
from crosstask.data.sources.tar import members
from crosstask.errors import DataError

_LABELS = "labels"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Place(NamedTuple):
    """Where the bytes of a `.npy` file lie: a file of its own, or a part of an archive."""

    path: Path
    offset: int
    size: int
    shown: Path
    """Its name for messages."""


@dataclass(frozen=True, kw_only=True)
class ArrayCells:
    """The arrays of a folder or an archive."""

    places: dict[str, _Place]
    """Corruption -> its array."""
    severities: tuple[int, ...]
    labels: np.ndarray | None
    """int64 [severities * N], or None."""
    class_names: tuple[str, ...]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names found, sorted."""
        return tuple(sorted(self.places))

    def read(self, corruption: str, severity: int) -> Arrays:
        """Copy the rows of one severity out of the array of a corruption.

        Raises:
            DataError: the array is truncated, of another type or shape, or of another length than the labels.
        """
        place, parts = self.places[corruption], len(self.severities)
        mapped = _mapped(place)
        total = mapped.shape[0] if mapped.ndim else 0
        if total == 0 or total % parts:
            raise DataError(
                f"{place.shown}: expected {parts} x N images, as many at each of the severities "
                f"{', '.join(map(str, self.severities))}, got shape {list(mapped.shape)}"
            )
        if self.labels is not None and len(self.labels) != total:
            raise DataError(
                f"{place.shown} holds {total:,} images and {_LABELS}.npy {len(self.labels):,} labels: expected one "
                "label for each image, at each severity again. Fetch both again"
            )
        first = self.severities.index(severity) * (total // parts)
        rows = slice(first, first + total // parts)
        images = np.array(channels_first(mapped[rows], place.shown))
        return Arrays(images, None if self.labels is None else self.labels[rows], self.class_names)


def find(
    path: Path, name: str, severities: tuple[int, ...], class_names: tuple[str, ...], *, is_ours: bool
) -> ArrayCells | None:
    """Return the arrays in a folder or an archive, or None where there are none.

    Args:
        path: the folder or the `.tar`.
        name: what the set is called; tells CIFAR's class names.
        severities: those that each array holds, in this order.
        class_names: those the folder states, or none.
        is_ours: whether `crosstask corrupt` wrote it; then it may have no labels.

    Raises:
        DataError: the labels are missing, damaged or no numbers.
    """
    places = _in_folder(path) if path.is_dir() else _in_archive(path)
    label_place = places.pop(_LABELS, None)
    if not places:
        return None
    if label_place is None:
        if not is_ours:
            raise DataError(f"{path} holds {len(places)} arrays and no {_LABELS}.npy. Add it, from the same source")
        return ArrayCells(places=places, severities=severities, labels=None, class_names=class_names)
    labels = _mapped(label_place)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        got = f"{labels.dtype} of shape {list(labels.shape)}"
        raise DataError(f"{label_place.shown}: expected class numbers of shape [severities * N], got {got}")
    numbers, parts = np.array(labels, np.int64), len(severities)
    if len(numbers) % parts or np.ptp(numbers.reshape(parts, -1), axis=0).any():
        raise DataError(
            f"{label_place.shown}: expected {parts} equal blocks of labels, one for each of the severities "
            f"{', '.join(map(str, severities))}, got {len(numbers):,} labels in another order. Fetch it again, or name "
            "a folder of all severities"
        )
    names = class_names or _cifar_classes(name, numbers) or numbered_classes(numbers)
    return ArrayCells(places=places, severities=severities, labels=numbers, class_names=names)


def _in_folder(folder: Path) -> dict[str, _Place]:
    found = sorted(path for path in folder.glob("*.npy") if not is_hidden(path))
    return {path.stem: _Place(path, 0, path.stat().st_size, path) for path in found}


def _in_archive(path: Path) -> dict[str, _Place]:
    """Return the arrays of an archive; an archive whose first file is something else holds none."""
    places: dict[str, _Place] = {}
    for member in members(path):
        shown = path / member.name
        if is_hidden(shown):
            continue
        if shown.suffix != ".npy":
            if not places:
                break
            continue
        places[shown.stem] = _Place(path, member.offset, member.size, shown)
    return places


def _cifar_classes(name: str, labels: np.ndarray) -> tuple[str, ...]:
    """Return CIFAR's class names if the set is called so and the labels fit, else none."""
    called = re.search(r"cifar[-_]?(100|10)(?!\d)", name.lower())
    names = {"10": CIFAR10_CLASSES, "100": CIFAR100_CLASSES}.get(called[1] if called else "", ())
    return names if labels.max(initial=-1) < len(names) else ()


def _mapped(place: _Place) -> np.ndarray:
    """Map a `.npy` file, or one inside an archive, without reading it."""
    try:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"its format version is {version}")
            shape, is_fortran, dtype = _HEADERS[version](file)
            start = file.tell()
        if dtype.hasobject:
            raise ValueError(f"it holds {dtype} values, not plain numbers")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {place.shown}: {error}. Expected an array of plain numbers; fetch it again"
        ) from error
    needed, there = math.prod(shape) * dtype.itemsize, place.offset + place.size - start
    if needed != there:
        what = "truncated" if needed > there else "damaged"
        raise DataError(f"{place.shown} is {what}: expected {needed:,} bytes, got {max(there, 0):,}. Fetch it again")
    if needed == 0:
        return np.empty(shape, dtype)
    return np.memmap(place.path, dtype, "r", start, shape, "F" if is_fortran else "C")
