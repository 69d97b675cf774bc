"""The example images that the benchmark leaves beside its records: checked before they enter a page."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from crosstask.errors import DataError


def _png(text: str) -> str:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("expected base64") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("expected a PNG image")
    return text


Png = Annotated[str, AfterValidator(_png)]
"""A PNG image in base64."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The name of a class and how sure a model is of it, 0..1."""

    name: str
    confidence: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image before and after a corruption, and what the frozen and the adapted model take it for."""

    corruption: str
    severity: int
    truth: str
    clean_png: Png
    corrupted_png: Png
    frozen: Prediction
    adapted: Prediction


@dataclass(frozen=True, kw_only=True)
class _File:
    examples: list[Example]


def read(path: Path) -> list[Example]:
    """Return the examples of the file at `path`; none if there is no such file.

    Raises:
        DataError: the file is not what the benchmark writes.
    """
    if not path.exists():
        return []
    try:
        return TypeAdapter(_File).validate_json(path.read_bytes()).examples
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in mistake["loc"])
        raise DataError(
            f"{path}: {where}: {mistake['msg']}; remove the file and run `crosstask bench` again"
        ) from error
