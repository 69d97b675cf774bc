"""Encoded images into pixels, a block at a time on several threads."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crosstask.errors import DataError

BLOCK = 256
"""Images decoded before the next are read, so that memory stays bounded."""

_PIECE = 16
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no others: Pillow hands some formats to outside programs
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_EXIF_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, struct.error)


def decode(sources: Iterable[tuple[str, Path | bytes]], count: int | None = None) -> np.ndarray:
    """Decode named image files or encoded bytes, all of one size, into uint8 [N, C, H, W].

    Gray images stay one channel when all are gray; beside a colour image they become colour.

    Args:
        sources: (name for messages, path or encoded bytes) of each image.
        count: how many there are; taken from `sources` itself when None.

    Raises:
        DataError: an image is damaged, of an unsupported mode or of another size than the first.
    """
    if count is None:
        sources = list(sources)
        count = len(sources)
    images: np.ndarray | None = None
    first = ""
    for row, (name, pixels) in enumerate(_decoded(sources)):
        if images is None:
            first, images = name, np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[1:] != images.shape[2:]:
            raise DataError(_mixed_sizes(first, images.shape, name, pixels.shape))
        if pixels.shape[0] > images.shape[1]:
            images = np.repeat(images, 3, axis=1)
        images[row] = pixels
    assert images is not None, "the callers refuse empty folders and files"
    return images


def _mixed_sizes(first: str, expected: tuple[int, ...], name: str, got: tuple[int, ...]) -> str:
    return (
        f"images of different sizes (width x height): {first} is {expected[-1]} x {expected[-2]}, "
        f"{name} is {got[-1]} x {got[-2]}. Resize or crop them all to one size"
    )


def _decoded(sources: Iterable[tuple[str, Path | bytes]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 [C, H, W]) in order. Threads decode a block at a time, so memory stays bounded.

    Pillow lets go of the interpreter lock while it decodes: large images gain by threads. A thread takes several
    images at once, so that small ones, which gain little, lose nothing.
    """
    remaining = iter(sources)
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        while block := list(islice(remaining, BLOCK)):
            pieces = [block[start : start + _PIECE] for start in range(0, len(block), _PIECE)]
            for piece, decoded in zip(pieces, pool.map(_decode_piece, pieces), strict=True):
                yield from zip([name for name, _ in piece], decoded, strict=True)


def _decode_piece(piece: list[tuple[str, Path | bytes]]) -> list[np.ndarray]:
    return [_decode_one(name, data) for name, data in piece]


def _decode_one(name: str, data: Path | bytes) -> np.ndarray:
    """Decode one image to uint8 [C, H, W]."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
            pixels = np.asarray(_eight_bit(image, name))
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot read the image {name}: it is none of {', '.join(_FORMATS)}. Replace, convert or remove it"
        ) from error
    except _DECODE_ERRORS as error:
        raise DataError(f"cannot read the image {name}: {error}. It is damaged; replace or remove it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Return the image as 8-bit gray or RGB, upright as its EXIF says; transparency is dropped."""
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    if any(";16" in str(tile[3]) for tile in tiles) or image.mode.startswith(("I", "F")):  # Pillow cuts such a PNG to 8
        raise DataError(
            f"{name} has more than 8 bits a channel: expected 8-bit gray or colour. "
            "Convert it, choosing which values become black and white"
        )
    image.load()
    with contextlib.suppress(*_EXIF_ERRORS):  # EXIF that is damaged turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
