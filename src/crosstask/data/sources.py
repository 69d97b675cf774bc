"""Readers: one function a file layout, each from a path to plain arrays. `read` looks at a path and picks one.

Pixels come out as uint8 [N, C, H, W], C = 1 for gray and 3 for colour. Everything that is not as promised is one
`DataError` that names the file; nothing is skipped in silence.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from crosstask.data.download import FASHION_MNIST_CLASSES, FASHION_MNIST_SHA256, find_idx, idx_content
from crosstask.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
COMPANION_SUFFIXES = (".txt", ".csv", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".db", ".ini")
"""Files that often lie beside images and are passed over; any other file that is not an image is an error."""

SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test", "val", "valid", "validation"),
}
"""Split -> the folder names or shard prefixes that hold it, the first one found counts."""

_ALL_SPLIT_NAMES = {name for names in SPLIT_NAMES.values() for name in names}
_MOST_CLASSES = 1 << 16
_IDX_PREFIX = {"train": "train", "test": "t10k"}
_BLOCK, _PIECE = 256, 16
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no others: Pillow hands some formats to outside programs
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


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
    """Tell whether a folder holds several splits, as folders or files named so, rather than one set of images."""
    if not path.is_dir():
        return False
    if any(find_idx(path, name) for name in FASHION_MNIST_SHA256):
        return True
    shards = {file.name.split("-")[0] for file in path.glob("*.parquet")}
    below = shards or {folder.name for folder in path.iterdir() if folder.is_dir() and not _is_hidden(folder)}
    both = "train" in below and not below.isdisjoint(SPLIT_NAMES["test"])
    return both or (bool(below) and below <= _ALL_SPLIT_NAMES)


def _read(path: Path, split: str | None, labels: bool) -> Arrays:
    if path.is_dir():
        return _read_folder(path, split, labels)
    if not path.exists():
        raise DataError(f"{path} does not exist: expected a folder of images, a .parquet, .npz or .npy file")
    if split is not None:
        raise DataError(
            f"{path} is one file and has no split {split!r}: name the file of that split and leave split out"
        )
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
    if any(find_idx(folder, name) for name in FASHION_MNIST_SHA256):
        return read_idx(folder, split)
    if any(folder.glob("*.parquet")):
        return read_parquet(_shards(folder, split), labels)
    return read_image_folder(folder, split)


# --- decoding --------------------------------------------------------------------------------------------------


def decode(sources: Iterable[tuple[str, Path | bytes]], count: int | None = None) -> np.ndarray:
    """Decode named image files or encoded bytes, all of one size, into uint8 [N, C, H, W].

    Gray images stay one channel when all are gray; beside a colour image they become colour.

    Args:
        sources: (name for messages, path or encoded bytes) of each image.
        count: how many there are; taken from `sources` itself when None.

    Raises:
        DataError: an image is damaged, of an unsupported mode or of another size than the first.
    """
    if count is None:
        sources = list(sources)
        count = len(sources)
    images: np.ndarray | None = None
    first = ""
    for row, (name, pixels) in enumerate(_decoded(sources)):
        if images is None:
            first, images = name, np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[1:] != images.shape[2:]:
            raise DataError(_mixed_sizes(first, images.shape, name, pixels.shape))
        if pixels.shape[0] > images.shape[1]:
            images = np.repeat(images, 3, axis=1)
        images[row] = pixels
    assert images is not None, "the callers refuse empty folders and files"
    return images


def _mixed_sizes(first: str, expected: tuple[int, ...], name: str, got: tuple[int, ...]) -> str:
    return (
        f"images of different sizes (width x height): {first} is {expected[-1]} x {expected[-2]}, "
        f"{name} is {got[-1]} x {got[-2]}. Resize or crop them all to one size"
    )


def _decoded(sources: Iterable[tuple[str, Path | bytes]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 [C, H, W]) in order. Threads decode a block at a time, so memory stays bounded.

    Pillow lets go of the interpreter lock while it decodes: large images gain by threads. A thread takes several
    images at once, so that small ones, which gain little, lose nothing.
    """
    remaining = iter(sources)
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        while block := list(islice(remaining, _BLOCK)):
            pieces = [block[start : start + _PIECE] for start in range(0, len(block), _PIECE)]
            for piece, decoded in zip(pieces, pool.map(_decode_piece, pieces), strict=True):
                yield from zip([name for name, _ in piece], decoded, strict=True)


def _decode_piece(piece: list[tuple[str, Path | bytes]]) -> list[np.ndarray]:
    return [_decode_one(name, data) for name, data in piece]


