"""The common corruptions of Hendrycks & Dietterich (ICLR 2019), batched, on the images' own device.

    corrupted = corrupt(images, "fog", 5, seed=0)

Each corruption is a plain function `(x, parameters, random) -> x` on float64 [N, C, H, W] in [0, 1], named in the one
table `CORRUPTIONS`; `severities.py` holds its parameters. Deterministic corruptions agree with the official CIFAR-C
generator image by image, random ones in distribution: the random numbers are this library's own (`randomness.py`).

Everything is computed in float64, whose rounding is so far below a grey level that neither the batch nor the device
changes a pixel. Sizes other than the table's own work too: lengths in pixels stay, lengths relative to the image scale.
A gray image (C = 1) is corrupted as one channel, with noise of its own; where a corruption brings in colour
(`COLOURING`), it is corrupted as an RGB image of equal channels, whose luminance (ITU-R BT.601) is returned.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from crosstask.data.randomness import ImageRandom, stream_key
from crosstask.data.severities import BENCHMARK, HELD_OUT, TABLES, Parameters
from crosstask.errors import DataError, UnknownName

Corruption = Callable[[Tensor, Parameters, ImageRandom], Tensor]

MINIMUM_SIZE = 16
"""The fewest pixels a side may have."""

CHUNK_ELEMENTS = 1 << 17
"""Numbers (N x C x H x W) corrupted at once: small enough for a processor's cache, and it bounds the memory."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance of ITU-R BT.601."""


def available() -> tuple[str, ...]:
    """Return the names that `corrupt` accepts: the benchmark's in the official order, then the held-out ones."""
    return tuple(name for name in BENCHMARK + HELD_OUT if name in CORRUPTIONS)


