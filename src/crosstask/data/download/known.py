"""The one table of data sets known by name, and the questions asked about it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from crosstask.data.download import fashion_mnist, frost_photographs
from crosstask.data.download.checksums import Checksum
from crosstask.data.download.dataset import Form, KnownData, OfficialFile
from crosstask.data.download.places import named_folders

_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_1 = "https://raw.githubusercontent.com/modestyachts/CIFAR-10.1/master/datasets/"
_CIFAR10_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_SHARDS = ("train-*.parquet", "test-*.parquet")
_TINY_C = "*/[1-5]/n[0-9]*"


def _archive(name: str, url: str, md5: str) -> tuple[OfficialFile]:
    return (OfficialFile(name, url, Checksum("MD5", md5)),)


def _two_arrays(version: str, data: str, labels: str) -> tuple[OfficialFile, ...]:
    """Return the files of a version of CIFAR-10.1, checked by the names git gives them in its repository."""
    names = {f"cifar10.1_{version}_data.npy": data, f"cifar10.1_{version}_labels.npy": labels}
    return tuple(OfficialFile(name, _CIFAR10_1 + name, Checksum("git blob", blob)) for name, blob in names.items())


def _pickles(folder: str, *files: str) -> tuple[Form, ...]:
    return Form(files, folder), Form(files)


_SETS = (
    KnownData(
        name="fashion-mnist",
        what="clothes, 10 classes, 60,000 + 10,000 gray images of 28 x 28",
        size_bytes=30_900_000,
        files=fashion_mnist.FILES,
        route=fashion_mnist.from_debian,
    ),
    KnownData(
        name="cifar10",
        what="objects, 10 classes, 50,000 + 10,000 colour images of 32 x 32",
        size_bytes=170_498_071,
        files=_archive(
            "cifar-10-python.tar.gz", f"{_TORONTO}cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
        ),
        entry="cifar-10-python.tar.gz",
        forms=(
            *_pickles("cifar-10-batches-py", *_CIFAR10_BATCHES, "batches.meta"),
            Form(_SHARDS),
            Form(_SHARDS, "plain_text"),
        ),
        classes=10,
        shape=(3, 32, 32),
    ),
    KnownData(
        name="cifar100",
        what="objects, 100 classes, 50,000 + 10,000 colour images of 32 x 32",
        size_bytes=169_001_437,
        files=_archive(
            "cifar-100-python.tar.gz", f"{_TORONTO}cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
        ),
        entry="cifar-100-python.tar.gz",
        forms=(*_pickles("cifar-100-python", "train", "test", "meta"), Form(_SHARDS), Form(_SHARDS, "cifar100")),
        classes=100,
        shape=(3, 32, 32),
    ),
    KnownData(
        name="tiny-imagenet",
        what="200 ImageNet classes, 100,000 + 10,000 colour images of 64 x 64; test: its validation images",
        size_bytes=248_100_043,
        files=_archive(
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
        entry="tiny-imagenet-200.zip",
        forms=(
            Form(("wnids.txt", "val/val_annotations.txt"), "tiny-imagenet-200"),
            Form(("wnids.txt", "val/val_annotations.txt")),
        ),
        shape=(3, 64, 64),
    ),
    KnownData(
        name="cifar10.1",
        what="a new test set for CIFAR-10 (version 6), 2,000 images, 200 a class",
        size_bytes=6_152_256,
        entry="cifar10.1_v6_data.npy",
        files=_two_arrays("v6", "24349cc5f3fb59648d75cd8015b5a184b1f5c250", "e713b09cecf2ecd933970001909fcdec7c907ab0"),
        splits=("test",),
    ),
    KnownData(
        name="cifar10.1-v4",
        what="a new test set for CIFAR-10 (version 4), 2,021 images, about 200 a class",
        size_bytes=6_216_852,
        entry="cifar10.1_v4_data.npy",
        files=_two_arrays("v4", "1094f59a54cf768f7b1ca5029eb4a94b8c635ebe", "64acdcc7ba98d0554f9c9fe00c5483d9247e61df"),
        splits=("test",),
    ),
    KnownData(
        name="cifar10-c",
        what="CIFAR-10's test images under 19 corruptions at 5 severities",
        size_bytes=2_918_471_680,
        files=_archive(
            "CIFAR-10-C.tar",
            "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar?download=1",
            "56bf5dcef84df0e2308c6dcbcbbd8499",
        ),
        entry="CIFAR-10-C.tar",
        forms=(Form(("labels.npy",), "CIFAR-10-C"),),
        splits=("test",),
        kind="corrupted",
    ),
    KnownData(
        name="cifar100-c",
        what="CIFAR-100's test images under 19 corruptions at 5 severities",
        size_bytes=2_918_473_216,
        files=_archive(
            "CIFAR-100-C.tar",
            "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar?download=1",
            "11f0ed0f1191edbf9fa23466ae6021d3",
        ),
        entry="CIFAR-100-C.tar",
        forms=(Form(("labels.npy",), "CIFAR-100-C"),),
        splits=("test",),
        kind="corrupted",
    ),
    KnownData(
        name="tiny-imagenet-c",
        what="10,000 images of Tiny ImageNet's 200 classes under 15 corruptions at 5 severities; they are other images "
        "than tiny-imagenet's test split",
        size_bytes=1_794_775_040,
        files=_archive(
            "Tiny-ImageNet-C.tar",
            "https://zenodo.org/records/8206060/files/Tiny-ImageNet-C.tar?download=1",
            "f9c9a9dbdc11469f0b850190f7ad8be1",
        ),
        entry="Tiny-ImageNet-C.tar",
        forms=(Form((_TINY_C,), "Tiny-ImageNet-C"), Form((_TINY_C,))),
        is_read_extracted=True,
        splits=("test",),
        kind="corrupted",
    ),
    KnownData(
        name="frost",
        what="the five photographs of frost that the corruption frost draws from; not a data set to classify",
        size_bytes=2_100_000,
        files=frost_photographs.FILES,
        splits=(),
        kind="textures",
        route=frost_photographs.from_wheel,
    ),
)

KNOWN: dict[str, KnownData] = {known.name: known for known in _SETS}
"""The one table of data sets known by name."""


class DataRow(NamedTuple):
    """One row of `crosstask data list`."""

    name: str
    what: str
    size: str
    cached: bool
    how: str


def data_table() -> list[DataRow]:
    """Return one row for each data set known by name. Presence is told by file names; nothing is read or fetched."""
    return [DataRow(known.name, known.what, known.size, known.is_cached, known.how) for known in KNOWN.values()]


def frost_folder() -> Path | None:
    """Return the folder that holds the five checked photographs of frost, or None. Nothing is fetched or moved.

    Looked for in $CROSSTASK_DATA, below its subfolder `frost` and in the cache. Cheap when called often: a checksum
    that was once computed is remembered.
    """
    frost = KNOWN["frost"]
    named = [folder for folders in named_folders(None, frost.name) for folder in folders]
    return next((folder for folder in (*named, frost.folder) if frost.lies_in(folder)), None)
