"""Which alignment suits CIFAR-10? Each row changes one thing of `cifar10c-small.toml`. No test image is loaded.

    python runs/choose_cifar10.py out/cifar10c-small [ROW ...]

After `bash runs/cifar10c_small.sh`; about 8 minutes a row on two CPU cores; goes on where it was killed. The
committed encoders are aligned anew, for two epochs and without AugMix, on the 45,000 images they were trained on, and
judged on the 5,000 kept for validation: clean, and under the held-out corruptions at severity 5. `choice.jsonl` gets,
by stream and number of updates, the accuracy on 2,560 images before any update and on 256 after some. Rows that begin
with "online" take the run's own models along streams, never reset, one step a batch after its prediction: each
corruption apart, and classes in clumps. "plain online" is longer, 4,992 images of each corruption apart. "at test
time" varies the updates on the run's own aligned model, on 512 images. "batches of" takes smaller batches, each
alone, 256 images with updates and 512 without.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import checkpoint, losses, pipeline, runtime
from crosstask.augmix import augmix
from crosstask.bench import metrics
from crosstask.bench.benchmark import predict
from crosstask.bench.protocol import Protocol
from crosstask.checkpoint import Checkpoint
from crosstask.config import load_recipe
from crosstask.data.severities import CLEAN, HELD_OUT
from crosstask.data.streams import StreamPlan, build_stream, draw_stream
from crosstask.methods import make_adapter
from crosstask.nets.encoders import initialise
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask, SimCLR, make_task
from crosstask.tasks.base import TwoViewTask
from crosstask.train import align as alignment
from crosstask.train import loop
from crosstask.train.loop import Run, fit
from crosstask.train.statistics import refit_batch_norm
from crosstask.views import ViewSampler

CPU = torch.device("cpu")
HERE = Path(__file__).parent
RECIPE = load_recipe(str(HERE / "cifar10c-small.toml"), ["align.epochs=2", "align.augmix=0"])
FOLDER = Path(sys.argv[1])
STEPS = (0, 1, 5, 20)
Scores = dict[str, dict[int, float]]

training, validation = pipeline.source_images(RECIPE, print)
contrastive = losses.alignment


def clean_view(task: SimCLR, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Have the teacher see the whole image in its own colours."""
    return task.views(x, generator), torch.cat([x, x])


