"""Folders of image files: class folders (labelled) or a flat folder (unlabelled), divided into splits or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crosstask.data.sources.arrays import ALL_SPLIT_NAMES, SPLIT_NAMES, Arrays, are_splits, is_hidden
from crosstask.data.sources.decoding import decode
from crosstask.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
COMPANION_SUFFIXES = (".txt", ".csv", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".db", ".ini")
"""Files that often lie beside images and are passed over; any other file that is not an image is an error."""


def read_image_folder(folder: Path, split: str | None) -> Arrays:
    """Read a folder of class folders (labelled, classes in sorted order) or a flat folder of images (unlabelled).

    With `split`, the images lie in a subfolder of that name, and the classes are those of `train/` where it exists,
    so that a label means the same in every split.
    """
    root = _split_folder(folder, split)
    classes, loose = _listing(root)
    if classes and loose:
        raise DataError(
            f"{root} holds images ({loose[0].name}) beside folders ({classes[0].name}): expected either images alone "
            "(unlabelled) or one folder for each class"
        )
    names = _class_names(folder, split, classes)
    number = {name: label for label, name in enumerate(names)}
    labelled = [(path, number[below.name]) for below in classes for path in _images_below(below)]
    empty = sorted({below.name for below in classes} - {path.relative_to(root).parts[0] for path, _ in labelled})
    if labelled and empty and split in (None, "train"):
        raise DataError(f"the class folder {root / empty[0]} holds no images; fill it or remove it")
    paths = loose or [path for path, _ in labelled]
    if not paths:
        raise DataError(
            f"{root} holds no images: expected {', '.join(IMAGE_SUFFIXES)} files, alone or in class folders"
        )
    items = tuple(path.relative_to(root).as_posix() for path in paths)
    images = decode(((str(path), path) for path in paths), len(paths))
    if loose:
        return Arrays(images, items=items)
    return Arrays(images, np.array([label for _, label in labelled], np.int64), names, items)


def _split_folder(folder: Path, split: str | None) -> Path:
    """Return the subfolder that holds `split`, or the folder itself when no split is asked for."""
    if split is not None:
        found = next((folder / name for name in SPLIT_NAMES[split] if (folder / name).is_dir()), None)
        if found is None:
            raise DataError(
                f"{folder} has no subfolder {' or '.join(f'{name}/' for name in SPLIT_NAMES[split])} for the split "
                f"{split!r}. Name the folder of the images themselves and leave split out"
            )
        return found
    subfolders = {path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path)}
    if are_splits(subfolders):
        listed = ", ".join(sorted(subfolders & ALL_SPLIT_NAMES))
        raise DataError(f"{folder} is divided into {listed}: say which split is wanted, or name its folder")
    return folder


def _class_names(folder: Path, split: str | None, classes: list[Path]) -> tuple[str, ...]:
    """Return the class names in label order: the folders' own, or those of `train/` where splits exist."""
    own = _names(classes)
    if split in (None, "train") or not (folder / "train").is_dir():
        return tuple(own)
    known = _names(_listing(folder / "train")[0])
    if unknown := [name for name in own if name not in known]:
        raise DataError(
            f"the class folder {unknown[0]!r} of the split {split!r} is not in {folder / 'train'}: "
            f"expected the same classes in both ({len(known)} there, {len(own)} here)"
        )
    return tuple(known) if own else ()


def _names(classes: list[Path]) -> list[str]:
    """Return the names of class folders, each of which a report must be able to write."""
    names = [path.name for path in classes]
    if odd := [name for name in names if name.encode("utf-8", "ignore").decode() != name]:
        raise DataError(f"the name of the class folder {odd[0]!r} in {classes[0].parent} is not UTF-8. Rename it")
    return names


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the sorted subfolders and the sorted images of a folder."""
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path))
    return [path for path in entries if path.is_dir()], [path for path in entries if _is_image(path)]


def _images_below(folder: Path) -> list[Path]:
    """Return the sorted images at any depth below a class folder."""
    folders, images = _listing(folder)
    return sorted([*images, *(path for below in folders for path in _images_below(below))])


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in COMPANION_SUFFIXES or path.is_dir():
        return False
    if suffix in IMAGE_SUFFIXES:
        return True
    raise DataError(
        f"{path}: unknown file type {suffix!r} in a folder of images: expected {', '.join(IMAGE_SUFFIXES)}. "
        "Convert it or move it elsewhere"
    )
