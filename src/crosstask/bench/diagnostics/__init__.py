"""A look inside the models of a run: what CTA claims of gradients, features and drift, measured.

Labels of source and test images are used here, for these figures and for nothing else: they choose nothing. In every
encoder batch norm takes the statistics of the batch, as in training and in adaptation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from crosstask import runtime
from crosstask.bench.diagnosis import Diagnosis, Drift, Gradients, Layer, Panel, Similarity
from crosstask.bench.diagnostics.drift import Trajectory, distances, follow, moments
from crosstask.bench.diagnostics.features import features
from crosstask.bench.diagnostics.gradients import gradient_cosines, measure_gradients
from crosstask.bench.diagnostics.picture import Basis, coordinates, explained, principal_axes
from crosstask.bench.diagnostics.similarity import linear_cka, linear_cka_without
from crosstask.bench.diagnostics.subject import SHOWN, Subject
from crosstask.config import Kind
from crosstask.data.severities import CLEAN
from crosstask.data.streams import Stream
from crosstask.methods import make_adapter
from crosstask.tasks import SelfSupervisedTask


def diagnose(subject: Subject, progress: Callable[[int, int, str], None] = lambda *_: None) -> Diagnosis:
    """Look inside the models of a run.

    Args:
        progress: is told how many of how many batches are behind us, each weighed by its passes, and what goes on.

    Raises:
        DataError: a loss has no finite gradient.
    """
    source = subject.stream(subject.source, CLEAN)
    clean, corrupted = (subject.stream(subject.target, name) for name in (CLEAN, subject.corruption))
    points = sorted({0, subject.adaptation["steps"], *subject.settings.steps})
    learners = [kind for kind, found in subject.checkpoints.items() if isinstance(found.task, SelfSupervisedTask)]
    adapting = [kind for kind in learners if subject.checkpoints[kind].head is not None]
    work = subject.settings.batches * 4 * len(learners) + subject.settings.adapted * points[-1] * len(adapting)
    ticks = _ticks(work, progress)
    gradients = [
        _gradients(subject, kind, images, stream, ticks)
        for kind in learners
        for images, stream in (("source", source), ("corrupted", corrupted))
    ]
    seen = {
        (kind, images): features(found.encoder, stream, subject.device)
        for kind, found in subject.checkpoints.items()
        for images, stream in (("clean", clean), ("corrupted", corrupted))
    }
    ways = {kind: _way(subject, kind, corrupted, points, ticks) for kind in adapting}
    return Diagnosis(
        key=subject.key,
        dataset=subject.target.name,
        class_names=list(subject.target.class_names),
        corruption=subject.corruption,
        severity=subject.severity,
        table=subject.table,
        copies=subject.target.copies.name if subject.target.copies else None,
        seed=subject.seed,
        batches=subject.settings.batches,
        adapted=subject.settings.adapted,
        batch_size=subject.batch_size,
        precision=subject.precision,  # type: ignore[arg-type]  # checked when it is made
        adaptation=subject.adaptation,
        gradients=gradients,
        similarities=_similarities(subject, seen),
        drifts=[_drift(subject, kind, way, seen[kind, "clean"]) for kind, way in ways.items()],
        picture=_picture(subject, seen, ways["aligned"], clean.labels),
        checkpoints={kind: found.weights_hash for kind, found in subject.checkpoints.items()},
        versions=runtime.environment(),
        device=runtime.device_name(subject.device),
        commit=runtime.commit(),
        command=subject.command,
    )


Ticks = Callable[[int, str], Callable[[], None]]
"""From the weight of a batch and a note to what is called after each such batch."""


def _ticks(total: int, progress: Callable[[int, int, str], None]) -> Ticks:
    done = 0

    def ticks(weight: int, note: str) -> Callable[[], None]:
        def tick() -> None:
            nonlocal done
            done += weight
            progress(done, total, note)

        return tick

    return ticks


def _gradients(subject: Subject, kind: Kind, images: Any, stream: Stream, ticks: Ticks) -> Gradients:
    task = subject.checkpoints[kind].task
    assert isinstance(task, SelfSupervisedTask)
    tick = ticks(2, f"gradients of the {kind} model")
    whole, layers = measure_gradients(subject.classifier(kind), task, stream, subject.device, tick)
    return Gradients(
        model=kind,
        images=images,
        whole=_rounded(whole),
        layers=[Layer(name=name, cosines=_rounded(values)) for name, values in layers.items()],
    )


def _similarities(subject: Subject, seen: Mapping[tuple[Kind, str], Tensor]) -> list[Similarity]:
    return [
        Similarity(
            model=kind,
            images=images,  # type: ignore[arg-type]  # checked when it is made
            cka=round(linear_cka(seen["supervised", images], found), 6),
            without=_rounded(linear_cka_without(seen["supervised", images], found, subject.batch_size)),
        )
        for (kind, images), found in seen.items()
        if kind != "supervised"
    ]


def _way(subject: Subject, kind: Kind, stream: Stream, points: list[int], ticks: Ticks) -> Trajectory:
    arguments = {"seed": subject.seed} | subject.adaptation
    adapter = runtime.place(make_adapter("cta", subject.checkpoints[kind], **arguments), subject.device)
    tick = ticks(points[-1], f"drift of the {kind} model")
    return follow(adapter, stream, subject.settings.adapted, points, subject.device, subject.precision, tick)


def _drift(subject: Subject, kind: Kind, way: Trajectory, clean: Tensor) -> Drift:
    mean = subject.checkpoints[kind].statistics["mean"]
    return Drift(
        model=kind,
        moments=moments(way, mean, subject.batch_size),
        clean_from_source=distances(clean, mean, subject.batch_size)[: subject.settings.adapted],
    )


def _picture(
    subject: Subject, seen: Mapping[tuple[Kind, str], Tensor], way: Trajectory, labels: Tensor | None
) -> list[Panel]:
    """Return the supervised encoder's clean features, then corrupted ones before and after alignment and adaptation."""
    assert labels is not None
    steps = subject.adaptation["steps"]
    reference, unaligned = seen["supervised", "clean"], seen["self-supervised", "corrupted"]
    count = min(subject.settings.points, len(way.features[0]))
    shared, own = principal_axes(reference), principal_axes(unaligned)

    def panel(kind: Kind, images: Literal["clean", "corrupted"], updates: int, found: Tensor, basis: Basis) -> Panel:
        return Panel(
            model=kind,
            images=images,
            steps=updates,
            basis="supervised" if basis is shared else "own",
            explained=explained(found, basis),
            points=coordinates(found[:count], labels[:count], basis),
        )

    return [
        panel("supervised", "clean", 0, reference, shared),
        panel("self-supervised", "corrupted", 0, unaligned, own),
        panel("aligned", "corrupted", 0, way.features[0], shared),
        panel("aligned", "corrupted", steps, way.features[steps], shared),
    ]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 6) for value in values]


__all__ = [
    "SHOWN",
    "Subject",
    "diagnose",
    "follow",
    "gradient_cosines",
    "linear_cka",
    "measure_gradients",
    "principal_axes",
]
