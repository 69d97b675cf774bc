"""How far do features go from where they began while an encoder adapts to a batch?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from crosstask import runtime
from crosstask.bench.diagnosis import Moment
from crosstask.bench.diagnostics.features import batches
from crosstask.data.streams import Stream
from crosstask.methods.adapter import Adapter
from crosstask.nets.split import Classifier


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What an adapter made of the first batches of a stream, of each from the source state.

    Attributes:
        features: number of updates to features, float32 [N, D] on the CPU, in the stream's order.
        right: number of updates to whether each image was predicted right, bool [N].
    """

    features: dict[int, Tensor]
    right: dict[int, Tensor]


def follow(
    adapter: Adapter,
    stream: Stream,
    count: int,
    points: Sequence[int],
    device: torch.device,
    precision: str,
    tick: Callable[[], None],
) -> Trajectory:
    """Adapt to each of the first `count` batches anew; keep its features after each number of updates in `points`.

    Args:
        adapter: of a `Classifier`, on `device`.
        stream: with labels; the adapter does not see them.
        tick: is called after every batch.
    """
    points = sorted(set(points))
    kept: dict[int, list[Tensor]] = {point: [] for point in points}
    right: dict[int, list[Tensor]] = {point: [] for point in points}
    model = cast(Classifier, adapter.model)
    for x, y in itertools.islice(batches(stream, device), count):
        seen: list[Tensor] = []

        def predict(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(model.encoder(x))
            return model.head(seen[-1])

        adapter.reset()
        adapter.predict = predict  # type: ignore[method-assign]
        try:
            with runtime.autocast(device, precision):
                logits = adapter.curve(x, points)
        finally:
            del adapter.predict
        for point, features in zip(points, seen, strict=True):
            kept[point].append(features.float().cpu())
            right[point].append((logits[point].argmax(dim=1) == y).cpu())
        tick()
    return Trajectory(
        features={point: torch.cat(parts) for point, parts in kept.items()},
        right={point: torch.cat(parts) for point, parts in right.items()},
    )


def moments(trajectory: Trajectory, source_mean: Tensor, batch_size: int) -> list[Moment]:
    """Return how far the features of each batch are from those before any update, and from the source's mean [D]."""
    return [
        Moment(
            steps=steps,
            turned=_by_batch(turned, batch_size, trajectory.features[0], features),
            moved=_by_batch(moved, batch_size, trajectory.features[0], features),
            from_source=distances(features, source_mean, batch_size),
            accuracy=_by_batch(lambda right: right.double().mean().item(), batch_size, trajectory.right[steps]),
        )
        for steps, features in sorted(trajectory.features.items())
    ]


def turned(before: Tensor, after: Tensor) -> float:
    """Return 1 minus the cosine between features [B, D] before and after, averaged over images."""
    cosines = F.cosine_similarity(before.double(), after.double(), dim=1)
    return 0.0 if torch.equal(before, after) else 1 - cosines.mean().clamp(-1, 1).item()


def moved(before: Tensor, after: Tensor) -> float:
    """Return the Frobenius norm of the change of features [B, D] by that of the features before."""
    scale = torch.linalg.matrix_norm(before.double()).clamp(min=1e-12)
    return (torch.linalg.matrix_norm(after.double() - before.double()) / scale).item()


def distances(features: Tensor, source_mean: Tensor, batch_size: int) -> list[float]:
    """Return, by batch, how far the features' mean is from the source's mean [D], by the length of the latter."""
    mean = source_mean.double()
    scale = torch.linalg.vector_norm(mean).clamp(min=1e-12)
    away = lambda part: (torch.linalg.vector_norm(part.double().mean(dim=0) - mean) / scale).item()  # noqa: E731
    return _by_batch(away, batch_size, features)


def _by_batch(figure: Callable[..., float], batch_size: int, *tensors: Tensor) -> list[float]:
    parts = zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
    return [round(figure(*part), 6) for part in parts]
