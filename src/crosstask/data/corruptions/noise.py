"""Noise: gaussian, shot, impulse and speckle."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from crosstask.data.corruptions.grey import levels
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters


def gaussian_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Add normal noise of standard deviation `sigma`; parameters (sigma,)."""
    (sigma,) = parameters
    return random.normal(x.shape[1:]).mul_(sigma).add_(x)


def speckle_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Add normal noise in proportion to the value, x + x * noise; parameters (sigma,)."""
    (sigma,) = parameters
    return random.normal(x.shape[1:]).mul_(sigma).mul_(x).add_(x)


def impulse_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Salt and pepper, drawn for each number on its own: half of `amount` become 1, half 0; parameters (amount,)."""
    (amount,) = parameters
    draw = random.uniform(x.shape[1:])
    return x.masked_fill(draw < amount / 2, 0).masked_fill_(draw > 1 - amount / 2, 1)


def shot_noise(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Count photons: Poisson(x * photons) / photons; parameters (photons,), the mean count at white."""
    (photons,) = parameters
    return poisson(levels(x).to(torch.int32), photons, random.uniform(x.shape[1:])).div_(photons)


POISSON_PARTS = 256
"""Into how many equal parts the draws are sorted; a part mostly leaves two counts to choose from."""


@functools.lru_cache(maxsize=16)
def poisson_tables(photons: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the Poisson distributions of rates g / 255 * photons for the grey levels g = 0 .. 255.

    Draws are at least 2^-33 away from 0 and 1. The tables are small, so that they stay in a processor's cache.

    Returns:
        float64 [256, K]: the probability of a count of at most k.
        For every grey level and part of (0, 1), [256 * POISSON_PARTS]: the smallest count that a draw in that part can
        mean, int16; how many more the largest is, int16; the probability of at most the smallest, float64.
    """
    largest = int(photons + 12 * math.sqrt(photons) + 30)  # the chance of more is far below 2^-33
    counts = torch.arange(largest + 1, dtype=torch.float64)
    rates = torch.arange(256, dtype=torch.float64).unsqueeze(1) / 255 * photons
    logarithms = torch.special.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)
    cumulative = logarithms.exp().cumsum(1)
    cumulative[:, -1] = 1
    bounds = (torch.arange(POISSON_PARTS + 1, dtype=torch.float64) / POISSON_PARTS).clamp(2.0**-33, 1 - 2.0**-33)
    smallest = torch.searchsorted(cumulative, bounds.expand(256, -1).contiguous())
    spread, smallest = smallest.diff().flatten(), smallest[:, :-1]
    return cumulative, smallest.flatten().short(), spread.short(), cumulative.gather(1, smallest).flatten()


def poisson(grey: Tensor, photons: float, draw: Tensor) -> Tensor:
    """Return Poisson counts (float64) of rate grey / 255 * photons by inverting the cumulative distribution.

    Args:
        grey: int32, levels 0 to 255.
        photons: the rate at level 255.
        draw: uniform in (0, 1), of the same shape.
    """
    cumulative, smallest, spread, first = (table.to(grey.device) for table in poisson_tables(photons))
    draws, rows = draw.flatten(), grey.flatten()
    parts = (draws * POISSON_PARTS).int().add_(rows, alpha=POISSON_PARTS)
    counts = smallest.index_select(0, parts).add_(first.index_select(0, parts) < draws)
    left = (spread.index_select(0, parts) > 1).nonzero().squeeze(1)
    low, high = (table.index_select(0, parts[left]).long() for table in (smallest, spread))
    counts[left] = _bisected(cumulative, rows[left], draws[left], low, low + high).short()
    return counts.view(grey.shape).to(draw.dtype)


def _bisected(cumulative: Tensor, rows: Tensor, draws: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest count, low to high, whose probability in its row of `cumulative` reaches the draw."""
    while bool((low < high).any()):
        middle = (low + high) // 2
        short = cumulative[rows, middle] < draws
        low, high = torch.where(short, middle + 1, low), torch.where(short, high, middle)
    return low
