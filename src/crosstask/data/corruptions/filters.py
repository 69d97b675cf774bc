"""Linear filters and resampling: lines of pixels as small matrices, disks by Fourier transform, streaks by shifts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from crosstask.data.corruptions.grey import levels

cached_matrix: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = functools.lru_cache(maxsize=64)
"""Keeps the matrices in use, which depend on sizes and parameters only. They are shared: nobody writes into one."""


def border_positions(positions: Tensor, size: int, border: str) -> Tensor:
    """Map integer `positions` outside 0 .. size - 1 to the pixel that a border rule puts there.

    "nearest" repeats the edge (a|abc|c), "reflect" mirrors with it (ba|abc|cb), "mirror" without it (cb|abc|ba).
    """
    if border == "nearest":
        return positions.clamp(0, size - 1)
    if border == "reflect":
        folded = positions.remainder(2 * size)
        return torch.minimum(folded, 2 * size - 1 - folded)
    folded = positions.remainder(2 * size - 2)
    return torch.minimum(folded, 2 * size - 2 - folded)


def filter_matrix(taps: Tensor, size: int, border: str) -> Tensor:
    """Return float64 [size, size]: correlation of a line of `size` pixels with an odd number of `taps`."""
    radius = len(taps) // 2
    rows = torch.arange(size).unsqueeze(1)
    columns = border_positions(rows + torch.arange(-radius, radius + 1), size, border)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, columns, taps.expand(size, -1))


def along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply the matrix `rows` [H', H] to the columns of x [..., H, W] and `columns` [W', W] to its rows."""
    return rows.to(x.device) @ (x @ columns.to(x.device).T)


def gaussian_taps(sigma: float, radius: int) -> Tensor:
    """Return float64 [2 * radius + 1]: a sampled Gaussian of sum 1."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return taps / taps.sum()


@cached_matrix
def gaussian_matrix(sigma: float, radius: int, size: int, border: str) -> Tensor:
    """Return float64 [size, size]: a line of pixels blurred with a Gaussian that is cut off at `radius` pixels."""
    return filter_matrix(gaussian_taps(sigma, radius), size, border)


def gaussian(x: Tensor, sigma: float, cut: float = 4, border: str = "nearest") -> Tensor:
    """Blur x [..., H, W] with a Gaussian of `sigma` pixels, cut off at `cut` sigmas."""
    radius = int(cut * sigma + 0.5)
    if not radius:
        return x
    if radius <= 3 and border == "nearest":
        return _gaussian_by_taps(x, gaussian_taps(sigma, radius).tolist())
    return along_both(x, *(gaussian_matrix(sigma, radius, size, border) for size in x.shape[-2:]))


def _gaussian_by_taps(x: Tensor, taps: list[float]) -> Tensor:
    """Return x [..., H, W] filtered with a few `taps` along both sides, edges repeated: less work than matrices."""
    reach, (height, width), shape = len(taps) // 2, x.shape[-2:], x.shape
    x = F.pad(x.reshape(-1, 1, height, width), (reach,) * 4, mode="replicate")
    x = shifted_sum(x, [[row, 0] for row in range(len(taps))], taps, height, width + 2 * reach)
    return shifted_sum(x, [[0, column] for column in range(len(taps))], taps, height, width).view(shape)


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Return x [N, C, H, W] filtered with a `kernel` [K, K], K odd, symmetric in both directions; borders mirrored.

    A small kernel is summed tap by tap. A large one is a multiplication between cosine transforms (DCT-I), for which
    mirrored borders come by themselves; the kernel may be wider than the image.
    """
    height, width = x.shape[2:]
    if int(kernel.count_nonzero()) <= 25:
        padded = F.pad(x, (len(kernel) // 2,) * 4, mode="reflect")
        return shifted_sum(padded, kernel.nonzero().tolist(), kernel[kernel != 0].tolist(), height, width)
    (rows, from_rows), (columns, from_columns) = (cosine_matrices(size) for size in (height, width))
    gain = along_both(kernel, *(_cosine_responses(size, len(kernel)) for size in (height, width)))
    return along_both(along_both(x, from_rows, from_columns).mul_(gain.to(x.device)), rows, columns)


@functools.lru_cache(maxsize=16)
def cosine_matrices(size: int) -> tuple[Tensor, Tensor]:
    """Return float64 [size, size]: cosines of 0, 1, ... half waves as columns, and the inverse matrix."""
    numbers = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / (size - 1) * numbers.unsqueeze(1) * numbers)
    return waves, torch.linalg.inv(waves)


def _cosine_responses(size: int, taps: int) -> Tensor:
    """Return float64 [size, taps]: by how much each tap of a symmetric filter weighs each of `cosine_matrices`."""
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    return torch.cos(math.pi / (size - 1) * torch.arange(size, dtype=torch.float64).unsqueeze(1) * offsets)


def shifted_sum(x: Tensor, places: list[list[int]], weights: list[float], height: int, width: int) -> Tensor:
    """Return [N, C, height, width]: the weighted sum of the parts of x that begin at `places`, (row, column) each."""
    total = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype, device=x.device)
    for (row, column), weight in zip(places, weights, strict=True):
        total.add_(window(x, row, column, height, width), alpha=weight)
    return total


