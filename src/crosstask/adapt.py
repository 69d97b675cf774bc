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
from crosstask.data.images import ImageSet, check_same_kind, load_images
from crosstask.errors import AdapterError, ConfigError
from crosstask.files import check_writable, written_whole
from crosstask.methods import Source, make_adapter


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the adapted model says about one image.

    Attributes:
        file: the image's file name, or its row number in an array.
        prediction: index of the most probable class.
        label_name: that class's name; empty where the model has no names.
        confidence: its probability, in 0..1.
        changed: whether the same model without adaptation, in eval mode, predicts another class.
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
    """Adapt to batch after batch of images, each from the source state, and predict it.

    The batches are drawn at random (always the same), since files in a folder often come class by class, and a batch of
    one class has misleading statistics. The answers come in the images' order.

    Args:
        checkpoint: the model; for `cta` an aligned one, or a supervised one as it is.
        images: labels are not looked at.
        method, arguments: see `crosstask methods`.
        batch_size: images adapted to together; a last batch of less than half that size joins the one before.
        progress: told how many images of how many are done.

    Raises:
        DataError: the images have another shape than the model was trained on.
        UnknownName, ConfigError, AdapterError: see `crosstask.methods.make_adapter`.
        AdapterError: also if a prediction is not finite.
    """
    check_same_kind(images, checkpoint.image_shape)
    device = device or runtime.pick_device()
    adapter = runtime.place(make_adapter(method, checkpoint, **(arguments or {})), device)
    source = runtime.place(Source(checkpoint.classifier), device)
    predictions: dict[int, Prediction] = {}
    order = torch.randperm(len(images), generator=runtime.generator(torch.device("cpu"), "adapt"))
    for rows in _even_batches(order, batch_size):
        adapter.reset()
        x = runtime.to_unit_floats(images.images[rows], device)
        with runtime.autocast(device):
            before, after = source(x), adapter(x)
        if not after.isfinite().all():
            raise AdapterError(
                f"{method} ended in predictions that are not finite; lower its learning rate or its steps"
            )
        confidences, classes = after.float().softmax(dim=1).max(dim=1)
        changed = before.argmax(dim=1) != classes
        answers = zip(rows.tolist(), classes.tolist(), confidences.tolist(), changed.tolist(), strict=True)
        for row, index, confidence, moved in answers:
            predictions[row] = Prediction(
                file=str(row) if images.items is None else images.items[row],
                prediction=index,
                label_name=checkpoint.class_names[index] if checkpoint.class_names else "",
                confidence=confidence,
                changed=moved,
            )
        if progress:
            progress(len(predictions), len(images))
    return [predictions[row] for row in range(len(images))]


def adapt_files(
    model: Path, images: Path, out: Path, *, progress: Callable[[int, int], None] | None = None, **options: Any
) -> list[Prediction]:
    """Load a checkpoint and images, adapt, and write the predictions to the CSV file `out` in one step.

    Raises:
        ConfigError: `out` would take the place of what is read.
        StorageError: `out` cannot be written; said before anything is computed.
    """
    out = Path(out).resolve()  # a link stays a link: what it points to is written
    check_writable(out)
    for what in (model, images):
        if out.exists() and out.is_relative_to(Path(what).resolve()):
            raise ConfigError(f"--out {out} would overwrite a part of {what}, which is read; name another file")
    predictions = adapt_images(checkpoints.load(model), load_images(images, labels=False), progress=progress, **options)
    with (
        written_whole(out) as temporary,
        # The name of an image need not be UTF-8: its bytes come out as they went in.
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "prediction", "label_name", "confidence", "changed"])
        for p in predictions:
            writer.writerow([p.file, p.prediction, p.label_name, f"{p.confidence:.6f}", str(p.changed).lower()])
    return predictions


def _even_batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Split row numbers into batches; a last one of less than half the size joins the one before."""
    return list(order.tensor_split([*range(batch_size, len(order) - (batch_size - 1) // 2, batch_size)]))
