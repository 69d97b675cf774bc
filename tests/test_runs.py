"""The runs of `runs/` that need a GPU to be worth their time, from nothing to their records at toy size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crosstask import checkpoint
from crosstask.errors import CheckpointError
from test_sources import put_cifar, put_tiny_imagenet

RUNS = Path(__file__).parent.parent / "runs"
TOY = (
    "supervised.epochs=1", "self_supervised.epochs=1", "align.epochs=1", "task.hidden=8", "task.out=8",
    'bench.corruptions=["clean","fog"]', "bench.seeds=[0]", "bench.images=3", "bench.batch_size=3", "bench.curve=[0,1]",
    "bench.steps=1",
)  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that has the runs, this environment and toy images in the place of the real ones."""
    shutil.copytree(RUNS, tmp_path / "runs")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    put_cifar(tmp_path / "data/cifar-10-batches-py", rows=6)
    put_cifar(tmp_path / "data/cifar-100-python", classes=100, rows=20)
    put_tiny_imagenet(tmp_path / "data/tiny-imagenet-200")
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "data"))
    return tmp_path


def bash(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *command], cwd=folder, env=os.environ, capture_output=True, text=True, check=False)


def toy(folder: Path, script: str, *arguments: str) -> list[dict]:
    settings = [part for setting in TOY for part in ("--set", setting)]
    done = bash(folder, f"runs/{script}.sh", "resnet-small", *arguments, *settings)
    assert done.returncode == 0, done.stderr
    lines = (folder / f"results/{script}-resnet-small/records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["cifar10c", "cifar100c", "tinyimagenetc"])
def test_a_full_scale_run_goes_from_nothing_to_its_records(elsewhere: Path, script: str) -> None:
    records = toy(elsewhere, script)
    assert len(records) == 2 * 7, "two corruptions, seven columns"
    assert (elsewhere / f"out/{script}-resnet-small/report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_scale_run_of_all_methods_adds_to_what_is_measured(elsewhere: Path) -> None:
    first = toy(elsewhere, "cifar10c")
    records = toy(elsewhere, "cifar10c", "--all")
    assert all(record in records for record in first), "measured once"
    assert len({record["method"] for record in records}) == 20


def test_checkpoints_travel_in_pieces(elsewhere: Path) -> None:
    shutil.copytree(RUNS.parent / "tests/data/checkpoint-format-1", elsewhere / "run/checkpoints/supervised")
    whole = (elsewhere / "run/checkpoints/supervised/model.safetensors").read_bytes()
    script = (elsewhere / "runs/move_checkpoints.sh").read_text().replace("15M", str(len(whole) // 2))
    (elsewhere / "small.sh").write_text(script)
    assert bash(elsewhere, "small.sh", "split", "run", "moved").returncode == 0
    pieces = sorted((elsewhere / "moved/supervised").glob("model.safetensors.*"))
    assert len(pieces) > 1 and all(piece.stat().st_size <= len(whole) // 2 for piece in pieces)
    assert bash(elsewhere, "small.sh", "join", "moved", "there").returncode == 0
    assert (elsewhere / "there/checkpoints/supervised/model.safetensors").read_bytes() == whole
    pieces[-1].unlink()
    assert bash(elsewhere, "small.sh", "join", "moved", "torn").returncode == 0
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(elsewhere / "torn/checkpoints/supervised")
    assert bash(elsewhere, "small.sh", "split").returncode == 2
