"""Images in: `ImageSet`, the one form every stage works on, filled by `load_images` and `load_corrupted`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crosstask.data import sources
from crosstask.data.copies import StoredCopies
from crosstask.data.download import KNOWN, Report
from crosstask.data.sources.arrays import Arrays
from crosstask.data.sources.corrupted import CorruptedSet, open_corrupted
from crosstask.errors import DataError, did_you_mean


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """Images of one size, with labels or without.

    Raises:
        DataError: a field has another type, shape or range than stated.
    """

    images: Tensor
    """uint8 [N, C, H, W], C = 1 (gray) or 3 (RGB), N at least 1."""
    labels: Tensor | None = None
    """int64 [N], each from 0 to len(class_names) - 1, or None."""
    class_names: tuple[str, ...] = ()
    """Label -> name; may be empty when there are no labels."""
    name: str
    """What the set is called in records and messages."""
    items: tuple[str, ...] | None = None
    """Image -> file name relative to its folder; None: the row number stands for it."""
    copies: StoredCopies | None = None
    """Their corrupted copies, which streams show in the place of corrupting them; see `with_copies`."""

    def __post_init__(self) -> None:
        _check_images(self.images, self.name)
        if self.labels is not None:
            _check_labels(self.labels, len(self.images), len(self.class_names), self.name)
        if self.items is not None and len(self.items) != len(self.images):
            raise DataError(f"{self.name}: expected one item for each image, got {len(self.items)} for {len(self)}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = " x ".join(str(side) for side in self.images.shape)
        labels = f"{len(self.class_names)} classes" if self.labels is not None else "unlabelled"
        return f"ImageSet({self.name}: {shape}, {labels})"

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels and labels, 64 hexadecimal digits; the same on every machine."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """Return the images at `indices`, integers from 0 to N - 1, in that order; stored copies do not go along.

        Raises:
            DataError: there are none, one is out of range, or they are not integers.
        """
        rows = torch.as_tensor(indices).cpu()
        if rows.ndim != 1 or len(rows) == 0 or rows.dtype.is_floating_point or rows.dtype == torch.bool:
            raise DataError(
                f"{self.name}: expected a list of row numbers, got {rows.dtype} of shape {list(rows.shape)}"
            )
        if rows.min() < 0 or rows.max() >= len(self):
            raise DataError(f"{self.name}: row numbers go from 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        rows = rows.to(torch.int64)
        return replace(
            self,
            images=self.images[rows.to(self.images.device)],
            labels=None if self.labels is None else self.labels[rows.to(self.labels.device)],
            items=None if self.items is None else tuple(self.items[row] for row in rows.tolist()),
            copies=None,
        )

    def unlabelled(self) -> ImageSet:
        """Return the same images without their labels; the class names stay."""
        return replace(self, labels=None)


def check_same_kind(images: ImageSet, shape: tuple[int, ...], class_names: Sequence[str] = ()) -> None:
    """Check that images are such as a model was trained on.

    Args:
        shape: (C, H, W) of its images.
        class_names: of its classes, if the labels matter; the images may lack the last ones.

    Raises:
        DataError: another number of channels, another size, or other classes.
    """
    expected, found = tuple(shape), tuple(images.images.shape[1:])
    if found[0] != expected[0]:
        kinds = {1: "gray (1 channel)", 3: "colour (3 channels)"}
        raise DataError(
            f"the model was trained on {kinds[expected[0]]} images, {images.name} has {kinds[found[0]]}; convert them"
        )
    if found != expected:
        height, width = expected[1:]
        raise DataError(
            f"the model was trained on images of {height}x{width} pixels and {images.name} has {found[1]}x{found[2]}; "
            f"resize them to {height}x{width} first"
        )
    own = images.class_names
    if class_names and tuple(class_names[: len(own)]) != own:
        raise DataError(
            f"{images.name} has other classes than the model: expected {_some(class_names)}, got {_some(own)}; "
            "a label must mean the same in both"
        )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def _check_images(images: Tensor, name: str) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"{name}: expected images as a uint8 tensor with values from 0 to 255, got {got}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{name}: expected images of shape [N, C, H, W], none of them 0 and C = 1 or 3, got {list(images.shape)}"
        )


def _check_labels(labels: Tensor, images: int, classes: int, name: str) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (images,):
        got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"{name}: expected labels as an int64 tensor of shape [{images}], got {got}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{name}: expected labels from 0 to {classes - 1} ({classes} class names), "
            f"got {labels.min()} to {labels.max()}. Correct the labels or name all classes"
        )


def load_images(
    spec: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    report: Report | None = None,
    labels: bool = True,
) -> ImageSet:
    """Load images by the name of a known data set or from a path.

    A path is a folder of class folders (`cat/1.png`; with `split`, below `train/`, `val/` or `test/`), a flat folder
    of images (unlabelled), a parquet file or a folder of shards in the Hugging Face hub's layout, an `.npy` or `.npz`
    array, a folder of idx files, the official archive of CIFAR-10, CIFAR-100 or Tiny ImageNet or its unpacked folder,
    or one image. A `str` that is a known name means the data set, `./name` the folder.

    Args:
        spec: a known name (see `crosstask.data.download.KNOWN`) or a path.
        split: "train" or "test"; must be given for a known name, and for a path that is divided into splits.
        data_dir: for a known name, a folder that holds the data set's files.
        report: called with a line of text for each step of a download; `print` will do.
        labels: False passes over the labels of an array or a parquet file, whatever they are.

    Raises:
        DataError: unknown name, missing path, or content that is not as promised; the message names the file.
        DownloadError: a known data set could not be obtained.
    """
    if isinstance(spec, str) and spec in KNOWN:
        return _known_images(spec, split, data_dir, report)
    path = _existing(spec, "images")
    arrays = sources.read(path, split, labels)
    return _image_set(path.resolve().name if path.is_dir() else path.stem, arrays)


def load_corrupted(
    spec: str | Path,
    corruption: str,
    severity: int,
    *,
    data_dir: str | Path | None = None,
    report: Report | None = None,
) -> ImageSet:
    """Load one corruption at one severity of a corrupted benchmark, by its name or from a path.

    A path is a folder in CIFAR-10-C's or Tiny-ImageNet-C's layout, as published or as `crosstask corrupt` writes it, or
    the uncompressed official `.tar`. The images of `tiny-imagenet-c` are not those of `tiny-imagenet`'s test split.

    Args:
        spec: `cifar10-c`, `cifar100-c` or `tiny-imagenet-c`, or a path.
        corruption: as the benchmark calls it, such as `gaussian_noise`.
        severity: from 1 to 5.
        data_dir: for a known name, a folder that holds the benchmark's files.
        report: called with a line of text for each step; `print` will do.

    Raises:
        UnknownName: the benchmark has no such corruption.
        DataError: unknown name, missing path, a severity that is not stored, or content that is not as promised.
        DownloadError: the benchmark is not here; `crosstask data get` fetches it.
    """
    name, found = _opened(spec, data_dir, report)
    return _image_set(name, found.read(corruption, severity))


def with_copies(
    images: ImageSet, spec: str | Path, *, data_dir: str | Path | None = None, report: Report | None = None
) -> ImageSet:
    """Return images whose streams show stored corrupted copies of them in the place of corrupting them.

    It comes last: a `subset` of what it returns is corrupted anew, and images put in their place would keep the copies.

    Args:
        images: those the copies were made from: of `cifar10-c`, CIFAR-10's test split.
        spec, data_dir, report: as of `load_corrupted`.

    Raises:
        DataError: unknown name, a path that holds no corrupted benchmark, or one that `crosstask corrupt` made of other
            images; of an official one, shape, labels and names are checked where it is read.
        DownloadError: the benchmark is not here; `crosstask data get` fetches it.
    """
    name, found = _opened(spec, data_dir, report)
    if found.made:
        name = f"{name} (crosstask corrupt, seed {found.made['seed']})"
        if images.labels is not None and found.made["fingerprint"] != images.fingerprint:
            raise DataError(
                f"{name} holds copies of images with the fingerprint {found.made['fingerprint']}, got {images.name} "
                f"with {images.fingerprint}; name the clean images they were made from"
            )
    labels = None if images.labels is None else images.labels.cpu()
    shape = tuple(images.images.shape)
    return replace(images, copies=StoredCopies(name=name, cells=found, shape=shape, labels=labels, items=images.items))


def _opened(spec: str | Path, data_dir: str | Path | None, report: Report | None) -> tuple[str, CorruptedSet]:
    """Open a corrupted benchmark, by its name or from a path; return also what it is called."""
    if isinstance(spec, str) and spec in KNOWN:
        if KNOWN[spec].kind != "corrupted":
            raise DataError(f"{spec} is no corrupted benchmark: expected {_names_of('corrupted')}{_other_way(spec)}")
        return spec, open_corrupted(KNOWN[spec].ensure(data_dir, report), spec)
    path = _existing(spec, "corrupted")
    return path.resolve().name, open_corrupted(path)


def is_known(spec: str | Path) -> bool:
    """Tell whether `load_images(spec)` takes `spec` for the name of a known data set, and not for a path."""
    return isinstance(spec, str) and spec in KNOWN


def is_divided(spec: str | Path) -> bool:
    """Tell whether `load_images(spec)` needs a split: a known name, or a path that is divided into splits."""
    return is_known(spec) or sources.is_divided(Path(spec).expanduser())


def _known_images(name: str, split: str | None, data_dir: str | Path | None, report: Report | None) -> ImageSet:
    known = KNOWN[name]
    if known.kind != "images":
        raise DataError(f"{name} is no plain data set: expected {_names_of('images')}{_other_way(name)}")
    if split not in known.splits:
        expected = " or ".join(map(repr, known.splits))
        raise DataError(f"{name}: expected the split {expected}, got {split!r}")
    path = known.ensure(data_dir, report)
    arrays = sources.read(path, split if sources.is_divided(path) else None)
    classes, shape = len(arrays.class_names), arrays.images.shape[1:]
    if known.classes not in (None, classes) or known.shape not in (None, shape):
        raise DataError(
            f"{path} does not hold {name}: expected {known.what}, got {classes} classes and images of "
            f"{' x '.join(map(str, shape))} (C x H x W). Name the folder of {name} with --data-dir or CROSSTASK_DATA"
        )
    return _image_set(name, arrays)


def _existing(spec: str | Path, kind: str) -> Path:
    """Return the path that `spec` means; a word that is neither a path nor a known name is refused."""
    path = Path(spec).expanduser()
    if isinstance(spec, str) and path.name == spec and not path.exists():
        raise DataError(
            f"unknown data set {spec!r}{did_you_mean(spec, KNOWN)} Expected a known name ({_names_of(kind)}) "
            "or a path to images, and nothing is there under that path"
        )
    return path


def _names_of(kind: str) -> str:
    return ", ".join(sorted(name for name, known in KNOWN.items() if known.kind == kind))


def _other_way(name: str) -> str:
    """Return the end of a sentence that says how a known data set is used instead."""
    match KNOWN[name].kind:
        case "images":
            return f". To read {name}, use load_images"
        case "corrupted":
            return f". To read {name}, use load_corrupted with a corruption and a severity"
        case _:
            return ". The corruption frost uses these photographs by itself once they are here"


def _image_set(name: str, arrays: Arrays) -> ImageSet:
    labels = None if arrays.labels is None else torch.from_numpy(arrays.labels)
    return ImageSet(
        images=torch.from_numpy(np.ascontiguousarray(arrays.images)),
        labels=labels,
        class_names=arrays.class_names,
        name=name,
        items=arrays.items,
    )
