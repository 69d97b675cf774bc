"""Tiny-ImageNet-C's layout: `<corruption>/<severity>/<class>/<image>`, in a folder or in an uncompressed archive."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from crosstask.data.severities import BENCHMARK, HELD_OUT
from crosstask.data.sources.arrays import Arrays, is_hidden
from crosstask.data.sources.decoding import decode
from crosstask.data.sources.folders import IMAGE_SUFFIXES
from crosstask.data.sources.tar import members
from crosstask.errors import DataError

FOLDER = "Tiny-ImageNet-C"
_SEVERITIES = ("1", "2", "3", "4", "5")


class _Image(NamedTuple):
    """One image of a cell."""

    class_name: str
    item: str
    """`<class>/<image>`."""
    place: Path | slice
    """Its file, or its bytes in the archive."""


class _Tree(Protocol):
    """What the two forms have in common."""

    cells: Mapping[str, Mapping[int, frozenset[str]]]
    """Corruption -> severity -> the classes found there."""

    def images(self, corruption: str, severity: int) -> list[_Image]:
        """Return the images of one cell, by class and name."""

    def encoded(self, images: list[_Image]) -> Iterator[tuple[str, Path | bytes]]:
        """Yield what `decode` takes for each image."""


@dataclass(frozen=True, kw_only=True)
class FolderCells:
    """The class folders of a set."""

    tree: _Tree
    class_names: tuple[str, ...]
    reference: str
    """The corruption whose images the others are held against."""
    surplus: Mapping[str, str] = field(default_factory=dict)
    """Corruption -> what it holds beyond the others; said in a warning."""
    gaps: Mapping[str, str] = field(default_factory=dict)
    """Corruption -> what it lacks of the others; it cannot be read."""

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names found, sorted."""
        return tuple(sorted(self.tree.cells))

    @property
    def severities(self) -> tuple[int, ...]:
        """The severities that some corruption has, ascending."""
        return tuple(sorted({severity for found in self.tree.cells.values() for severity in found}))

    def read(self, corruption: str, severity: int) -> Arrays:
        """Decode the images of one cell; what does not fit the other corruptions is said in a warning.

        Raises:
            DataError: the cell or a class is missing, the cell is empty, or an image is damaged.
        """
        if corruption in self.gaps:
            raise DataError(self.gaps[corruption])
        number = {name: label for label, name in enumerate(self.class_names)}
        images = [each for each in self._images(corruption, severity) if each.class_name in number]
        if not images:
            raise DataError(
                f"{self.tree}/{corruption}/{severity} holds no images of the {len(number)} classes. Fetch it again"
            )
        for fault in (self.surplus.get(corruption), self._other_images(images, corruption, severity)):
            if fault:
                warnings.warn(fault, stacklevel=2)
        labels = np.array([number[each.class_name] for each in images], np.int64)
        pixels = decode(self.tree.encoded(images), len(images))
        return Arrays(pixels, labels, self.class_names, tuple(each.item for each in images))

    def _images(self, corruption: str, severity: int) -> list[_Image]:
        if severity not in self.tree.cells[corruption]:
            raise DataError(f"{self.tree} holds no {corruption}/{severity}, which others have. Fetch it again")
        return self.tree.images(corruption, severity)

    def _other_images(self, images: list[_Image], corruption: str, severity: int) -> str | None:
        """Return what is wrong with the numbers of images in the classes of a cell, or None."""
        if severity not in self.tree.cells[self.reference]:
            return None
        got = Counter(each.class_name for each in images)
        expected = Counter(each.class_name for each in self.tree.images(self.reference, severity))
        other = next((name for name in self.class_names if got[name] != expected[name]), None)
        if other is None:
            return None
        return (
            f"{self.tree}: {corruption}/{severity} holds {got[other]} images of {other} and {self.reference}/"
            f"{severity} {expected[other]}; figures of the two are not on the same images"
        )


def find(path: Path, class_names: tuple[str, ...]) -> FolderCells | None:
    """Return the class folders in a folder or an archive, or None where there are none.

    Args:
        path: the folder, one that holds it as `Tiny-ImageNet-C`, or the `.tar`.
        class_names: label -> name, where the folder states it; else the sorted names of the class folders that most
            corruptions have.
    """
    tree: _Tree
    if path.is_dir():
        root = next((root for root in (path, path / FOLDER) if _cells_below(root)), path)
        tree = _Folders(root)
    else:
        found = path.stat()
        tree = _archive(path, found.st_size, found.st_mtime_ns)
    if not tree.cells:
        return None
    own = {name: frozenset().union(*found.values()) for name, found in tree.cells.items()}
    counted = Counter(own.values())
    usual = min(counted, key=lambda classes: (-counted[classes], len(classes)))
    names = class_names or tuple(sorted(usual))
    reference = min((name for name, classes in own.items() if classes == usual), default=min(own))
    if class_names:  # a class may have no images then
        return FolderCells(tree=tree, class_names=names, reference=reference)
    surplus = {name: _surplus(tree, name, classes, usual) for name, classes in own.items() if classes - usual}
    gaps = {name: _gap(tree, name, usual - classes) for name, classes in own.items() if usual - classes}
    return FolderCells(tree=tree, class_names=names, reference=reference, surplus=surplus, gaps=gaps)


