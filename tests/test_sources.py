"""Readers of official layouts: archives in place, pickles that run nothing, corrupted benchmarks one cell at a time."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crosstask.data.download import KNOWN
from crosstask.data.images import is_divided, load_corrupted, load_images
from crosstask.data.sources.pickles import read_pickle
from crosstask.errors import DataError, UnknownName

ROWS = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
LABELS = np.tile(np.arange(10, dtype=np.uint8), 5)


class Calls:
    """Pickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["system", "eval"])
def test_a_pickle_runs_nothing(tmp_path: Path, name: str, nested: bool) -> None:
    mark = tmp_path / "ran"
    call = Calls(os.system, f"touch {mark}") if name == "system" else Calls(eval, f"open({str(mark)!r}, 'w')")
    with pytest.raises(DataError, match="it asks for"):
        read_pickle(pickle.dumps({b"data": [[call]] if nested else call}, 2), tmp_path / "data_batch_1")
    assert not mark.exists()


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(DataError, match="array of something else than bytes"):
        read_pickle(pickle.dumps({"data": np.array([{}], object)}, 3), Path("data_batch_1"))


def put_cifar_c(folder: Path, **changes: np.ndarray) -> Path:
    folder.mkdir()
    for name, array in {"fog": ROWS, "labels": LABELS, **changes}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def tarred(folder: Path) -> Path:
    path = folder.with_name(f"{folder.name}.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("in_tar", [False, True])
def test_cifar_c_is_severity_major(tmp_path: Path, in_tar: bool) -> None:
    path = put_cifar_c(tmp_path / "CIFAR-10-C")
    path = tarred(path) if in_tar else path
    for severity in range(1, 6):
        images = load_corrupted(path, "fog", severity)
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), ROWS[10 * severity - 10 : 10 * severity])
        assert images.labels is not None and images.labels.tolist() == list(range(10))
        assert images.class_names[0] == "airplane"
    with pytest.raises(UnknownName, match="did you mean 'fog'"):
        load_corrupted(path, "fogg", 1)
    with pytest.raises(DataError, match=r"stored \(1, 2, 3, 4, 5\), got 6"):
        load_corrupted(path, "fog", 6)
    with pytest.raises(DataError, match="load_corrupted"):
        load_images(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:-1]}, "labels"),
        ({"labels": LABELS.repeat(5)[:50]}, "expected 5 equal blocks .* 1, 2, 3, 4, 5, got 50 labels in another order"),
        ({"fog": ROWS[:-1]}, "5 x N images"),
        ({"fog": ROWS.astype(np.float32)}, "expected uint8"),
        ({"fog": ROWS[..., 0, 0]}, "expected shape"),
    ],
    ids=["labels", "order", "rows", "float", "shape"],
)
def test_cifar_c_refuses(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corrupted(put_cifar_c(tmp_path / "c", **changes), "fog", 1)


@pytest.mark.parametrize("in_tar", [False, True])
def test_what_macos_leaves_beside_an_array_is_no_corruption(tmp_path: Path, in_tar: bool) -> None:
    folder = put_cifar_c(tmp_path / "c")
    (folder / "._fog.npy").write_bytes(b"left by macOS")
    with pytest.raises(UnknownName, match=r"Known: fog$"):
        load_corrupted(tarred(folder) if in_tar else folder, "._fog", 1)


def test_what_is_truncated_is_refused(tmp_path: Path) -> None:
    folder = put_cifar_c(tmp_path / "c")
    archive = tarred(folder)
    archive.write_bytes(archive.read_bytes()[:1500])
    (folder / "fog.npy").write_bytes((folder / "fog.npy").read_bytes()[:-1])
    for path in (folder, archive):
        with pytest.raises(DataError, match=r"truncated|damaged|labels"):
            load_corrupted(path, "fog", 1)


def test_the_manifest_is_believed(tmp_path: Path) -> None:
    folder = put_cifar_c(tmp_path / "c", fog=ROWS[:20], labels=LABELS[:20])
    said = {"format": 1, "severities": [2, 4], "class_names": list("abcdefghij"), "files": {"fog.npy": {"bytes": 1}}}
    (folder / "corrupted.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match="expected 1 bytes"):
        load_corrupted(folder, "fog", 4)
    (folder / "corrupted.json").write_text(json.dumps(said | {"files": {}}))
    images = load_corrupted(folder, "fog", 4)
    assert images.class_names[9] == "j"
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), ROWS[10:20])