def _decode_one(name: str, data: Path | bytes) -> np.ndarray:
    """Decode one image to uint8 [C, H, W]."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
            pixels = np.asarray(_eight_bit(image, name))
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot read the image {name}: it is none of {', '.join(_FORMATS)}. Replace, convert or remove it"
        ) from error
    except _DECODE_ERRORS as error:
        raise DataError(f"cannot read the image {name}: {error}. It is damaged; replace or remove it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Return the image as 8-bit gray or RGB; transparency is dropped."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{name} has more than 8 bits a pixel (mode {image.mode}): expected 8-bit gray or colour. "
            "Convert it, choosing which values become black and white"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


# --- folders of images -------------------------------------------------------------------------------------------


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
    subfolders = {path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path)}
    if subfolders and subfolders <= _ALL_SPLIT_NAMES:
        listed = ", ".join(sorted(subfolders))
        raise DataError(f"{folder} is divided into {listed}: say which split is wanted, or name its folder")
    return folder


def _class_names(folder: Path, split: str | None, classes: list[Path]) -> tuple[str, ...]:
    """Return the class names in label order: the folders' own, or those of `train/` where splits exist."""
    own = [path.name for path in classes]
    if split in (None, "train") or not (folder / "train").is_dir():
        return tuple(own)
    known = [path.name for path in _listing(folder / "train")[0]]
    if unknown := [name for name in own if name not in known]:
        raise DataError(
            f"the class folder {unknown[0]!r} of the split {split!r} is not in {folder / 'train'}: "
            f"expected the same classes in both ({len(known)} there, {len(own)} here)"
        )
    return tuple(known) if own else ()


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the sorted subfolders and the sorted images of a folder."""
    entries = sorted(path for path in folder.iterdir() if not _is_hidden(path))
    return [path for path in entries if path.is_dir()], [path for path in entries if _is_image(path)]


def _images_below(folder: Path) -> list[Path]:
    """Return the sorted images at any depth below a class folder."""
    folders, images = _listing(folder)
    return sorted([*images, *(path for below in folders for path in _images_below(below))])


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


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


# --- parquet -----------------------------------------------------------------------------------------------------


def _shards(folder: Path, split: str | None) -> list[Path]:
    """Return the sorted parquet files of a split, all of the number their names promise."""
    shards = sorted(folder.glob("*.parquet"))
    prefixes = [path.name.split("-")[0] for path in shards]
    if split is None:
        if len(_ALL_SPLIT_NAMES & set(prefixes)) > 1:
            raise DataError(f"{folder} is divided into {', '.join(sorted(set(prefixes)))}: say which split is wanted")
    else:
        prefix = next((name for name in SPLIT_NAMES[split] if name in prefixes), None)
        if prefix is None:
            raise DataError(f"{folder} holds no {split}-*.parquet for the split {split!r}: it holds {shards[0].name}")
        shards = [path for path, own in zip(shards, prefixes, strict=True) if own == prefix]
    for path in shards:
        promised, found = re.search(r"-of-(\d+)\.parquet$", path.name), prefixes.count(path.name.split("-")[0])
        if promised and int(promised[1]) != found:
            raise DataError(f"{folder}: {path.name} is one of {int(promised[1])} shards, {found} found. Add the rest")
    return shards


def read_parquet(paths: list[Path], labels: bool = True) -> Arrays:
    """Read parquet files in the Hugging Face hub's layout.

    The column `img` or `image` is a struct {bytes, path} of encoded images; `label` (or `fine_label`) is optional, its
    class names stand in the schema's metadata under `huggingface`.

    Raises:
        DataError: pyarrow is not installed, a file is damaged, or its columns are others.
    """
    shards = [_open_shard(path) for path in paths]
    if len({shard.layout for shard in shards}) > 1:
        raise DataError(
            f"{paths[0].parent}: the shards differ in columns or class names; they belong to different sets"
        )
    count = sum(shard.rows for shard in shards)
    if count == 0:
        raise DataError(f"{paths[0]} holds no images: its table has no rows")
    images = decode((row for shard in shards for row in shard.encoded()), count)
    _, label_column, class_names = shards[0].layout
    names = {name: None for shard in shards for name in shard.names() if name}
    items = tuple(names) if len(names) == count else None  # names that are missing or come twice tell nothing
    if label_column is None or not labels:
        return Arrays(images, items=items)
    numbers = np.concatenate([shard.labels(label_column) for shard in shards])
    return Arrays(images, numbers, class_names or numbered_classes(numbers), items)


@dataclass(frozen=True)
class _Shard:
    """One open parquet file."""

    path: Path
    file: Any
    """A pyarrow ParquetFile."""
    layout: tuple[str, str | None, tuple[str, ...]]
    """(image column, label column or None, class names or empty)."""

    @property
    def rows(self) -> int:
        return self.file.metadata.num_rows

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Yield (name for messages, encoded image) row by row."""
        for row, encoded in enumerate(self._values(f"{self.layout[0]}.bytes")):
            if encoded is None:
                raise DataError(f"{self.path}: row {row} has no image bytes: expected encoded images, not links")
            yield f"{self.path}, row {row}", encoded

    def names(self) -> Iterator[str | None]:
        """Yield the file name each image had, or None."""
        image_type = self.file.schema_arrow.field(self.layout[0]).type
        has_path = "path" in {field.name for field in image_type.fields}
        return self._values(f"{self.layout[0]}.path") if has_path else iter([None] * self.rows)

    def labels(self, column: str) -> np.ndarray:
        """Return the labels, int64 [rows]."""
        values = list(self._values(column))
        if wrong := [row for row, value in enumerate(values) if not isinstance(value, int)]:
            raise DataError(
                f"{self.path}: row {wrong[0]} has the label {values[wrong[0]]!r}: expected a class number. "
                f"To use the images unlabelled, drop the column {column!r}"
            )
        return np.array(values, np.int64)

    def _values(self, column: str) -> Iterator[Any]:
        """Yield a column, or one leaf of a struct column, value by value, a batch in memory at a time."""
        from pyarrow import ArrowException

        try:
            for batch in self.file.iter_batches(batch_size=_BLOCK, columns=[column]):
                values = batch.column(0)
                yield from (values.flatten()[0] if "." in column else values).to_pylist()
        except (OSError, ArrowException) as error:
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    said = " ".join(str(error).split()).rstrip(".")
    return DataError(f"cannot read {path}: {said}. The parquet file is damaged; fetch it again")


