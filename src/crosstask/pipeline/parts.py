"""What all training stages share: a checkpoint is found or made, and what it is made from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask import checkpoint as checkpoints
from crosstask import config, distributed, runtime
from crosstask.checkpoint import Checkpoint
from crosstask.config import Recipe
from crosstask.data.images import ImageSet
from crosstask.nets.encoders import Encoder, initialise, make_encoder
from crosstask.nets.split import Classifier
from crosstask.pipeline.experiment import Experiment
from crosstask.train.loop import Run
from crosstask.train.statistics import feature_statistics, fisher_information, pixel_statistics


def find_or_make(
    experiment: Experiment,
    kind: str,
    images: ImageSet,
    settings: dict[str, Any],
    parents: dict[str, str],
    make: Callable[[Run], Checkpoint],
) -> Checkpoint:
    """Load the checkpoint of this kind if the very same settings made it; else make it, from where a kill left it.

    Of several processes (`crosstask.distributed`) all make it together, and the first writes it.
    """
    experiment.open()
    recipe, path = experiment.recipe, experiment.path(kind)
    plain: dict[str, Any] = {name: config.to_dict(part) for name, part in settings.items()}
    plain |= {"seed": recipe.seed, "encoder": recipe.encoder, "precision": recipe.precision, "data": images.name}
    if recipe.weights != "float32":  # which all were before there was a choice: their keys stay
        plain["weights"] = recipe.weights
    key = config.digest(plain, images.fingerprint, parents)
    state = path.with_name(f".{kind}.state")
    distributed.wait()
    found = path.exists() and checkpoints.read_about(path)["settings"].get("key") == key
    distributed.check_agreed((key, found, path.parent.exists()), "what they train and what they find")
    if found:
        experiment.say(f"{kind}: found in {path}")
    else:
        started = time.monotonic()
        run = Run(
            seed=runtime.derive_seed(recipe.seed, kind),
            device=experiment.device,
            precision=recipe.precision,
            state=state,
            key=key,
            progress=lambda done, total, loss: experiment.narrator.progress(kind, done, total, f"loss {loss:.3f}"),
        )
        made = make(run)
        if distributed.rank() == 0:
            _set_aside(experiment, path)
            checkpoints.save(dataclasses.replace(made, settings=plain | {"key": key}), path, recipe.weights)
        experiment.say(f"{kind}: trained in {time.monotonic() - started:.0f} s, last loss {made.metrics['loss']:.3f}")
    distributed.wait()
    state.unlink(missing_ok=True)
    return checkpoints.load(path)


def origin(recipe: Recipe, images: ImageSet) -> dict[str, Any]:
    """Return what a checkpoint says of its encoder and of the images it was trained on."""
    return {
        "encoder_name": recipe.encoder,
        "image_shape": tuple(images.images.shape[1:]),
        "class_names": images.class_names,
    }


def fresh_encoder(recipe: Recipe, images: ImageSet, kind: str) -> Encoder:
    """Return an encoder with initial weights that knows the images' mean and deviation."""
    encoder = make_encoder(recipe.encoder, images.images.shape[1])
    initialise(encoder, initial(recipe, kind, "encoder"))
    mean, deviation = pixel_statistics(images)
    encoder.normalize.mean.copy_(mean.view(1, -1, 1, 1))
    encoder.normalize.std.copy_(deviation.view(1, -1, 1, 1))
    return encoder


def initial(recipe: Recipe, kind: str, part: str) -> torch.Generator:
    """Return the generator of a part's initial weights."""
    return runtime.generator(torch.device("cpu"), recipe.seed, kind, part)


def source_statistics(encoder: nn.Module, head: nn.Module, images: ImageSet, run: Run) -> dict[str, Tensor]:
    """Return what methods may ask of a classifier's source: moments of its features, and Fisher values."""
    return feature_statistics(encoder, images, run) | fisher_information(Classifier(encoder, head), images, run)


def _set_aside(experiment: Experiment, path: Path) -> None:
    """Keep a checkpoint of other settings under another name, where there is one."""
    if path.exists():
        older = path.with_name(f"{path.name}-{checkpoints.read_about(path)['weights_sha256'][:8]}")
        if not older.exists():
            path.rename(older)
            experiment.say(f"{path.name}: the checkpoint of other settings is kept as {older}")
