"""Corrupted copies on the disk: the official layouts, resumed after a kill, whole or not there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crosstask.data import writer
from crosstask.data.corruptions import corrupt
from crosstask.data.images import ImageSet, load_corrupted
from crosstask.data.sheet import contact_sheet
from crosstask.data.writer import MANIFEST, Copies, write_copies
from crosstask.errors import DataError, StorageError, UnknownName
from crosstask.files import sha256


def some(count: int = 7, channels: int = 3, size: int = 16, labelled: bool = True) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % 3 if labelled else None,
        class_names=("cat", "dog", "eel") if labelled else (),
        name="pets",
    )


def copies(**changes: object) -> Copies:
    return Copies(**({"images": some(), "corruptions": ("fog", "contrast")} | changes))


def test_the_layout_is_that_of_cifar_10_c(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_AT_ONCE", 3)
    manifest = write_copies(copies(), tmp_path / "out")
    fog, labels = np.load(tmp_path / "out/fog.npy"), np.load(tmp_path / "out/labels.npy")
    assert (fog.dtype, fog.shape) == (np.uint8, (35, 16, 16, 3))
    assert (labels.dtype, labels.tolist()) == (np.uint8, [0, 1, 2, 0, 1, 2, 0] * 5)
    for severity in range(1, 6):
        expected = corrupt(some().images, "fog", severity, seed=0).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(fog[7 * (severity - 1) : 7 * severity], expected)
    assert set(manifest["files"]) == {"fog.npy", "contrast.npy", "labels.npy"}
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (tmp_path / "out" / name).stat().st_size, "sha256": sha256(tmp_path / "out" / name)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severities", [(1, 2, 3, 4, 5), (3,), (2, 3, 4)])
def test_the_reader_of_the_official_archives_reads_it(tmp_path, channels, severities):
    images = some(channels=channels)
    write_copies(copies(images=images, severities=severities, seed=9), tmp_path)
    for severity in severities:
        read = load_corrupted(tmp_path, "contrast", severity)
        assert torch.equal(read.images, corrupt(images.images, "contrast", severity, seed=9))
        assert torch.equal(read.labels, images.labels)
        assert read.class_names == images.class_names
    if severities == (3,):
        with pytest.raises(DataError, match=r"a severity that is stored \(3\), got 4"):
            load_corrupted(tmp_path, "contrast", 4)


@pytest.mark.parametrize("table", ["tiny-imagenet", "imagenet"])
def test_class_folders_are_those_of_tiny_imagenet_c(tmp_path, table):
    images = replace(some(size=32), items=tuple(f"x/im_{number}.png" for number in range(7)))
    manifest = write_copies(copies(images=images, table=table, severities=(4, 5)), tmp_path)
    assert sorted(path.name for path in (tmp_path / "fog/5").iterdir()) == ["cat", "dog", "eel"]
    assert sorted(path.name for path in (tmp_path / "fog/5/cat").iterdir()) == ["im_0.JPEG", "im_3.JPEG", "im_6.JPEG"]
    assert set(manifest["files"]) == {"fog/4", "fog/5", "contrast/4", "contrast/5"}
    with Image.open(tmp_path / "contrast/5/dog/im_4.JPEG") as picture:
        stored = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert (stored.double() - corrupt(images.images, "contrast", 5, seed=0, table=table)[4].double()).abs().mean() < 12
    read = load_corrupted(tmp_path, "contrast", 5)
    assert read.class_names == ("cat", "dog", "eel")
    assert torch.equal(read.images[read.labels == 1][1], stored)


def test_images_without_a_name_of_their_own_are_numbered(tmp_path):
    images = replace(some(), items=("a/1.png", "b/1.png", *("c/2.png",) * 5))
    write_copies(copies(images=images, table="imagenet", severities=(1,), corruptions=("fog",)), tmp_path)
    assert {path.name for path in (tmp_path / "fog/1").rglob("*.JPEG")} == {f"0000{number}.JPEG" for number in range(7)}


@pytest.mark.parametrize("name", ["", ".", "..", "../../home", "/etc", "a/b", "a\0b", "dog"])
def test_a_class_that_can_have_no_folder_of_its_own_is_refused(tmp_path, name):
    images = replace(some(), class_names=(name, "dog", "eel"))
    with pytest.raises(DataError, match=r"the class name .* cannot be that of a folder of its own: expected names"):
        write_copies(copies(images=images, table="imagenet"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    copies(images=images)


def test_without_labels_there_are_arrays_only(tmp_path):
    write_copies(copies(images=some(labelled=False), table="imagenet", corruptions=("fog",)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "fog.npy"]


def test_what_is_there_is_not_made_again_and_what_is_damaged_is(tmp_path):
    write_copies(copies(), tmp_path)
    told: list[str] = []
    write_copies(copies(), tmp_path, lambda done, total, note: told.append(f"{done}/{total} {note}"))
    assert told == ["70/70 found whole"]
    whole = (tmp_path / "fog.npy").read_bytes()
    (tmp_path / "fog.npy").write_bytes(whole[:-1])
    write_copies(copies(), tmp_path, lambda done, total, note: told.append(note))
    assert (tmp_path / "fog.npy").read_bytes() == whole
    assert "fog" in told
    assert "contrast" not in told


def test_a_later_run_adds_corruptions(tmp_path):
    write_copies(copies(), tmp_path)
    manifest = write_copies(copies(corruptions=("pixelate",)), tmp_path)
    assert set(manifest["files"]) == {"fog.npy", "contrast.npy", "pixelate.npy", "labels.npy"}
    assert json.loads((tmp_path / MANIFEST).read_text()) == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"other settings \(seed: 0 there, 1 now\): choose another folder"),
        ({"severities": (5,)}, r"severities: \[1, 2, 3, 4, 5\] there, \[5\] now"),
        ({"images": some(8)}, "images: 7 there, 8 now"),
    ],
    ids=["seed", "severities", "images"],
)
def test_other_settings_do_not_go_into_the_same_folder(tmp_path, changes, message):
    write_copies(copies(), tmp_path)
    with pytest.raises(DataError, match=message):
        write_copies(copies(**changes), tmp_path)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DataError, match=r"holds other files \(thesis.tex\).*choose an empty or a new folder"):
        write_copies(copies(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    made = corrupt

    def full(images, name, *args, **kwargs):
        if name == "contrast":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return made(images, name, *args, **kwargs)

    monkeypatch.setattr(writer, "corrupt", full)
    with pytest.raises(StorageError, match=r"contrast\.npy: the disk is full; free some space"):
        write_copies(copies(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "fog.npy", "labels.npy"]
    monkeypatch.undo()
    assert set(write_copies(copies(), tmp_path)["files"]) == {"fog.npy", "contrast.npy", "labels.npy"}


@pytest.mark.slow
@pytest.mark.parametrize("table", ["cifar", "imagenet"])
def test_a_killed_run_goes_on(tmp_path, table):
    images, out = some(400, size=32), tmp_path / "out"
    np.savez(tmp_path / "pets.npz", images=images.images.permute(0, 2, 3, 1).numpy(), labels=images.labels.numpy())
    arguments = ["corrupt", "--data", str(tmp_path / "pets.npz"), "--out", str(out), "--table", table]
    command = [sys.executable, "-m", "crosstask", *arguments, "--corruption", "spatter", "--corruption", "snow"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = out / ("spatter.npy" if table == "cifar" else "spatter/1")
    while not first.exists() and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    expected = tmp_path / "expected"
    write_copies(copies(images=_reloaded(tmp_path), corruptions=("spatter", "snow"), table=table), expected)
    assert _contents(out) == _contents(expected)


def _reloaded(folder: Path) -> ImageSet:
    from crosstask.data.images import load_images

    return load_images(folder / "pets.npz")


def _contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"corruptions": ("fogg",)}, UnknownName, "unknown corruption 'fogg'; did you mean 'fog'"),
        ({"table": "tiny"}, UnknownName, "unknown severity table 'tiny'"),
        ({"severities": ()}, DataError, r"expected severities from 1 to 5, each once and in order, got \[\]"),
        ({"severities": (5, 1)}, DataError, r"got \[5, 1\]"),
        ({"severities": (0, 1)}, DataError, r"got \[0, 1\]"),
    ],
)
def test_wrong_wishes_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        copies(**changes)


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crosstask", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CROSSTASK_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_command_line_writes_shows_and_explains(tmp_path):
    np.savez(tmp_path / "pets.npz", images=some().images.permute(0, 2, 3, 1).numpy(), labels=some().labels.numpy())
    np.save(tmp_path / "tiny.npy", np.zeros((2, 12, 12), np.uint8))
    (tmp_path / "dim.py").write_text("def dim(images, severity, random):\n    return images // (1 + severity)\n")
    corrupting = ("corrupt", "--data", "pets.npz", "--out", "out")
    done = run(*corrupting, "--severity", "2-3", "--corruption", "dim", "--shift", "dim=dim.py:dim", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 corruptions of 7 images in out\n"
    assert np.load(tmp_path / "out/dim.npy").shape == (14, 16, 16, 3)
    for arguments, message in (
        ((*corrupting, "--severity", "6"), "--severity takes a number from 1 to 5 or a range of them, as 1-5, got '6'"),
        ((*corrupting, "--severity", "2-3", "--corruption", "fogg"), "did you mean 'fog'"),
        ((*corrupting, "--severity", "5"), "out holds corrupted copies with other settings"),
        ((*corrupting, "--shift", "dim"), "--shift takes NAME=FILE.py:FUNCTION, got 'dim'"),
        (("corrupt", "--data", "tiny.npy", "--out", "new"), "at least 16 x 16 pixels, got 12 x 12"),
        (("data", "show", "pets.npz", "--index", "7"), "--index goes from 0 to 6, got 7"),
    ):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2, arguments
        assert message in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
    done = run("data", "show", "pets.npz", "--out", "sheet.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 19 * 96


def test_a_contact_sheet_shows_what_corrupt_makes():
    images = some(size=96).images
    sheet = np.asarray(contact_sheet(images, ["contrast"], table="imagenet", seed=0, index=2))
    expected = corrupt(images[2:3], "contrast", 5, seed=0, table="imagenet")[0].permute(1, 2, 0).numpy()
    places = np.lib.stride_tricks.sliding_window_view(sheet, (96, 96, 3))[:, :, 0]
    corner = np.argwhere((places[..., 0, 0, :] == expected[0, 0]).all(-1))
    assert any(np.array_equal(places[row, column], expected) for row, column in corner)