def of_mixes(task: SimCLR, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the views of half of the images from mixes with another image, for both networks (Beyer et al. 2022)."""
    share, chosen = torch.rand(2, len(x), 1, 1, 1, generator=generator)
    mixed = torch.lerp(x, x.roll(1, dims=0), 0.5 * share * (chosen < 0.5))
    return TwoViewTask.view_pairs(task, mixed, generator)


def all_alike(task: SimCLR, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change all views of a batch in one way, as a test batch is; crops are drawn apart, as ever."""

    def once(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*sizes: Any, **where: Any) -> Tensor:
            *bounds, shape = sizes if isinstance(sizes[-1], tuple) else (sizes,)
            return draw(*bounds, tuple(1 if n == len(views) else n for n in shape), **where).expand(shape)

        return drawn

    views = task.sampler.geometric(torch.cat([x, x]), generator)
    with mock.patch.object(torch, "rand", once(torch.rand)), mock.patch.object(torch, "randint", once(torch.randint)):
        return augmix(task.sampler.photometric(views, generator), generator), views


def with_lengths(student: Tensor, teacher: Tensor, temperature: float, _: Tensor | None) -> Tensor:
    """Add the mean squared error of the features to the contrastive loss."""
    return contrastive(student, teacher, temperature) + F.mse_loss(student.float(), teacher.float())


photometric = ViewSampler.photometric


def with_amplitudes(sampler: ViewSampler, x: Tensor, generator: torch.Generator) -> Tensor:
    """Give half of the views a share of another image's Fourier amplitudes (Xu et al., CVPR 2021), then jitter."""
    share, chosen = torch.rand(2, len(x), 1, 1, 1, generator=generator)
    spectrum = torch.fft.rfft2(x.float())
    amplitude = spectrum.abs()
    mixed = torch.lerp(amplitude, amplitude.roll(1, dims=0), share * (chosen < 0.5))
    changed = torch.fft.irfft2(torch.polar(mixed, spectrum.angle()), s=x.shape[2:]).clamp(0, 1)
    return photometric(sampler, changed.contiguous(memory_format=torch.channels_last), generator)


class Queue:
    """A contrastive loss whose student is told from the teacher's features of the last 1,792 views too, as in MoCo."""

    def __init__(self) -> None:
        self.seen: deque[Tensor] = deque(maxlen=9)

    def __call__(self, student: Tensor, teacher: Tensor, temperature: float, _: Tensor | None) -> Tensor:
        own, true = F.normalize(student.float(), dim=1), F.normalize(teacher.float(), dim=1)
        others = list(self.seen)[:-2]  # not of these very images
        self.seen.append(true)
        queued = own @ torch.cat([true, *others]).T / temperature
        back = true @ own.T / temperature
        diagonal = torch.arange(len(own))
        return (F.cross_entropy(queued, diagonal) + F.cross_entropy(back, diagonal)) / 2


class DirectionHead(nn.Module):
    """A head that reads the directions of features alone: they get one length, the mean of the teacher's."""

    def __init__(self, head: nn.Module, length: float) -> None:
        super().__init__()
        self.head, self.length = head, length

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, K]."""
        return self.head(self.length * F.normalize(features, dim=1))


def by_direction(teacher: Checkpoint, student: Checkpoint) -> Scores:
    """Align under a head that reads directions alone, which is all that the contrastive loss compares; measure."""
    with torch.no_grad():
        length = teacher.encoder.eval()(validation.images[:512] / 255).norm(dim=1).mean().item()
    head = DirectionHead(teacher.head, length)
    model = copy.deepcopy(replace(student, kind="aligned", head=head))
    run = Run(seed=RECIPE.seed, device=CPU)
    alignment.align(model.encoder, model.task, Classifier(teacher.encoder, head), training, RECIPE.align, run)
    return cta(model)


def with_labels(teacher: Checkpoint, student: Checkpoint) -> Checkpoint:
    """Return the supervised model trained on as long as the student is, on the same views, labels for a teacher."""
    model, task = copy.deepcopy(teacher), student.task
    assert isinstance(task, SelfSupervisedTask)
    classifier = model.classifier.train()

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        logits = torch.cat([classifier(task.views(x, generator)), classifier(x)])
        return F.cross_entropy(logits.float(), y.repeat(3))

    run = Run(seed=RECIPE.seed, device=CPU)
    fit(objective, classifier, training, RECIPE.align, run)
    refit_batch_norm(model.encoder, training, run)
    return model


def align(name: str, student: Checkpoint, views: dict[str, object] | None = None, **changes: object) -> Checkpoint:
    """Return the aligned checkpoint of a row, trained once; `views` changes how the task draws them."""
    recipe = replace(RECIPE, align=replace(RECIPE.align, **changes))
    if views:
        student = seeing(student, **views)
    experiment = pipeline.Experiment(recipe=recipe, folder=FOLDER / "choice" / name, command="choose")
    return pipeline.align_stage(experiment, training, checkpoint.load(FOLDER / "checkpoints/supervised"), student)


def seeing(model: Checkpoint, **views: Any) -> Checkpoint:
    """Return the same model, whose task draws other views."""
    config = replace(RECIPE.task, views=replace(RECIPE.task.views, **views))
    task = make_task(config, len(model.statistics["mean"]))
    task.load_state_dict(model.task.state_dict())
    return replace(model, task=task, task_config=config)


def accuracy(
    model: Checkpoint, method: str, count: int, steps: tuple[int, ...], batch_size: int = 128, **arguments: object
) -> Scores:
    """Return the accuracy by stream and number of updates, reset after each batch."""
    protocol = Protocol(
        model=model.kind, reset="batch", batch_size=batch_size, n=count, steps=steps[-1], curve=steps,
        precision=runtime.resolve_precision(CPU, "auto"),
    )  # fmt: skip
    adapter, scores = make_adapter(method, model, **arguments), {}
    for corruption in (CLEAN, *HELD_OUT):
        stream = draw_stream(validation, corruption, 5, count=count, batch_size=batch_size, seed=0)
        logits = predict(adapter, stream, protocol, CPU).logits
        scores[corruption] = {step: metrics.accuracy(logits[step], stream.labels) for step in steps}
    return scores


def cta(model: Checkpoint, rate: float = 1e-2) -> Scores:
    """Return the accuracy of CTA; before any update on ten times as many images."""
    before, after = accuracy(model, "ptbn", 2560, (0,)), accuracy(model, "cta", 256, STEPS, learning_rate=rate)
    return {name: {**curve, "before": before[name][0]} for name, curve in after.items()}


def online(kind: str, method: str, **arguments: object) -> Scores:
    """Return the accuracy over long streams of a method that takes one step a batch, or none, never reset."""
    plans = plain(1280)
    plans["clumps, one after another, batches of 64"] = StreamPlan(
        shift="continual", corruptions=(*HELD_OUT, CLEAN), severity=5, count=512, batch_size=64, seed=0, delta=0.1
    )
    plans["clumps, mixed, batches of 16"] = StreamPlan(
        shift="mixed", corruptions=(*HELD_OUT, CLEAN), severity=5, count=2560, batch_size=16, seed=0, delta=0.1
    )
    return {name: along(plan, kind, method, **arguments) for name, plan in plans.items()}


def plain_online(method: str, predict: Literal["before", "after"] = "before", **arguments: object) -> Scores:
    """Return the accuracy over 4,992 images of each corruption apart, an update a batch, never reset."""
    return {name: along(plan, "aligned", method, predict, **arguments) for name, plan in plain(4992).items()}


def plain(count: int) -> dict[str, StreamPlan]:
    """Return the plans of `count` images of each corruption apart."""
    about: dict[str, Any] = {"shift": "constant", "count": count, "batch_size": 128, "seed": 0}
    return {
        name: StreamPlan(corruptions=(name,), severity=5 if name != CLEAN else 0, **about)
        for name in (CLEAN, *HELD_OUT)
    }


def along(
    plan: StreamPlan, kind: str, method: str, when: Literal["before", "after"] = "before", **arguments: object
) -> dict[int, float]:
    """Return the accuracy along one stream by the number of updates a batch, each predicted before or after them."""
    steps = 0 if method in ("source", "ptbn") else 1
    model, stream = checkpoint.load(FOLDER / "checkpoints" / kind), build_stream(validation, plan)
    protocol = Protocol(
        model=model.kind, reset="never", predict=when, batch_size=plan.batch_size, n=len(stream), steps=steps,
        curve=(0,), precision=runtime.resolve_precision(CPU, "auto"),
    )  # fmt: skip
    adapter = make_adapter(method, model, **({"steps": 1} if steps else {}), **arguments)
    logits = predict(adapter, stream, protocol, CPU).logits
    return {steps: metrics.accuracy(logits[protocol.scored], stream.labels)}


def statistics(policy: str) -> dict[str, object]:
    """Return the arguments of a batch-norm policy, written as its name and, where it has one, its share."""
    name, _, share = policy.partition(" ")
    return {"batch_norm": name, **({"batch_share": float(share)} if share else {})}


def rows() -> Iterator[tuple[str, Callable[[], Scores]]]:
    """Yield what is changed, and how to measure it."""
    teacher, student = (checkpoint.load(FOLDER / "checkpoints" / kind) for kind in ("supervised", "self-supervised"))
    for method in ("source", "ptbn"):
        yield method, lambda m=method: accuracy(teacher, m, 2560, (0,))
    yield "cta", lambda: cta(align("base", student))
    for rate in (1e-3, 3e-3, 3e-2):
        yield f"rate {rate}", lambda r=rate: cta(align("base", student), r)
    yield "all views of a batch changed alike", lambda: patched(SimCLR, "view_pairs", all_alike, "alike", student)
    same = SelfSupervisedTask.view_pairs
    yield "images mixed", lambda: patched(SimCLR, "view_pairs", of_mixes, "mixed", student)
    for name, views in (("the student's own view", same), ("the whole image", clean_view)):
        yield f"the teacher sees {name}", lambda n=name, v=views: patched(SimCLR, "view_pairs", v, n, student)
    yield "features' squared error too", lambda: patched(losses, "alignment", with_lengths, "lengths", student)
    yield "a head that reads directions alone", lambda: by_direction(teacher, student)
    yield (
        "amplitudes of other images",
        lambda: patched(ViewSampler, "photometric", with_amplitudes, "amplitudes", student),
    )
    yield "a queue of negatives", lambda: patched(losses, "alignment", Queue(), "queue", student)
    yield "ptbn on the supervised model trained on", lambda: accuracy(with_labels(teacher, student), "ptbn", 2560, (0,))
    for name, views in {
        "crops of a fifth at least": {"crop": (0.2, 1.0)},
        "colours jittered twice as far": {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
    }.items():
        yield name, lambda n=name, v=views: cta(align(n.replace(" ", "-"), student, v))
    fresh = make_task(RECIPE.task, len(student.statistics["mean"]))
    initialise(fresh, torch.Generator().manual_seed(0))
    yield "a new projector", lambda: cta(align("new-projector", replace(student, task=fresh)))
    bare = replace(student, task=without_projector(), task_config=replace(RECIPE.task, hidden=0))
    yield "no projector", lambda: cta(align("no-projector", bare))
    yield "the student starts as itself", lambda: cta(align("own-start", student, start="self-supervised"))
    variations: dict[str, tuple[float, ...]] = {
        "contrastive": (0.0,), "distillation": (0.0, 0.5, 8.0), "self_supervised": (0.0, 0.1, 1.0),
        "temperature": (0.05, 0.2), "learning_rate": (0.03,), "batch_size": (128,),
        "augmix": (1.0,), "epochs": (4.0,), "warmup": (0.0,),
    }  # fmt: skip
    for name, values in variations.items():
        for value in values:
            yield f"align.{name} = {value}", lambda n=name, v=value: cta(align(f"{n}-{v}", student, **{n: v}))

    yield "a constant learning rate", lambda: patched(loop, "_schedule", lambda *_: 1.0, "constant", student)

    aligned = checkpoint.load(FOLDER / "checkpoints/aligned")
    for keep, rate in ((1.0, 1e-2), (0.95, 1e-2), (0.95, 2e-2)):
        yield (
            f"100 steps, keep {keep}, rate {rate}",
            lambda k=keep, r=rate: accuracy(aligned, "cta", 256, (0, 5, 20, 50, 100), keep=k, learning_rate=r),
        )
    for kind, method, policy in (
        ("supervised", "source", "source"), ("supervised", "ptbn", "batch"), ("aligned", "source", "source"),
        ("aligned", "ptbn", "batch"), ("aligned", "ptbn", "mixed 0.05"), ("aligned", "ptbn", "mixed 0.1"),
        ("aligned", "ptbn", "mixed 0.2"), ("supervised", "ptbn", "mixed 0.1"), ("supervised", "tent", "batch"),
        ("supervised", "rotta", ""),
    ):  # fmt: skip
        chosen = statistics(policy) if method not in ("source", "rotta") else {}
        name = f", {policy}" if policy.startswith("mixed") else ""
        yield f"online: {method} on {kind}{name}", lambda k=kind, m=method, c=chosen: online(k, m, **c)
    policies = {
        "batch": (1e-3, 3e-3, 1e-2, 3e-2), "robust 0.01": (1e-4, 1e-3, 3e-3), "robust 0.05": (1e-4, 1e-3),
        "source": (1e-4, 1e-3), "robust 0.002": (1e-4, 1e-3), "mixed 0.1": (1e-4, 1e-3, 1e-2),
    }  # fmt: skip
    for policy, rates in policies.items():
        for rate in rates:
            yield (
                f"online: cta, {policy}, rate {rate}",
                lambda p=policy, r=rate: online("aligned", "cta", **statistics(p), learning_rate=r),
            )
    for share, rate in ((0.05, 1e-4), (0.05, 1e-3), (0.05, 3e-3), (0.05, 1e-2), (0.02, 3e-3), (0.1, 3e-3)):
        yield (
            f"online: cta, memory of 64, robust {share}, rate {rate}",
            lambda s=share, r=rate: online(
                "aligned", "cta", memory=64, batch_norm="robust", batch_share=s, learning_rate=r
            ),
        )
    yield "plain online: ptbn", lambda: plain_online("ptbn")
    for keep, rate in (
        (0.95, 1e-2), (0.99, 1e-2), (1.0, 3e-3), (1.0, 1e-2), (0.95, 2e-2), (0.99, 2e-2), (0.98, 3e-2)
    ):  # fmt: skip
        yield (
            f"plain online: cta, keep {keep}, rate {rate}",
            lambda k=keep, r=rate: plain_online("cta", keep=k, learning_rate=r),
        )
    for first in (1, 10, 20):
        yield (
            f"plain online, predicted after: cta, first steps {first}",
            lambda f=first: plain_online("cta", "after", first_steps=f),
        )
    yield "plain, 20 steps, reset", lambda: accuracy(aligned, "cta", 4992, (20,))
    yield from at_test_time(aligned)
    yield from in_small_batches(aligned)
    for name, task in {
        "SimCLR's projector": student.task,
        "no projector": without_projector(),
        "no projector, crops of 0.2 at least": without_projector(crop=(0.2, 1.0)),
        "no projector, temperature 0.1": without_projector(temperature=0.1),
        "no projector, temperature 0.5": without_projector(temperature=0.5),
    }.items():
        unaligned = replace(aligned, encoder=teacher.encoder, head=teacher.head, task=task)
        yield f"at test time: the supervised model, {name}", lambda m=unaligned: accuracy(m, "cta", 512, STEPS)
    for rate in (2e-2, 3e-2):
        yield (
            f"at test time: the supervised model, no projector, rate {rate}",
            lambda r=rate: accuracy(teacher, "cta", 512, STEPS, learning_rate=r),
        )


def in_small_batches(aligned: Checkpoint) -> Iterator[tuple[str, Callable[[], Scores]]]:
    """Yield a size of batch and a policy of batch norm a row, or a rate of the updates, each batch alone."""
    for size in (4, 16, 128):
        for policy in ("source", "mixed 0.05", "mixed 0.1", "mixed 0.2", "mixed 0.5", "mixed 0.8", "prior", "batch"):
            yield (
                f"batches of {size}: aligned, {policy}",
                lambda s=size, p=policy: accuracy(aligned, "ptbn", 512, (0,), s, **statistics(p)),
            )
        for rate in (1e-3, 1e-2):
            yield (
                f"batches of {size}: cta, rate {rate}, prior",
                lambda s=size, r=rate: accuracy(aligned, "cta", 256, STEPS, s, learning_rate=r, batch_norm="prior"),
            )


def at_test_time(aligned: Checkpoint) -> Iterator[tuple[str, Callable[[], Scores]]]:
    """Yield one change of the updates a row, 20 of them on 512 images, on the run's own aligned model."""
    changes: dict[str, dict[str, object]] = {
        "the defaults": {}, "rate 0.005": {"learning_rate": 5e-3}, "rate 0.02": {"learning_rate": 2e-2},
        "momentum 0": {"momentum": 0.0, "learning_rate": 0.1}, "momentum 0.5": {"momentum": 0.5, "learning_rate": 0.05},
        "keep 0.9": {"keep": 0.9}, "keep 0.9, rate 0.02": {"keep": 0.9, "learning_rate": 2e-2},
        "mixed 0.7": statistics("mixed 0.7"), "mixed 0.9": statistics("mixed 0.9"), "source": statistics("source"),
        "entropy 0.1": {"entropy": 0.1}, "entropy 1": {"entropy": 1.0},
    }  # fmt: skip
    for name, change in changes.items():
        yield f"at test time: {name}", lambda c=change: accuracy(aligned, "cta", 512, STEPS, **c)
    views: dict[str, dict[str, object]] = {
        "crops of 0.2 at least": {"crop": (0.2, 1.0)}, "crops of 0.8 at least": {"crop": (0.8, 1.0)},
        "colours as they are": {"jitter": 0.0, "gray": 0.0}, "colours jittered twice as far": {
            "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2
        }, "no grey views": {"gray": 0.0}, "blurred views": {"blur": 0.5},
    }  # fmt: skip
    for name, view in views.items():
        yield f"at test time: {name}", lambda v=view: accuracy(seeing(aligned, **v), "cta", 512, STEPS)
    yield "at test time: views by AugMix", lambda: with_mixed_views(aligned)
    task = make_task(RECIPE.task, len(aligned.statistics["mean"]))
    initialise(task, torch.Generator().manual_seed(0))
    yield "at test time: a new projector", lambda: accuracy(replace(aligned, task=task), "cta", 512, STEPS)
    bare = replace(aligned, task=without_projector())
    yield "at test time: no projector", lambda: accuracy(bare, "cta", 512, STEPS)
    yield "at test time: the projector refitted", lambda: accuracy(refitted(aligned), "cta", 512, STEPS)
    for rate in (1e-4, 3e-4, 1e-3):
        yield f"at test time: Adam, rate {rate}", lambda r=rate: with_adam(aligned, r)


