"""Digital: brightness, saturation, contrast, elastic deformation and pixelation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crosstask.data.corruptions.filters import box_resized, gaussian, nearest_resized
from crosstask.data.corruptions.grey import levels
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters


def brightness(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Raise the value of HSV by `amount`, hue and saturation kept; parameters (amount,). Black becomes gray."""
    (amount,) = parameters
    value = x.amax(1, keepdim=True)
    black = value == 0
    raised = (value + amount).clamp(max=1)
    return x * (raised / value.masked_fill(black, 1)) + raised * black


def saturate(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Set the saturation of HSV to saturation * factor + offset, clipped; parameters (factor, offset).

    Gray pixels have no hue; as usual they count as red, so an offset above zero tints them.
    """
    factor, offset = parameters
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - least
    gray = spread == 0
    saturation = (spread / value.masked_fill(value == 0, 1) * factor + offset).clamp(0, 1)
    below = (value - x) / spread.masked_fill(gray, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return value - value * saturation * (below + gray * red)


def contrast(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Pull each channel towards its own mean over the image, (x - mean) * factor + mean; parameters (factor,)."""
    (factor,) = parameters
    mean = levels(x).sum((2, 3), keepdim=True) / (255 * x.shape[2] * x.shape[3])
    return (x - mean) * factor + mean


def pixelate(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Shrink to `share` of each side with box averaging and enlarge again; parameters (share,)."""
    (share,) = parameters
    height, width = x.shape[2:]
    return nearest_resized(box_resized(x, int(height * share), int(width * share)), height, width)


def elastic_transform(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Jitter three points affinely, then move every pixel along a smooth random field.

    Parameters (strength, sigma, jitter) as shares of the shorter side: how far the field moves pixels before it is
    smoothed, the Gaussian that smooths it (cut at 3 sigmas, borders reflected), and how far each of the three points
    is moved. Both steps interpolate linearly, the first with mirrored, the second with reflected borders.
    """
    height, width = x.shape[2:]
    strength, sigma, jitter = (share * min(height, width) for share in parameters)
    x = F.grid_sample(x, jittered_grid(height, width, jitter, random), padding_mode="reflection", align_corners=True)
    if not strength:
        return x
    field = random.uniform((2, height, width)).mul_(2).sub_(1)
    field = gaussian(field, sigma, cut=3, border="reflect") * strength
    down = torch.arange(height, device=x.device).unsqueeze(1) + field[:, 0]
    across = torch.arange(width, device=x.device) + field[:, 1]
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=1)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def jittered_grid(height: int, width: int, jitter: float, random: ImageRandom) -> Tensor:
    """Return [N, H, W, 2] for `grid_sample`: where pixels come from if three points move by up to `jitter` pixels.

    The points are three corners of a square in the middle of the image, two thirds of the shorter side wide.
    """
    half = min(height, width) // 3
    centre = torch.tensor([width // 2, height // 2], dtype=torch.float64, device=random.device)
    corners = centre + half * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=random.device)
    moved = corners + random.uniform((3, 2)).mul_(2 * jitter).sub_(jitter)
    right, down = ((moved[:, i] - moved[:, j]) / (2 * half) for i, j in ((1, 2), (0, 1)))
    determinant = (right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0])[:, None, None]
    across = torch.arange(width, device=random.device) - moved[:, 1, 0, None, None]
    along = torch.arange(height, device=random.device)[:, None] - moved[:, 1, 1, None, None]
    column = (down[:, 1, None, None] * across - down[:, 0, None, None] * along) / determinant + corners[1, 0]
    row = (right[:, 0, None, None] * along - right[:, 1, None, None] * across) / determinant + corners[1, 1]
    return torch.stack([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1], dim=1).permute(0, 2, 3, 1)
