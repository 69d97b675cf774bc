"""Views: what they promise on any batch, and each of their parts recomputed by other means."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from crosstask import views
from crosstask.config import Views
from crosstask.views import ViewSampler, two_views

STILL = {"crop": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def sampler(**changes: object) -> ViewSampler:
    """Return a sampler that does nothing but what `changes` say."""
    return ViewSampler(Views(**(STILL | changes)))


sides = st.integers(16, 64)
everything = Views(crop=(0.08, 1.0), flip=0.5, jitter=0.9, hue=0.5, gray=0.3, blur=0.7, blur_sigma=(0.1, 3.0))


@given(sides, sides, st.sampled_from([1, 3]), st.integers(1, 4), st.integers(0, 10_000))
def test_a_view_has_the_shape_and_range_of_its_image(height, width, channels, batch, seed):
    x = pixels(batch, channels, height, width, seed=seed)
    kept = x.clone()
    for sample in (ViewSampler(), ViewSampler(everything)):
        view = sample(x, seeded(seed))
        assert view.shape == x.shape and view.dtype == x.dtype
        assert view.isfinite().all() and view.min() >= 0 and view.max() <= 1
    assert torch.equal(x, kept)


@given(st.sampled_from([1, 3]), st.integers(0, 10_000))
def test_the_generator_decides_alone(channels, seed):
    x, sample = pixels(3, channels, 16, 16), ViewSampler(everything)
    before = torch.get_rng_state()
    assert torch.equal(sample(x, seeded(seed)), sample(x, seeded(seed)))
    assert not torch.equal(sample(x, seeded(seed)), sample(x, seeded(seed + 1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_and_every_view_draws_its_own(channels):
    x = pixels(1, channels, 20, 20).expand(5, -1, -1, -1)
    both = two_views(x, ViewSampler(), seeded())
    assert both.shape == (10, channels, 20, 20)
    assert all(not torch.allclose(both[i], both[j], atol=1e-3) for i in range(10) for j in range(i))


def test_two_views_come_in_two_halves():
    x = torch.stack([torch.full((1, 16, 16), value) for value in (0.1, 0.5, 0.9)])
    both = two_views(x, sampler(), seeded())
    torch.testing.assert_close(both, torch.cat([x, x]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_image_unchanged_is_the_identity(channels):
    x = pixels(4, channels, 19, 32)
    torch.testing.assert_close(sampler()(x, seeded()), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flip_is_a_flip(channels):
    x = pixels(4, channels, 19, 32)
    torch.testing.assert_close(sampler(flip=1.0)(x, seeded()), torch.flip(x, dims=(3,)), rtol=0, atol=1e-5)


def test_a_flip_comes_after_the_crop():
    x = pixels(4, 1, 19, 32)
    flipped, plain = (sampler(crop=(0.2, 0.6), flip=flip)(x, seeded()) for flip in (1.0, 0.0))
    torch.testing.assert_close(flipped, plain.flip(3), rtol=0, atol=1e-5)


def test_half_the_images_flip():
    x = pixels(400, 1, 16, 16)
    view = sampler(flip=0.5)(x, seeded())
    flipped = (view - x.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    same = (view - x).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (flipped ^ same).all() and 160 < flipped.sum() < 240


def crops(batch: int, crop: tuple[float, float], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return top, left, height and width of the crops, as shares of the image, read off two ramps."""
    height, width = 40, 64
    ramp_y = ((torch.arange(height) + 0.5) / height).view(1, 1, -1, 1).expand(batch, 1, height, width)
    ramp_x = ((torch.arange(width) + 0.5) / width).view(1, 1, 1, -1).expand(batch, 1, height, width)
    y = sampler(crop=crop).geometric(ramp_y, seeded(seed))[:, 0, :, width // 2]
    x = sampler(crop=crop).geometric(ramp_x, seeded(seed))[:, 0, height // 2]
    step_y, step_x = y[:, height // 2] - y[:, height // 2 - 1], x[:, width // 2] - x[:, width // 2 - 1]
    tall, wide = step_y * height, step_x * width
    middle_y, middle_x = y[:, height // 2 - 1] + step_y / 2, x[:, width // 2 - 1] + step_x / 2
    return middle_y - tall / 2, middle_x - wide / 2, tall, wide


@pytest.mark.parametrize("crop", [(0.2, 1.0), (0.08, 0.3), (0.9, 1.0), (1.0, 1.0)])
def test_crops_keep_the_area_and_aspect_ratio_asked_for_and_stay_inside(crop):
    top, left, tall, wide = crops(300, crop)
    area, ratio = tall * wide, wide / tall
    assert crop[0] - 1e-3 <= area.min() and area.max() <= crop[1] + 1e-3
    assert ratio.min() >= 3 / 4 - 1e-3 and ratio.max() <= 4 / 3 + 1e-3
    assert min(top.min(), left.min()) >= -1e-3 and max((top + tall).max(), (left + wide).max()) <= 1 + 1e-3
    if crop[0] < 0.5:
        assert area.max() - area.min() > 0.9 * (crop[1] - crop[0]) and ratio.log().abs().mean() > 0.1
        assert top.std() > 0.05 and left.std() > 0.05


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 40, 64), (3, 40, 64)])
def test_a_crop_is_what_grid_sample_gives(channels, height, width):
    x = pixels(6, channels, height, width)
    top, left, tall, wide = crops(6, (0.2, 0.6), seed=3)
    scale = torch.zeros(6, 2, 3)
    scale[:, 0, 0], scale[:, 0, 2] = wide, 2 * left + wide - 1
    scale[:, 1, 1], scale[:, 1, 2] = tall, 2 * top + tall - 1
    grid = F.affine_grid(scale, [*x.shape], align_corners=False)
    expected = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    found = sampler(crop=(0.2, 0.6)).geometric(x, seeded(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("start", [0, 8, 16])
def test_half_of_a_side_is_what_interpolate_gives(start):
    x = pixels(2, 3, 32, 32)
    rows = views._resampling(torch.full((2,), start / 32), torch.full((2,), 0.5), 32)
    expected = F.interpolate(x[:, :, start : start + 16], size=(32, 32), mode="bilinear", align_corners=False)
    found = views._separable(x, rows, torch.eye(32).expand(2, 32, 32))
    inner = slice(1, -1)  # at its border a crop sees its neighbours where interpolate repeats itself
    torch.testing.assert_close(found[:, :, inner], expected[:, :, inner], rtol=0, atol=1e-5)


@given(st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.integers(16, 64))
def test_resampling_weights_are_averages(extent, where, size):
    rows = views._resampling(torch.tensor([where * (1 - extent)]), torch.tensor([extent]), size)
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(dim=2), torch.ones(1, size), rtol=0, atol=1e-5)
    assert ((rows > 0).sum(dim=2) <= 2).all()


@given(st.floats(0.05, 8.0), st.integers(16, 64))
def test_blurring_weights_are_averages_of_the_gaussian(sigma, size):
    rows = views._blurring(torch.tensor([sigma]), size)
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(dim=2), torch.ones(1, size), rtol=0, atol=1e-5)
    middle, bell = size // 2, [math.exp(-0.5 * ((j - size // 2) / sigma) ** 2) for j in range(size)]
    torch.testing.assert_close(rows[0, middle], torch.tensor(bell) / sum(bell), rtol=0, atol=1e-5)


def test_a_blur_smooths_and_its_probability_counts():
    x = pixels(300, 1, 32, 32)
    view = sampler(blur=0.5, blur_sigma=(1.0, 2.0))(x, seeded())
    blurred = (view - x).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 110 < blurred.sum() < 190
    assert view[blurred].std(dim=(2, 3)).max() < 0.6 * x.std(dim=(2, 3)).min()
    torch.testing.assert_close(view[~blurred], x[~blurred], rtol=0, atol=1e-5)


def test_brightness_multiplies_and_contrast_spreads():
    x = 0.2 + 0.3 * pixels(200, 1, 16, 16)
    brighter = sampler(jitter=1.0, brightness=0.4, contrast=0.0)(x, seeded())
    factor = (brighter / x).mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(brighter, factor * x)
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.4
    spread = sampler(jitter=1.0, brightness=0.0, contrast=0.4)(x, seeded())
    mean = x.mean(dim=(2, 3), keepdim=True)
    factor = spread.std(dim=(2, 3), keepdim=True) / x.std(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(spread, mean + factor * (x - mean), rtol=0, atol=1e-5)
    assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.4


def test_the_probability_of_jitter_counts():
    x = pixels(400, 3, 8, 8)
    untouched = ((sampler(jitter=0.8)(x, seeded()) - x).abs().amax(dim=(1, 2, 3)) < 1e-4).sum()
    assert 50 < untouched < 115


def test_graying_leaves_the_luminance_in_all_channels():
    x = pixels(5, 3, 8, 8)
    view = sampler(gray=1.0)(x, seeded())
    expected = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1).expand_as(x)
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-4)


