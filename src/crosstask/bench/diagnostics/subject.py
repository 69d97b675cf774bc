"""Whom a diagnosis looks at, and on which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from crosstask.checkpoint import Checkpoint
from crosstask.config import Diagnose, Kind, digest
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.data.corruptions.own import code_hash
from crosstask.data.images import ImageSet, check_same_kind
from crosstask.data.severities import CLEAN
from crosstask.data.streams import Stream, draw_stream
from crosstask.errors import ConfigError, DataError
from crosstask.methods import check_arguments
from crosstask.nets.split import Classifier

SHOWN: tuple[Kind, ...] = ("supervised", "self-supervised", "aligned", "joint")
"""Kinds of checkpoints that are looked at; `joint` where there is one."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which models are looked at, and on what.

    Attributes:
        checkpoints: by kind: supervised, self-supervised and aligned; joint where there is one.
        source, target: the images they were trained on, and those they are tested on, both with labels.
        corruption, severity, table: what is done to the test images.
        batch_size: images in a batch.
        seed: draws images, noise and views.
        adaptation: CTA's arguments, `steps` among them.
        settings: how much is measured.
        device, precision: where, and in which precision CTA adapts.
        command: that looks again.

    Raises:
        DataError: the images have no labels, or are not such as the models were trained on.
        ConfigError: there are too few images, or CTA has no such arguments.
    """

    checkpoints: Mapping[Kind, Checkpoint]
    source: ImageSet
    target: ImageSet
    corruption: str
    severity: int
    table: str = "cifar"
    batch_size: int
    seed: int
    adaptation: dict[str, Any]
    settings: Diagnose = field(default_factory=Diagnose)
    device: torch.device
    precision: str
    command: str

    def __post_init__(self) -> None:
        check_arguments("cta", self.adaptation)
        if self.corruption == CLEAN:
            raise ConfigError("clean images are looked at anyway; name a corruption, as diagnose.corruption=fog")
        if self.settings.adapted > self.settings.batches:
            raise ConfigError(
                f"{self.settings.adapted} batches are to be adapted to, and there are {self.settings.batches}; "
                "lower diagnose.adapted or raise diagnose.batches"
            )
        wanted = self.settings.batches * self.batch_size
        for images in (self.source, self.target):
            if images.labels is None:
                raise DataError(f"a diagnosis needs labelled images, and {images.name} has no labels")
            if len(images) < wanted:
                raise ConfigError(
                    f"{self.settings.batches} batches of {self.batch_size} images are asked for, and {images.name} has "
                    f"{len(images)}; lower diagnose.batches"
                )
            for checkpoint in self.checkpoints.values():
                check_same_kind(images, checkpoint.image_shape, checkpoint.class_names)

    @cached_property
    def key(self) -> str:
        """The content hash of whatever determines the figures."""
        made_with = texture() if self.corruption == "frost" else code_hash(self.corruption)
        if self.target.copies:
            made_with = self.target.copies.digest(self.corruption, self.severity)
        hashes = {kind: checkpoint.weights_hash for kind, checkpoint in self.checkpoints.items()}
        return digest(
            self.settings, hashes, self.source.fingerprint, self.target.fingerprint, self.corruption, self.severity,
            self.table, self.batch_size, self.seed, self.adaptation, self.precision, self.device.type, made_with,
        )  # fmt: skip

    def classifier(self, kind: Kind) -> Classifier:
        """Return an encoder with its head; the self-supervised one under the supervised model's."""
        checkpoint = self.checkpoints[kind]
        return Classifier(checkpoint.encoder, checkpoint.head or self.checkpoints["supervised"].classifier.head)

    def stream(self, images: ImageSet, corruption: str) -> Stream:
        """Draw the batches; the same images under every corruption."""
        count = self.settings.batches * self.batch_size
        drawn = draw_stream(
            images, corruption, self.severity, count=count, batch_size=self.batch_size, seed=self.seed, table=self.table
        )
        _ = drawn.images  # asked for here, they are made once
        return drawn
