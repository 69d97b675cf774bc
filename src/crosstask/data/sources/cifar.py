"""CIFAR-10 and CIFAR-100 as their authors publish them (pickled batches, in an archive or unpacked), and CIFAR-10.1."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosstask.data.sources.arrays import Arrays
from crosstask.data.sources.numpy_files import load_array, read_numpy
from crosstask.data.sources.pickles import read_pickle
from crosstask.errors import DataError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(
    (  # noqa: SIM905
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
        "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
        "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
        "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
        "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ).split()
)

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
_LARGEST_BYTES = 1 << 30
_SHAPE = (3, 32, 32)


class _Layout(NamedTuple):
    """Which files hold what."""

    folder: str
    batches: dict[str, tuple[str, ...]]
    """Split -> its files."""
    meta: str
    """The file with the class names."""
    names: str
    """Their key there."""
    labels: str
    """Their key in a batch."""

    def files(self, split: str) -> tuple[str, ...]:
        return (*self.batches[split], self.meta)


_LAYOUTS = (
    _Layout(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        "label_names",
        "labels",
    ),
    _Layout("cifar-100-python", {"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels"),
)


def is_cifar(path: Path) -> bool:
    """Tell whether a path is a `.tar.gz`, or a folder with the batches or with their folder."""
    if path.is_dir():
        return any((path / below / layout.meta).is_file() for layout in _LAYOUTS for below in ("", layout.folder))
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_cifar(path: Path, split: str | None) -> Arrays:
    """Read one split of CIFAR-10 or CIFAR-100 (fine labels) from the official archive or its unpacked folder.

    No code in a file is run, and nothing is unpacked onto the disk.

    Raises:
        DataError: a file is missing, damaged or something else than a batch of 32 x 32 colour images.
    """
    if split not in ("train", "test"):
        raise DataError(f"{path} is divided into train, test: say which split is wanted, got {split!r}")
    layout, contents = _from_folder(path, split) if path.is_dir() else _from_archive(path, split)
    names = _strings(read_pickle(contents[layout.meta], path / layout.meta), layout.names, path / layout.meta)
    batches = [_batch(contents[name], path / name, layout.labels) for name in layout.batches[split]]
    images, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    return Arrays(images, labels, names)


def _from_folder(path: Path, split: str) -> tuple[_Layout, dict[str, bytes]]:
    places = ((layout, path / below) for layout in _LAYOUTS for below in ("", layout.folder))
    layout, folder = next((layout, folder) for layout, folder in places if (folder / layout.meta).is_file())
    if missing := [name for name in layout.files(split) if not (folder / name).is_file()]:
        raise DataError(f"{folder} holds no {missing[0]}: expected {', '.join(layout.files(split))}. Unpack it again")
    return layout, {name: (folder / name).read_bytes() for name in layout.files(split)}


def _from_archive(path: Path, split: str) -> tuple[_Layout, dict[str, bytes]]:
    """Read the files of the split from a `.tar.gz`, into memory."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isfile() and any(name in layout.files(split) for layout in _LAYOUTS):
                    found[name] = _content(archive, member, path)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. The archive is truncated or damaged; fetch it again") from error
    layout = next((layout for layout in _LAYOUTS if found.keys() >= set(layout.files(split))), None)
    if layout is None:
        raise DataError(
            f"{path} is not CIFAR-10's or CIFAR-100's archive: expected "
            f"{' or '.join(', '.join(layout.files(split)) for layout in _LAYOUTS)}, got {', '.join(found) or 'none'}"
        )
    return layout, found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = archive.extractfile(member)
    if member.size > _LARGEST_BYTES or file is None:
        raise DataError(f"{path}: {member.name} is {member.size:,} bytes, more than any file of CIFAR's")
    return file.read()


def _batch(content: bytes, path: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, uint8 [N, 3, 32, 32], labels, int64 [N]) of one batch."""
    entries = read_pickle(content, path)
    data, labels = entries.get("data"), entries.get(key)
    width = int(np.prod(_SHAPE))
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != width:
        got = f"shape {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: expected 'data' as bytes of shape [N, {width}], got {got}")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        got = f"{len(labels)} values" if isinstance(labels, list) else type(labels).__name__
        raise DataError(f"{path}: expected {key!r} as {len(data)} class numbers, got {got}")
    return data.reshape(-1, *_SHAPE), np.array(labels, np.int64)


def _strings(entries: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    names = entries.get(key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path}: expected {key!r} as a list of class names, got {type(names).__name__}")
    return tuple(name.decode("utf-8", "replace") for name in names)


# --- CIFAR-10.1 ------------------------------------------------------------------------------------------------


def is_cifar10_1(path: Path) -> bool:
    """Tell whether a file is the images' array of a version of CIFAR-10.1 (`cifar10.1_v6_data.npy`)."""
    return re.fullmatch(r"cifar10\.1_v\d+_data\.npy", path.name) is not None


def cifar10_1_arrays(folder: Path) -> list[Path]:
    """Return the sorted arrays of images in a folder, one for each version of CIFAR-10.1 that lies there."""
    return sorted(path for path in folder.glob("cifar10.1_v*_data.npy") if is_cifar10_1(path))


def read_cifar10_1(path: Path) -> Arrays:
    """Read CIFAR-10.1 from its array of images, with the labels that lie beside it.

    Source: Recht et al., https://arxiv.org/abs/1806.00451.

    Raises:
        DataError: an array is missing, damaged or of another shape.
    """
    images = read_numpy(path).images
    beside = path.with_name(path.name.replace("_data", "_labels"))
    labels = load_array(beside)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{beside}: expected {len(images)} integers, got {labels.dtype} of shape {list(labels.shape)}. "
            "Fetch both again"
        )
    return Arrays(images, labels.astype(np.int64), CIFAR10_CLASSES)
