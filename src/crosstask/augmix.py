"""AugMix (Hendrycks et al. 2020): an image mixed with chains of small changes of itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_CHAINS, _LONGEST = 3, 3


def augmix(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return `m x + (1 - m) sum_k w_k chain_k(x)` for each image x (Hendrycks et al. 2020).

    Three chains of one to three of nine small changes (contrast stretched, histogram flattened, solarised, posterised,
    rotated, sheared, shifted), w ~ Dirichlet(1, 1, 1), m ~ Beta(1, 1).

    Args:
        x: float tensor [B, C, H, W] in [0, 1].
        generator: on the device of `x`.
    """
    plain = x.float()
    share = torch.rand(len(x), generator=generator, device=x.device)
    weights = -torch.rand(_CHAINS, len(x), generator=generator, device=x.device).clamp(min=1e-12).log()
    weights = weights / weights.sum(dim=0)
    mixed = torch.zeros_like(plain)
    for weight in weights:
        length = torch.randint(1, _LONGEST + 1, (len(x),), generator=generator, device=x.device)
        chain = plain
        for step in range(_LONGEST):
            goes_on = (step < length).view(-1, 1, 1, 1)
            chain = torch.where(goes_on, _small_change(chain, generator), chain)
        mixed = mixed + weight.view(-1, 1, 1, 1) * chain
    return torch.lerp(mixed, plain, share.view(-1, 1, 1, 1)).to(x.dtype)


def some_mixed(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return `augmix` of each image with probability `share`, and the others as they are; at 0 nothing is drawn.

    Args:
        x: float tensor [B, C, H, W] in [0, 1].
        share: in [0, 1].
        generator: on the device of `x`.
    """
    if not share:
        return x
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < share
    return torch.where(chosen, augmix(x, generator), x).contiguous(memory_format=torch.channels_last)


def _small_change(x: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one of nine changes to each image, at a level from U(0.1, 1) of 10; values in steps of 1/255, as there."""
    choice = torch.randint(9, (len(x),), generator=generator, device=x.device)
    level, sign = torch.rand(2, len(x), generator=generator, device=x.device)
    level, sign = 0.1 + 0.9 * level, torch.where(sign < 0.5, -1.0, 1.0)
    pixels = (255 * x).round()
    out = torch.empty_like(pixels)
    for index, change in enumerate(_SMALL_CHANGES):
        rows = (choice.clamp(max=4) == index).nonzero().flatten()
        if len(rows):
            out[rows] = change(pixels[rows], choice[rows], level[rows], sign[rows])
    return out / 255


def _warped(pixels: Tensor, choice: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Rotate by up to 3 degrees (4), shear by up to 0.03 (5, 6) or shift by up to a pixel of 32 (7, 8)."""
    height, width = pixels.shape[2:]
    zero, one = torch.zeros_like(level), torch.ones_like(level)
    angle = torch.where(choice == 4, torch.deg2rad((3 * level).floor() * sign), zero)
    shear_x = torch.where(choice == 5, 0.03 * level * sign, zero)
    shear_y = torch.where(choice == 6, 0.03 * level * sign, zero)
    shift_x = torch.where(choice == 7, (level * width / 30).floor() * sign * 2 / width, zero)
    shift_y = torch.where(choice == 8, (level * height / 30).floor() * sign * 2 / height, zero)
    wide, tall = aspects(pixels)
    x_by_y, y_by_x = tall * (shear_x - angle.sin()), wide * (shear_y + angle.sin())
    turn = [one * angle.cos(), x_by_y, shift_x, y_by_x, one * angle.cos(), shift_y]
    matrix = torch.stack(turn, dim=1).view(-1, 2, 3)
    return resampled(pixels, matrix, "zeros").round()


def aspects(x: Tensor) -> tuple[float, float]:
    """Return W / H and H / W of images [B, C, H, W].

    `resampled` has each side two units long. In these, what a matrix in pixels adds to x for each y is H / W times as
    much, and what it adds to y for each x is W / H times; else rotating an image that is not square would shear it.
    """
    height, width = x.shape[2:]
    return width / height, height / width


def resampled(x: Tensor, matrix: Tensor, padding: str) -> Tensor:
    """Sample each image where a matrix [B, 2, 3] says; in bfloat16 the places would be off by parts of a pixel."""
    with torch.autocast(x.device.type, enabled=False):
        grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _solarized(pixels: Tensor, choice: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Invert what is bright; the higher the level, the more is."""
    threshold = (256 - (25.6 * level).floor()).view(-1, 1, 1, 1)
    return torch.where(pixels < threshold, pixels, 255 - pixels)


def _posterized(pixels: Tensor, *_: Tensor) -> Tensor:
    """Keep four bits."""
    return (pixels / 16).floor() * 16


def _autocontrast(pixels: Tensor, *_: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a flat one stays."""
    low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
    stretched = ((pixels - low) * (255 / (high - low).clamp(min=1))).floor().clamp(0, 255)
    return torch.where(high > low, stretched, pixels)


def _equalized(pixels: Tensor, *_: Tensor) -> Tensor:
    """Flatten the histogram of each channel, as Pillow's ImageOps.equalize does."""
    values = pixels.nan_to_num(0).clamp(0, 255).long().flatten(2)
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=pixels.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    places = torch.arange(256, device=pixels.device)
    last = torch.where(histogram > 0, places, -1).amax(dim=2, keepdim=True)
    step = (values.shape[2] - histogram.gather(2, last)) // 255
    before = histogram.cumsum(dim=2) - histogram
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, places.expand_as(table))
    return table.gather(2, values).view_as(pixels).to(pixels.dtype)


_SMALL_CHANGES: tuple[Callable[..., Tensor], ...] = (_autocontrast, _equalized, _solarized, _posterized, _warped)
"""What the choices 0 to 3 do, and all above."""
