"""One cell of evidence: an adapter meets a stream. The only place where test labels meet predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosstask import runtime
from crosstask.bench import metrics
from crosstask.bench.protocol import Protocol
from crosstask.data.streams import Stream
from crosstask.errors import DataError
from crosstask.methods.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What an adapter answered on a whole stream, and what it cost.

    Attributes:
        logits: number of updates to float logits [N, K] on the CPU, in the stream's order.
        seconds: time inside the adapter, without the predictions that only the curve asks for.
        batches: how many batches there were.
        missed: how many of them came too fast to be learned from.
    """

    logits: dict[int, Tensor]
    seconds: float
    batches: int
    missed: int


def predict(
    adapter: Adapter,
    stream: Stream,
    protocol: Protocol,
    device: torch.device,
    passes: float = 1,
    first_passes: float | None = None,
    *,
    set_up: bool = True,
) -> Predictions:
    """Run an adapter over a stream without labels, from the source state, resetting as the protocol says.

    Args:
        passes: what the adapter costs on a batch, its prediction included, in forward passes; where the protocol has a
            rate, batches that come meanwhile are predicted by the model as it was last adapted.
        first_passes: what it costs on the first batch after the start or a reset; by default the same.
        set_up: whether a pass that does not count comes first, to pay for what a process's first one pays for.
    """
    points = sorted({0, *protocol.curve, protocol.steps})
    parts: dict[int, list[Tensor]] = {point: [] for point in points}
    seconds, batches, missed, learned = 0.0, 0, 0, False
    free, first_passes = 0.0, passes if first_passes is None else first_passes
    if set_up:
        with runtime.autocast(device, protocol.precision):
            adapter.curve(runtime.to_unit_floats(next(stream.batches()), device), (0,))
    adapter.reset()
    for batch in stream.batches():
        x = runtime.to_unit_floats(batch, device)
        arrives = batches / protocol.rate if protocol.rate else free
        learns = arrives >= free - 1e-6
        asked = points if learns else [0]
        with (
            _Clock(adapter, device, 1 if adapter.saves_a_pass else len(asked)) as clock,
            runtime.autocast(device, protocol.precision),
        ):
            if protocol.reset == "batch" and learns:
                adapter.reset()
            curve = adapter.curve(x, asked)
        seconds += clock.seconds
        batches += 1
        missed += not learns
        if learns:
            begins = protocol.reset == "batch" or not learned
            free, learned = arrives + (first_passes if begins else passes), True
        for point in points:
            parts[point].append(curve[point if learns else 0].float().cpu())
    return Predictions(
        logits={point: torch.cat(part) for point, part in parts.items()},
        seconds=seconds,
        batches=batches,
        missed=missed,
    )


def score(predictions: Predictions, frozen: Tensor, stream: Stream, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Compare predictions with the stream's labels; return, by corruption, the measured fields of a record.

    Args:
        frozen: the source model's logits [N, K] on the same images, for the shares of images that flip.

    Raises:
        DataError: the stream has no labels.
    """
    if stream.labels is None:
        raise DataError(f"a benchmark needs labels, and {stream.target.name} has none; use `crosstask adapt` instead")
    cost = {
        "ms_per_batch": 1000 * predictions.seconds / predictions.batches,
        "images_per_second": len(stream) / predictions.seconds,
        "missed": predictions.missed / predictions.batches,
    }
    scores = {}
    for name in dict.fromkeys(shift.corruption for shift in stream.shifts):
        numbers = [number for number, shift in enumerate(stream.shifts) if shift.corruption == name]
        rows = torch.isin(stream.shift_of, torch.tensor(numbers)).nonzero().flatten()
        logits = {point: all_logits[rows] for point, all_logits in predictions.logits.items()}
        severity = max(stream.shifts[number].severity for number in numbers)
        scores[name] = {"severity": severity, **_figures(logits, frozen[rows], stream.labels[rows], protocol), **cost}
    return scores


def _figures(logits: dict[int, Tensor], frozen: Tensor, labels: Tensor, protocol: Protocol) -> dict[str, Any]:
    """Return what is right and wrong about the predictions under one corruption."""
    curve = {step: metrics.accuracy(answers, labels) for step, answers in logits.items()}
    final = logits[protocol.scored]
    right = final.argmax(dim=1) == labels
    to_wrong, to_right = metrics.flips(frozen, final, labels)
    return {
        "n": len(labels),
        "steps": protocol.steps,
        "accuracy": curve[protocol.scored],
        "accuracy_before": curve[0],
        "curve": {str(step): value for step, value in curve.items()},
        "over_stream": metrics.over_stream(right),
        "right": metrics.packed(right),
        "ece": metrics.expected_calibration_error(final, labels),
        "nll": metrics.negative_log_likelihood(final, labels),
        "right_to_wrong": to_wrong,
        "wrong_to_right": to_right,
    }


class _Clock:
    """Times what stands in its `with` block; of every `points` predictions in turn there it counts the last alone."""

    def __init__(self, adapter: Adapter, device: torch.device, points: int) -> None:
        self.adapter, self.device, self.points = adapter, device, points
        self.predictions: list[float] = []
        self.seconds = 0.0

    def __enter__(self) -> _Clock:
        predict = self.adapter.predict

        def timed(x: Tensor) -> Tensor:
            started = runtime.now(self.device)
            logits = predict(x)
            self.predictions.append(runtime.now(self.device) - started)
            return logits

        self.adapter.predict = timed  # type: ignore[method-assign]
        self.started = runtime.now(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        counted = sum(self.predictions[self.points - 1 :: self.points])
        self.seconds = runtime.now(self.device) - self.started - sum(self.predictions) + counted
        del self.adapter.predict
