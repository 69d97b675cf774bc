"""Arrays saved by numpy: `.npy` and `.npz`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crosstask.data.sources.arrays import Arrays, numbered_classes
from crosstask.errors import DataError

Loaded = TypeVar("Loaded")


def read_numpy(path: Path, labels: bool = True) -> Arrays:
    """Read a `.npy` array or an `.npz` with `images` (or one only array), optionally `labels` and `class_names`.

    Images are uint8 [N, H, W] or [N, H, W, C]. Pickled objects are never loaded.
    """
    arrays = _load(path, _all_arrays)
    images = channels_first(arrays["images"], path)
    if "labels" not in arrays or not labels:
        return Arrays(images)
    numbers = arrays["labels"]
    if numbers.shape != images.shape[:1] or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected 'labels' as {len(images)} integers, got {numbers.dtype} of shape {list(numbers.shape)}"
        )
    numbers = numbers.astype(np.int64)
    names = tuple(str(name) for name in np.atleast_1d(arrays.get("class_names", ())))
    return Arrays(images, numbers, names or numbered_classes(numbers))


def load_array(path: Path) -> np.ndarray:
    """Read the one array of a `.npy` file. Pickled objects are never loaded.

    Raises:
        DataError: the file is missing, damaged or no array of plain numbers.
    """
    return _load(path, _one_array)


def _load(path: Path, take: Callable[[Any, Path], Loaded]) -> Loaded:
    """Open a file of numpy's and take what is wanted while it is open."""
    try:
        with path.open("rb") as file:
            return take(np.load(file, allow_pickle=False), path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. Expected arrays of plain numbers, saved by numpy") from error


def _one_array(loaded: Any, path: Path) -> np.ndarray:
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"{path}: expected one array, as .npy, got an archive of several")
    return loaded


def _all_arrays(loaded: Any, path: Path) -> dict[str, np.ndarray]:
    return {"images": loaded} if isinstance(loaded, np.ndarray) else _named_arrays(loaded, path)


def _named_arrays(archive: Any, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays `images` and, where they exist, `labels` and `class_names` of an open `.npz`."""
    beside = [key for key in ("labels", "class_names") if key in archive.files]
    others = [key for key in archive.files if key not in beside]
    if "images" not in others and len(others) != 1:
        raise DataError(f"{path}: expected an array 'images', got {', '.join(archive.files) or 'none'}")
    images = "images" if "images" in others else others[0]
    return {"images": archive[images], **{key: archive[key] for key in beside}}


def channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    """Return uint8 [N, C, H, W] of the images [N, H, W] or [N, H, W, C] of the file `path`.

    Raises:
        DataError: another type or shape.
    """
    got = f"got {images.dtype} of shape {list(images.shape)}"
    if images.dtype != np.uint8:
        raise DataError(f"{path}: expected uint8 pixels from 0 to 255, {got}. Scale and convert them first")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = " Move the channels to the end" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise DataError(f"{path}: expected shape [N, H, W] or [N, H, W, C] with 1 or 3 channels, {got}.{hint}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
