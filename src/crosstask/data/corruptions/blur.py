"""Blur: defocus, glass, motion, zoom and gaussian."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from crosstask.data.corruptions.filters import (
    along_both,
    cached_matrix,
    convolved,
    filter_matrix,
    gaussian,
    gaussian_taps,
    pixels_at,
    streaked,
    zoom_matrix,
)
from crosstask.data.corruptions.grey import cut
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters


def gaussian_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, edges repeated; parameters (sigma,)."""
    (sigma,) = parameters
    return gaussian(x, sigma)


def defocus_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur with a disk, as a lens out of focus does, edges mirrored; parameters (radius, alias_sigma) in pixels."""
    return convolved(x, disk_kernel(*parameters))


@cached_matrix
def disk_kernel(radius: float, alias_sigma: float) -> Tensor:
    """Return float64 [K, K]: a disk of `radius` pixels, sum 1, its edge softened by a Gaussian.

    The Gaussian has 3 x 3 taps, for disks above 8 pixels 5 x 5. Those fill their square, whose borders are mirrored,
    as in the official code; so does a disk of 8 pixels. Taps too small to change a grey level are left out.
    """
    reach = math.ceil(radius) + (2 if radius < 8 else 0)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (offsets**2 + offsets.unsqueeze(1) ** 2 <= radius**2).to(torch.float64)
    soften = filter_matrix(gaussian_taps(alias_sigma, 1 if radius <= 8 else 2), len(offsets), "mirror")
    kernel = along_both(disk / disk.sum(), soften, soften)
    kernel = kernel.masked_fill(kernel < 1e-10, 0)
    while not kernel[0].any():
        kernel = kernel[1:-1, 1:-1]
    return kernel


def motion_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur along a line whose angle is uniform in -45 to 45 degrees; parameters (radius, sigma) in pixels."""
    radius, sigma = parameters
    return streaked(x, int(radius), sigma, degrees_between(-45, 45, random))


def degrees_between(low: float, high: float, random: ImageRandom) -> Tensor:
    """Return one uniform angle for each image, in radians, float64 [N]."""
    return torch.deg2rad(random.uniform(()) * (high - low) + low)


def zoom_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Mean of the image and of its enlargements by 1, 1 + step, 1 + 2 step, ...; parameters (count, step)."""
    count, step = parameters
    pixels = x.permute(2, 3, 0, 1).flatten(2).flatten(0, 1).contiguous()  # a sparse product wants them row by row
    zoomed = torch.sparse.mm(zoom_operator(*x.shape[2:], int(count), step).to(x.device), pixels)
    return zoomed.view(*x.shape[2:], *x.shape[:2]).permute(2, 3, 0, 1).add(x).div_(count + 1)


@cached_matrix
def zoom_operator(height: int, width: int, count: int, step: float) -> Tensor:
    """Return sparse float64 [H * W, H * W]: the sum of an image's `count` enlargements as one linear map.

    A pixel depends on few others, so that this is many times faster than enlarging `count` times.
    """
    places, weights = [], []
    for number in range(count):
        factor = 1 + number * (1 + step - 1)  # rounded as numpy.arange rounds it: 1.25 comes out a hair larger
        down, across = zoom_matrix(height, factor).to_sparse(), zoom_matrix(width, factor).to_sparse()
        places.append((down.indices().unsqueeze(2) * width + across.indices().unsqueeze(1)).flatten(1))
        weights.append(torch.outer(down.values(), across.values()).flatten())
    shape = (height * width, height * width)
    operator = torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(weights), shape, check_invariants=True)
    with warnings.catch_warnings(action="ignore"):  # that torch calls its row format a beta version
        return operator.coalesce().to_sparse_csr()


def glass_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur, let pixels take each other's places, blur again; parameters (sigma, reach, rounds), sigma in pixels.

    The official code visits the pixels from the last to the first, leaving out a border, and gives each the value that
    a pixel -reach .. reach - 1 rows and columns away has at that moment.
    """
    sigma, reach, rounds = parameters
    pixels = cut(gaussian(x, sigma)).flatten(2)
    for _ in range(int(rounds)):
        pixels = pixels_at(pixels, shuffled_places(x.shape[2], x.shape[3], int(reach), random))
    return gaussian(pixels.view(x.shape).div_(255), sigma)


def shuffled_places(height: int, width: int, reach: int, random: ImageRandom) -> Tensor:
    """Return int64 [N, H, W]: where (row * W + column) each pixel's value came from after one round of `glass_blur`.

    A pixel that reads from one before it gets an original value. One that reads from a pixel after it gets what that
    one has read already: such chains are followed to their end, in steps that double.
    """
    side = 2 * reach
    choice = random.uniform((height, width)).mul_(side * side).floor_()
    down = (choice / side).floor_()
    across = choice.sub_(down, alpha=side)
    moving = torch.zeros(height, width, dtype=torch.bool, device=random.device)
    moving[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    own = torch.arange(height * width, device=random.device)
    source = own + down.mul_(width).add_(across).sub_(reach * (width + 1)).mul_(moving).flatten(1).long()
    if reach > 1:
        chained = (source > own) & moving.flatten()[source]
        ahead, further = torch.where(chained, source, own), own
        while not torch.equal(ahead, further):
            ahead, further = ahead.gather(1, ahead), ahead
        source = source.gather(1, ahead)
    return source.view(-1, height, width)
