"""AugMix: each small change against Pillow's, and what mixing keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from crosstask import augmix
from crosstask.augmix import augmix as mix

LEVELS = torch.tensor([0.1, 0.4, 0.9, 1.0])
PILLOW: list[Callable[[Image.Image, float], Image.Image]] = [
    lambda image, level: ImageOps.autocontrast(image),
    lambda image, level: ImageOps.equalize(image),
    lambda image, level: ImageOps.solarize(image, 256 - int(256 * level / 10)),
    lambda image, level: ImageOps.posterize(image, 4),
]


def pictures(seed: int = 0) -> Tensor:
    """Return four images [4, 3, 16, 20] of whole grey values: one over all values, two over some, one flat."""
    images = torch.randint(0, 256, (4, 3, 16, 20), generator=torch.Generator().manual_seed(seed)).float()
    images[1] = 90 + (images[1] / 4).floor()
    images[2, 0] = images[2, 0].clamp(min=200)
    images[3] = 77
    return images


@pytest.mark.parametrize("choice", range(4))
def test_changes_of_tone_are_those_of_pillow(choice: int) -> None:
    images = pictures()
    found = augmix._SMALL_CHANGES[choice](images, torch.full((4,), choice), LEVELS, torch.ones(4))
    for image, level, changed in zip(images, LEVELS.tolist(), found, strict=True):
        theirs = PILLOW[choice](Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8)), level)
        apart = (changed - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs()
        assert apart.max() <= (choice == 0)  # by a grey level: Pillow stretches in float64


@pytest.mark.parametrize(("choice", "along"), [(7, 3), (8, 2)])
def test_shifts_are_by_whole_pixels_with_black_behind(choice: int, along: int) -> None:
    images = torch.randint(1, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).float()
    moved = augmix._warped(images, torch.full((2,), choice), torch.ones(2), torch.tensor([1.0, -1.0]))
    assert torch.equal(moved[0].narrow(along - 1, 0, 39), images[0].narrow(along - 1, 1, 39))
    assert torch.equal(moved[1].narrow(along - 1, 1, 39), images[1].narrow(along - 1, 0, 39))
    assert not moved[0].narrow(along - 1, 39, 1).any() and not moved[1].narrow(along - 1, 0, 1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_mixes_lie_between_black_and_white_and_repeat(count: int, dtype: torch.dtype) -> None:
    x = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    for seed in range(20):  # of one image alone, most changes have nothing to do
        one, other = (mix(x, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(one, other) and one.dtype == dtype and one.shape == x.shape
        assert one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, mix(x, torch.Generator().manual_seed(99)))


def test_each_image_has_its_own_mix() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).expand(16, -1, -1, -1)
    mixes = mix(x, torch.Generator().manual_seed(0))
    assert len({mixed.numpy().tobytes() for mixed in mixes}) == 16


@pytest.mark.parametrize("size", [(24, 24), (24, 48), (48, 24)], ids=str)
@pytest.mark.parametrize("choice", [4, 5, 6])
def test_turns_and_shears_are_those_of_pixels_whatever_the_shape(choice: int, size: tuple[int, int]) -> None:
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    images = torch.stack([128 + 4 * x, 128 + 4 * y])[None]
    found = augmix._warped(images, torch.full((1,), choice), torch.ones(1), torch.ones(1))[0]
    angle = torch.deg2rad(torch.tensor(3.0 * (choice == 4)))
    across, down = (0.03 * (choice == own) for own in (5, 6))
    from_x = angle.cos() * x + (across - angle.sin()) * y
    from_y = (down + angle.sin()) * x + angle.cos() * y
    inside = (slice(None), slice(3, -3), slice(3, -3))
    expected = torch.stack([128 + 4 * from_x, 128 + 4 * from_y])
    assert (found - expected)[inside].abs().max() <= 0.51, "a shade is a quarter of a pixel, and is rounded"
