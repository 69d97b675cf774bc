"""Images in: every layout round-trips exactly, and everything that is not as promised is one error naming the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from crosstask.data.download import KNOWN
from crosstask.data.images import ImageSet, check_same_kind, is_divided, load_images
from crosstask.data.sources import decoding
from crosstask.data.sources import idx as idx_files
from crosstask.data.sources.parquet import read_parquet
from crosstask.errors import DataError, DownloadError


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


def put_images(folder: Path, names: list[str], shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    """Write one PNG for each name and return the pixels, [N, C, H, W]."""
    written = []
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        array = pixels(*shape, seed=seed)
        (folder / name).write_bytes(encoded(array))
        written.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    return np.stack(written)


def small_set(**changes: Any) -> ImageSet:
    fields: dict[str, Any] = {
        "images": torch.arange(3 * 4, dtype=torch.uint8).reshape(3, 1, 2, 2),
        "labels": torch.tensor([1, 0, 1]),
        "class_names": ("cat", "dog"),
        "name": "small",
        "items": ("a.png", "b.png", "c.png"),
    }
    return ImageSet(**{**fields, **changes})


# --- ImageSet --------------------------------------------------------------------------------------------------


def test_subset_and_unlabelled() -> None:
    images = small_set()
    chosen = images.subset([2, 0])
    assert len(chosen) == 2
    assert torch.equal(chosen.images, images.images[[2, 0]])
    assert chosen.labels is not None and chosen.labels.tolist() == [1, 1]
    assert chosen.items == ("c.png", "a.png")
    assert images.subset(torch.tensor([1])).items == ("b.png",)
    assert images.subset(range(1, 3)).items == ("b.png", "c.png")
    assert images.unlabelled().labels is None
    assert images.unlabelled().class_names == ("cat", "dog")
    assert small_set(items=None, labels=None).subset([1]).items is None
    assert repr(images) == "ImageSet(small: 3 x 1 x 2 x 2, 2 classes)"
    assert repr(images.unlabelled()) == "ImageSet(small: 3 x 1 x 2 x 2, unlabelled)"


def test_fingerprint_is_of_shape_pixels_and_labels() -> None:
    images = small_set()
    assert images.fingerprint == small_set(name="other", items=None).fingerprint
    by_hand = b"(3, 1, 2, 2)" + bytes(range(12)) + b"labels" + struct.pack("<3q", 1, 0, 1)
    assert images.fingerprint == hashlib.sha256(by_hand).hexdigest()
    different = [
        small_set(images=images.images.reshape(3, 1, 1, 4)),
        small_set(images=images.images + 1),
        small_set(labels=torch.tensor([1, 1, 1])),
        images.unlabelled(),
        images.subset([0, 2, 1]),
    ]
    assert len({images.fingerprint, *(other.fingerprint for other in different)}) == 6
    strided = small_set(images=images.images.transpose(2, 3).contiguous().transpose(2, 3))
    assert strided.fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(3, 1, 2, 2)}, r"expected images as a uint8 tensor .* got torch.float32"),
        ({"images": np.zeros((3, 1, 2, 2), np.uint8)}, "got ndarray"),
        ({"images": torch.zeros(3, 2, 2, dtype=torch.uint8)}, r"shape \[N, C, H, W\].* got \[3, 2, 2\]"),
        ({"images": torch.zeros(3, 4, 2, 2, dtype=torch.uint8)}, r"C = 1 or 3, got \[3, 4, 2, 2\]"),
        ({"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, "none of them 0"),
        ({"labels": torch.tensor([0, 1])}, r"int64 tensor of shape \[3\], got torch.int64 \[2\]"),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "got torch.float32"),
        ({"labels": [0, 1, 1]}, "got list"),
        ({"labels": torch.tensor([0, 1, 2])}, r"labels from 0 to 1 \(2 class names\), got 0 to 2"),
        ({"labels": torch.tensor([0, 1, -1])}, "got -1 to 1"),
        ({"class_names": ()}, "0 class names"),
        ({"items": ("a.png",)}, "one item for each image, got 1 for 3"),
    ],
)
def test_image_set_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_set(**changes)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "list of row numbers"),
        ([True, False, True], "torch.bool"),
        ([0.5], "torch.float32"),
        ([3], "0 to 2, got 3 to 3"),
        ([-1], "got -1"),
    ],
)
def test_subset_refuses(indices: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_set().subset(indices)


# --- folders of images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5)])
def test_class_folders(tmp_path: Path, shape: tuple[int, ...]) -> None:
    names = ["Zebra/1.png", "cat/10.png", "cat/2.PNG", "dog/deep/1.png"]
    written = put_images(tmp_path / "animals", names, shape)
    (tmp_path / "animals" / ".hidden").mkdir()
    (tmp_path / "animals" / ".hidden" / "x.png").write_bytes(b"")
    (tmp_path / "animals" / "cat" / "boxes.txt").write_text("passed over")
    images = load_images(tmp_path / "animals")
    assert images.name == "animals"
    assert images.class_names == ("Zebra", "cat", "dog")
    assert images.items == tuple(names)
    assert images.labels is not None and images.labels.tolist() == [0, 1, 1, 2]
    assert np.array_equal(images.images.numpy(), written)


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    written = put_images(tmp_path, ["b.png", "a.png"])
    images = load_images(str(tmp_path))
    assert images.labels is None and images.class_names == ()
    assert images.items == ("a.png", "b.png")
    assert np.array_equal(images.images.numpy(), written[::-1])


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    names = [f"{number:04}.png" for number in range(2 * decoding.BLOCK + 5)]
    written = put_images(tmp_path, names, (2, 3))
    assert np.array_equal(load_images(tmp_path).images.numpy(), written)


def test_one_image(tmp_path: Path) -> None:
    written = put_images(tmp_path, ["me.png"])
    images = load_images(tmp_path / "me.png")
    assert images.items == ("me.png",) and images.name == "me"
    assert np.array_equal(images.images.numpy(), written)


@pytest.mark.parametrize(("form", "suffix"), [("PNG", "png"), ("BMP", "bmp"), ("WEBP", "webp")])
def test_lossless_forms_are_exact(tmp_path: Path, form: str, suffix: str) -> None:
    array = pixels(6, 7, 3)
    (tmp_path / f"a.{suffix}").write_bytes(encoded(array, form))
    assert np.array_equal(load_images(tmp_path).images[0].numpy(), array.transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new(mode, (8, 8), 255 if mode == "L" else None).save(tmp_path / "a.jpeg")
    assert load_images(tmp_path).images.shape == (1, channels, 8, 8)


def test_splits_share_the_classes_of_train(tmp_path: Path) -> None:
    put_images(tmp_path, ["train/cat/1.png", "train/dog/1.png", "train/owl/1.png", "test/owl/1.png", "test/cat/1.png"])
    train, test = load_images(tmp_path, split="train"), load_images(tmp_path, split="test")
    assert train.class_names == test.class_names == ("cat", "dog", "owl")
    assert test.labels is not None and test.labels.tolist() == [0, 2]
    assert test.items == ("cat/1.png", "owl/1.png")
    (tmp_path / "test").rename(tmp_path / "val")
    for split in ("test", "val"):
        assert load_images(tmp_path, split=split).fingerprint == test.fingerprint


@pytest.mark.parametrize(
    ("files", "divided"),
    [
        (["train/cat/1.png", "test/cat/1.png"], True),
        (["train/1.png", "val/1.png", "extra/1.png"], True),
        (["train/cat/1.png"], True),
        (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], True),
        (["train.parquet", "test.parquet"], True),
        (["train-images-idx3-ubyte.gz"], True),
        (["cat/1.png", "dog/1.png"], False),
        (["train/1.png", "bus/1.png", "car/1.png"], False),  # a class called train
        (["1.png"], False),
        (["part-0.parquet"], False),
        ([".hidden/1.png", "1.png"], False),
    ],
    ids=str,
)
def test_what_is_divided_into_splits_is_told_from_one_set(tmp_path: Path, files: list[str], divided: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert is_divided(tmp_path) is divided
    assert not is_divided(tmp_path / files[0]) and is_divided("fashion-mnist")


def test_images_of_another_kind_than_a_models_are_refused() -> None:
    images = ImageSet(
        images=torch.zeros(2, 1, 8, 9, dtype=torch.uint8), labels=torch.tensor([0, 1]), class_names=("a", "b"), name="x"
    )
    for names in ((), ("a", "b"), ("a", "b", "c")):
        check_same_kind(images, (1, 8, 9), names)
    for shape, names, message in (
        ((3, 8, 9), (), "trained on colour .* x has gray"),
        ((1, 9, 9), (), "of 9x9 pixels and x has 8x9; resize them to 9x9"),
        ((1, 8, 9), ("b", "a"), r"expected 2 \(b, a\), got 2 \(a, b\)"),
        ((1, 8, 9), ("a",), r"expected 1 \(a\), got 2"),
        ((1, 8, 9), tuple("bcdefghi"), r"expected 8 \(b, c, d, e, f, g, \.\.\.\)"),
    ):
        with pytest.raises(DataError, match=message):
            check_same_kind(images, shape, names)


def test_void_labels_can_be_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "void.npz", images=np.zeros((3, 16, 16), np.uint8), labels=np.full(3, -1))
    with pytest.raises(DataError, match="labels from 0"):
        load_images(tmp_path / "void.npz")
    assert load_images(tmp_path / "void.npz", labels=False).labels is None


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
    for name in ("train/cat/a.png", "test/cat/a.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"the class folder .*train/dog holds no images"):
        load_images(tmp_path, split="train")
    assert load_images(tmp_path, split="test").class_names == ("cat", "dog")


def test_flat_split(tmp_path: Path) -> None:
    put_images(tmp_path, ["train/cat/1.png", "test/1.png"])
    images = load_images(tmp_path, split="test")
    assert images.labels is None and images.class_names == ()


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_modes(tmp_path: Path) -> None:
    colour = pixels(4, 4, 3)
    with_alpha = np.concatenate([colour, pixels(4, 4, 1)], axis=2)
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    palette.putpalette([value for index in range(16) for value in (index, 2 * index, 3 * index)])
    cases = {
        "rgba": (saved(Image.fromarray(with_alpha)), colour),
        "palette": (saved(palette), np.arange(16).reshape(4, 4, 1) * [1, 2, 3]),
        "transparent palette": (saved(palette, transparency=bytes(16)), np.arange(16).reshape(4, 4, 1) * [1, 2, 3]),
        "gray and alpha": (saved(Image.fromarray(with_alpha[..., :2])), colour[..., :1]),
        "one bit": (saved(Image.fromarray(colour[..., 0] > 99)), np.where(colour[..., :1] > 99, 255, 0)),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(data)
        assert np.array_equal(load_images(tmp_path / name).images[0].permute(1, 2, 0).numpy(), expected), name


@pytest.mark.parametrize("gray_first", [True, False])
def test_gray_beside_colour_becomes_colour(tmp_path: Path, gray_first: bool) -> None:
    gray, colour = ("a.png", "b.png") if gray_first else ("b.png", "a.png")
    gray_pixels = put_images(tmp_path, [gray], (4, 5))
    colour_pixels = put_images(tmp_path, [colour])
    images = load_images(tmp_path).images.numpy()
    assert np.array_equal(images[0 if gray_first else 1], np.repeat(gray_pixels[0], 3, axis=0))
    assert np.array_equal(images[1 if gray_first else 0], colour_pixels[0])


GOOD = encoded(pixels(4, 5))


def sixteen_bit() -> bytes:
    return saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4)))


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({}, None, "holds no images"),
        ({"cat/notes.txt": b"x"}, None, "holds no images"),
        ({"a.png": encoded(pixels(4, 5)), "b.png": encoded(pixels(6, 4))}, None, r"a\.png is 5 x 4.*b\.png is 4 x 6"),
        ({"a.png": encoded(pixels(64, 64))[:2000]}, None, r"cannot read the image .*a\.png: .*damaged"),
        ({"a.jpg": encoded(pixels(64, 64), "JPEG")[:900]}, None, r"cannot read the image .*a\.jpg: .*damaged"),
        ({"a.png": b"not an image"}, None, r"a\.png: it is none of PNG, JPEG, BMP, WEBP"),
        ({"a.png": b""}, None, r"a\.png: it is none of"),
        ({"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, None, r"a\.png: it is none of"),
        ({"a.png": sixteen_bit()}, None, r"a\.png has more than 8 bits"),
        ({"a.png": encoded(pixels(4, 4)), "b.gif": b""}, None, r"b\.gif: unknown file type '\.gif'"),
        ({"cat/a": b""}, None, "unknown file type ''"),
        ({"a.png": b"", "cat/b.png": b""}, None, r"holds images \(a\.png\) beside folders \(cat\)"),
        ({"train/cat/a.png": b"", "test/cat/a.png": b""}, None, "divided into test, train: say which split"),
        (
            {"train/a.png": GOOD, "val/a.png": GOOD, "extra/a.png": GOOD},
            None,
            "divided into train, val: say which split",
        ),
        ({"cat/a.png": b""}, "test", r"no subfolder test/ or val/ or .* for the split 'test'"),
        ({"train/cat/a.png": b"", "test/dog/a.png": b""}, "test", r"class folder 'dog' of the split 'test' is not in"),
        ({"cat/a.png": b""}, "tset", "unknown split 'tset'"),
    ],
)
def test_folder_refuses(tmp_path: Path, files: dict[str, bytes], split: str | None, message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path, split=split)


@pytest.mark.parametrize("layout", ["cat", "train/cat"])
def test_a_class_whose_name_is_not_utf8_is_refused_and_a_file_is_not(tmp_path: Path, layout: str) -> None:
    odd, split = os.fsdecode(b"\xff"), "test" if "/" in layout else None
    put_images(tmp_path, [f"{layout}/{odd}.png", "test/cat/a.png"] if split else [f"{layout}/{odd}.png"])
    assert load_images(tmp_path, split=split).class_names == ("cat",)
    put_images(tmp_path / layout / ".." / odd, ["a.png"])
    with pytest.raises(DataError, match=r"the name of the class folder '\\udcff' in .* is not UTF-8. Rename it"):
        load_images(tmp_path, split=split)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["rgb", "gray and alpha", "rgba"])
@pytest.mark.parametrize("bits", [8, 16])
def test_pngs_of_sixteen_bits_are_refused_in_colour_too(tmp_path: Path, bits: int, colour: int, channels: int) -> None:
    rows = zlib.compress((b"\0" + bytes(2 * channels * bits // 8)) * 2)
    header = struct.pack(">2I5B", 2, 2, bits, colour, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    if bits == 8:
        assert load_images(tmp_path).images.sum() == 0
    else:
        with pytest.raises(DataError, match=r"a\.png has more than 8 bits a channel"):
            load_images(tmp_path)


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    array, exif = pixels(4, 5, 3), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(array), exif=exif))
    assert np.array_equal(load_images(tmp_path).images[0].permute(1, 2, 0).numpy(), np.rot90(array, -1))
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(array), exif=b"Exif\0\0damaged"))
    assert np.array_equal(load_images(tmp_path).images[0].permute(1, 2, 0).numpy(), array)


def test_link_to_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    put_images(tmp_path, ["a.png"])
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot read the image .*b\.png: .*No such file"):
        load_images(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match=r"closed.*permissions"):
        load_images(tmp_path / "closed")


# --- names and paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fashon-mnist", r"unknown data set 'fashon-mnist'; did you mean 'fashion-mnist'\?.*or a path"),
        ("CIFAR10", r"did you mean 'cifar10'\?"),
        ("qqqqqq", r"'qqqqqq'\. Expected a known name \(cifar10, .*fashion-mnist.*\) or a path"),
        ("no/such/folder", "no/such/folder does not exist"),
        (Path("nothing"), "nothing does not exist"),
        ("fashion-mnist", "expected the split 'train' or 'test', got None"),
    ],
)
def test_unknown_or_missing(spec: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_images(spec)


def test_unknown_file_type_and_split_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataError, match=r"a\.csv: unknown file type '\.csv': expected \.parquet, \.npz, \.npy"):
        load_images(tmp_path / "a.csv")
    with pytest.raises(DataError, match="one file and has no split 'test'"):
        load_images(tmp_path / "a.csv", split="test")


def test_relative_path_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_images(tmp_path / "birds", ["a.png"])
    monkeypatch.chdir(tmp_path / "birds")
    assert load_images(".").name == "birds"


# --- parquet -----------------------------------------------------------------------------------------------------


def put_parquet(
    path: Path,
    images: list[Any],
    labels: list[Any] | None = None,
    *,
    column: str = "img",
    label_column: str = "label",
    class_names: list[str] | None = None,
    names: list[str | None] | None = None,
    metadata: bytes | None = None,
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = names if names is not None else [f"{row}.png" for row in range(len(images))]
    cells = [{"bytes": data, "path": name} for data, name in zip(images, names, strict=True)]
    columns = {column: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns[label_column] = pa.array(labels)
    features = {label_column: {"names": class_names, "_type": "ClassLabel"}} if class_names else {}
    hub = metadata or json.dumps({"info": {"features": features}}).encode()
    parquet.write_table(pa.table(columns).replace_schema_metadata({"huggingface": hub}), path)


@pytest.mark.parametrize(
    ("column", "label_column", "form", "shape"),
    [
        ("img", "label", "PNG", (4, 5, 3)),
        ("image", "label", "WEBP", (4, 5, 3)),
        ("img", "fine_label", "PNG", (4, 5)),
    ],
)
def test_parquet_with_labels(tmp_path: Path, column: str, label_column: str, form: str, shape: tuple[int, ...]) -> None:
    arrays = [pixels(*shape, seed=seed) for seed in range(5)]
    options: dict[str, Any] = {"column": column, "label_column": label_column, "class_names": ["cat", "dog", "owl"]}
    put_parquet(tmp_path / "test-00000-of-00001.parquet", [encoded(arrays[0], form)], [2], **options)
    for shard, rows in enumerate(([1, 2], [3, 4])):
        path = tmp_path / f"train-{shard:05}-of-00002.parquet"
        data = [encoded(arrays[row], form) for row in rows]
        put_parquet(path, data, rows_to_labels(rows), names=[f"{row}.png" for row in rows], **options)
    train = load_images(tmp_path, split="train")
    assert train.labels is not None and train.labels.tolist() == [1, 2, 0, 1]
    assert train.class_names == ("cat", "dog", "owl")
    assert train.items == ("1.png", "2.png", "3.png", "4.png")
    expected = np.stack(arrays[1:]).reshape(4, 4, 5, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(train.images.numpy(), expected)
    alone = load_images(tmp_path / "test-00000-of-00001.parquet")
    assert alone.fingerprint == load_images(tmp_path, split="test").fingerprint
    with pytest.raises(DataError, match="divided into test, train: say which split"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"holds no val-\*\.parquet"):
        load_images(tmp_path, split="val")


def rows_to_labels(rows: list[int]) -> list[int]:
    return [row % 3 for row in rows]


def test_files_called_by_a_split_alone_are_never_read_as_one_set(tmp_path: Path) -> None:
    for split, label in (("train", 0), ("test", 1)):
        put_parquet(tmp_path / f"{split}.parquet", [GOOD], [label], class_names=["cat", "dog"])
        (tmp_path / f"._{split}.parquet").write_bytes(b"left by macOS")
    for split, label in (("train", 0), ("test", 1)):
        labels = load_images(tmp_path, split=split).labels
        assert labels is not None and labels.tolist() == [label]
    with pytest.raises(DataError, match="divided into test, train: say which split"):
        load_images(tmp_path)


def test_parquet_without_labels(tmp_path: Path) -> None:
    put_parquet(tmp_path / "mine.parquet", [encoded(pixels(4, 5))] * 2, names=["same.png", "same.png"])
    images = load_images(tmp_path)
    assert images.labels is None and images.class_names == () and images.items is None
    assert images.images.shape == (2, 1, 4, 5)


def test_parquet_labels_without_names_are_numbered(tmp_path: Path) -> None:
    put_parquet(tmp_path / "mine.parquet", [encoded(pixels(4, 5))] * 2, [0, 2], names=[None, None])
    images = load_images(tmp_path)
    assert images.class_names == ("0", "1", "2") and images.items is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "its table has no rows"),
        ({"images": [GOOD, None]}, "row 1 has no image bytes"),
        ({"images": [GOOD, GOOD[:40]]}, r"cannot read the image .*mine\.parquet, row 1"),
        ({"images": [GOOD, encoded(pixels(5, 5))]}, r"row 0 is 5 x 4.*row 1 is 5 x 5"),
        ({"images": [GOOD], "column": "picture"}, r"expected a column 'img' or 'image' .* got the columns picture"),
        ({"images": [GOOD] * 2, "labels": [1, None]}, "row 1 has the label None"),
        ({"images": [GOOD], "labels": ["cat"]}, "row 0 has the label 'cat'"),
        ({"images": [GOOD], "labels": [-1]}, "got -1"),
        ({"images": [GOOD], "labels": [1 << 40]}, "expected class numbers below"),
        ({"images": [GOOD], "labels": [3], "class_names": ["cat", "dog"]}, r"0 to 1 \(2 class names\), got 3"),
        ({"images": [GOOD], "metadata": b"{"}, "is not the hub's JSON"),
        ({"images": [GOOD], "metadata": b"[]"}, "is not the hub's JSON"),
    ],
)
def test_parquet_refuses(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    put_parquet(tmp_path / "mine.parquet", **arguments)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "mine.parquet")


def test_parquet_damaged_or_incomplete(tmp_path: Path) -> None:
    put_parquet(tmp_path / "train-00000-of-00003.parquet", [GOOD], [0], class_names=["cat"])
    put_parquet(tmp_path / "train-00002-of-00003.parquet", [GOOD], [0], class_names=["dog"])
    with pytest.raises(DataError, match="one of 3 shards, 2 found"):
        load_images(tmp_path, split="train")
    whole = tmp_path / "train-00000-of-00003.parquet"
    with pytest.raises(DataError, match="the shards differ"):
        read_parquet([whole, tmp_path / "train-00002-of-00003.parquet"])
    data = whole.read_bytes()
    for damaged in (data[:-20], b"", data[:4] + bytes(len(GOOD) + 60) + data[len(GOOD) + 64 :]):
        (tmp_path / "damaged.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot read .*damaged\.parquet.*fetch it again"):
            load_images(tmp_path / "damaged.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'crosstask\[parquet\]'"):
        load_images(tmp_path)


def test_cifar10_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSTASK_DATA", raising=False)
    with pytest.raises(DownloadError, match=r"train-\*\.parquet"):
        load_images("cifar10", split="test")
    for split, labels in (("train", [0, 1, 1]), ("test", [1])):
        path = tmp_path / "mine" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        put_parquet(path, [encoded(pixels(32, 32, 3))] * len(labels), labels, class_names=list("abcdefghij"))
    images = load_images("cifar10", split="train", data_dir=tmp_path / "mine")
    assert images.name == "cifar10" and len(images) == 3 and images.class_names == tuple("abcdefghij")
    with pytest.raises(
        DataError,
        match=r"mine does not hold cifar100: expected objects, 100 classes, .* got 10 classes and .* 3 x 32 x 32",
    ):
        load_images("cifar100", split="train", data_dir=tmp_path / "mine")
    put_parquet(path, [encoded(pixels(32, 32))], [9], class_names=list("abcdefghij"))
    with pytest.raises(DataError, match=r"mine does not hold cifar10: expected .* images of 1 x 32 x 32"):
        load_images("cifar10", split="test", data_dir=tmp_path / "mine")


# --- numpy and idx -------------------------------------------------------------------------------------------------


def test_npy(tmp_path: Path) -> None:
    for shape in ((2, 4, 5), (2, 4, 5, 1), (2, 4, 5, 3)):
        array = pixels(*shape)
        np.save(tmp_path / "noise.npy", array)
        images = load_images(tmp_path / "noise.npy")
        assert images.name == "noise" and images.labels is None and images.items is None
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), array.reshape(2, 4, 5, -1))


def test_npz(tmp_path: Path) -> None:
    array, path = pixels(3, 4, 5, 3), tmp_path / "a.npz"
    np.savez(path, images=array, other=array[:1], labels=np.array([0, 2, 1], np.uint8))
    images = load_images(path)
    assert images.labels is not None and images.labels.tolist() == [0, 2, 1]
    assert images.class_names == ("0", "1", "2")
    np.savez_compressed(path, anything=array, labels=np.array([0, 1, 1]), class_names=np.array(["cat", "dog", "owl"]))
    images = load_images(path)
    assert images.class_names == ("cat", "dog", "owl")
    assert np.array_equal(images.images.numpy(), array.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels(2, 4, 5).astype(float)}, r"expected uint8 .* got float64 of shape \[2, 4, 5\]"),
        ({"images": pixels(2, 4, 5, 4)}, "with 1 or 3 channels"),
        ({"images": pixels(2, 3, 4, 5)}, "Move the channels to the end"),
        ({"images": pixels(4, 5)}, r"got uint8 of shape \[4, 5\]"),
        ({"images": pixels(0, 4, 5)}, "none of them 0"),
        ({"images": np.array([None, {}])}, "allow_pickle"),
        ({"a": pixels(2, 4, 5), "b": pixels(2, 4, 5)}, "expected an array 'images', got a, b"),
        ({"labels": np.zeros(2, int)}, "expected an array 'images', got labels"),
        ({"images": pixels(2, 4, 5), "labels": np.zeros(3, int)}, r"'labels' as 2 integers, got int64 of shape \[3\]"),
        ({"images": pixels(2, 4, 5), "labels": np.zeros(2)}, "got float64"),
        ({"images": pixels(2, 4, 5), "labels": np.array([0, -1])}, "got -1 to 0"),
    ],
)
def test_npz_refuses(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_numpy_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    np.save(path, pixels(2, 4, 5)) if suffix == ".npy" else np.savez_compressed(path, images=pixels(9, 64, 64))
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"something else", data[:100] + bytes(50) + data[150:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"cannot read .*a\{suffix}"):
            load_images(path)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put_idx(folder: Path, *, packed: bool = True) -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3-ubyte": pixels(6, 4, 5),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 9, 1, 0], np.uint8),
        "t10k-images-idx3-ubyte": pixels(3, 4, 5, seed=1),
        "t10k-labels-idx1-ubyte": np.array([2, 1, 0], np.uint8),
    }
    for name, array in arrays.items():
        (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
    return arrays


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_idx_folder(tmp_path: Path, packed: bool, split: str, prefix: str) -> None:
    arrays = put_idx(tmp_path, packed=packed)
    images = load_images(tmp_path, split=split)
    labels = arrays[f"{prefix}-labels-idx1-ubyte"]
    assert np.array_equal(images.images[:, 0].numpy(), arrays[f"{prefix}-images-idx3-ubyte"])
    assert images.labels is not None and np.array_equal(images.labels.numpy(), labels)
    assert images.class_names == tuple(str(number) for number in range(labels.max() + 1))


def test_fashion_mnist_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path))
    arrays = put_idx(tmp_path)
    hashes = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    files = tuple(
        replace(file, checksum=replace(file.checksum, value=hashes[file.unpacked_name]))
        for file in KNOWN["fashion-mnist"].files
    )
    monkeypatch.setitem(KNOWN, "fashion-mnist", replace(KNOWN["fashion-mnist"], files=files))
    monkeypatch.setattr(idx_files, "_FILES", {file.unpacked_name: file for file in files})
    said: list[str] = []
    images = load_images("fashion-mnist", split="test", data_dir=tmp_path / "elsewhere", report=said.append)
    assert said == [f"no fashion-mnist in {tmp_path / 'elsewhere'}; looking further"]
    assert images.name == "fashion-mnist" and len(images) == 3
    assert images.class_names[9] == "Ankle boot" and len(images.class_names) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte", idx(pixels(3, 4, 5))[:-1], r"is truncated: expected 3 x 4 x 5 bytes, got 59"),
        (
            "t10k-images-idx3-ubyte",
            idx(pixels(3, 4)),
            "not an idx file of 3-dimensional bytes: it begins with 00000802",
        ),
        ("t10k-images-idx3-ubyte", b"", "not an idx file"),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03\0\0", "not an idx file"),
        ("t10k-labels-idx1-ubyte", gzip.compress(bytes(99), mtime=0)[:-9], "truncated or damaged"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(4, np.uint8)), "3 images but 4 labels"),
        ("t10k-labels-idx1-ubyte", None, "holds no t10k-labels-idx1-ubyte and no"),
    ],
)
def test_idx_refuses(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    put_idx(tmp_path, packed=False)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path, split="test")
    assert len(load_images(tmp_path, split="train")) == 6


def test_idx_needs_a_split(tmp_path: Path) -> None:
    put_idx(tmp_path)
    with pytest.raises(DataError, match="divided into train, test: say which split"):
        load_images(tmp_path)
