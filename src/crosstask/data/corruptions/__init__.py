"""The common corruptions of Hendrycks & Dietterich (ICLR 2019), batched, on the images' own device.

    corrupted = corrupt(images, "fog", 5, seed=0)

Each corruption is a plain function `(x, parameters, random) -> x` on float64 [N, C, H, W] in [0, 1], named in the one
table `CORRUPTIONS`; `data/severities.py` holds its parameters. Deterministic corruptions agree with the official
generator image by image, random ones in distribution: the random numbers are this library's own (`randomness.py`).

Everything is computed in float64, whose rounding is so far below a grey level that neither the batch nor the device
changes a pixel. Sizes other than the table's own work too: lengths in pixels stay, lengths relative to the image scale.
A gray image (C = 1) is corrupted as one channel, with noise of its own; where a corruption brings in colour
(`COLOURING`), it is corrupted as an RGB image of equal channels, whose luminance (ITU-R BT.601) is returned.

A shift of one's own joins by name (`own.py`); from then on it stands wherever a built-in one does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crosstask.data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from crosstask.data.corruptions.digital import brightness, contrast, elastic_transform, pixelate, saturate
from crosstask.data.corruptions.grey import luminance, truncate
from crosstask.data.corruptions.jpeg import jpeg_compression
from crosstask.data.corruptions.liquid import spatter
from crosstask.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from crosstask.data.corruptions.own import REGISTERED, applied
from crosstask.data.corruptions.weather import fog, frost, snow
from crosstask.data.randomness import ImageRandom, stream_key
from crosstask.data.severities import BENCHMARK, HELD_OUT, TABLES, Parameters
from crosstask.errors import DataError, UnknownName

Corruption = Callable[[Tensor, Parameters, ImageRandom], Tensor]

MINIMUM_SIZE = 16
"""The fewest pixels a side may have."""

CHUNK_ELEMENTS = {"cpu": 3 << 16, "gpu": 1 << 25}
"""Numbers (N x C x H x W) corrupted at once: small enough for a processor's cache, large enough to fill a GPU."""

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
"""Every built-in corruption by name."""

COLOURING = frozenset({"frost", "spatter", "saturate"})
"""The corruptions that bring colour into a gray image."""

DIRECTED = frozenset({"motion_blur", "snow"})
"""The corruptions whose first random number is a direction: images of like directions are corrupted together."""


def available() -> tuple[str, ...]:
    """Return the names that `corrupt` accepts: the benchmark's in the official order, the held-out, the registered."""
    return (*BENCHMARK, *HELD_OUT, *REGISTERED)


def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int, indices: Tensor | None = None, table: str = "cifar"
) -> Tensor:
    """Return a corrupted copy of `images`.

    Image i's pixels depend on (seed, name, severity, its index, table) alone: not on the batch, its order, or the
    device. Frost also depends on its sheets (`frost_sheets.texture()`).

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3, at least 16 x 16 pixels, on any device.
        name: one of `available()`.
        severity: 1 (weakest) to 5.
        seed: chooses the random numbers.
        indices: int64 [N], the images' positions in their set; 0, 1, ... by default.
        table: a name of `severities.TABLES`, the constants that define the severities of built-in corruptions.

    Returns:
        uint8 [N, C, H, W] on the same device. Values are cut to whole grey levels downwards, as the official files are.

    Raises:
        UnknownName: no such corruption or table.
        DataError: images, indices or severity are not as above.
    """
    if name not in available():
        raise UnknownName("corruption", name, available())
    if table not in TABLES:
        raise UnknownName("severity table", table, TABLES)
    check_images(images)
    _check_severity(severity)
    indices = _checked_indices(indices, images)
    key = stream_key(seed, name, severity)
    order = _order(key, indices) if name in DIRECTED else None
    if order is not None:
        images, indices = images.index_select(0, order), indices[order]
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    device = torch.device("cpu") if images.device.type == "mps" else images.device  # Apple's GPUs have no float64
    chunk = max(1, CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "gpu"] // images[0].numel())
    for part, index, out in zip(images.split(chunk), indices.split(chunk), corrupted.split(chunk), strict=True):
        random = ImageRandom(key, index, device)
        if name in REGISTERED:
            out.copy_(applied(name, part.to(device), severity, random))
        else:
            out.copy_(_corrupted(part.to(device), name, TABLES[table][name][severity - 1], random))
    return corrupted if order is None else corrupted.index_select(0, order.argsort())


def _corrupted(images: Tensor, name: str, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Return uint8 images [N, C, H, W] after a built-in corruption."""
    x = images.to(torch.float64, memory_format=torch.contiguous_format).div_(255)
    if x.shape[1] == 1 and name in COLOURING:
        x = CORRUPTIONS[name](x.expand(-1, 3, -1, -1), parameters, random)
        return truncate(luminance(x.clamp(0, 1)))
    return truncate(CORRUPTIONS[name](x, parameters, random))


def _order(key: int, indices: Tensor) -> Tensor:
    """Return int64 [N]: the images in the order of their first random number."""
    return ImageRandom(key, indices, indices.device).uniform(()).argsort()


def check_images(images: Tensor) -> None:
    """Raise a `DataError` that says what was expected if `corrupt` cannot take these images."""
    got = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    expected = "expected images as a uint8 tensor [N, C, H, W] with C = 1 or 3"
    if images.is_floating_point():
        raise DataError(f"{expected}, got {got}. Pass (images * 255).round().to(torch.uint8) for floats in [0, 1]")
    if images.dtype != torch.uint8:
        raise DataError(f"{expected}, got {got}. Pass images.to(torch.uint8) if the values are 0 to 255")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{expected}, got {got}. Use images[None] for one image, permute(0, 3, 1, 2) for channels last")
    if not len(images):
        raise DataError(f"{expected}, got an empty batch {list(images.shape)}. Pass at least one image")
    if min(images.shape[2:]) < MINIMUM_SIZE:
        raise DataError(
            f"expected images of at least {MINIMUM_SIZE} x {MINIMUM_SIZE} pixels, got {images.shape[2]} x "
            f"{images.shape[3]}. Enlarge them first: the corruptions have fixed lengths in pixels"
        )


def _check_severity(severity: int) -> None:
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise DataError(f"expected a severity of 1, 2, 3, 4 or 5, got {severity!r}. Pass one of the five")


def _checked_indices(indices: Tensor | None, images: Tensor) -> Tensor:
    if indices is None:
        return torch.arange(len(images), device=images.device)
    if indices.dtype != torch.int64 or indices.shape != images.shape[:1]:
        raise DataError(
            f"expected indices as an int64 tensor [{len(images)}], one for each image, got "
            f"{str(indices.dtype).removeprefix('torch.')} {list(indices.shape)}. Pass the images' positions in their "
            "set, or leave them out for 0, 1, 2, ..."
        )
    return indices.to(images.device)