def without_projector(temperature: float = RECIPE.task.temperature, **views: Any) -> SelfSupervisedTask:
    """Return SimCLR on the features themselves."""
    seen = replace(RECIPE.task.views, **views)
    return make_task(replace(RECIPE.task, hidden=0, temperature=temperature, views=seen), 0)


def refitted(aligned: Checkpoint) -> Checkpoint:
    """Return the aligned model with a projector that was trained on, for an epoch, under the encoder as it is."""
    encoder, task = copy.deepcopy(aligned.encoder).train(), copy.deepcopy(aligned.task)
    assert isinstance(task, SelfSupervisedTask)

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        views = task.views(x, generator)
        with torch.no_grad():
            features = encoder(views)
        return task.loss(features, views, encoder)

    fit(objective, task.train(), training, replace(RECIPE.align, epochs=1.0), Run(seed=0, device=CPU))
    return replace(aligned, task=task.eval())


def with_mixed_views(aligned: Checkpoint) -> Scores:
    """Return the accuracy of CTA where the views of its updates are mixed with AugMix's chains."""

    def mixed(sampler: ViewSampler, x: Tensor, generator: torch.Generator) -> Tensor:
        return augmix(photometric(sampler, x, generator), generator)

    with mock.patch.object(ViewSampler, "photometric", mixed):
        return accuracy(aligned, "cta", 512, STEPS)


