"""Adapt a model to one's own unlabelled images and write what it says about them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crosstask import checkpoint as checkpoints
from crosstask import runtime
from crosstask.checkpoint import Checkpoint
from crosstask.data.images import ImageSet, load_images
from crosstask.errors import DataError
from crosstask.files import written_whole
from crosstask.methods import make_adapter


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the adapted model says about one image.

    Attributes:
        file: the image's file name, or its row number in an array.
        prediction: index of the most probable class.
        label_name: that class's name; empty where the model has no names.
        confidence: its probability, in 0..1.
        changed: whether adaptation changed the prediction of this model.
    """

    file: str
    prediction: int
    label_name: str
    confidence: float
    changed: bool


def adapt_images(
    checkpoint: Checkpoint,
    images: ImageSet,
    *,
    method: str = "cta",
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 128,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Adapt to each batch of images from the source state, and predict it; answers come in the images' order.

    Args:
        checkpoint: the model; `cta` needs an aligned one.
        images: labels are not looked at.
        method, arguments: see `crosstask methods`.
        batch_size: images adapted to together; a last batch of less than half that size joins the one before.
        progress: told how many images of how many are done.

    Raises:
        DataError: the images have another shape than the model was trained on.
        UnknownName, ConfigError, AdapterError: see `crosstask.methods.make_adapter`.
    """
    _check_shape(checkpoint, images)
    device = device or runtime.pick_device()
    adapter = runtime.place(make_adapter(method, checkpoint, **(arguments or {})), device)
    predictions: list[Prediction] = []
    for rows in _even_batches(len(images), batch_size):
        adapter.reset()
        x = runtime.to_unit_floats(images.images[rows], device)
        with runtime.autocast(device):
            curve = adapter.curve(x, (0, adapter.steps))
        before = curve[0].argmax(dim=1).tolist()
        confidences, classes = curve[adapter.steps].float().softmax(dim=1).max(dim=1)
        for row, was, now, confidence in zip(rows, before, classes.tolist(), confidences.tolist(), strict=True):
            predictions.append(
                Prediction(
                    file=str(row) if images.items is None else images.items[row],
                    prediction=now,
                    label_name=checkpoint.class_names[now] if checkpoint.class_names else "",
                    confidence=confidence,
                    changed=was != now,
                )
            )
        if progress:
            progress(len(predictions), len(images))
    return predictions


def adapt_files(
    model: Path, images: Path, out: Path, *, progress: Callable[[int, int], None] | None = None, **options: Any
) -> list[Prediction]:
    """Load a checkpoint and images, adapt, and write the predictions to the CSV file `out` in one step."""
    predictions = adapt_images(checkpoints.load(model), load_images(images), progress=progress, **options)
    with written_whole(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "prediction", "label_name", "confidence", "changed"])
        for p in predictions:
            writer.writerow([p.file, p.prediction, p.label_name, f"{p.confidence:.6f}", str(p.changed).lower()])
    return predictions


def _check_shape(checkpoint: Checkpoint, images: ImageSet) -> None:
    expected, found = checkpoint.image_shape, tuple(images.images.shape[1:])
    if found[0] != expected[0]:
        kinds = {1: "gray (1 channel)", 3: "colour (3 channels)"}
        raise DataError(
            f"the model was trained on {kinds[expected[0]]} images, {images.name} has {kinds[found[0]]}; convert them"
        )
    if found != expected:
        height, width = expected[1:]
        raise DataError(
            f"the model was trained on images of {height}x{width} pixels and {images.name} has {found[1]}x{found[2]}; "
            f"resize them to {height}x{width} first"
        )


def _even_batches(count: int, batch_size: int) -> list[range]:
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < batch_size / 2:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]