def _open_shard(path: Path) -> _Shard:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'crosstask[parquet]'") from error
    try:
        file = ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise _damaged(path, error) from error
    return _Shard(path, file, _columns(file.schema_arrow, path))


def _columns(schema: Any, path: Path) -> tuple[str, str | None, tuple[str, ...]]:
    """Return `_Shard.layout` of a parquet file."""
    image = next((name for name in ("img", "image") if name in schema.names), None)
    if image is None or "bytes" not in {field.name for field in getattr(schema.field(image).type, "fields", [])}:
        raise DataError(
            f"{path}: expected a column 'img' or 'image' of structs {{bytes, path}}, got the columns "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    label = next((name for name in ("label", "fine_label") if name in schema.names), None)
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names", [])
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: the schema's metadata 'huggingface' is not the hub's JSON: {error}") from error
    return image, label, tuple(names)


def numbered_classes(labels: np.ndarray) -> tuple[str, ...]:
    """Return the class names "0", "1", ... for labels [N] that come without names."""
    highest = int(labels.max(initial=-1))
    if highest >= _MOST_CLASSES:
        raise DataError(f"labels go up to {highest}: expected class numbers below {_MOST_CLASSES}")
    return tuple(str(number) for number in range(highest + 1))


# --- numpy and idx -------------------------------------------------------------------------------------------------


def read_numpy(path: Path, labels: bool = True) -> Arrays:
    """Read a `.npy` array or an `.npz` with `images` (or one only array), optionally `labels` and `class_names`.

    Images are uint8 [N, H, W] or [N, H, W, C]. Pickled objects are never loaded.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else _named_arrays(loaded, path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. Expected arrays of plain numbers, saved by numpy") from error
    images = _channels_first(arrays["images"], path)
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


def _named_arrays(archive: Any, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays `images` and, where they exist, `labels` and `class_names` of an open `.npz`."""
    beside = [key for key in ("labels", "class_names") if key in archive.files]
    others = [key for key in archive.files if key not in beside]
    if "images" not in others and len(others) != 1:
        raise DataError(f"{path}: expected an array 'images', got {', '.join(archive.files) or 'none'}")
    images = "images" if "images" in others else others[0]
    return {"images": archive[images], **{key: archive[key] for key in beside}}


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    got = f"got {images.dtype} of shape {list(images.shape)}"
    if images.dtype != np.uint8:
        raise DataError(f"{path}: expected uint8 pixels from 0 to 255, {got}. Scale and convert them first")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = " Move the channels to the end" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise DataError(f"{path}: expected shape [N, H, W] or [N, H, W, C] with 1 or 3 channels, {got}.{hint}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


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
    content = struct.pack(">4B I", 0, 0, 8, 1, len(labels)) + raw_labels.tobytes()
    is_fashion = hashlib.sha256(content).hexdigest() == FASHION_MNIST_SHA256[labels_name]
    return Arrays(images, labels, FASHION_MNIST_CLASSES if is_fashion else numbered_classes(labels))


def _idx_array(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read one idx file of unsigned bytes: 0, 0, 8, the number of dimensions, their sizes, the values."""
    path = find_idx(folder, name)
    if path is None:
        raise DataError(f"{folder} holds no {name} and no {name}.gz")
    content = idx_content(path)
    header = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise DataError(
            f"{path} is not an idx file of {dimensions}-dimensional bytes: it begins with {content[:4].hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is truncated: expected {' x '.join(map(str, shape))} bytes, got {values.size:,}")
    return values.reshape(shape).copy()
