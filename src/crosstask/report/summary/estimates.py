"""Means with their 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosstask.report.summary.shapes import Estimate

Z = statistics.NormalDist().inv_cdf(0.975)
"""Standard errors in half a 95 % interval of the normal distribution: 1.96."""


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: the half-width of a 95 % interval in standard errors.

    Exact to four decimals for up to ten degrees of freedom; beyond, the expansion of Abramowitz & Stegun 26.7.5, which
    is exact to four decimals there.
    """
    table = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
    if freedom <= len(table):
        return table[freedom - 1]
    terms = (
        Z,
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one value a seed, with Student's t interval; a single value has none."""
    mean, count = statistics.fmean(values), len(values)
    half = t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Estimate(mean=mean, half=half, count=count)


def over_images(share: float, n: int) -> Estimate:
    """Return a share of `n` images, and how far Wilson's interval reaches from it, on its longer side.

    For the mean share over several corruptions of the same images this is an upper bound: averaging lowers variance.
    """
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    return Estimate(mean=share, half=half + abs(centre - share), count=n, over="images")


def paired_over_images(mean: float, differences: Sequence[np.ndarray], protocol: Mapping[str, Any]) -> Estimate | None:
    """Return a mean difference with 1.96 standard errors over images.

    Args:
        mean: of all differences.
        differences: for each corruption [n], of each image in order of arrival: one where only the first method is
            right, minus one where only the second is.
        protocol: whose `shift` says what the corruptions have in common: under a constant shift the same images stand
            in the same order under each, and an image counts with its mean over them; mixed, each image is another.

    Returns:
        None where an image counts more than once, in an order that differs: there is no such interval.
    """
    if protocol["shift"] == "constant":
        differences = [np.mean(differences, axis=0)]
    elif protocol["shift"] != "mixed" and (len(differences) > 1 or len(differences[0]) != protocol["n"]):
        return None
    counts = [len(each) for each in differences]
    if min(counts) < 2:
        return None
    variance = sum(np.var(each, ddof=1) / len(each) for each in differences) / len(differences) ** 2
    return Estimate(mean=mean, half=Z * math.sqrt(variance), count=sum(counts), over="images")
