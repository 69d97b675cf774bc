"""What do CTA's updates need: alignment, SimCLR's projector, or neither? On test images of CIFAR-10-C.

    python runs/what_updates_need.py results/cifar10c-small-60 FILE.jsonl

The folder holds `checkpoints` (`supervised` and `aligned`) and the records of CTA itself. Here the loss compares views
in the features themselves, without a projector: first of the supervised model, which has seen neither a self-supervised
stage nor alignment, then of the aligned one. The test images, corruptions and views are those of the records: three
seeds x 512 images under each of fifteen corruptions at severity 5, and clean; 20 updates, reset before each batch. FILE
gets the accuracy by number of updates, and the means over the fifteen are printed with 95 % intervals over the seeds. A
quarter of an hour a model on two CPU cores; goes on where it was killed. Nothing is chosen by it.
"""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crosstask import checkpoint, pipeline, runtime
from crosstask.bench import metrics, records
from crosstask.bench.benchmark import predict
from crosstask.bench.cells import plan
from crosstask.bench.protocol import Protocol
from crosstask.checkpoint import Checkpoint
from crosstask.config import load_recipe
from crosstask.data.severities import CLEAN
from crosstask.data.streams import build_stream
from crosstask.methods import make_adapter
from crosstask.report.summary import over_seeds

CPU = torch.device("cpu")
FOLDER, FILE = (Path(argument) for argument in sys.argv[1:])
RECIPE = load_recipe(str(Path(__file__).parent / "cifar10c-small.toml"))
BENCH = RECIPE.bench
STEPS = (0, 1, 5, 20)


def models() -> dict[str, Checkpoint]:
    """Return the models to adapt, by name."""
    aligned, supervised = (checkpoint.load(FOLDER / "checkpoints" / kind) for kind in ("aligned", "supervised"))
    task: Any = copy.deepcopy(aligned.task)
    task.projector = nn.Identity()
    bare = replace(aligned, task=task)
    return {"supervised": replace(bare, encoder=supervised.encoder, head=supervised.head), "aligned": bare}


def known() -> dict[tuple[str, str, int], dict[str, float]]:
    """Return the accuracies in FILE by model, corruption and seed."""
    rows = map(json.loads, FILE.read_text(encoding="utf-8").splitlines()) if FILE.exists() else ()
    return {(row["model"], row["corruption"], row["seed"]): row["curve"] for row in rows}


def measure() -> None:
    """Append what is not in FILE yet."""
    images = pipeline.target_images(RECIPE, print)
    protocol = Protocol(
        model="aligned", reset="batch", batch_size=BENCH.batch_size, n=BENCH.images, steps=STEPS[-1], curve=STEPS,
        precision=runtime.resolve_precision(CPU, "auto"),
    )  # fmt: skip
    found = known()
    for name, model in models().items():
        adapter = make_adapter("cta", model)
        for seed, corruption in itertools.product(BENCH.seeds, BENCH.corruptions):
            if (name, corruption, seed) in found:
                continue
            stream = build_stream(images, plan(BENCH, (corruption,), seed))
            logits = predict(adapter, stream, protocol, CPU).logits
            curve = {str(step): round(metrics.accuracy(logits[step], stream.labels), 6) for step in STEPS}
            row = {"model": name, "corruption": corruption, "seed": seed, "curve": curve}
            with FILE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(name, corruption, seed, f"{100 * curve['0']:.1f} -> {100 * curve['20']:.1f}", flush=True)


def tell() -> None:
    """Print means over the corruptions, and differences from CTA as it is."""
    found = known()
    corruptions = [name for name in BENCH.corruptions if name != CLEAN]

    def means(name: str, step: int) -> list[float]:
        return [statistics.fmean(found[name, c, seed][str(step)] for c in corruptions) for seed in BENCH.seeds]

    for record in records.read(FOLDER / "records.jsonl"):
        if record.label == "cta":
            found["as it is", record.corruption, record.seed] = {str(k): v for k, v in record.curve.items()}
    itself = means("as it is", STEPS[-1])
    for name in ("as it is", *models()):
        before, after = means(name, 0), means(name, STEPS[-1])
        gain = [b - a for a, b in zip(before, after, strict=True)]
        less = [b - a for a, b in zip(itself, after, strict=True)]
        print(f"{name}: {shown(before)} -> {shown(after)}, updates {shown(gain)}, minus CTA as it is {shown(less)}")


def shown(values: list[float]) -> str:
    """Return mean and 95 % interval, in per cent."""
    estimate = over_seeds(values)
    return f"{100 * estimate.mean:+.1f} ±{100 * (estimate.half or 0):.1f}"


if __name__ == "__main__":
    measure()
    tell()