def with_adam(aligned: Checkpoint, rate: float) -> Scores:
    """Return the accuracy of CTA where Adam takes the place of SGD."""

    def adam(moving: list[Tensor], **_: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(moving, lr=rate, fused=True)

    with mock.patch.object(torch.optim, "SGD", adam):
        return accuracy(aligned, "cta", 512, STEPS)


def patched(where: object, name: str, instead: object, folder: str, student: Checkpoint) -> Scores:
    """Align with something put in the place of something else, and measure."""
    with mock.patch.object(where, name, instead):
        model = align(folder.replace(" ", "-").replace("'", ""), student)
    return cta(model)


def main() -> None:
    """Measure the rows that are not in the file yet, and print the means over the five streams."""
    path = FOLDER / "choice.jsonl"
    known = {json.loads(line)["row"] for line in path.read_text().splitlines()} if path.exists() else set()
    wanted = tuple(sys.argv[2:])
    for row, measure in rows():
        if row in known or (wanted and not row.startswith(wanted)):
            continue
        scores = measure()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": row, "scores": scores}) + "\n")
        apart = [scores[name] for name in (CLEAN, *HELD_OUT)]
        means = {step: sum(curve[step] for curve in apart) / len(apart) for step in apart[0]}
        others = {name: curve for name, curve in scores.items() if name not in (CLEAN, *HELD_OUT)}
        print(row, {k: f"{100 * v:.1f}" for k, v in means.items()}, others or "", flush=True)


if __name__ == "__main__":
    main()