def turned_by_hand(rgb: Tensor, saturation: float, angle: float) -> list[float]:
    """Scale and turn one colour in YIQ, the way of the standard library's `colorsys`, whose constants are rounded."""
    y, i, q = colorsys.rgb_to_yiq(*rgb.tolist())
    length, phase = saturation * math.hypot(i, q), math.atan2(q, i) + angle
    y, i, q = y, length * math.cos(phase), length * math.sin(phase)
    r = y + 0.9468822170900693 * i + 0.6235565819861433 * q
    g = y - 0.27478764629897834 * i - 0.6356910791873801 * q
    b = y - 1.1085450346420322 * i + 1.7090069284064666 * q
    return [r, g, b]


@given(st.floats(0, 2), st.floats(-math.pi, math.pi), st.integers(0, 10_000))
def test_saturation_and_hue_act_in_the_plane_of_colour(saturation, angle, seed):
    x = pixels(1, 3, 1, 4, seed=seed)
    found = views._turn_colours(x, torch.tensor([saturation]), torch.tensor([angle]))
    expected = torch.tensor([turned_by_hand(x[0, :, 0, i], saturation, angle) for i in range(4)])
    torch.testing.assert_close(found[0, :, 0].T, expected, rtol=0, atol=0.03)


def test_a_turn_of_the_hue_keeps_the_luminance_and_the_amount_of_colour():
    x = pixels(6, 3, 4, 4)
    angle = torch.linspace(-3, 3, 6)
    turned = views._turn_colours(x, torch.ones(6), angle)
    weights = torch.tensor(views._RGB_TO_YIQ)
    before, after = (torch.einsum("ij,bjhw->bihw", weights, t) for t in (x, turned))
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(after[:, 1:].norm(dim=1), before[:, 1:].norm(dim=1), rtol=0, atol=1e-5)
    back = views._turn_colours(turned, torch.ones(6), -angle)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    assert (turned - x).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_gray_images_have_no_colour_to_jitter():
    x = pixels(4, 1, 8, 8)
    colours = sampler(jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.9, hue=0.5, gray=1.0)
    torch.testing.assert_close(colours(x, seeded()), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_under_autocast_views_are_the_same_within_its_precision(channels):
    x = pixels(4, channels, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        view = ViewSampler(everything)(x, seeded())
    assert view.min() >= 0 and view.max() <= 1
    torch.testing.assert_close(view.float(), ViewSampler(everything)(x, seeded()), rtol=0, atol=0.03)
