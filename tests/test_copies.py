"""Stored corrupted copies in the place of corrupting: the same pixels, other numbers, and what does not fit."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.bench import records
from crosstask.bench.cells import cells, check
from crosstask.bench.grid import measure
from crosstask.data import copies as stored_copies
from crosstask.data.corruptions import corrupt
from crosstask.data.download.dataset import KnownData
from crosstask.data.images import ImageSet, load_images, with_copies
from crosstask.data.streams import StreamPlan, build_stream, draw_stream, rebuild_stream
from crosstask.data.writer import MANIFEST, Copies, write_copies
from crosstask.errors import ConfigError, DataError, UnknownName
from test_executors import Bench
from test_protocols import bench, grid, images

NAMES = ("contrast", "gaussian_noise", "fog")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of copies of `images()`, at severities 1 to 3, corrupted with the seed 7."""
    path = tmp_path_factory.mktemp("stored") / "numbers-c"
    write_copies(Copies(images=images(), corruptions=NAMES, severities=(1, 2, 3), seed=7), path)
    return path


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of copies as it is published, without `corrupted.json`: all severities, the seed 7."""
    path = tmp_path_factory.mktemp("official") / "numbers-c"
    write_copies(Copies(images=images(), corruptions=NAMES, seed=7), path)
    (path / MANIFEST).unlink()
    return path


def plan(shift: str = "constant", seed: int = 7, **changes: object) -> StreamPlan:
    usual = {"corruptions": NAMES[:1] if shift == "constant" else (*NAMES, "clean")[: 3 if shift == "gradual" else 4]}
    return StreamPlan(**(usual | {"shift": shift, "severity": 3, "count": 12, "batch_size": 5, "seed": seed} | changes))


@given(shift=st.sampled_from(["constant", "mixed", "continual", "gradual"]), clumps=st.booleans())
@settings(deadline=None, max_examples=12)
def test_a_stream_of_copies_is_that_of_images_corrupted_by_their_seed(stored: Path, shift: str, clumps: bool) -> None:
    asked = plan(shift, delta=0.1 if clumps else None)
    corrupted, shown = build_stream(images(), asked), build_stream(with_copies(images(), stored), asked)
    assert shown.digest == corrupted.digest and torch.equal(shown.labels, corrupted.labels)
    for one, other in zip(shown.batches(), corrupted.batches(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(shown.images.images, corrupted.images.images)
    assert torch.equal(shown.originals.images, corrupted.originals.images) and shown.originals.copies is None


def test_a_seed_draws_images_and_order_and_leaves_the_pixels(stored: Path) -> None:
    target = with_copies(images(), stored)
    streams = [draw_stream(target, "gaussian_noise", 2, count=20, batch_size=4, seed=seed) for seed in (0, 1)]
    assert streams[0].indices.tolist() != streams[1].indices.tolist()
    whole = corrupt(images().images, "gaussian_noise", 2, seed=7)
    for stream in streams:
        assert torch.equal(stream.images.images, whole[stream.indices])
    clean = draw_stream(target, "clean", 0, count=20, batch_size=4, seed=0)
    assert torch.equal(clean.images.images, images().images[clean.indices]) and clean.made_with == {}


def test_a_stream_of_copies_is_built_again_from_its_description_and_only_with_them(stored: Path) -> None:
    target = with_copies(images(), stored)
    said = build_stream(target, plan("gradual", severity=2)).to_dict()
    assert set(said["made_with"]) == {f"{name} {severity}" for name in NAMES for severity in (1, 2)}
    assert torch.equal(
        rebuild_stream(target, said).images.images, build_stream(target, plan("gradual", severity=2)).images.images
    )
    with pytest.raises(DataError, match=r"here it would be with \{\}"):
        rebuild_stream(images(), said)


@pytest.mark.parametrize("items", [None, "different", "alike"])
def test_copies_in_class_folders_are_found_by_their_names(tmp_path: Path, items: str | None) -> None:
    named = {
        "different": [f"val_{97 * row % 60}.png" for row in range(60)],
        "alike": [f"{row % 5}/{row // 5}.png" for row in range(60)],
    }
    target = dataclasses.replace(images(), items=tuple(named[items]) if items else None)
    write_copies(Copies(images=target, corruptions=("brightness",), severities=(2,), table="imagenet"), tmp_path)
    made = corrupt(images().images, "brightness", 2, seed=0, table="imagenet").float()
    stream = draw_stream(with_copies(target, tmp_path), "brightness", 2, count=60, batch_size=9, seed=3)
    distance = (stream.images.images.float()[:, None] - made[None]).abs().mean(dim=(2, 3, 4))
    assert torch.equal(distance.argmin(dim=1), stream.indices), "JPEG has changed them, and each is nearest to its own"
    other = dataclasses.replace(target, items=tuple(f"other_{row}.png" for row in range(60)))
    if items == "different":
        (tmp_path / MANIFEST).unlink()
        with pytest.raises(DataError, match="60 of 60 have another label or name"):
            _ = draw_stream(with_copies(other, tmp_path), "brightness", 2, count=4, batch_size=4, seed=0).images


def test_no_more_is_held_than_is_said_and_what_was_asked_for_last_stays(official: Path, monkeypatch) -> None:
    copies = with_copies(images(), official).copies
    monkeypatch.setattr(stored_copies, "_HELD", 3 * images().images.numel())
    wanted = [(name, severity) for name in NAMES for severity in (1, 2)]
    for _ in range(2):
        for name, severity in wanted:
            assert torch.equal(copies.read(name, severity), corrupt(images().images, name, severity, seed=7))
            assert torch.equal(copies.read("fog", 5), corrupt(images().images, "fog", 5, seed=7))
            assert len(copies._held) <= 3 and ("fog", 5) in copies._held


@pytest.mark.parametrize("archive", [False, True])
def test_colour_copies_in_the_published_layout_are_read(tmp_path: Path, archive: bool) -> None:
    pixels = torch.randint(0, 256, (30, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    target = ImageSet(images=pixels, labels=torch.arange(30) % 5, class_names=tuple("abcde"), name="colours")
    path = tmp_path / "colours-c"
    write_copies(Copies(images=target, corruptions=("brightness", "shot_noise")), path)
    (path / MANIFEST).unlink()
    if archive:
        with tarfile.open(tmp_path / "colours-c.tar", "w") as tar:
            tar.add(path, "colours-c")
        path = tmp_path / "colours-c.tar"
    stream = draw_stream(with_copies(target, path), "shot_noise", 4, count=20, batch_size=8, seed=1)
    assert torch.equal(stream.images.images, corrupt(pixels, "shot_noise", 4, seed=0)[stream.indices])


# What is measured


def test_figures_are_those_of_the_pixels_and_the_record_says_whose_they_are(tiny, stored: Path) -> None:
    made = grid(tiny, bench(corruptions=("clean", *NAMES), severity=3, seeds=(7,)))
    theirs = dataclasses.replace(made, images=with_copies(images(), stored))
    own, found = ([record for each in measure(it, cells(it)) for record in each.records] for it in (made, theirs))
    for a, b in zip(own, found, strict=True):
        assert (a.label, a.corruption, a.accuracy, a.right, a.nll) == (
            b.label,
            b.corruption,
            b.accuracy,
            b.right,
            b.nll,
        )
        assert a.key != b.key
        assert (
            "copies" not in a.protocol
            and b.protocol["copies"] == "numbers-c (crosstask corrupt, seed 7)"
            and not b.protocol["frost"]
        )


def test_other_pixels_in_a_file_are_another_number(tiny, official: Path, tmp_path: Path) -> None:
    changed = tmp_path / "numbers-c"
    shutil.copytree(official, changed)
    noise = np.load(changed / "gaussian_noise.npy")
    noise[-1] ^= 1
    np.save(changed / "gaussian_noise.npy", noise)
    made = grid(tiny, bench(corruptions=("contrast", "gaussian_noise")))
    keys = []
    for folder in (official, changed):
        keys.append([cell.keys for cell in cells(dataclasses.replace(made, images=with_copies(images(), folder)))])
    assert keys[0][:2] == keys[1][:2] and not {*keys[0][2:]} & {*keys[1][2:]}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"corruptions": ("contrast", "fogg"), "severity": 3}, UnknownName, "unknown corruption 'fogg'"),
        (
            {"corruptions": ("contrast", "snow"), "severity": 3},
            UnknownName,
            "unknown corruption among the copies numbers-c .*: 'snow'",
        ),
        ({"corruptions": NAMES}, DataError, "holds the severities 1, 2, 3, got 5; take one of them"),
    ],
)
def test_what_is_not_stored_is_said_before_anything_is_measured(stored, settings, error, message) -> None:
    with pytest.raises(error, match=message):
        check(bench(**settings), with_copies(images(), stored))


def test_the_table_is_that_of_the_copies(tmp_path: Path) -> None:
    write_copies(Copies(images=images(), corruptions=("fog",), severities=(5,), table="imagenet"), tmp_path)
    target = with_copies(images(), tmp_path)
    with pytest.raises(ConfigError, match=r"made with the severities of 'imagenet', and bench\.table is 'cifar'; say"):
        check(bench(corruptions=("fog",)), target)
    check(bench(corruptions=("fog",), table="imagenet"), target)


def test_copies_of_other_images_are_refused_before_anything_is_measured(stored: Path, official: Path) -> None:
    fewer, turned = images().subset(range(50)), images().subset(list(range(59, -1, -1)))
    large = ImageSet(
        images=torch.zeros(60, 1, 32, 32, dtype=torch.uint8),
        labels=images().labels,
        class_names=tuple("abcde"),
        name="large",
    )
    for target, message in (
        (fewer, "expected 50x1x16x16 .* got 60x1x16x16"),
        (large, "expected 60x1x32x32 .* got 60x1x16x16"),
        (turned, "48 of 60 have another label or name"),
    ):
        with pytest.raises(DataError, match=f"numbers-c does not hold copies of the images to test on.*{message}"):
            check(bench(corruptions=("fog",)), with_copies(target, official))
    alike = dataclasses.replace(images(), images=255 - images().images)
    with pytest.raises(
        DataError, match=r"numbers-c \(.*seed 7\) holds copies of images with the fingerprint .* got numbers"
    ):
        with_copies(alike, stored)
    for spec, message in (
        ("cifar10", "cifar10 is no corrupted benchmark"),
        (stored.parent, "holds no corrupted copies"),
    ):
        with pytest.raises(DataError, match=message):
            with_copies(images(), spec)


def test_class_folders_are_not_for_images_without_labels(tmp_path: Path) -> None:
    write_copies(Copies(images=images(), corruptions=("fog",), severities=(5,), table="imagenet"), tmp_path)
    with pytest.raises(DataError, match="found by class and name, and the images to test on have no labels"):
        _ = draw_stream(with_copies(images().unlabelled(), tmp_path), "fog", 5, count=4, batch_size=4, seed=0).images


def test_a_known_benchmark_goes_by_its_name(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownData, "ensure", lambda self, *_: official)
    assert with_copies(images(), "cifar10-c").copies.name == "cifar10-c"


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The bench of `test_executors`, with copies of its test images beside it."""
    monkeypatch.chdir(tmp_path)
    made = Bench(tmp_path)
    write_copies(
        Copies(images=load_images("test.npz"), corruptions=("contrast", "gaussian_noise")), tmp_path / "test-c"
    )
    yield made
    made.end()


