"""Readers: one file a layout, each from a path to plain arrays. `read` looks at a path and picks one.

Pixels come out as uint8 [N, C, H, W], C = 1 for gray and 3 for colour. Everything that is not as promised is one
`DataError` that names the file; nothing is skipped in silence.
"""

from __future__ import annotations

from pathlib import Path

from crosstask.data.sources.arrays import SPLIT_NAMES, Arrays, are_splits, is_hidden
from crosstask.data.sources.cifar import cifar10_1_arrays, is_cifar, is_cifar10_1, read_cifar, read_cifar10_1
from crosstask.data.sources.corrupted import CorruptedSet, looks_corrupted, open_corrupted
from crosstask.data.sources.decoding import decode
from crosstask.data.sources.folders import IMAGE_SUFFIXES, read_image_folder
from crosstask.data.sources.idx import is_idx_folder, read_idx
from crosstask.data.sources.numpy_files import read_numpy
from crosstask.data.sources.parquet import prefixes_of, read_parquet, shards
from crosstask.data.sources.tiny_imagenet import is_tiny_imagenet, read_tiny_imagenet
from crosstask.errors import DataError

__all__ = ["Arrays", "CorruptedSet", "is_divided", "open_corrupted", "read"]


def read(path: Path, split: str | None = None, labels: bool = True) -> Arrays:
    """Read the images at `path`, a file or a folder in one of the known layouts.

    Args:
        labels: whether a file's labels are looked at; without them, images whose labels are void can be read too.

    Raises:
        DataError: the path is missing, its layout is unknown, or what it holds is damaged.
    """
    if split is not None and split not in SPLIT_NAMES:
        raise DataError(f"unknown split {split!r}: expected one of {', '.join(SPLIT_NAMES)}")
    try:
        return _read(path, split, labels)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}. Check its permissions, or name another path") from error


def is_divided(path: Path) -> bool:
    """Tell whether a path holds several splits, named so, rather than one set of images."""
    if path.exists() and (is_cifar(path) or is_tiny_imagenet(path)):
        return True
    if not path.is_dir():
        return False
    if is_idx_folder(path):
        return True
    prefixes = set(prefixes_of(path).values())
    return are_splits(
        prefixes or {folder.name for folder in path.iterdir() if folder.is_dir() and not is_hidden(folder)}
    )


def _read(path: Path, split: str | None, labels: bool) -> Arrays:
    if not path.exists():
        raise DataError(f"{path} does not exist: expected a folder of images, a .parquet, .npz or .npy file")
    if looks_corrupted(path):
        raise DataError(
            f"{path} holds corrupted copies, not one set of images: say which, with load_corrupted({str(path)!r}, "
            "corruption, severity)"
        )
    if is_cifar(path):
        return read_cifar(path, split)
    if is_tiny_imagenet(path):
        return read_tiny_imagenet(path, split)
    if path.is_dir():
        return _read_folder(path, split, labels)
    if is_cifar10_1(path):
        return _read_cifar10_1(path, path, split)
    if split is not None:
        raise DataError(
            f"{path} is one file and has no split {split!r}: name the file of that split and leave split out"
        )
    return _read_file(path, labels)


def _read_file(path: Path, labels: bool) -> Arrays:
    match path.suffix.lower():
        case ".parquet":
            return read_parquet([path], labels)
        case ".npy" | ".npz":
            return read_numpy(path, labels)
        case suffix if suffix in IMAGE_SUFFIXES:
            return Arrays(decode([(path.name, path)]), items=(path.name,))
        case suffix:
            raise DataError(
                f"{path}: unknown file type {suffix!r}: expected .parquet, .npz, .npy, "
                f"an image ({', '.join(IMAGE_SUFFIXES)}) or a folder"
            )


def _read_folder(folder: Path, split: str | None, labels: bool) -> Arrays:
    if is_idx_folder(folder):
        return read_idx(folder, split)
    if versions := cifar10_1_arrays(folder):
        if len(versions) > 1:
            raise DataError(
                f"{folder} holds several versions of CIFAR-10.1: name one of {', '.join(map(str, versions))}"
            )
        return _read_cifar10_1(versions[0], folder, split)
    if prefixes_of(folder):
        return read_parquet(shards(folder, split), labels)
    return read_image_folder(folder, split)


def _read_cifar10_1(array: Path, asked_for: Path, split: str | None) -> Arrays:
    if split not in (None, "test"):
        raise DataError(f"{asked_for} is CIFAR-10.1, a test set alone: it has no split {split!r}, only 'test'")
    return read_cifar10_1(array)
