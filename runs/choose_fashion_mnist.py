"""How the settings of the recipe `fashion-mnist` are chosen. No test image is loaded.

    python runs/choose_fashion_mnist.py out/choice     (two CPU cores: about 40 minutes; goes on where it was killed)

All stages are trained on 50,000 of the training images and judged on the other 10,000: clean, and under the held-out
corruptions at severity 5. A row changes one thing in the recipe of `BASE`, with CTA's `keep = 1`. `choice.jsonl` gets
its accuracy in each stream.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

import crosstask
from crosstask import runtime
from crosstask.bench import metrics
from crosstask.bench.benchmark import predict
from crosstask.bench.protocol import Protocol
from crosstask.checkpoint import Checkpoint
from crosstask.config import load_recipe
from crosstask.data.severities import CLEAN, HELD_OUT
from crosstask.data.streams import draw_stream
from crosstask.methods import make_adapter
from crosstask.pipeline import Experiment, align_stage, self_supervised_stage, supervised_stage
from crosstask.tasks import TASKS, SelfSupervisedTask, SimCLR

CPU = torch.device("cpu")
BASE = ["align.start=self-supervised", "align.augmix=0", "task.views.crop=[0.2,1.0]"]
RECIPE = load_recipe("fashion-mnist", BASE)
FOLDER = Path(sys.argv[1])
Scores = dict[str, dict[int, float]]


class OwnView(SimCLR):
    """SimCLR whose teacher sees the student's own, jittered view during alignment."""

    view_pairs = SelfSupervisedTask.view_pairs


TASKS["own-view"] = OwnView

everything = crosstask.load_images("fashion-mnist", split="train", report=print)
order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
training, validation = everything.subset(order[:50_000]), everything.subset(order[50_000:])


def train(stage: Callable[..., Checkpoint], name: str, *parents: Checkpoint, **changes: object) -> Checkpoint:
    """Return the checkpoint of a stage of the changed recipe, trained once."""
    experiment = Experiment(recipe=replace(RECIPE, **changes), folder=FOLDER / name, command="choose")
    return stage(experiment, training, *parents)


def judge(
    checkpoint: Checkpoint, method: str, steps: tuple[int, ...], online: bool = False, **arguments: object
) -> Scores:
    """Return the accuracy by stream and number of updates: 1,024 images in episodes, or 5,120 online."""
    count = 5120 if online else 1024
    protocol = Protocol(
        model=checkpoint.kind,
        reset="corruption" if online else "batch",
        batch_size=128,
        n=count,
        steps=steps[-1],
        curve=steps,
        precision=runtime.resolve_precision(CPU, "auto"),
    )
    adapter, scores = make_adapter(method, checkpoint, **arguments), {}
    for corruption in (CLEAN, *HELD_OUT):
        stream = draw_stream(validation, corruption, 5, count=count, batch_size=128, seed=0)
        logits = predict(adapter, stream, protocol, CPU).logits
        scores[corruption] = {step: metrics.accuracy(logits[step], stream.images.labels) for step in steps}
    return scores


def rows() -> Iterator[tuple[str, Callable[[], Scores]]]:
    """Yield what is changed, and how to measure it."""
    teacher = train(supervised_stage, "base")
    small = replace(RECIPE.supervised, crop=(0.2, 1.0))
    for method in ("source", "ptbn"):
        yield method, lambda m=method: judge(teacher, m, (0,))
        yield (
            f"{method}, supervised.crop = [0.2, 1.0]",
            lambda m=method: judge(train(supervised_stage, "small-crops", supervised=small), m, (0,)),
        )
    for rate in (3e-4, 1e-3, 3e-3, 1e-2):
        yield f"tent online, rate {rate}", lambda r=rate: judge(teacher, "tent", (1,), online=True, learning_rate=r)
        yield f"tent, rate {rate}", lambda r=rate: judge(teacher, "tent", (0, 1, 20), learning_rate=r)
    student = train(self_supervised_stage, "base")

    def cta(
        name: str = "base", rate: float = 1e-2, student: Checkpoint = student, keep: float = 1.0, **changes: object
    ) -> Scores:
        aligned = train(align_stage, name, teacher, student, align=replace(RECIPE.align, **changes))
        return judge(aligned, "cta", (0, 1, 3, 10, 20), learning_rate=rate, keep=keep)

    yield "cta", cta
    yield (
        "cta, the teacher sees the student's own view",
        lambda: cta("own", student=train(self_supervised_stage, "own", task=replace(RECIPE.task, name="own-view"))),
    )
    for rate in (3e-3, 3e-2):
        yield f"cta, rate {rate}", lambda r=rate: cta(rate=r)
    variations: dict[str, tuple[float, ...]] = {
        "distillation": (0.5, 4.0),
        "contrastive": (0.0,),
        "self_supervised": (1.0,),
        "temperature": (0.2,),
        "learning_rate": (0.05, 0.2),
    }
    for name, values in variations.items():
        for value in values:
            yield f"cta, align.{name} = {value}", lambda n=name, v=value: cta(f"{n}-{v}", **{n: v})
    halves = replace(RECIPE.task, views=replace(RECIPE.task.views, crop=(0.5, 1.0)))
    for start in ("self-supervised", "supervised"):
        if start == "supervised":
            yield f"cta, align.start = {start}", lambda s=start: cta(s, start=s)
        yield (
            f"cta, align.start = {start}, task.views.crop = [0.5, 1.0]",
            lambda s=start: cta(f"half-{s}", student=train(self_supervised_stage, "half", task=halves), start=s),
        )
    yield (
        "cta, align.start = supervised, task.views.crop = [0.5, 1.0], align.augmix = 1.0",
        lambda: cta("mixed", student=train(self_supervised_stage, "half", task=halves), start="supervised", augmix=1.0),
    )
    yield "cta, keep = 0.95", lambda: cta(keep=0.95)


def main() -> None:
    """Measure the rows that are not in the file yet, and print the means over the five streams."""
    path = FOLDER / "choice.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    known = {row["row"]: row["scores"] for row in map(json.loads, path.read_text().splitlines())}
    for row, measure in rows():
        if row not in known:
            with path.open("a") as file:
                file.write(json.dumps({"row": row, "scores": measure()}) + "\n")
            known[row] = json.loads(path.read_text().splitlines()[-1])["scores"]
        streams = known[row].values()
        means = {step: f"{100 * sum(s[step] for s in streams) / len(streams):.1f}" for step in known[row][CLEAN]}
        print(row, means, flush=True)


if __name__ == "__main__":
    main()
