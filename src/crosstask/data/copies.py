"""Corrupted copies of a set of images that were made before: the official ones, or `crosstask corrupt`'s."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

import torch
from torch import Tensor

from crosstask.data.sources.arrays import Arrays
from crosstask.data.sources.corrupted import CorruptedSet
from crosstask.errors import DataError, UnknownName

_HELD = 2**31
"""Bytes of cells kept in memory, so that batches of mixed corruptions do not read them anew: more than fifteen of Tiny
ImageNet's (1.8 GB)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredCopies:
    """Copies that stand in the place of corrupting: each cell holds one of every image of a set.

    They come in the order of the set, or in class folders under the file names of its images.

    Attributes:
        name: what they are called in records and messages; says of those by `crosstask corrupt` with which seed.
        cells: the benchmark they are read from.
        shape: (N, C, H, W) of the set.
        labels: int64 [N] of the set, or None.
        items: the file names of its images, or None.
    """

    name: str
    cells: CorruptedSet
    shape: tuple[int, ...]
    labels: Tensor | None
    items: tuple[str, ...] | None
    _held: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)
    _digests: dict[tuple[str, int], str] = field(default_factory=dict, init=False, repr=False)

    def check(self, corruptions: Iterable[str], severities: Iterable[int]) -> None:
        """Raise unless all of these corruptions are stored at all of these severities; no pixel is read.

        Raises:
            UnknownName: a corruption is not there.
            DataError: a severity is not.
        """
        for name in corruptions:
            if name not in self.cells.corruptions:
                raise UnknownName(f"corruption among the copies {self.name}:", name, self.cells.corruptions)
        lacking = sorted(set(severities) - set(self.cells.severities))
        if lacking:
            raise DataError(
                f"{self.name} holds the severities {', '.join(map(str, self.cells.severities))}, got {lacking[0]}; "
                "take one of them, or leave data.corrupted out to have the images corrupted here"
            )

    def read(self, corruption: str, severity: int) -> Tensor:
        """Return the copies of all images in the order of the set, uint8 [N, C, H, W].

        Raises:
            UnknownName: no such corruption is there.
            DataError: the severity is not stored, what is stored is damaged, or it is of other images.
        """
        key = (corruption, severity)
        pixels = self._held.pop(key, None)
        if pixels is None:
            found = self.cells.read(corruption, severity)
            pixels = torch.from_numpy(found.images[self._order(found)])
        self._held[key] = pixels  # at the end: what was asked for longest ago stands first
        while len(self._held) * pixels.numel() > _HELD and len(self._held) > 1:
            del self._held[next(iter(self._held))]
        return pixels

    def digest(self, corruption: str, severity: int) -> str:
        """Return the SHA-256 of a cell's pixels, 64 hexadecimal digits.

        Raises:
            UnknownName, DataError: see `read`.
        """
        key = (corruption, severity)
        if key not in self._digests:
            self._digests[key] = hashlib.sha256(self.read(corruption, severity).numpy().data).hexdigest()
        return self._digests[key]

    def _order(self, found: Arrays) -> list[int]:
        """Return in which row of a cell the copy of each image stands."""
        if found.images.shape != self.shape:
            expected, got = ("x".join(map(str, sizes)) for sizes in (self.shape, found.images.shape))
            raise DataError(
                f"{self.name} does not hold copies of the images to test on: expected {expected} (images, channels, "
                f"height, width) at each severity, got {got}"
            )
        if found.labels is None or self.labels is None:
            if found.items is None:
                return list(range(len(found.images)))
            raise DataError(
                f"{self.name} holds class folders, whose images are found by class and name, and the images to test on "
                "have no labels; load them with their labels"
            )
        labels, own = found.labels.tolist(), self.labels.tolist()
        order = list(range(len(own))) if found.items is None else self._by_name(labels, found.items)
        differing = sum(row < 0 or labels[row] != label for row, label in zip(order, own, strict=True))
        if differing:
            raise DataError(
                f"{self.name} does not hold copies of the images to test on: {differing:,} of {len(own):,} have "
                "another label or name. Name the clean images they were made from, or leave data.corrupted out"
            )
        return order

    def _by_name(self, labels: list[int], items: tuple[str, ...]) -> list[int]:
        """Return in which row each image has its copy, under its name or else its number; -1 where in none."""
        assert self.labels is not None, "`_order` compares labels first"
        rows = {(label, PurePath(item).stem): row for row, (label, item) in enumerate(zip(labels, items, strict=True))}
        named = [PurePath(item).stem for item in self.items or ()]
        numbered = [f"{number:05d}" for number in range(len(self.labels))]
        orders = [
            [rows.get(known, -1) for known in zip(self.labels.tolist(), names, strict=True)]
            for names in (named, numbered)
            if names
        ]
        return min(orders, key=lambda order: order.count(-1))
