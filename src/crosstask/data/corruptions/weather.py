"""Weather: fog, snow and frost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crosstask.data.corruptions.blur import degrees_between
from crosstask.data.corruptions.filters import along_both, streaked, zoom_matrix
from crosstask.data.corruptions.frost_sheets import frost_pieces
from crosstask.data.corruptions.grey import cut, luminance
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters


def plasma(size: int, decay: float, random: ImageRandom) -> Tensor:
    """Return float64 [N, size, size] in [0, 1]: a cloud by diamond-square on a torus; `size` is a power of two.

    Each level doubles the grid: the middle of a square takes the mean of its four corners, then the middle of an edge
    the mean of its four neighbours, each with uniform noise whose size falls by the factor decay^2 from level to level.
    """
    cloud = torch.zeros(random.count, 1, 1, dtype=torch.float64, device=random.device)
    noise = 100.0**2
    while cloud.shape[1] < size:
        n = cloud.shape[1]
        squares, top, left = random.uniform((3, n, n)).mul_(2 * noise).sub_(noise).unbind(1)
        across, down = cloud + cloud.roll(-1, 2), cloud + cloud.roll(-1, 1)
        middle = (across + across.roll(-1, 1)) / 4 + squares
        top = (across + middle + middle.roll(1, 1)) / 4 + top
        left = (down + middle + middle.roll(1, 2)) / 4 + left
        upper, lower = torch.stack([cloud, top], 3), torch.stack([left, middle], 3)
        cloud = torch.stack([upper, lower], 2).reshape(-1, 2 * n, 2 * n)
        noise /= decay**2
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True)


def fog(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Add a cloud and scale back to the image's own maximum; parameters (strength, decay)."""
    strength, decay = parameters
    height, width = x.shape[2:]
    cloud = plasma(1 << (max(height, width) - 1).bit_length(), decay, random)[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * cloud) * (brightest / (brightest + strength))


def snow(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Whiten the image and add falling flakes, once upright and once turned by 180 degrees.

    Parameters (mean, deviation, zoom, threshold, radius, sigma, keep): flakes are normal noise, enlarged `zoom` times,
    kept where it exceeds the threshold, streaked with (radius, sigma) at -135 to -45 degrees; `keep` is the share of
    the image, the rest is its whitened version.
    """
    mean, deviation, zoom, threshold, radius, sigma, keep = parameters
    angles = degrees_between(-135, -45, random)
    flakes = random.normal((1, *x.shape[2:])).mul_(deviation).add_(mean)
    flakes = along_both(flakes, *(zoom_matrix(size, zoom) for size in x.shape[2:]))
    flakes = cut(F.threshold(flakes, threshold, 0)).div_(255)
    flakes = cut(streaked(flakes, int(radius), sigma, angles)).div_(255)
    whitened = torch.maximum(x, (luminance(x) * 1.5).add_(0.5))
    return whitened.mul_(1 - keep).add_(x, alpha=keep).add_(flakes).add_(flakes.flip(2, 3))


def frost(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Lay a sheet of frost over the image, image * keep + frost * strength; parameters (keep, strength, scale).

    `scale` shrinks the sheet, from the size of the photographs to that of the image.
    """
    keep, strength, scale = parameters
    return frost_pieces(x.shape[2], x.shape[3], scale, random).mul_(strength).add_(x, alpha=keep)
