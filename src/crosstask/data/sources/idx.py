"""idx files, the layout of MNIST and Fashion-MNIST."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np

from crosstask.data.download.checksums import content
from crosstask.data.download.fashion_mnist import CLASSES, FILES
from crosstask.data.sources.arrays import Arrays, numbered_classes
from crosstask.errors import DataError

_IDX_PREFIX = {"train": "train", "test": "t10k"}
_FILES = {file.unpacked_name: file for file in FILES}
"""File name without `.gz` -> the file; all sets in this layout name theirs as Fashion-MNIST does."""


def is_idx_folder(folder: Path) -> bool:
    """Tell whether a folder holds one of the four files of this layout."""
    return any(file.find(folder) for file in FILES)


def read_idx(folder: Path, split: str | None) -> Arrays:
    """Read one split of a folder in MNIST's layout (`train-images-idx3-ubyte[.gz]` and so on).

    The class names are Fashion-MNIST's when the labels are, else the numbers.
    """
    if split not in _IDX_PREFIX:
        raise DataError(f"{folder} is divided into train, test: say which split is wanted, got {split!r}")
    images = _idx_array(folder, f"{_IDX_PREFIX[split]}-images-idx3-ubyte", dimensions=3)[:, None]
    labels_name = f"{_IDX_PREFIX[split]}-labels-idx1-ubyte"
    raw_labels = _idx_array(folder, labels_name, dimensions=1)
    if len(raw_labels) != len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(raw_labels)} labels in the split {split!r}")
    labels = raw_labels.astype(np.int64)
    file = struct.pack(">4B I", 0, 0, 8, 1, len(labels)) + raw_labels.tobytes()
    is_fashion = hashlib.sha256(file).hexdigest() == _FILES[labels_name].checksum.value
    return Arrays(images, labels, CLASSES if is_fashion else numbered_classes(labels))


def _idx_array(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read one idx file of unsigned bytes: 0, 0, 8, the number of dimensions, their sizes, the values."""
    path = _FILES[name].find(folder)
    if path is None:
        raise DataError(f"{folder} holds no {name} and no {name}.gz")
    read = content(path)
    header = 4 + 4 * dimensions
    if read[:4] != bytes((0, 0, 8, dimensions)) or len(read) < header:
        raise DataError(f"{path} is not an idx file of {dimensions}-dimensional bytes: it begins with {read[:4].hex()}")
    shape = struct.unpack(f">{dimensions}I", read[4:header])
    values = np.frombuffer(read, np.uint8, offset=header)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is truncated: expected {' x '.join(map(str, shape))} bytes, got {values.size:,}")
    return values.reshape(shape).copy()
