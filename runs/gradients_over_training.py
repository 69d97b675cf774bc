"""Do the two losses pull one encoder apart while it is trained? On CIFAR-10, with the small lane's network.

    python runs/gradients_over_training.py CHECKPOINTS FILE.jsonl

From the supervised and self-supervised checkpoints of `bash runs/cifar10c_small.sh` (the committed figures: from the
supervised one of `results/cifar10c-small-30-joint`). Three trainings on its 45,000 images: classifier and SimCLR
together from new weights, four epochs; alignment that starts from the self-supervised encoder, as in the paper, and
from the supervised one, two epochs each. Nine times along each the cosine between the gradients of SimCLR's loss and
of the cross-entropy (`crosstask.bench.diagnostics.gradients`), on the 5,000 images kept for validation, as they are
and under two held-out corruptions at severity 5: eight batches of 128. FILE gets every batch's cosine, of the whole
encoder and by layer. Labels of these images are used for this diagnosis alone. Half an hour on two CPU cores.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from crosstask import checkpoint, pipeline
from crosstask.bench.diagnostics.gradients import measure_gradients
from crosstask.config import load_recipe
from crosstask.data.severities import CLEAN
from crosstask.data.streams import draw_stream
from crosstask.nets.encoders import initialise
from crosstask.nets.split import Classifier
from crosstask.pipeline.parts import fresh_encoder, initial
from crosstask.tasks import SelfSupervisedTask, make_task
from crosstask.train.align import align
from crosstask.train.joint import pretrain_with_views
from crosstask.train.loop import Run

CPU = torch.device("cpu")
CORRUPTIONS = (CLEAN, "speckle_noise", "spatter")
LOOKS = 8
CHANGES = ["supervised.epochs=4", "align.epochs=2", "align.augmix=0"]
RECIPE = load_recipe(str(Path(__file__).parent / "cifar10c-small.toml"), CHANGES)
FOLDER, FILE = Path(sys.argv[1]), Path(sys.argv[2])

training, validation = pipeline.source_images(RECIPE, print)
teacher, student = (checkpoint.load(FOLDER / kind) for kind in ("supervised", "self-supervised"))
streams = [draw_stream(validation, name, 5, count=1024, batch_size=128, seed=0) for name in CORRUPTIONS]


def look(arm: str, done: float, classifier: Classifier, task: SelfSupervisedTask) -> None:
    """Append the cosines after a share `done` of the training."""
    for stream in streams:
        found = measure_gradients(classifier, task, stream, CPU, lambda: None)
        whole, layers = rounded(found[0]), {layer: rounded(cosines) for layer, cosines in found[1].items()}
        row = {"training": arm, "done": done, "images": stream.corruption, "whole": whole, "layers": layers}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        error = 2 * statistics.stdev(whole) / len(whole) ** 0.5
        against = sum(statistics.fmean(cosines) < 0 for cosines in layers.values())
        mean = f"{statistics.fmean(whole):+.3f} ±{error:.3f}"
        print(f"{arm}, {done:.0%}, {stream.corruption}: {mean}; {against} of {len(layers)} layers against", flush=True)


def rounded(cosines: list[float]) -> list[float]:
    """Return them to four decimals."""
    return [round(cosine, 4) for cosine in cosines]


def looking(arm: str, classifier: Classifier, task: SelfSupervisedTask) -> Run:
    """Return a run that looks at what it trains before the first step and then after every eighth of its steps."""
    look(arm, 0, classifier, task)
    seen = 0

    def progress(done: int, total: int, _: float) -> None:
        nonlocal seen
        if done * LOOKS // total > seen:
            seen = done * LOOKS // total
            look(arm, seen / LOOKS, classifier, task)

    return Run(seed=RECIPE.seed, device=CPU, progress=progress)


def joint() -> None:
    """Train classifier and task together, from new weights."""
    encoder = fresh_encoder(RECIPE, training, "joint")
    classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, 10))
    task = make_task(RECIPE.task, encoder.feature_dim)
    initialise(classifier.head, initial(RECIPE, "joint", "head")), initialise(task, initial(RECIPE, "joint", "task"))
    run = looking("joint", classifier, task)
    pretrain_with_views(classifier, task, training, RECIPE.supervised, run)


def aligned(start: str) -> Callable[[], None]:
    """Align the student, from its own weights or its teacher's."""

    def train() -> None:
        encoder, task = copy.deepcopy(student.encoder), copy.deepcopy(student.task)
        assert isinstance(task, SelfSupervisedTask)
        if start == "supervised":
            encoder.load_state_dict(teacher.encoder.state_dict())
        run = looking(f"aligned, from the {start} encoder", Classifier(encoder, teacher.classifier.head), task)
        how = replace(RECIPE.align, start="self-supervised")  # the weights are in place
        align(encoder, task, teacher.classifier, training, how, run)

    return train


FILE.parent.mkdir(parents=True, exist_ok=True)
FILE.unlink(missing_ok=True)
for train in (joint, aligned("self-supervised"), aligned("supervised")):
    train()