def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int, indices: Tensor | None = None, table: str = "cifar"
) -> Tensor:
    """Return a corrupted copy of `images`.

    Image i's pixels depend on (seed, name, severity, its index, table) alone: not on the batch, its order, or the
    device.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3, at least 16 x 16 pixels, on any device.
        name: one of `available()`.
        severity: 1 (weakest) to 5.
        seed: chooses the random numbers.
        indices: int64 [N], the images' positions in their set; 0, 1, ... by default.
        table: "cifar" or "tiny_imagenet", the constants that define the severities.

    Returns:
        uint8 [N, C, H, W] on the same device. Values are cut to whole grey levels downwards, as the official files are.

    Raises:
        UnknownName: no such corruption or table.
        DataError: images, indices or severity are not as above.
    """
    if name not in CORRUPTIONS:
        raise UnknownName("corruption", name, available())
    if table not in TABLES:
        raise UnknownName("severity table", table, TABLES)
    _check_images(images)
    _check_severity(severity)
    indices = _checked_indices(indices, images)
    corruption, parameters = CORRUPTIONS[name], TABLES[table][name][severity - 1]
    key = stream_key(seed, name, severity)
    chunk = max(1, CHUNK_ELEMENTS // images[0].numel())
    device = torch.device("cpu") if images.device.type == "mps" else images.device  # Apple's GPUs have no float64
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    for part, index, out in zip(images.split(chunk), indices.split(chunk), corrupted.split(chunk), strict=True):
        x = part.to(device, torch.float64, memory_format=torch.contiguous_format) / 255
        if x.shape[1] == 1 and name in COLOURING:
            x = corruption(x.expand(-1, 3, -1, -1), parameters, ImageRandom(key, index, x.device))
            x = luminance(x.clamp(0, 1))
        else:
            x = corruption(x, parameters, ImageRandom(key, index, x.device))
        out.copy_(truncate(x))
    return corrupted


def _check_images(images: Tensor) -> None:
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
    return indices


# ---------------------------------------------------------------------------------------------- grey levels


def levels(x: Tensor) -> Tensor:
    """Return the whole grey levels 0 to 255, as floats, of an image x in [0, 1] that came from uint8."""
    return (x * 255).round()


def truncate(x: Tensor) -> Tensor:
    """Clip x to [0, 1] and cut it to the whole grey level below, uint8.

    A value less than a millionth below a level counts as that level. So rounding noise never decides a pixel: the
    same image comes out of every batch and device. (The official code leaves such pixels to its own rounding noise.)
    """
    return (x.clamp(0, 1) * 255 + 1e-6).to(torch.uint8)


def luminance(x: Tensor) -> Tensor:
    """Return [N, 1, H, W], the luminance (ITU-R BT.601) of x [N, 3, H, W]; x itself if it has one channel."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (weight * channel for weight, channel in zip(LUMINANCE, x.unbind(1), strict=True))
    return (red + green + blue).unsqueeze(1)


# ------------------------------------------------------------------------------------- filters and resampling


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


def gaussian(x: Tensor, sigma: float, cut: float = 4, border: str = "nearest") -> Tensor:
    """Blur x [..., H, W] with a Gaussian of `sigma` pixels, cut off at `cut` sigmas."""
    radius = int(cut * sigma + 0.5)
    if not radius:
        return x
    taps = gaussian_taps(sigma, radius)
    return along_both(x, *(filter_matrix(taps, size, border) for size in x.shape[-2:]))


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
    x = (levels(x) @ box_matrix(x.shape[3], width).to(x.device).T + 0.5).floor()
    return (box_matrix(x.shape[2], height).to(x.device) @ x + 0.5).floor() / 255


# ------------------------------------------------------------------------------------------------------ noise


def gaussian_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Add normal noise of standard deviation `sigma`; parameters (sigma,)."""
    (sigma,) = parameters
    return x + random.normal(x.shape[1:]).mul_(sigma)


def speckle_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Add normal noise in proportion to the value, x + x * noise; parameters (sigma,)."""
    (sigma,) = parameters
    return x + random.normal(x.shape[1:]).mul_(sigma).mul_(x)


def shot_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Count photons: Poisson(x * photons) / photons; parameters (photons,), the mean count at white."""
    (photons,) = parameters
    return poisson(levels(x).to(torch.int64), photons, random.uniform(x.shape[1:])).div_(photons)


def impulse_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Salt and pepper, drawn for each number on its own: half of `amount` become 1, half 0; parameters (amount,)."""
    (amount,) = parameters
    draw = random.uniform(x.shape[1:])
    return x.masked_fill(draw < amount / 2, 0).masked_fill_(draw > 1 - amount / 2, 1)


POISSON_STARTS = 1024
"""Into how many equal parts the draws are sorted to start the search for a Poisson count."""


@functools.lru_cache(maxsize=16)
def poisson_tables(photons: float) -> tuple[Tensor, Tensor]:
    """Return the Poisson distributions of rates g / 255 * photons for the grey levels g = 0 .. 255.

    First float64 [256, K], the probability of a count of at most k; then int64 [256, POISSON_STARTS], the smallest
    count that a draw in that part of (0, 1) can mean. Draws are at least 2^-33 away from 0 and 1.
    """
    largest = int(photons + 12 * math.sqrt(photons) + 30)  # the chance of more is far below 2^-33
    counts = torch.arange(largest + 1, dtype=torch.float64)
    rates = torch.arange(256, dtype=torch.float64).unsqueeze(1) / 255 * photons
    logarithms = torch.special.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)
    cumulative = logarithms.exp().cumsum(1)
    cumulative[:, -1] = 1
    parts = (torch.arange(POISSON_STARTS, dtype=torch.float64) / POISSON_STARTS).clamp(min=2.0**-33)
    return cumulative, torch.searchsorted(cumulative, parts.expand(256, -1).contiguous())


def poisson(grey: Tensor, photons: float, draw: Tensor) -> Tensor:
    """Return Poisson counts (float64) of rate grey / 255 * photons by inverting the cumulative distribution.

    Args:
        grey: int64, levels 0 to 255.
        photons: the rate at level 255.
        draw: uniform in (0, 1), of the same shape.
    """
    cumulative, starts = (table.to(grey.device) for table in poisson_tables(photons))
    probabilities, draws, rows = cumulative.view(-1), draw.flatten(), grey.flatten()
    first = rows * cumulative.shape[1]
    places = starts.view(-1).index_select(0, (draws * POISSON_STARTS).long().add_(rows * POISSON_STARTS)).add_(first)
    short = (probabilities.index_select(0, places) < draws).nonzero().squeeze(1)
    while len(short):
        following = places.index_select(0, short).add_(1)
        places.index_copy_(0, short, following)
        short = short[probabilities.index_select(0, following) < draws.index_select(0, short)]
    return places.sub_(first).view(grey.shape).to(draw.dtype)


# ------------------------------------------------------------------------------------------------------- blur


def gaussian_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, edges repeated; parameters (sigma,)."""
    (sigma,) = parameters
    return gaussian(x, sigma)


def disk_kernel(radius: float, alias_sigma: float) -> Tensor:
    """Return float64 [K, K]: a disk of `radius` pixels, sum 1, its edge softened by a 3 x 3 Gaussian."""
    reach = math.ceil(radius) + 1
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (offsets**2 + offsets.unsqueeze(1) ** 2 <= radius**2).to(torch.float64)
    soften = filter_matrix(gaussian_taps(alias_sigma, 1), len(offsets), "mirror")
    return along_both(disk / disk.sum(), soften, soften)


def defocus_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur with a disk, as a lens out of focus does, edges mirrored; parameters (radius, alias_sigma) in pixels.

    The kernel is split into a sum of separable ones (its singular vectors): one to three of them.
    """
    left, strengths, right = torch.linalg.svd(disk_kernel(*parameters))
    blurred = torch.zeros_like(x)
    for down, strength, across in zip(left.T, strengths, right, strict=True):
        if strength > 1e-12:
            rows, columns = (
                filter_matrix(down * strength, x.shape[2], "mirror"),
                filter_matrix(across, x.shape[3], "mirror"),
            )
            blurred += along_both(x, rows, columns)
    return blurred


def motion_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur along a line whose angle is uniform in -45 to 45 degrees; parameters (radius, sigma) in pixels."""
    radius, sigma = parameters
    return streaked(x, int(radius), sigma, degrees_between(-45, 45, random))


def degrees_between(low: float, high: float, random: ImageRandom) -> Tensor:
    """Return one uniform angle for each image, in radians, float64 [N]."""
    return torch.deg2rad(random.uniform(()) * (high - low) + low)


def streaked(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Blur x [N, C, H, W] as ImageMagick's motion blur does, along the direction `angles` [N] (radians).

    A pixel becomes the mean of the 2 * radius + 1 pixels that lie ahead of it, each at the nearest whole position,
    edges repeated, weighted with one half of a Gaussian.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64, device=x.device)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    height, width = x.shape[2:]
    down, across = ((steps[:, None, None] * f(angles)[:, None] - 0.5).ceil().long() for f in (torch.sin, torch.cos))
    rows = border_positions(torch.arange(height, device=x.device) + down, height, "nearest")
    columns = border_positions(torch.arange(width, device=x.device) + across, width, "nearest")
    pixels = x.flatten(2)
    blurred = torch.zeros_like(pixels)
    for row, column, weight in zip(rows, columns, (weights / weights.sum()).tolist(), strict=True):
        blurred += pixels_at(pixels, row[:, :, None] * width + column[:, None, :]).mul_(weight)
    return blurred.view(x.shape)


def pixels_at(pixels: Tensor, places: Tensor) -> Tensor:
    """Return float [N, C, H * W]: of `pixels` [N, C, H * W] those at `places`, int64 [N, H, W], in every channel."""
    return pixels.gather(2, places.view(len(places), 1, -1).expand(-1, pixels.shape[1], -1))


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


def zoom_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Mean of the image and of its enlargements by 1, 1.01, 1.02, ...; parameters (how many enlargements,)."""
    (count,) = parameters
    zoomed = torch.sparse.mm(zoom_operator(*x.shape[2:], int(count)).to(x.device), x.flatten(2).flatten(0, 1).T)
    return (x + zoomed.T.view(x.shape)) / (count + 1)


@functools.lru_cache(maxsize=16)
def zoom_operator(height: int, width: int, count: int) -> Tensor:
    """Return sparse float64 [H * W, H * W]: the sum of an image's `count` enlargements as one linear map.

    A pixel depends on few others, so that this is many times faster than enlarging `count` times.
    """
    places, weights = [], []
    for step in range(count):
        factor = 1 + step * (1.01 - 1)  # rounded as numpy.arange rounds it: 1.25 comes out a hair larger, which counts
        down, across = zoom_matrix(height, factor).to_sparse(), zoom_matrix(width, factor).to_sparse()
        places.append((down.indices().unsqueeze(2) * width + across.indices().unsqueeze(1)).flatten(1))
        weights.append(torch.outer(down.values(), across.values()).flatten())
    shape = (height * width, height * width)
    return torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(weights), shape, check_invariants=True).coalesce()


def glass_blur(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Blur, let pixels take each other's places, blur again; parameters (sigma, reach, rounds), sigma in pixels.

    The official code visits the pixels from the last to the first, leaving out a border, and gives each the value that
    a pixel -reach .. reach - 1 rows and columns away has at that moment.
    """
    sigma, reach, rounds = parameters
    pixels = truncate(gaussian(x, sigma)).flatten(2).double()
    for _ in range(int(rounds)):
        pixels = pixels_at(pixels, shuffled_places(x.shape[2], x.shape[3], int(reach), random))
    return gaussian(pixels.view(x.shape) / 255, sigma)


def shuffled_places(height: int, width: int, reach: int, random: ImageRandom) -> Tensor:
    """Return int64 [N, H, W]: where (row * W + column) each pixel's value came from after one round of `glass_blur`.

    A pixel that reads from one before it gets an original value. One that reads from a pixel after it gets what that
    one has read already: such chains are followed to their end, in steps that double.
    """
    shifts = random.integers(-reach, reach, (2, height, width))
    moving = torch.zeros(height, width, dtype=torch.bool, device=random.device)
    moving[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    own = torch.arange(height * width, device=random.device)
    source = own + (shifts[:, 0] * width + shifts[:, 1]).mul_(moving).flatten(1)
    chained = (source > own) & moving.flatten()[source]
    if reach > 1:
        ahead = torch.where(chained, source, own)
        for _ in range((height * width).bit_length()):
            ahead = ahead.gather(1, ahead)
        source = source.gather(1, ahead)
    return source.view(-1, height, width)


# ---------------------------------------------------------------------------------------------------- weather


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
    flakes = random.normal((1, *x.shape[2:])).mul_(deviation).add_(mean)
    flakes = along_both(flakes, *(zoom_matrix(size, zoom) for size in x.shape[2:]))
    flakes = truncate(F.threshold(flakes, threshold, 0)).double() / 255
    flakes = truncate(streaked(flakes, int(radius), sigma, degrees_between(-135, -45, random))).double() / 255
    whitened = torch.maximum(x, luminance(x) * 1.5 + 0.5)
    return keep * x + (1 - keep) * whitened + flakes + flakes.flip(2, 3)


def frost(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Lay a sheet of frost over the image, image * keep + frost * strength; parameters (keep, strength)."""
    keep, strength = parameters
    return keep * x + strength * frost_texture(x.shape[2], x.shape[3], random)


def frost_texture(height: int, width: int, random: ImageRandom) -> Tensor:
    """Return float64 [N, 3, H, W] in [0, 1]: a procedural sheet of frost, one for each image.

    The official generator cuts random pieces from five photographs of frost. This stand-in needs no files and keeps
    what was measured of those pieces: a brightness that differs from piece to piece (163 +- 38 grey levels), grain
    of 22 levels whose power falls as 1 / frequency, and the colour, bluer where it is darker. It has no crystals.
    """
    frequencies = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij"))
    gain = frequencies.double().clamp(min=1e-9).rsqrt()
    gain[0, 0] = 0
    gain = (gain / gain.square().mean().sqrt()).to(random.device)
    grain = torch.fft.ifft2(torch.fft.fft2(random.normal((height, width))) * gain).real
    grey = 97 + 132 * random.uniform((1, 1)) + 22 * grain
    sheet = torch.stack([1.17 * grey - 42, 0.935 * grey + 15, 0.9 * grey + 32.5], dim=1)
    return (sheet / 255).clamp_(0, 1)


WATER = (175 / 255, 238 / 255, 238 / 255)
"""Pale turquoise, the colour of spattered water."""

MUD = (63 / 255, 42 / 255, 20 / 255)
"""Brown, the colour of spattered mud."""


def colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    """Return [1, 3, 1, 1], a colour to be broadcast over images `like`."""
    return torch.tensor(rgb, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def spatter(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Splash drops of water (severities 1 to 3) or mud (4 and 5) onto the image.

    Parameters (mean, deviation, sigma, threshold, strength, kind): normal noise, smoothed with sigma, is liquid where
    it exceeds the threshold. Kind 0 is water that adds pale turquoise, as strongly as `strength`, brightest where the
    drops are embossed; kind 1 is brown mud that covers, its edges smoothed with a Gaussian of sigma `strength`.
    """
    mean, deviation, sigma, threshold, strength, kind = parameters
    liquid = gaussian(random.normal(x.shape[2:]).mul_(deviation).add_(mean), sigma)
    liquid = F.threshold(liquid, threshold, 0)
    if kind == 0:
        cover = embossed(liquid)
        brightest = cover.amax((1, 2), keepdim=True)
        cover = cover / brightest.masked_fill(brightest == 0, 1) * strength
        return x + cover.unsqueeze(1) * colour(WATER, x)
    cover = gaussian((liquid > threshold).double(), strength)
    cover = F.threshold(cover, 0.8, 0).unsqueeze(1)
    return x * (1 - cover) + colour(MUD, x) * cover


def embossed(liquid: Tensor) -> Tensor:
    """Return [N, H, W], how brightly water of depth `liquid` [N, H, W] in [0, 1] shines: bright at slanted rims.

    The official chain of OpenCV steps on uint8: distance to the edges of the drops, at most 20, smoothed, equalised,
    embossed, smoothed again, and multiplied by the depth.
    """
    depth = truncate(liquid).double()
    distance = chamfer_distance(canny_edges(depth, 50, 150)).clamp_(max=20)
    distance = (correlated(distance, SQUARE) / 9 + 1e-9).floor()
    relief = correlated(equalised(distance), EMBOSS).clamp_(0, 255)
    return depth * (correlated(relief, SQUARE) / 9).round()


SQUARE = ((1, 1, 1), (1, 1, 1), (1, 1, 1))
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


def correlated(image: Tensor, kernel: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the correlation of image [N, H, W] with a 3 x 3 kernel, borders mirrored."""
    height, width = image.shape[1:]
    padded = F.pad(image.unsqueeze(1), (1, 1, 1, 1), mode="reflect").squeeze(1)
    total = torch.zeros_like(image)
    for row, taps in enumerate(kernel):
        for column, tap in enumerate(taps):
            if tap:
                total += padded[:, row : row + height, column : column + width] * tap
    return total


def canny_edges(image: Tensor, low: float, high: float) -> Tensor:
    """Return bool [N, H, W]: the edges of image [N, H, W] (0 to 255) by Canny's detector (1986) as OpenCV has it.

    Sobel gradients with repeated borders, their size |dx| + |dy|, thinned across the nearest of four directions;
    edges are the pixels above `high` and those above `low` that are connected to one.
    """
    height, width = image.shape[1:]
    padded = F.pad(image.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    across, down = columns[..., 2:] - columns[..., :-2], rows[:, 2:] - rows[:, :-2]
    size = across.abs() + down.abs()
    around = F.pad(size, (1, 1, 1, 1))

    def neighbour(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    tangent = 13573 / 32768  # of 22.5 degrees; that of 67.5 degrees is larger by 2
    level = down.abs() < tangent * across.abs()
    steep = down.abs() > (tangent + 2) * across.abs()
    falling = across * down >= 0
    thin_level = (size > neighbour(0, -1)) & (size >= neighbour(0, 1))
    thin_steep = (size > neighbour(-1, 0)) & (size >= neighbour(1, 0))
    thin_falling = falling & (size > neighbour(-1, -1)) & (size > neighbour(1, 1))
    thin_rising = ~falling & (size > neighbour(-1, 1)) & (size > neighbour(1, -1))
    thin = (level & thin_level) | (steep & thin_steep) | (~level & ~steep & (thin_falling | thin_rising))
    possible, edges = thin & (size > low), thin & (size > high)
    while True:
        grown = possible & (F.max_pool2d(edges.float(), 3, stride=1, padding=1) > 0)
        if torch.equal(grown, edges):
            return edges
        edges = grown


def chamfer_distance(edges: Tensor) -> Tensor:
    """Return float64 [N, H, W]: each pixel's distance to the nearest True of `edges`, in pixels.

    Borgefors' two sweeps (1986) over a 5 x 5 neighbourhood with steps of length 1, 1.4 and 2.1969, in multiples of
    2^-16, as OpenCV has it. Without an edge the distance is 2^16.
    """
    distance = torch.where(edges, 0.0, 2.0**32).double().permute(1, 0, 2)
    return _swept(_swept(distance).flip(0, 2)).flip(0, 2).permute(1, 0, 2) / 2**16


def _swept(distance: Tensor) -> Tensor:
    """One sweep of `chamfer_distance`: `distance` [H, N, W] shortened by ways that come from above or from the left."""
    rows, _, width = distance.shape
    straight, diagonal, knight = 65536, 91750, 143976
    ways = [(1, 0, straight), (1, -1, diagonal), (1, 1, diagonal)]
    ways += [(1, -2, knight), (1, 2, knight), (2, -1, knight), (2, 1, knight)]
    ramp = torch.arange(width, dtype=distance.dtype, device=distance.device) * straight
    padded = F.pad(distance, (2, 2, 0, 0, 2, 0), value=2.0**32)
    for row in range(2, rows + 2):
        line = padded[row, :, 2:-2]
        for up, shift, length in ways:
            line = torch.minimum(line, padded[row - up, :, 2 + shift : 2 + shift + width] + length)
        padded[row, :, 2:-2] = torch.cummin(line - ramp, dim=1).values + ramp
    return padded[2:, :, 2:-2]


def equalised(image: Tensor) -> Tensor:
    """Return image [N, H, W] of whole levels 0 to 20 spread over 0 to 255 by OpenCV's histogram equalisation."""
    places = image.long().flatten(1)
    histogram = torch.zeros(len(image), 21, device=image.device)
    histogram.scatter_add_(1, places, torch.ones_like(places, dtype=histogram.dtype))
    least = places.amin(1, keepdim=True)
    rest = places.shape[1] - histogram.gather(1, least)
    scale = torch.full_like(rest, 255) / rest.clamp(min=1)
    spread = ((histogram.cumsum(1) - histogram.gather(1, least)) * scale).round()
    spread = torch.where(rest == 0, torch.arange(21.0, device=image.device), spread)
    return spread.gather(1, places).view(image.shape).double()


# ---------------------------------------------------------------------------------------------------- digital


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
    return box_resized(box_resized(x, int(height * share), int(width * share)), height, width)


def elastic_transform(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Jitter three points affinely, then move every pixel along a smooth random field.

    Parameters (strength, sigma, jitter) as shares of the shorter side: how far the field moves pixels before it is
    smoothed, the Gaussian that smooths it (cut at 3 sigmas, borders reflected), and how far each of the three points
    is moved. Both steps interpolate linearly, the first with mirrored, the second with reflected borders.
    """
    height, width = x.shape[2:]
    strength, sigma, jitter = (share * min(height, width) for share in parameters)
    x = F.grid_sample(x, jittered_grid(height, width, jitter, random), padding_mode="reflection", align_corners=True)
    field = random.uniform((2, height, width)).mul_(2).sub_(1)
    field = gaussian(field, sigma, cut=3, border="reflect") * strength
    down = torch.arange(height, device=x.device).unsqueeze(1) + field[:, 0]
    across = torch.arange(width, device=x.device) + field[:, 1]
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=3)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


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
    return torch.stack([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1], dim=3)


def jpeg_compression(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Write as JPEG of `quality` 1 to 95 and read back, by Pillow; parameters (quality,).

    A gray image is written as a gray JPEG; that equals the luminance of the JPEG of its three equal channels.
    """
    (quality,) = parameters
    pixels = levels(x).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(image, int(quality)) for image in pixels])
    return torch.from_numpy(decoded).to(x.device).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2) / 255.0


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        return np.asarray(decoded)


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
"""Every corruption by name: to add one, write its function and add its row here and in `severities.py`."""

COLOURING = frozenset({"frost", "spatter", "saturate"})
"""The corruptions that bring colour into a gray image."""
