"""Spatter: drops of water or mud, with the chain of OpenCV steps that makes water shine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crosstask.data.corruptions.filters import gaussian
from crosstask.data.corruptions.grey import cut
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters

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
    depth = cut(liquid)
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
