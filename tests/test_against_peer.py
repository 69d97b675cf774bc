"""ImageNet-C: our table and code against `imagecorruptions-imaug`, an independent port of the official generator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from crosstask.data.corruptions import CORRUPTIONS, corrupt
from crosstask.data.corruptions.grey import truncate
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import BENCHMARK, HELD_OUT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = pytest.importorskip("imagecorruptions", reason="no imagecorruptions-imaug here", exc_type=ImportError)

SEVERITIES = (1, 2, 3, 4, 5)
DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
)
# The tolerance on `measures`, and the neighbouring severities that differ by less.
RANDOM = {
    "gaussian_noise": (0.03, ()),
    "shot_noise": (0.03, ()),
    "impulse_noise": (0.05, ()),
    "speckle_noise": (0.03, ()),
    "glass_blur": (0.03, ()),
    "motion_blur": (0.07, ()),
    "snow": (0.1, ((3, 4),)),
    "fog": (0.04, ((3, 4),)),
    "spatter": (0.15, ()),
    "elastic_transform": (0.05, ()),
}
COUNT, SIZE = 24, 64

PORTED_ELASTIC = ((0.0625, 0.01, 0), (0.08125, 0.01, 0), (0.10625, 0.01, 0), (0.125, 0.01, 0), (0.15, 0.01, 0))
"""The port's elastic transform has constants of its own, which are not ImageNet-C's; here they are in our units."""


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 [COUNT, 3, SIZE, SIZE]: coloured blobs of several sizes with edges between them and a little grain."""
    rng = np.random.default_rng(3)
    fields = [ndimage.gaussian_filter(rng.normal(size=(COUNT, 3, SIZE, SIZE)), (0, 0.5, s, s)) for s in (2, 6, 12)]
    total = (
        sum(field / field.std() for field in fields) + 2 * np.sign(fields[1]) + 0.2 * rng.normal(size=fields[0].shape)
    )
    return torch.from_numpy(np.clip(128 + 35 * total, 0, 255).astype(np.uint8))


def ported(images: Tensor, name: str, severity: int) -> Tensor:
    """Return the port's images; its random numbers are numpy's global ones."""
    np.random.seed(severity)
    arrays = images.permute(0, 2, 3, 1).numpy()
    made = [peer.corrupt(np.ascontiguousarray(array), severity=severity, corruption_name=name) for array in arrays]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def ours(images: Tensor, name: str, severity: int) -> Tensor:
    """Return our images under ImageNet-C's table, but for the elastic transform, whose port has its own."""
    if name == "elastic_transform":
        random = ImageRandom(1, torch.arange(len(images)), torch.device("cpu"))
        return truncate(CORRUPTIONS[name](images.double() / 255, PORTED_ELASTIC[severity - 1], random))
    return corrupt(images, name, severity, seed=0, table="imagenet")


def within_one_level(one: Tensor, other: Tensor) -> float:
    return ((one.int() - other.int()).abs() <= 1).double().mean().item()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_agree_image_by_image(images, name):
    for severity in SEVERITIES:
        theirs = ported(images[:8], name, severity)
        assert within_one_level(ours(images[:8], name, severity), theirs) >= 0.999
        for other in {severity - 1, severity + 1} & set(SEVERITIES):
            assert within_one_level(ours(images[:8], name, other), theirs) < 0.999


RINGS = torch.bucketize(
    torch.hypot(*torch.meshgrid(torch.fft.fftfreq(SIZE), torch.fft.fftfreq(SIZE), indexing="ij")),
    torch.tensor([0.05, 0.15, 0.3]),
)


def measures(corrupted: Tensor, images: Tensor) -> Tensor:
    """Return the change's root mean square, over all frequencies and in four bands of them."""
    power = torch.fft.fft2(corrupted.double() - images.double()).abs().square().mean((0, 1)) / SIZE**4
    return torch.stack([power.sum(), *(power[band == RINGS].sum() for band in range(4))]).sqrt()


@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_agree_in_strength_and_spectrum(images, name):
    tolerance, alike = RANDOM[name]
    mine, theirs = (torch.stack([measures(f(images, name, s), images) for s in SEVERITIES]) for f in (ours, ported))
    gaps = (theirs[:, None] / mine[None] - 1).abs().amax(2)
    assert gaps.diagonal().max() < tolerance, gaps.diagonal()
    for severity in SEVERITIES[:-1]:
        if (severity, severity + 1) not in alike:
            assert gaps[severity - 1, severity] > tolerance, (severity, gaps)


@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_shift_the_mean_alike(images, name):
    for severity in SEVERITIES:
        changes = [f(images, name, severity).double() - images.double() for f in (ours, ported)]
        error = sum(change.mean((1, 2, 3)).var().item() / COUNT for change in changes) ** 0.5
        assert abs(changes[0].mean() - changes[1].mean()).item() < 4 * error + 0.05


def test_nothing_of_the_fifteen_and_the_four_is_left_out():
    assert {*DETERMINISTIC, *RANDOM, "frost"} == {*BENCHMARK, *HELD_OUT}  # frost: the port draws from six photographs