@pytest.mark.parametrize(
    ("name", "message"), [("cifar10-c", "use load_corrupted"), ("frost", "photographs"), ("cifar10.1", "split 'test'")]
)
def test_known_names_are_told_apart(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(name, split="train")


# --- CIFAR's own files -------------------------------------------------------------------------------------------


def python2_pickle(entries: dict[str, Any]) -> bytes:
    """Pickle the way Python 2 did: protocol 2, text as bytes, arrays by their old module name, content as bytes."""
    out = [b"\x80\x02}"]
    for key, value in entries.items():
        out += [short(key.encode()), python2_value(value), b"s"]
    return b"".join([*out, b"."])


def short(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python2_value(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        rows, columns = (b"J" + struct.pack("<i", side) for side in value.shape)
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
        kind = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        kind += b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return made + b"(K\x01" + rows + columns + b"\x86" + kind + b"\x89" + short(value.tobytes()) + b"tb"
    items = [short(item.encode()) if isinstance(item, str) else b"J" + struct.pack("<i", item) for item in value]
    return b"](" + b"".join(items) + b"e"


def put_cifar(folder: Path, classes: int = 10, rows: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the official files and return (images [N, 3, 32, 32], labels) of each split."""
    random, splits = np.random.default_rng(1), {}
    folder.mkdir(parents=True)
    fine = classes == 100
    names = {"train": ["train"] if fine else [f"data_batch_{n}" for n in range(1, 6)]}
    names["test"] = ["test" if fine else "test_batch"]
    for split, files in names.items():
        batches = []
        for file in files:
            data = random.integers(0, 256, (rows, 3072), dtype=np.uint8)
            labels = random.integers(0, classes, rows).tolist()
            entries = {"data": data, "fine_labels" if fine else "labels": labels}
            entries |= {"coarse_labels": [0] * rows} if fine else {}
            (folder / file).write_bytes(python2_pickle(entries))
            batches.append((data.reshape(-1, 3, 32, 32), np.array(labels)))
        splits[split] = tuple(np.concatenate(each) for each in zip(*batches, strict=True))
    named = [f"class {number}" for number in range(classes)]
    meta = {"fine_label_names": named, "coarse_label_names": ["all"]} if fine else {"label_names": named}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(python2_pickle(meta))
    return splits


@pytest.mark.parametrize("form", ["folder", "above", "archive"])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifars_own_files_are_read(tmp_path: Path, classes: int, form: str) -> None:
    folder = tmp_path / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    splits = put_cifar(folder, classes)
    path = folder if form == "folder" else tmp_path
    if form == "archive":
        path = tmp_path / "cifar.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, folder.name)
    assert is_divided(path)
    for split, (images, labels) in splits.items():
        read = load_images(path, split=split)
        assert np.array_equal(read.images.numpy(), images)
        assert read.labels is not None and read.labels.tolist() == labels.tolist()
        assert read.class_names[3] == "class 3" and len(read.class_names) == classes
    with pytest.raises(DataError, match="say which split is wanted"):
        load_images(path)


def test_what_python_2_wrote_numpy_reads_too(tmp_path: Path) -> None:
    """Guard the guard: the pickles made above are what numpy itself takes for arrays."""
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = pickle.loads(python2_pickle({"data": data, "labels": [1, 2]}), encoding="bytes")
    assert np.array_equal(found[b"data"], data) and found[b"labels"] == [1, 2]


def test_damaged_cifar_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    put_cifar(folder)
    whole = (folder / "data_batch_3").read_bytes()
    for damaged, message in (
        (whole[:-40], "cannot read .*data_batch_3"),
        (
            python2_pickle({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}),
            r"shape \[N, 3072\], got shape \[2, 5\]",
        ),
        (python2_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "'labels' as 2 class numbers, got 1"),
        (python2_pickle({"labels": [0]}), "expected 'data' as bytes"),
    ):
        (folder / "data_batch_3").write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            load_images(folder, split="train")
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="holds no data_batch_3"):
        load_images(folder, split="train")
    assert len(load_images(folder, split="test")) == 4


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    put_cifar(folder)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match="truncated or damaged; fetch it again"):
        load_images(path, split="train")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "batches.meta", "notes")
    with pytest.raises(DataError, match="is not CIFAR-10's or CIFAR-100's archive"):
        load_images(path, split="train")


def test_cifar_10_1_is_a_test_set_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "cifar10.1_v6_data.npy", pixels)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(6, dtype=np.int32))
    for path in (tmp_path, tmp_path / "cifar10.1_v6_data.npy"):
        images = load_images(path, split="test")
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), pixels)
        assert images.labels is not None and images.labels.tolist() == list(range(6))
        assert images.class_names[9] == "truck"
    with pytest.raises(DataError, match="a test set alone: it has no split 'train'"):
        load_images(tmp_path, split="train")
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(5))
    with pytest.raises(DataError, match="expected 6 integers"):
        load_images(tmp_path, split="test")


# --- Tiny ImageNet -----------------------------------------------------------------------------------------------


def jpeg(path: Path, level: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (64, 64), level if mode == "L" else (level, level, 200)).save(path, "JPEG", quality=95)


def put_tiny_imagenet(folder: Path) -> Path:
    """Write two classes, two training images each, and three validation images, one of them gray."""
    for number, name in enumerate(("n02", "n01")):
        for image in range(2):
            jpeg(folder / f"train/{name}/images/{name}_{image}.JPEG", 40 * number + 20 * image)
        (folder / f"train/{name}/{name}_boxes.txt").write_text("boxes")
    for image, mode in enumerate(("RGB", "L", "RGB")):
        jpeg(folder / f"val/images/val_{image}.JPEG", 100 + 10 * image, mode)
    (folder / "val/val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n"
    )
    (folder / "wnids.txt").write_text("n02\nn01\n")
    jpeg(folder / "test/images/test_0.JPEG", 7)
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("form", ["folder", "above", "zip"])
def test_tiny_imagenet_takes_its_labels_from_folders_and_annotations(tmp_path: Path, form: str) -> None:
    folder = put_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    path = {"folder": folder, "above": tmp_path, "zip": zipped(folder)}[form]
    train, test = load_images(path, split="train"), load_images(path, split="test")
    assert train.class_names == test.class_names == ("n01", "n02")
    assert train.labels is not None and train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels is not None and test.labels.tolist() == [1, 0, 1]
    assert test.images.shape == (3, 3, 64, 64)
    assert [round(image[0].float().mean().item(), -1) for image in test.images] == [100, 110, 120]
    assert torch.equal(test.images[1, 0], test.images[1, 2]), "the gray one became colour"
    assert is_divided(path)


def test_annotations_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = put_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    jpeg(folder / "val/images/val_3.JPEG", 9)
    with pytest.raises(
        DataError, match=r"4 validation images and 3 annotations, which do not fit: val_3\.JPEG is only"
    ):
        load_images(folder, split="test")
    (folder / "val/images/val_3.JPEG").unlink()
    (folder / "wnids.txt").write_text("n01\n")
    with pytest.raises(DataError, match="names the class n02"):
        load_images(folder, split="test")
    with pytest.raises(DataError, match=r"is of the class n02, which is not in wnids\.txt"):
        load_images(folder, split="train")


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    path = zipped(put_tiny_imagenet(tmp_path / "tiny-imagenet-200"))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="truncated or damaged; fetch it again"):
        load_images(path, split="train")


# --- Tiny-ImageNet-C and its faults --------------------------------------------------------------------------------


def put_tiny_imagenet_c(folder: Path, severities: tuple[int, ...] = (1, 5)) -> Path:
    for number, corruption in enumerate(("fog", "frost", "snow")):
        for severity in severities:
            for label, name in enumerate(("n01", "n02")):
                for image in range(2):
                    level = 60 * number + 10 * severity + 5 * label + image
                    jpeg(folder / f"{corruption}/{severity}/{name}/test_{image}.JPEG", level)
    return folder


@pytest.mark.parametrize("form", ["folder", "above", "tar"])
def test_tiny_imagenet_c_is_read_cell_by_cell(tmp_path: Path, form: str) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    path = {"folder": folder, "above": tmp_path, "tar": folder}[form]
    path = tarred(folder) if form == "tar" else path
    images = load_corrupted(path, "snow", 5)
    assert images.class_names == ("n01", "n02")
    assert images.labels is not None and images.labels.tolist() == [0, 0, 1, 1]
    levels = [round(image[0].float().mean().item()) for image in images.images]
    assert np.abs(np.array(levels) - [170, 171, 175, 176]).max() <= 2
    with pytest.raises(DataError, match=r"a severity that is stored \(1, 5\), got 2"):
        load_corrupted(path, "snow", 2)


def test_a_frost_folder_of_a_thousand_classes_is_explained(tmp_path: Path) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    for number in range(3, 20):
        jpeg(folder / f"frost/5/n{number:02}/test_0.JPEG", 9)
    told = r"frost holds 19 class folders where the others hold 2 \(a known fault.*\); 17 are passed over"
    with pytest.warns(UserWarning, match=told):
        images = load_corrupted(folder, "frost", 5)
    assert len(images) == 4 and images.class_names == ("n01", "n02")
    assert len(load_corrupted(folder, "fog", 5)) == 4


@pytest.mark.parametrize("form", ["folder", "above"])
def test_corruptions_are_never_taken_for_classes(tmp_path: Path, form: str) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    with pytest.raises(DataError, match=r"holds corrupted copies, not one set of images.*load_corrupted"):
        load_images(folder if form == "folder" else tmp_path)


def test_classes_called_by_numbers_are_no_severities(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(6):
            jpeg(tmp_path / f"{split}/{number}/a.JPEG", 40 * number)
    assert load_images(tmp_path, split="test").class_names == tuple("012345")


def test_a_corruption_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    for severity in (1, 5):
        (folder / f"frost/{severity}/n02").rename(folder / f"frost/{severity}/n03")
    with pytest.raises(DataError, match=r"frost holds no class folder n02, which the others hold \(1 missing\)"):
        load_corrupted(folder, "frost", 5)
    assert len(load_corrupted(folder, "fog", 5)) == 4


def test_an_array_that_is_too_long_is_refused(tmp_path: Path) -> None:
    folder = put_cifar_c(tmp_path / "c")
    with (folder / "fog.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="is damaged: expected 2,400 bytes, got 2,401"):
        load_corrupted(folder, "fog", 1)


def test_both_versions_of_cifar_10_1_may_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    for version, count in (("v4", 3), ("v6", 2)):
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", np.zeros((count, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", np.zeros(count, np.int64))
    for name, count in (("cifar10.1", 2), ("cifar10.1-v4", 3)):
        files = tuple(
            replace(f, checksum=replace(f.checksum, value=f.checksum.of(tmp_path / f.name))) for f in KNOWN[name].files
        )
        monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], files=files))
        assert len(load_images(name, split="test", data_dir=tmp_path)) == count


def test_cells_on_other_numbers_of_images_are_told(tmp_path: Path) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    jpeg(folder / "snow/1/n02/test_9.JPEG", 9)
    with pytest.warns(UserWarning, match="snow/1 holds 3 images of n02 and fog/1 2; figures of the two are not on"):
        load_corrupted(folder, "snow", 1)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = put_tiny_imagenet_c(tmp_path / "Tiny-ImageNet-C")
    victim = folder / "snow/1/n02/test_1.JPEG"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(DataError, match=r"snow/1/n02/test_1\.JPEG"):
        load_corrupted(folder, "snow", 1)


@given(severities=st.integers(1, 5), count=st.integers(1, 6), gray=st.booleans())
def test_any_part_of_an_array_is_where_it_should_be(severities: int, count: int, gray: bool) -> None:
    shape = (severities * count, 16, 17) + (() if gray else (3,))
    pixels = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = put_cifar_c(Path(name) / "c", fog=pixels, labels=np.tile(np.arange(count), severities))
        stored = list(range(1, severities + 1))
        said = {"format": 1, "severities": stored, "class_names": list("abcdef"), "files": {}}
        (folder / "corrupted.json").write_text(json.dumps(said))
        for severity in stored:
            read = load_corrupted(folder, "fog", severity).images.permute(0, 2, 3, 1).numpy()
            part = pixels[(severity - 1) * count : severity * count]
            assert np.array_equal(read, part[..., None] if gray else part)
