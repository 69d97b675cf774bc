"""Random changes of images that keep their meaning, for methods that compare predictions under them. All batched."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from crosstask.config import Views
from crosstask.views import ViewSampler

_CHAINS, _LONGEST = 3, 3


class StrongViews:
    """CoTTA's augmentation (Wang et al. 2022): colour, gamma, a small affine change, blur, a flip and noise.

    The pixels outside the image are those of its edge, which is what padding, the change and a crop amount to. Other
    than there, the blur stands before the affine change.

    Args:
        strength: 1 as in CoTTA; 0.5 halves every range (the weak form that ROID uses).
        blur: with blur and noise, as CoTTA has it, or without.
        padding: outside the image, `border` or `reflection`.
    """

    def __init__(self, strength: float = 1.0, *, blur: bool = True, padding: str = "border") -> None:
        self.strength, self.noise, self.padding = strength, 0.005 * blur, padding
        self.colour = ViewSampler(
            Views(
                jitter=1.0,
                brightness=0.4 * strength,
                contrast=0.3 * strength,
                saturation=0.5 * strength,
                hue=0.06 * strength,
                gray=0.0,
                blur=float(blur),
                blur_sigma=(1e-3, 0.5 * strength),
            )
        )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of each image, float [B, C, H, W] in [0, 1]."""
        changed = self.colour.photometric(x.float(), generator)
        uniform = 2 * torch.rand(5, len(x), generator=generator, device=x.device) - 1
        changed = changed ** (1 + 0.3 * self.strength * uniform[0]).view(-1, 1, 1, 1)
        angle = math.radians(15) * self.strength * uniform[1]
        scale = 1 + 0.1 * self.strength * uniform[2]
        shift = uniform[3:5] / 4  # an eighth of the side, which is two units long: a sixteenth of the padded side
        flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]) / scale
        rows = torch.where(flip, rows * rows.new_tensor([[-1], [1], [-1], [1]]), rows)
        matrix = torch.stack([rows[0], rows[1], shift[0], rows[2], rows[3], shift[1]], dim=1).view(-1, 2, 3)
        changed = _resampled(changed, matrix, self.padding)
        if self.noise:
            changed = changed + self.noise * torch.randn(changed.shape, generator=generator, device=x.device)
        return changed.clamp(0, 1).to(x.dtype)


def augmix(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a view of each image in the way of AugMix (Hendrycks et al. 2020), as MEMO uses it.

    A crop of the image padded by 4 pixels of 32, and a flip; then `m x + (1 - m) sum_k w_k chain_k(x)` with three
    chains of one to three of nine small changes, w ~ Dirichlet(1, 1, 1), m ~ Beta(1, 1).

    Args:
        x: float tensor [B, C, H, W] in [0, 1].
        generator: on the device of `x`.
    """
    plain = _cropped(x.float(), generator)
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


def _cropped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad by an eighth of the side with black, crop at random, and flip half of the images."""
    uniform = torch.rand(3, len(x), generator=generator, device=x.device)
    height, width = x.shape[2:]
    places = []
    for side, draw in ((height, uniform[0]), (width, uniform[1])):
        margin = side // 8
        shift = (draw * (2 * margin + 1)).floor() - margin
        places.append(torch.arange(side, device=x.device) + shift[:, None].long())
    rows, columns = places
    columns = torch.where((uniform[2] < 0.5)[:, None], columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    taken = x.permute(0, 2, 3, 1)[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    return torch.where(inside[..., None], taken, 0).permute(0, 3, 1, 2)


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
    turn = [one * angle.cos(), shear_x - angle.sin(), shift_x, shear_y + angle.sin(), one * angle.cos(), shift_y]
    matrix = torch.stack(turn, dim=1).view(-1, 2, 3)
    return _resampled(pixels, matrix, "zeros").round()


def _resampled(x: Tensor, matrix: Tensor, padding: str) -> Tensor:
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
