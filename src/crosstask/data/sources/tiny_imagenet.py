"""Tiny ImageNet as published: `tiny-imagenet-200.zip`, or its unpacked folder."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crosstask.data.sources.arrays import Arrays
from crosstask.data.sources.decoding import decode
from crosstask.errors import DataError

FOLDER = "tiny-imagenet-200"
_CLASSES, _ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)


def is_tiny_imagenet(path: Path) -> bool:
    """Tell whether a path is a `.zip`, or a folder in the official layout or one that holds it."""
    if path.is_dir():
        return _root(path) is not None
    return path.suffix.lower() == ".zip"


def read_tiny_imagenet(path: Path, split: str | None) -> Arrays:
    """Read one split of Tiny ImageNet. `test` is `val`, since the official test images have no labels.

    A class is called by its WordNet number, as the folders of Tiny-ImageNet-C are; the labels count these in sorted
    order. Gray images become colour.

    Raises:
        DataError: the archive or a file is damaged or missing, or the annotations do not fit the images.
    """
    if split is None:
        raise DataError(f"{path} is divided into train, val: say which split is wanted")
    try:
        if root := _root(path):
            return _read(_Folder(root), split)
        with zipfile.ZipFile(path) as archive:
            return _read(_Zip(path, archive), split)
    except _UNREADABLE as error:
        raise DataError(f"cannot read {path}: {error}. The archive is truncated or damaged; fetch it again") from error


def _read(files: _Folder | _Zip, split: str) -> Arrays:
    names = tuple(sorted(files.text(_CLASSES).split()))
    listed = _training(files, names) if split == "train" else _validation(files, names)
    images = decode(((f"{files}, {name}", files.source(name)) for name, _ in listed), len(listed))
    colour = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    folder = "train" if split == "train" else "val"
    items = tuple(name.removeprefix(f"{folder}/") for name, _ in listed)
    return Arrays(colour, np.array([label for _, label in listed], np.int64), names, items)


def _root(path: Path) -> Path | None:
    """Return the folder that holds the list of classes, or None."""
    roots = (path, path / FOLDER)
    return next((root for root in roots if (root / _CLASSES).is_file() and (root / _ANNOTATIONS).is_file()), None)


def _training(files: _Folder | _Zip, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return (file, label) of the training images, by class and name."""
    number = {name: label for label, name in enumerate(names)}
    listed = []
    for name in files.names("train"):
        class_name = name.split("/")[1]
        if class_name not in number:
            raise DataError(f"{files}: {name} is of the class {class_name}, which is not in {_CLASSES}. Fetch it again")
        listed.append((name, number[class_name]))
    if missing := sorted(number.keys() - {name.split("/")[1] for name, _ in listed}):
        raise DataError(f"{files} holds no train/{missing[0]}/images/*.JPEG. Fetch it again")
    return listed


def _validation(files: _Folder | _Zip, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return (file, label) of the validation images by name, each with the label its annotation gives."""
    number = {name: label for label, name in enumerate(names)}
    classes = dict(line.split("\t")[:2] for line in files.text(_ANNOTATIONS).splitlines() if "\t" in line)
    if unknown := sorted(set(classes.values()) - set(names)):
        raise DataError(f"{files}: {_ANNOTATIONS} names the class {unknown[0]}, which is not in {_CLASSES}")
    found = {name.rpartition("/")[2]: name for name in files.names("val")}
    if different := sorted(found.keys() ^ classes.keys()):
        raise DataError(
            f"{files}: {len(found)} validation images and {len(classes)} annotations, which do not fit: {different[0]} "
            "is only in one of the two. Fetch it again"
        )
    if not found:
        raise DataError(f"{files} holds no val/images/*.JPEG. Fetch it again")
    return [(found[name], number[classes[name]]) for name in sorted(found)]


class _Folder:
    """The unpacked folder. Names are relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def text(self, name: str) -> str:
        """Return the content of a text file."""
        return (self.root / name).read_text(encoding="utf-8")

    def names(self, below: str) -> list[str]:
        """Return the sorted names of the images below a folder."""
        return sorted(path.relative_to(self.root).as_posix() for path in self._images(below))

    def source(self, name: str) -> Path:
        """Return what `decode` takes for an image."""
        return self.root / name

    def _images(self, below: str) -> Iterator[Path]:
        return (self.root / below).rglob("*.JPEG")


class _Zip:
    """The archive, read where it lies. Names are relative to the folder in it that holds the list of classes."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.inside = archive.namelist()
        marker = next((name for name in self.inside if name.rpartition("/")[2] == _CLASSES), None)
        if marker is None:
            raise DataError(
                f"{path} is not Tiny ImageNet's archive: it holds no {_CLASSES}. Unpack it and name its folder"
            )
        self.prefix = marker.removesuffix(_CLASSES)

    def __str__(self) -> str:
        return str(self.path)

    def text(self, name: str) -> str:
        """Return the content of a text file."""
        if self.prefix + name not in self.inside:
            raise DataError(f"{self.path} holds no {self.prefix}{name}. Fetch it again")
        return self.archive.read(self.prefix + name).decode("utf-8")

    def names(self, below: str) -> list[str]:
        """Return the sorted names of the images below a folder."""
        start = f"{self.prefix}{below}/"
        images = (name for name in self.inside if name.startswith(start) and name.endswith(".JPEG"))
        return sorted(name.removeprefix(self.prefix) for name in images)

    def source(self, name: str) -> bytes:
        """Return what `decode` takes for an image."""
        return self.archive.read(self.prefix + name)
