"""Random changes of images that keep their meaning, for methods that compare predictions under them. All batched."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstask.augmix import aspects, augmix, resampled
from crosstask.config import Views
from crosstask.views import ViewSampler


class StrongViews:
    """CoTTA's augmentation (Wang et al. 2022): colour, gamma, a small affine change, blur, a flip and noise.

    The pixels outside the image are those of its edge, which is what padding, the change and a crop amount to.
    Differences from the official code: brightness, contrast and colour change in this order, where there it is random,
    gamma among them; the blur stands before gamma and the affine change; its sigma is in pixels of an image 32 pixels
    wide and grows with the image, where there it is 0.001 to 0.5 pixels at every size.

    Args:
        strength: 1 as in CoTTA; 0.5 halves every range but that of the shift, about as CoTTA's soft form does. Our ROID
            takes 0.5, the official one 1.
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
        wide, tall = aspects(x)
        rows = torch.stack([angle.cos(), -tall * angle.sin(), wide * angle.sin(), angle.cos()]) / scale
        rows = torch.where(flip, rows * rows.new_tensor([[-1], [1], [-1], [1]]), rows)
        matrix = torch.stack([rows[0], rows[1], shift[0], rows[2], rows[3], shift[1]], dim=1).view(-1, 2, 3)
        changed = resampled(changed, matrix, self.padding)
        if self.noise:
            changed = changed + self.noise * torch.randn(changed.shape, generator=generator, device=x.device)
        return changed.clamp(0, 1).to(x.dtype)


def memo_views(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a view of each image [B, C, H, W] as MEMO draws it: padded by 4 pixels of 32, cropped, flipped, AugMix."""
    return augmix(_cropped(x, generator), generator)


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