@pytest.mark.slow
def test_the_command_line_measures_on_copies_in_other_processes_too(few: Bench, capfd) -> None:
    here = [
        "--set",
        "bench.shifts={}",
        "--set",
        'bench.corruptions=["contrast", "gaussian_noise"]',
        "--set",
        "bench.seeds=[0]",
    ]
    accuracies = []
    for more in ([], ["--set", "data.corrupted=test-c"], ["--set", "data.corrupted=test-c", "--executor", "processes"]):
        process = few.command(*here, *more)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        found = records.read(few.out / "records.jsonl")
        accuracies.append([(r.label, r.corruption, r.right) for r in found])
        assert {r.protocol.get("copies") for r in found} == ({"test-c (crosstask corrupt, seed 0)"} if more else {None})
    assert "found all 6 cells" in said, "whoever measures, the cells are the same"
    assert accuracies[0] == accuracies[1] == accuracies[2]
    (few.out / "records.jsonl").unlink()
    process = few.command(*here, *more)
    assert process.wait(timeout=120) == 0
    assert [(r.label, r.corruption, r.right) for r in records.read(few.out / "records.jsonl")] == accuracies[0]

    np.save(few.folder / "test-c" / "contrast.npy", np.zeros((150, 8, 8), np.uint8))
    for setting, message in (
        ("data.corrupted=test-c", "contrast.npy is damaged: expected 38,528 bytes"),
        ("data.corrupted=nowhere", "unknown data set 'nowhere'"),
    ):
        process = few.command(*here, "--set", setting)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2 and message in " ".join(said.split()) and "Traceback" not in said, said
