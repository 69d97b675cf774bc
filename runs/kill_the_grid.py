"""A grid is killed at random instants (`kill -9`), workers and the command itself, and ends in the same records.

    python runs/kill_the_grid.py [--severities 1-5] [--seeds 3] [--kills 10] [--workers 2] [--dice 0]

15 corruptions x 3 seeds x 4 methods, a grid for each severity: 180 cells of tiny untrained networks and 8 images. For
each there is one unbroken run in one process, and one in worker processes that is killed so many times: at
instants that chance chooses, whichever of its processes chance points at. A killed command is started again. Exits with
code 1 if a record differs, is lost or was measured twice, or if a process lives on without its command. Linux; about a
minute a severity on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crosstask import checkpoint
from crosstask.checkpoint import Checkpoint
from crosstask.config import Task
from crosstask.data.severities import BENCHMARK
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.tasks import make_task

RECIPE = """
name = "killed"
precision = "float32"
[data]
name = "{images}"
test = "{images}"
[supervised]
epochs = 1
[self_supervised]
epochs = 1
[align]
epochs = 1
[bench]
corruptions = {corruptions}
seeds = {seeds}
images = 8
batch_size = 8
curve = [0, 1]
[bench.columns.source]
method = "source"
[bench.columns.ptbn]
method = "ptbn"
[bench.columns.tent]
method = "tent"
[bench.columns.cta]
method = "cta"
arguments = {{ steps = 1 }}
"""
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
OWN = ("ms_per_batch", "images_per_second", "peak_memory_mb", "device", "command")
"""Fields that are the machine's: times, memory, its name, and who asked."""


def prepare(folder: Path, seeds: int) -> Path:
    """Write images, untrained checkpoints and a recipe; return the recipe."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(30) % 3)
    task_config = Task(hidden=16, out=8)
    encoder, head, task = make_encoder("resnet-small", 1), nn.Linear(128, 3), make_task(task_config, 128)
    for module in (encoder, head, task):
        initialise(module, torch.Generator().manual_seed(0))
    about: dict[str, Any] = {
        "encoder_name": "resnet-small",
        "encoder": encoder,
        "head": head,
        "image_shape": (1, 16, 16),
        "class_names": ("0", "1", "2"),
    }
    start = checkpoint.save(Checkpoint(kind="supervised", **about), folder / "supervised")
    parents = {"supervised": start.weights_hash}
    aligned = Checkpoint(kind="aligned", task=task, task_config=task_config, parents=parents, **about)
    checkpoint.save(aligned, folder / "aligned")
    recipe = folder / "killed.toml"
    settings = {"corruptions": json.dumps(BENCHMARK), "seeds": list(range(seeds))}
    recipe.write_text(RECIPE.format(images=folder / "images.npz", **settings))
    return recipe


def command(recipe: Path, out: Path, severity: int, *arguments: object) -> list[str]:
    """Return `crosstask bench` on the grid of a severity."""
    models = [f"--{kind}={recipe.parent / kind}" for kind in ("supervised", "aligned")]
    settings = ["--set", f"bench.severity={severity}", "--out", str(out)]
    return [sys.executable, "-m", "crosstask", "bench", str(recipe), *settings, *models, *map(str, arguments)]


def measured(out: Path) -> int:
    """Return how many records there are."""
    path = out / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def workers_of(process: int) -> list[int]:
    """Return the processes that measure for a command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def lives_on(process: int, seconds: float = 20) -> bool:
    """Say whether a process runs for so long; one that is just being started has to get there before it can end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if "\nState:\tZ" in Path(f"/proc/{process}/status").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def killed(line: list[str], out: Path, cells: int, kills: int, dice: random.Random) -> tuple[int, int, int]:
    """Run a command that is killed so many times; return kills of workers and of the command, and processes left."""
    instants = sorted(dice.sample(range(1, cells * 9 // 10), kills))
    counts, orphans, workers = [0, 0], 0, list[int]()
    process = subprocess.Popen(line, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for instant in instants:
        while measured(out) < instant and process.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.3))
        victim = None
        while victim is None and process.poll() is None:
            workers = workers_of(process.pid)
            victim = dice.choice([process.pid, *workers])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:  # it ended by itself meanwhile
                victim = None
        if victim is None:
            raise SystemExit(f"the command ended before it was killed {kills} times: give it less to survive")
        counts[victim == process.pid] += 1
        if victim == process.pid:
            process.wait()
            orphans += sum(lives_on(worker) for worker in workers)
            process = subprocess.Popen(line, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if process.wait() != 0:
        raise SystemExit(f"the command ended with code {process.returncode}: {' '.join(line)}")
    return counts[0], counts[1], orphans


def figures(out: Path) -> list[dict[str, Any]]:
    """Return the records, in their order, without what is the machine's."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in OWN} for line in lines]


def main() -> None:
    """Kill, compare and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--severities", default="1-5")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--dice", type=int, default=0)
    given = options.parse_args()
    first, _, last = given.severities.partition("-")
    dice = random.Random(given.dice)
    with tempfile.TemporaryDirectory() as temporary:
        recipe = prepare(Path(temporary), given.seeds)
        severities = range(int(first), int(last or first) + 1)
        wrong = [compare(recipe, severity, given.kills, given.workers, dice) for severity in severities]
    raise SystemExit(1 if any(wrong) else 0)


def compare(recipe: Path, severity: int, kills: int, workers: int, dice: random.Random) -> int:
    """Measure a grid unbroken and killed; print what came of it, and return how much is wrong."""
    started = time.monotonic()
    whole, broken = recipe.parent / f"whole-{severity}", recipe.parent / f"broken-{severity}"
    line = command(recipe, whole, severity)
    subprocess.run(line, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    expected = figures(whole)
    line = command(recipe, broken, severity, "--executor", "processes", "--workers", workers)
    hit, restarts, left = killed(line, broken, len(expected), kills, dice)
    found = figures(broken)
    keys = [record["key"] for record in found]
    pairs = list(zip(expected, found, strict=False))
    wrong = {
        "differ": sum(one != other for one, other in pairs),
        "measured twice": len(keys) - len(set(keys)),
        "lost": len({record["key"] for record in expected}.difference(keys)),
        "processes left behind": left,
    }
    fields = sorted({name for one, other in pairs for name in one if one[name] != other[name]})
    told = ", ".join(f"{number} {what}" for what, number in wrong.items())
    seconds = time.monotonic() - started
    print(
        f"severity {severity}: {len(expected)} cells; {hit} workers and {restarts} commands killed; records: {told} "
        f"({seconds:.0f} s){': other ' + ', '.join(fields) if fields else ''}",
        flush=True,
    )
    return sum(wrong.values())


if __name__ == "__main__":
    main()