def are_below(folder: Path) -> bool:
    """Tell whether a folder holds this layout, by a corruption's name and severities below it."""
    return any(not _cells_below(root).keys().isdisjoint(BENCHMARK + HELD_OUT) for root in (folder, folder / FOLDER))


def _surplus(tree: _Tree, corruption: str, own: frozenset[str], usual: frozenset[str]) -> str:
    hint = " (a known fault of the published archive)" if corruption == "frost" else ""
    return (
        f"{tree}: {corruption} holds {len(own)} class folders where the others hold {len(usual)}{hint}; "
        f"{len(own - usual)} are passed over"
    )


def _gap(tree: _Tree, corruption: str, missing: frozenset[str]) -> str:
    return (
        f"{tree}: {corruption} holds no class folder {min(missing)}, which the others hold ({len(missing)} missing). "
        "Figures on it would be of other classes; fetch it again"
    )


# --- a folder --------------------------------------------------------------------------------------------------


class _Folders:
    """Class folders on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells: Mapping[str, Mapping[int, frozenset[str]]] = {
            corruption: {int(path.name): _names(path) for path in cells}
            for corruption, cells in _cells_below(root).items()
        }

    def __str__(self) -> str:
        return str(self.root)

    def images(self, corruption: str, severity: int) -> list[_Image]:
        cell = self.root / corruption / str(severity)
        paths = (path for path in sorted(cell.rglob("*")) if _is_image(path.name))
        items = ((path, path.relative_to(cell)) for path in paths)
        return [_Image(item.parent.as_posix(), item.as_posix(), path) for path, item in items]

    def encoded(self, images: list[_Image]) -> Iterator[tuple[str, Path | bytes]]:
        for each in images:
            assert isinstance(each.place, Path), "`images` names files"
            yield str(each.place), each.place


def _cells_below(root: Path) -> dict[str, list[Path]]:
    """Return corruption -> the folders of its severities."""
    if not root.is_dir():
        return {}
    corruptions = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path)]
    cells = {path.name: [path / each for each in _SEVERITIES if (path / each).is_dir()] for path in corruptions}
    return {name: found for name, found in cells.items() if found}


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


# --- an archive ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _archive(path: Path, size: int, changed_ns: int) -> _Archive:
    """Open an archive; one that has not changed is not looked through twice."""
    return _Archive(path)


class _Archive:
    """Class folders in an uncompressed archive, of which one look through it finds out where each cell lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans: dict[tuple[str, int], tuple[int, int]] = {}
        classes: dict[str, dict[int, set[str]]] = {}
        for member in members(path):
            if (found := _split(member.name)) is None:
                continue
            corruption, severity, class_name, _ = found
            classes.setdefault(corruption, {}).setdefault(severity, set()).add(class_name)
            first, _ = self.spans.get((corruption, severity), (member.start, 0))
            self.spans[corruption, severity] = first, member.offset + member.size
        self.cells: Mapping[str, Mapping[int, frozenset[str]]] = {
            corruption: {severity: frozenset(names) for severity, names in found.items()}
            for corruption, found in classes.items()
        }

    def __str__(self) -> str:
        return str(self.path)

    def images(self, corruption: str, severity: int) -> list[_Image]:
        found = []
        for member in members(self.path, *self.spans[corruption, severity]):
            parts = _split(member.name)
            if parts is not None and parts[:2] == (corruption, severity):
                place = slice(member.offset, member.offset + member.size)
                found.append(_Image(parts[2], f"{parts[2]}/{parts[3]}", place))
        return sorted(found, key=lambda each: each.item)

    def encoded(self, images: list[_Image]) -> Iterator[tuple[str, Path | bytes]]:
        with self.path.open("rb") as file:
            for each in images:
                assert isinstance(each.place, slice), "`images` names bytes"
                file.seek(each.place.start)
                yield f"{self.path}, {each.item}", file.read(each.place.stop - each.place.start)


def _split(name: str) -> tuple[str, int, str, str] | None:
    """Return (corruption, severity, class, image) of the name of a member, or None where it is no image."""
    parts = name.split("/")
    if len(parts) < 4 or parts[-3] not in _SEVERITIES or not _is_image(parts[-1]):
        return None
    return parts[-4], int(parts[-3]), parts[-2], parts[-1]