@cached_matrix
def box_matrix(size: int, new_size: int) -> Tensor:
    """Return float64 [new_size, size]: Pillow's box resampling in its fixed-point weights, multiples of 2^-22."""
    scale = size / new_size
    width = max(scale, 1.0)
    centres = (torch.arange(new_size, dtype=torch.float64).unsqueeze(1) + 0.5) * scale
    pixels = torch.arange(size, dtype=torch.float64)
    first = (centres - width / 2 + 0.5).floor().clamp(min=0)
    end = (centres + width / 2 + 0.5).floor().clamp(max=size)
    distances = (pixels - centres + 0.5) / width
    weights = ((pixels >= first) & (pixels < end) & (distances > -0.5) & (distances <= 0.5)).to(torch.float64)
    return (weights / weights.sum(1, keepdim=True) * 2**22).round() / 2**22


def box_resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resize x [N, C, H, W] as Pillow's BOX does on uint8: along the rows, round, down the columns, round."""
    x = (levels(x) @ box_matrix(x.shape[3], width).to(x.device).T).add_(0.5).floor_()
    return (box_matrix(x.shape[2], height).to(x.device) @ x).add_(0.5).floor_().div_(255)


def nearest_resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resize x [N, C, H, W] to the pixels nearest to each new one's middle."""
    (old_height, old_width), device = x.shape[2:], x.device
    rows, columns = (
        (torch.arange(new, dtype=torch.float64, device=device) + 0.5).mul_(old / new).long()
        for new, old in ((height, old_height), (width, old_width))
    )
    places = rows.unsqueeze(1) * old_width + columns
    return pixels_at(x.flatten(2), places.expand(len(x), -1, -1)).view(*x.shape[:2], height, width)


@cached_matrix
def zoom_matrix(size: int, factor: float) -> Tensor:
    """Return float64 [size, size]: the middle of a line of pixels, enlarged `factor` times by linear interpolation.

    As the official generator has it: the middle ceil(size / factor) pixels are resampled, end points onto end points,
    to a whole number of pixels, of which the middle `size` remain.
    """
    kept = math.ceil(size / factor)
    enlarged = round(kept * factor)
    pixels = torch.arange(size, dtype=torch.float64).unsqueeze(1) + (enlarged - size) // 2
    positions = pixels * ((kept - 1) / (enlarged - 1)) + (size - kept) // 2
    return (1 - (positions - torch.arange(size, dtype=torch.float64)).abs()).clamp_(min=0)


def streaked(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Blur x [N, C, H, W] as ImageMagick's motion blur does, along the direction `angles` [N] (radians).

    A pixel becomes the mean of the 2 * radius + 1 pixels that lie ahead of it, each at the nearest whole position,
    edges repeated, weighted with one half of a Gaussian. Neighbours in the batch whose pixels lie at the same place are
    added together: the more the angles are in order, the faster.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64, device=x.device)
    fading = torch.exp(-0.5 * (steps / sigma) ** 2)
    places = torch.stack([(f(angles) * steps[:, None] - 0.5).ceil() for f in (torch.sin, torch.cos)], 2).long().cpu()
    first, last = places.amin((0, 1)).clamp(max=0), places.amax((0, 1)).clamp(min=0)
    padded = F.pad(x, (-int(first[1]), int(last[1]), -int(first[0]), int(last[0])), mode="replicate")
    total, ends = torch.zeros_like(x), [list[int]() for _ in steps]
    for step, place in (places[:, 1:] != places[:, :-1]).any(2).nonzero().tolist():
        ends[step].append(place + 1)
    starts = (places - first).tolist()
    for step, weight in enumerate((fading / fading.sum()).tolist()):
        for begin, end in zip([0, *ends[step]], [*ends[step], len(x)], strict=True):
            total[begin:end].add_(window(padded[begin:end], *starts[step][begin], *x.shape[2:]), alpha=weight)
    return total


def window(x: Tensor, row: int, column: int, height: int, width: int) -> Tensor:
    """Return x[:, :, row : row + height, column : column + width] of x [N, C, H, W], in a third of the time."""
    strides = x.stride()
    offset = x.storage_offset() + row * strides[2] + column * strides[3]
    return x.as_strided((*x.shape[:2], height, width), strides, offset)


def pixels_at(pixels: Tensor, places: Tensor) -> Tensor:
    """Return float [N, C, H * W]: of `pixels` [N, C, H * W] those at `places`, int64 [N, H, W], in every channel."""
    return pixels.gather(2, places.view(len(places), 1, -1).expand(-1, pixels.shape[1], -1))
