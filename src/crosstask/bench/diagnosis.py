"""What a look inside the models of a run found: `diagnostics.json`, versioned, checked on reading, without torch.

Where a figure has an interval, the file holds its value on every batch, so that anyone can compute the interval again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from crosstask.config import Count, Kind, NotNegative, Share, Steps
from crosstask.errors import DataError
from crosstask.files import write_text

FORMAT = 1

_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

Cosine = Annotated[float, Field(ge=-1, le=1)]
Coordinate = float


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Layer:
    """The cosine between the two losses' gradients with respect to the parameters of one layer."""

    name: str
    """Of the convolution, linear layer or norm within the encoder; its weight and bias are taken together."""
    cosines: list[Cosine]
    """One a batch."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Gradients:
    """Whether the self-supervised loss and the cross-entropy pull one encoder the same way."""

    model: Kind
    """Whose encoder; a self-supervised one stands under the supervised model's head."""
    images: Literal["source", "corrupted"]
    """Source images as they are, or test images under the corruption."""
    whole: list[Cosine]
    """The cosine with respect to all parameters of the encoder at once, one a batch."""
    layers: list[Layer]
    """Layer by layer, from the image on. A layer to which one of the losses sends no gradient is not among them."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Similarity:
    """How like the features of an encoder are to the supervised encoder's on the same images: linear CKA."""

    model: Kind
    """Whose encoder."""
    images: Literal["clean", "corrupted"]
    """Test images as they are, or under the corruption."""
    cka: Share
    """On all images at once; 1: the same but for a rotation and one scale."""
    without: list[Share]
    """The same with one batch left out, each in turn: what a jackknife needs for an interval."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Moment:
    """Where the features of a batch are after some updates on it; every list has one value a batch."""

    steps: Steps
    """Updates since the source state."""
    turned: list[Annotated[float, Field(ge=0, le=2)]]
    """1 minus the cosine between an image's features and those before any update, averaged over images."""
    moved: list[NotNegative]
    """The Frobenius norm of the difference from the features before any update, by the norm of those."""
    from_source: list[NotNegative]
    """The distance of the features' mean from that of the source images, by the length of the latter."""
    accuracy: list[Share]
    """Share of the batch that the head has right."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Drift:
    """How far an encoder goes from its source state while CTA adapts it to one corrupted batch at a time."""

    model: Kind
    """Which model adapts."""
    moments: list[Moment]
    """By number of updates, from 0 on."""
    clean_from_source: list[NotNegative]
    """`from_source` of clean test images before any update, one a batch: what chance alone makes of it."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Panel:
    """The features of some images in two dimensions."""

    model: Kind
    """Whose encoder."""
    images: Literal["clean", "corrupted"]
    """Test images as they are, or under the corruption; the same images in all panels."""
    steps: Steps
    """Updates of CTA on the images' batch."""
    basis: Literal["supervised", "own"]
    """Whose two main directions: the supervised encoder's on clean images, or this encoder's on these images. Only
    panels of the supervised basis can be laid over one another."""
    explained: Annotated[list[Share], Field(min_length=2, max_length=2)]
    """Share of these features' variance that lies along each of the two directions."""
    points: list[tuple[Coordinate, Coordinate, Annotated[int, Field(ge=0)]]]
    """Two coordinates and the index of the class, one an image."""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Diagnosis:
    """All that was found in one look, and what is needed to look again."""

    format: Literal[1] = 1
    """Version of this layout."""
    key: str
    """Content hash of whatever determines the figures."""
    dataset: str
    """The test images."""
    class_names: list[str]
    """By index."""
    corruption: str
    """Of the corrupted test images."""
    severity: Annotated[int, Field(ge=1, le=5)]
    """From 1 (mild) to 5."""
    table: str
    """Whose constants define the severities."""
    copies: str | None = None
    """What the stored corrupted copies are called that were looked at; None: the images were corrupted here."""
    seed: int
    """Draws images, noise and views."""
    batches: Annotated[int, Field(ge=2)]
    """How many, of the source images and of the test images."""
    adapted: Annotated[int, Field(ge=2)]
    """How many of the batches of test images CTA adapted to, from the first on."""
    batch_size: Count
    """Images in each."""
    labels: Literal["diagnosis"] = "diagnosis"
    """What labels decide: these figures, and nothing else."""
    batch_norm: Literal["batch"] = "batch"
    """What normalises in every encoder: the statistics of the batch, as in training and in adaptation."""
    precision: Literal["float32", "bfloat16"]
    """In which CTA adapts; gradients and likeness are always taken in float32."""
    adaptation: dict[str, Any]
    """CTA's arguments; `steps` of them lie between the panels of the picture."""
    gradients: list[Gradients]
    """By model and images."""
    similarities: list[Similarity]
    """By model and images."""
    drifts: list[Drift]
    """By model."""
    picture: list[Panel]
    """Panels, the supervised reference first."""
    checkpoints: dict[Kind, str]
    """Hashes of the weights, by kind."""
    versions: dict[str, str]
    """Of crosstask, torch, Python ..."""
    device: str
    """In words."""
    commit: str | None
    """Of the code, or None outside a repository."""
    command: str
    """That looks again."""

    @property
    def n(self) -> int:
        """Source images, and test images, that were looked at."""
        return self.batches * self.batch_size

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for count, lists in ((self.batches, _by_batch(self)), (self.adapted, _by_adapted_batch(self))):
            if any(len(values) != count for values in lists):
                raise ValueError(f"expected {count} values, one a batch, wherever such a figure is given by batch")
        if any(point[2] >= len(self.class_names) for panel in self.picture for point in panel.points):
            raise ValueError(f"expected the classes of all points below {len(self.class_names)}")
        return self


def _by_batch(diagnosis: Diagnosis) -> Iterator[list[float]]:
    """Yield every list that has one value a batch that was looked at."""
    for gradients in diagnosis.gradients:
        yield gradients.whole
        yield from (layer.cosines for layer in gradients.layers)
    yield from (similarity.without for similarity in diagnosis.similarities)


def _by_adapted_batch(diagnosis: Diagnosis) -> Iterator[list[float]]:
    """Yield every list that has one value a batch that was adapted to."""
    for drift in diagnosis.drifts:
        yield drift.clean_from_source
        for moment in drift.moments:
            yield from (moment.turned, moment.moved, moment.from_source, moment.accuracy)


def write(path: Path, diagnosis: Diagnosis) -> None:
    """Write a diagnosis to the file at `path` in one step.

    Raises:
        StorageError: the disk refuses.
    """
    write_text(path, TypeAdapter(Diagnosis).dump_json(diagnosis).decode() + "\n")


def read(path: Path) -> Diagnosis | None:
    """Return the diagnosis in the file at `path`; None if there is no such file.

    Raises:
        DataError: the file is not what `crosstask diagnose` writes, or of a newer format.
    """
    again = "remove the file and run `crosstask diagnose RECIPE` again"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not whole JSON ({error}); {again}") from error
    number = plain.get("format") if isinstance(plain, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise DataError(f"{path} has format {number}, and this crosstask reads up to {FORMAT}; upgrade it")
    try:
        return TypeAdapter(Diagnosis).validate_json(content)
    except ValidationError as error:
        mistake, count = error.errors(include_url=False)[0], error.error_count()
        where = ".".join(str(part) for part in mistake["loc"]) or "the whole"
        more = f" and {count - 1} more" if count > 1 else ""
        raise DataError(f"{path} is not a diagnosis: {where}: {mistake['msg']}{more}; {again}") from error
