"""The corruptions against the official generator's output, against plain recomputations, and against their contract."""

from __future__ import annotations

import colorsys
import importlib.util
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor, nn

from crosstask.data import corruptions
from crosstask.data.corruptions import COLOURING, CORRUPTIONS, available, corrupt, frost_sheets
from crosstask.data.corruptions.digital import jittered_grid
from crosstask.data.corruptions.filters import streaked
from crosstask.data.corruptions.grey import levels, luminance, truncate
from crosstask.data.corruptions.liquid import canny_edges, chamfer_distance
from crosstask.data.corruptions.noise import poisson
from crosstask.data.corruptions.weather import plasma
from crosstask.data.randomness import ImageRandom, stream_key
from crosstask.data.severities import BENCHMARK, CIFAR, HELD_OUT, TABLES
from crosstask.errors import DataError, UnknownName

REFERENCE = Path(__file__).parents[2] / "shared/data/reference/cifar10c-reference-100.npz"
needs_reference = pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no reference file at {REFERENCE}")

DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
)
SEVERITIES = (1, 2, 3, 4, 5)

# Random corruptions: the tolerance on the measures below, and the neighbouring severities that differ by less.
RANDOM = {
    "gaussian_noise": (0.04, ()),
    "shot_noise": (0.04, ()),
    "impulse_noise": (0.04, ()),
    "speckle_noise": (0.04, ()),
    "glass_blur": (0.04, ((1, 2),)),
    "motion_blur": (0.06, ((3, 4),)),
    "snow": (0.12, ()),
    "frost": (0.18, ((2, 3), (3, 4))),  # procedural textures for photographed ones
    "fog": (0.08, ()),
    "elastic_transform": (0.12, ((1, 2), (2, 3))),
    "spatter": (0.12, ()),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """The first 100 CIFAR-10 test images as `images` [100, 3, 32, 32], each corruption as [5, 100, 3, 32, 32]."""
    with np.load(REFERENCE) as arrays:
        return {name: torch.from_numpy(np.moveaxis(arrays[name], -1, -3)) for name in arrays if name != "labels"}


def pictures(count: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Return uint8 [count, channels, height, width]: soft blobs with a little grain, all grey levels in use."""
    rng = np.random.default_rng(7)
    blobs = ndimage.gaussian_filter(rng.normal(size=(count, channels, height, width)), (0, 0.5, 3, 3))
    grain = 0.1 * blobs.std() * rng.normal(size=blobs.shape)
    return torch.from_numpy(np.clip(128 + 70 * (blobs + grain) / blobs.std(), 0, 255).astype(np.uint8))


def draws(count: int = 1, key: int = 5) -> ImageRandom:
    return ImageRandom(key, torch.arange(count), torch.device("cpu"))


# ------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("table", TABLES)
def test_tables_hold_five_severities_of_every_corruption(table):
    assert set(TABLES[table]) == set(BENCHMARK + HELD_OUT)
    for name, severities in TABLES[table].items():
        assert len(severities) == 5
        assert {len(parameters) for parameters in severities} == {len(CIFAR[name][0])}


def test_available_names_are_the_implemented_ones_in_official_order():
    assert available() == BENCHMARK + HELD_OUT
    assert set(CORRUPTIONS) == set(available())


# --------------------------------------------------------------------------- against the official generator


def share_within_one_level(one: Tensor, other: Tensor) -> float:
    return ((one.int() - other.int()).abs() <= 1).double().mean().item()


@needs_reference
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_match_the_official_ones_image_by_image(reference, name):
    for severity in SEVERITIES:
        ours = corrupt(reference["images"], name, severity, seed=0)
        official = reference[name][severity - 1]
        assert share_within_one_level(ours, official) >= 0.999
        assert (ours == official).double().mean() >= 0.9
        for other in {severity - 1, severity + 1} & set(SEVERITIES):
            assert share_within_one_level(ours, reference[name][other - 1]) < 0.999


RINGS = torch.bucketize(
    torch.hypot(*torch.meshgrid(torch.fft.fftfreq(32), torch.fft.fftfreq(32), indexing="ij")),
    torch.tensor([0.1, 0.2, 0.3, 0.4]),
)


def measures(corrupted: Tensor, images: Tensor) -> Tensor:
    """Return the change's root mean square, over all frequencies and in five bands of them."""
    power = torch.fft.fft2(corrupted.double() - images.double()).abs().square().mean((0, 1)) / 32**4
    return torch.stack([power.sum(), *(power[band == RINGS].sum() for band in range(5))]).sqrt()


@needs_reference
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_match_the_official_ones_in_distribution(reference, name):
    tolerance, alike = RANDOM[name]
    images = reference["images"]
    ours = torch.stack(
        [sum(measures(corrupt(images, name, s, seed=seed), images) for seed in range(2)) / 2 for s in SEVERITIES]
    )
    theirs = torch.stack([measures(official, images) for official in reference[name]])
    gaps = (theirs[:, None] / ours[None] - 1).abs().amax(2)
    assert gaps.diagonal().max() < tolerance, gaps.diagonal()
    for severity in SEVERITIES[:-1]:
        if (severity, severity + 1) not in alike:
            assert gaps[severity - 1, severity] > tolerance
            assert gaps[severity, severity - 1] > tolerance


@needs_reference
def test_frost_from_the_photographs_is_closer_to_the_official_one(reference, monkeypatch):
    port = importlib.util.find_spec("imagecorruptions")  # brings the photographs along
    if port is None or port.origin is None:
        pytest.skip("no imagecorruptions-imaug here")
    monkeypatch.setattr(frost_sheets, "frost_folder", lambda: Path(port.origin).parent / "frost")
    images = reference["images"]
    ours = torch.stack([measures(corrupt(images, "frost", s, seed=k), images) for s in SEVERITIES for k in range(4)])
    theirs = torch.stack([measures(official, images) for official in reference["frost"]])
    assert (ours.view(5, 4, -1).mean(1) / theirs - 1).abs().max() < 0.07


@needs_reference
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_shift_the_mean_as_the_official_ones_do(reference, name):
    images = reference["images"].double()
    for severity in SEVERITIES:
        ours = corrupt(reference["images"], name, severity, seed=1).double() - images
        theirs = reference[name][severity - 1].double() - images
        error = math.hypot(*(change.mean((1, 2, 3)).std().item() / 10 for change in (ours, theirs)))
        assert abs(ours.mean() - theirs.mean()) < 4 * error


@needs_reference
def test_impulses_are_as_many_and_both_colours_as_often_as_in_the_official_noise(reference):
    images = reference["images"]
    middle = (images > 0) & (images < 255)
    for severity, (amount,) in enumerate(CIFAR["impulse_noise"], 1):
        for noisy in (corrupt(images, "impulse_noise", severity, seed=0), reference["impulse_noise"][severity - 1]):
            salt, pepper = ((noisy == level)[middle].double().mean().item() for level in (255, 0))
            assert [salt, pepper] == pytest.approx([amount / 2] * 2, rel=0.06)
            assert (noisy == images)[middle].double().mean().item() == pytest.approx(1 - amount, abs=0.002)


@needs_reference
@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_the_official_one_at_some_angle(reference, severity):
    angles = torch.deg2rad(torch.arange(-45, 45.05, 0.25, dtype=torch.float64))
    radius, sigma = CIFAR["motion_blur"][severity - 1]
    for i in (0, 1):
        image = reference["images"][i].double().expand(len(angles), -1, -1, -1) / 255
        error = truncate(streaked(image, radius, sigma, angles)).int() - reference["motion_blur"][severity - 1, i].int()
        shares = (error.abs() > 0).double().mean((1, 2, 3))
        assert shares.min() < 0.06
        assert error[shares.argmin()].abs().max() <= 1
        assert shares.median() > 0.2


@needs_reference
def test_glass_blur_moves_pixels_from_the_places_the_official_one_does(reference):
    images, official = reference["images"], reference["glass_blur"][0]
    for glass in (official, corrupt(images, "glass_blur", 1, seed=3)):
        sources = [(images.roll(shift, (2, 3)) == glass).all(1) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
        assert torch.stack(sources).any(0)[:, 2:, 2:].all()
        assert (glass == images)[:, :, :2].all()
        assert (glass == images)[..., :2].all()
        assert all(0.2 < source[:, 2:, 2:].double().mean() < 0.45 for source in sources)


@needs_reference
def test_snowflakes_have_the_official_grey_levels(reference):
    images, x = reference["images"], reference["images"].double() / 255
    keep = CIFAR["snow"][1][6]
    base = (255 * (keep * x + (1 - keep) * torch.maximum(x, luminance(x) * 1.5 + 0.5)) + 1e-6).floor()
    histograms = []
    for snowy in (reference["snow"][1], corrupt(images, "snow", 2, seed=0)):
        flakes = snowy - base
        unclipped = (snowy < 255).all(1)
        assert (flakes.amax(1) == flakes.amin(1))[unclipped].double().mean() > 0.999
        histograms.append(torch.bincount(flakes[:, 0][unclipped].long(), minlength=256)[:4] / unclipped.sum())
    assert torch.allclose(*histograms, rtol=0.15, atol=0.004)


@pytest.fixture(scope="module")
def classifier(reference) -> nn.Module:
    """A small network that has learnt the 100 clean images; noise, blur and weather make it err."""
    with np.load(REFERENCE) as arrays:
        labels = torch.from_numpy(arrays["labels"]).long()
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)]
    network = nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10))
    optimiser, x = torch.optim.Adam(network.parameters(), 1e-3), reference["images"] / 255
    for _ in range(120):
        noisy = (x + 0.03 * torch.randn_like(x)).roll(tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(noisy), labels).backward()
        optimiser.step()
    network.labels = labels
    return network.requires_grad_(False)


@needs_reference
@pytest.mark.slow
def test_a_classifier_errs_as_often_on_ours_as_on_the_official_ones(reference, classifier):
    """Each corruption within two standard errors of an accuracy on 5 x 100 images, all of them together within one."""

    def right(images: Tensor) -> float:
        return (classifier(images / 255).argmax(1) == classifier.labels).double().mean().item()

    assert right(reference["images"]) > 0.9
    accuracies = {}
    for name in available():
        official = np.mean([right(reference[name][s - 1]) for s in SEVERITIES])
        draws_of_ours = [right(corrupt(reference["images"], name, s, seed=k)) for s in SEVERITIES for k in range(3)]
        accuracies[name] = official, np.mean(draws_of_ours)
        assert abs(accuracies[name][1] - official) < 2 * math.sqrt(official * (1 - official) / 500), accuracies
    official, ours = np.mean(list(accuracies.values()), axis=0)
    assert 0.4 < official < 0.9, "answers must change for the comparison to mean something"
    assert abs(ours - official) < math.sqrt(official * (1 - official) / (500 * len(accuracies))), accuracies


# ------------------------------------------------------------------------------- against plain recomputations


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_equals_scipy(severity):
    images = pictures(2)
    (sigma,) = CIFAR["gaussian_blur"][severity - 1]
    blurred = ndimage.gaussian_filter(images.double().numpy() / 255, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert torch.equal(corrupt(images, "gaussian_blur", severity, seed=0), truncate(torch.from_numpy(blurred)))


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (20, 45)])
def test_zoom_blur_equals_a_loop_of_scipy_zooms(size):
    images = pictures(1, 1, *size)
    x = images[0, 0].double().numpy() / 255
    total = x.copy()
    for factor in np.arange(1, 1.26, 0.01):
        kept = [math.ceil(side / factor) for side in size]
        top, left = ((side - keep) // 2 for side, keep in zip(size, kept, strict=True))
        zoomed = ndimage.zoom(x[top : top + kept[0], left : left + kept[1]], factor, order=1)
        top, left = ((have - side) // 2 for have, side in zip(zoomed.shape, size, strict=True))
        total += zoomed[top : top + size[0], left : left + size[1]]
    expected = truncate(torch.from_numpy(total / 27))
    assert torch.equal(corrupt(images, "zoom_blur", 5, seed=0)[0, 0], expected)


def test_defocus_blur_equals_a_plain_correlation():
    images = pictures(1)
    disk = np.ones((3, 3)) / 9  # severity 5: radius 1.5 covers the 3 x 3 neighbours
    edge = math.exp(-0.5 / 0.1**2)
    soften = np.array([edge, 1, edge]) / (1 + 2 * edge)
    kernel = ndimage.correlate(np.pad(disk, 1), np.outer(soften, soften), mode="constant")
    expected = [ndimage.correlate(channel / 255, kernel, mode="mirror") for channel in images[0].double().numpy()]
    assert torch.equal(corrupt(images, "defocus_blur", 5, seed=0)[0], truncate(torch.from_numpy(np.stack(expected))))


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 47)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_equals_pillow(size, severity):
    images = pictures(2, 3, *size)
    (share,) = CIFAR["pixelate"][severity - 1]
    for image, ours in zip(images, corrupt(images, "pixelate", severity, seed=0), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        small = picture.resize((int(size[1] * share), int(size[0] * share)), Image.Resampling.BOX)
        expected = np.array(small.resize(size[::-1], Image.Resampling.BOX))
        assert torch.equal(ours, torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (28, 28), (33, 47), (17, 30), (64, 50)])
@pytest.mark.parametrize("quality", [7, 25, 50, 80, 95, 100])
def test_jpeg_is_pillows_bit_for_bit(size, quality, channels):
    noise = torch.randint(0, 256, (2, channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = torch.cat([pictures(2, channels, *size), noise])
    ours = CORRUPTIONS["jpeg_compression"](images.double() / 255, (quality,), draws(4))
    for image, made in zip(images, levels(ours), strict=True):
        file = io.BytesIO()
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "JPEG", quality=quality)
        expected = torch.from_numpy(np.array(Image.open(file))).view(*size, channels).permute(2, 0, 1)
        assert torch.equal(made.to(torch.uint8), expected)


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_hsv_corruptions_equal_colorsys(name):
    images = pictures(1, 3, 16, 16)
    images[0, :, 0, :3] = torch.tensor([[0, 255, 77]])  # black, white, gray
    for severity in SEVERITIES:
        ours = corrupt(images, name, severity, seed=0)[0]
        for row in range(16):
            for column in range(16):
                h, s, v = colorsys.rgb_to_hsv(*(images[0, :, row, column].double() / 255).tolist())
                if name == "brightness":
                    v = min(v + CIFAR[name][severity - 1][0], 1)
                else:
                    factor, offset = CIFAR[name][severity - 1]
                    s = min(max(s * factor + offset, 0), 1)
                expected = [int(255 * value + 1e-6) for value in colorsys.hsv_to_rgb(h, s, v)]
                assert ours[:, row, column].tolist() == expected


def test_contrast_pulls_to_the_mean_of_each_channel():
    x = pictures(2).double() / 255
    expected = (x - x.mean((2, 3), keepdim=True)) * 0.15 + x.mean((2, 3), keepdim=True)
    assert torch.equal(corrupt(pictures(2), "contrast", 5, seed=0), truncate(expected))


@pytest.mark.parametrize("photons", [15, 50, 500])
def test_shot_noise_counts_are_poisson_quantiles(photons):
    grey = torch.arange(256, dtype=torch.int32).repeat(64)
    draw = draws().uniform((len(grey),))[0]
    draw[:512] = torch.tensor([2.0**-33, 1 - 2.0**-33], dtype=torch.float64).repeat_interleave(256)
    expected = stats.poisson.ppf(draw.numpy(), grey.numpy() / 255 * photons)
    expected[grey == 0] = 0
    assert np.array_equal(poisson(grey, photons, draw).numpy(), expected)


def test_motion_blur_equals_a_plain_loop():
    x = pictures(1, 1, 16, 20).double() / 255
    angle = math.radians(-33)
    weights = [math.exp(-(step**2) / (2 * 2.5**2)) for step in range(13)]
    expected = torch.zeros(16, 20, dtype=torch.float64)
    for row in range(16):
        for column in range(20):
            for step, weight in enumerate(weights):
                there = min(max(row + math.ceil(step * math.sin(angle) - 0.5), 0), 15)
                across = min(max(column + math.ceil(step * math.cos(angle) - 0.5), 0), 19)
                expected[row, column] += weight / sum(weights) * x[0, 0, there, across]
    assert torch.allclose(streaked(x, 6, 2.5, torch.tensor([angle], dtype=torch.float64))[0, 0], expected)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_glass_blur_equals_visiting_the_pixels_one_by_one(reach):
    x = pictures(2, 1, 24, 20).double() / 255
    expected = x.clone()
    random = draws(2)
    for _ in range(2):
        choice = (random.uniform((24, 20)) * (2 * reach) ** 2).long()
        shifts = torch.stack([choice // (2 * reach), choice % (2 * reach)], 1) - reach
        for i in range(2):
            for row in range(24 - reach, reach, -1):
                for column in range(20 - reach, reach, -1):
                    down, across = shifts[i, :, row, column].tolist()
                    expected[i, 0, row, column] = expected[i, 0, row + down, column + across]
    assert torch.equal(levels(CORRUPTIONS["glass_blur"](x, (0.05, reach, 2), draws(2))), levels(expected))


def test_plasma_equals_diamond_square_point_by_point():
    size, decay = 8, 2.5
    ours = plasma(size, decay, draws())
    random, noise, step = draws(), 100.0**2, size
    cloud = {(0, 0): 0.0}
    while step > 1:
        half, n = step // 2, size // step
        squares, top, left = ((2 * random.uniform((3, n, n))[0] - 1) * noise).tolist()
        for i in range(n):
            for j in range(n):
                corners = [(i + a) % n * step for a in (0, 1)], [(j + b) % n * step for b in (0, 1)]
                mean = sum(cloud[row, column] for row in corners[0] for column in corners[1]) / 4
                cloud[i * step + half, j * step + half] = mean + squares[i][j]
        for i in range(n):
            for j in range(n):
                for row, column, extra in ((i * step, j * step + half, top), (i * step + half, j * step, left)):
                    around = ((-half, 0), (half, 0), (0, -half), (0, half))
                    mean = sum(cloud[(row + a) % size, (column + b) % size] for a, b in around) / 4
                    cloud[row, column] = mean + extra[i][j]
        step, noise = half, noise / decay**2
    expected = torch.tensor([[cloud[row, column] for column in range(size)] for row in range(size)]).double()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(ours[0], expected, atol=1e-6)


def test_fog_is_a_cloud_scaled_to_the_brightest_pixel():
    x = pictures(2).double() / 255
    foggy = CORRUPTIONS["fog"](x, (1.5, 1.75), draws(2))
    cloud = plasma(32, 1.75, draws(2))[:, None]
    brightest = x.flatten(1).max(1).values.view(2, 1, 1, 1)
    assert torch.allclose(foggy, (x + 1.5 * cloud) * brightest / (brightest + 1.5))
    assert cloud.min() == 0
    assert cloud.max() == 1


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_elastic_transform_equals_scipy(size):
    image = pictures(1, 1, *size)[0, 0].double().numpy() / 255
    side = min(size)
    ours = CORRUPTIONS["elastic_transform"](torch.from_numpy(image)[None, None], (0.1, 0.04, 0.05), draws())
    random = draws()
    half, centre = side // 3, np.array([size[1] // 2, size[0] // 2])
    points = centre + half * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + (2 * random.uniform((3, 2))[0].numpy() - 1) * 0.05 * side
    backwards = np.linalg.solve(np.c_[moved, np.ones(3)], points)
    rows, columns = np.indices(size)
    x, y = np.moveaxis(np.stack([columns, rows, np.ones(size)], axis=-1) @ backwards, -1, 0)
    image = ndimage.map_coordinates(image, [y, x], order=1, mode="mirror")
    field = 2 * random.uniform((2, *size))[0].numpy() - 1
    sigma = 0.04 * side
    down, across = (0.1 * side * ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in field)
    expected = ndimage.map_coordinates(image, [rows + down, columns + across], order=1, mode="reflect")
    assert np.allclose(ours[0, 0].numpy(), expected)


def test_elastic_transform_without_jitter_or_field_changes_nothing():
    grid = jittered_grid(32, 32, 0, draws())
    corner = grid[0, [0, -1], [0, -1]]
    assert torch.allclose(corner, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double())
    images = pictures(2).double() / 255
    assert torch.allclose(CORRUPTIONS["elastic_transform"](images, (0, 0, 0), draws(2)), images)


def test_mud_covers_and_water_lightens():
    images = pictures(3)
    mud = corrupt(images, "spatter", 5, seed=0).int() - images.int()
    water = corrupt(images, "spatter", 3, seed=0).int() - images.int()
    assert water.min() >= 0
    assert 0.1 < (water.amax(1) > 0).double().mean() < 0.8
    covered = corrupt(torch.full((3, 3, 32, 32), 255, dtype=torch.uint8), "spatter", 5, seed=0)
    thickest = covered.flatten(2).amin(2)
    assert (thickest - torch.tensor([63, 42, 20])).abs().max() <= 30
    assert ((mud == 0).all(1).double().mean() - (covered == 255).all(1).double().mean()).abs() < 0.02


def test_chamfer_distance_is_the_shortest_way_in_its_steps():
    edges = draws(3).uniform((20, 24)) < 0.02
    edges[2] = False
    edges[2, 19, 0] = True
    rows, columns = np.indices((20, 24))
    for some, ours in zip(edges.numpy(), chamfer_distance(edges).numpy(), strict=True):
        ways = []
        for row, column in np.argwhere(some):
            long = np.maximum(abs(rows - row), abs(columns - column))
            short = np.minimum(abs(rows - row), abs(columns - column))
            flat = 2.1969 * short + (long - 2 * short)
            ways.append(np.where(2 * short <= long, flat, 2.1969 * (long - short) + 1.4 * (2 * short - long)))
        assert np.allclose(ours, np.min(ways, axis=0), atol=1e-3)


def test_canny_thins_steps_drops_faint_ones_and_keeps_faint_ones_that_touch_strong_ones():
    image = torch.zeros(3, 16, 16, dtype=torch.float64)
    image[0, :, 8:] = 200
    image[1, :, 8:] = 10
    image[2, :, 8:] = 30  # faint: gradient 120
    image[2, :4, 8:] = 200
    edges = canny_edges(image, 50, 150)
    assert edges[0].sum(1).tolist() == [1] * 16
    assert not edges[1].any()
    assert edges[2, 8:, 7:9].any(1).all()
    image[2, :4] = image[2, 4]
    assert not canny_edges(image, 50, 150)[2].any()


def test_frost_is_a_brightening_sheet_bluer_than_the_image():
    gray = torch.full((40, 3, 32, 32), 60, dtype=torch.uint8)
    frosted = corrupt(gray, "frost", 5, seed=0).double().mean((0, 2, 3))
    assert (frosted > 70).all()
    assert frosted[2] > frosted[0]


def test_frost_is_laid_from_photographs_where_there_are_some(tmp_path, monkeypatch):
    for number, name in enumerate(frost_sheets.PHOTOGRAPHS):
        Image.new("RGB", (400, 300), (10 + 40 * number, 60, 200)).save(tmp_path / name, quality=100)
    monkeypatch.setattr(frost_sheets, "frost_folder", lambda: tmp_path)
    assert frost_sheets.texture() == "photographs"
    for height, width, scale in ((32, 32, 0.2), (64, 64, 0.3), (64, 48, 1), (320, 500, 1)):
        pieces = frost_sheets.frost_pieces(height, width, scale, draws(40))
        assert pieces.shape == (40, 3, height, width)
        sheets = (pieces.mean((1, 2, 3)) * 255).round().unique()
        assert len(sheets) == 5, "every photograph is used"
    monkeypatch.setattr(frost_sheets, "frost_folder", lambda: None)
    assert frost_sheets.texture() == "procedural"


def test_pieces_of_frost_are_cut_from_all_over_a_sheet(monkeypatch):
    monkeypatch.setattr(frost_sheets, "frost_folder", lambda: None)
    ramp = torch.linspace(0, 255, 300, dtype=torch.float64).expand(3, 200, 300)
    monkeypatch.setattr(frost_sheets, "computed_sheets", lambda: [ramp])
    frost_sheets.shrunk_sheets.cache_clear()
    middles = 255 * frost_sheets.frost_pieces(50, 60, 1, draws(400)).mean((1, 2, 3))
    frost_sheets.shrunk_sheets.cache_clear()
    assert middles.min() < 255 * 32 / 300
    assert middles.max() > 255 * 268 / 300
    assert stats.kstest(middles.numpy(), stats.uniform(255 * 30 / 300, 255 * 240 / 300).cdf).pvalue > 1e-3


# --------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_belong_to_the_image_not_to_the_batch(name, channels, monkeypatch):
    images, indices = pictures(9, channels), torch.arange(9) * 1000 + 3
    order = torch.tensor([4, 0, 8, 2, 6, 1, 7, 3, 5])
    for severity in (2, 5):
        whole = corrupt(images, name, severity, seed=11, indices=indices)
        shuffled = corrupt(images[order], name, severity, seed=11, indices=indices[order])
        assert torch.equal(shuffled, whole[order])
        alone = corrupt(images[5:6], name, severity, seed=11, indices=indices[5:6])
        assert torch.equal(alone, whole[5:6])
        for images_at_once in (1, 4):
            with monkeypatch.context() as patch:
                patch.setitem(corruptions.CHUNK_ELEMENTS, "cpu", images_at_once * images[0].numel())
                assert torch.equal(corrupt(images, name, severity, seed=11, indices=indices), whole)


@pytest.mark.parametrize("name", available())
def test_the_seed_chooses_the_bits_and_nothing_global_does(name):
    images = pictures(4)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one = corrupt(images, name, 4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    torch.manual_seed(99)
    assert torch.equal(corrupt(images, name, 4, seed=1), one)
    for other in (2, -1, 2**80):
        assert torch.equal(corrupt(images, name, 4, seed=other), one) == (name in DETERMINISTIC)
    same_picture = images[:1].expand(4, -1, -1, -1)
    corrupted = corrupt(same_picture, name, 4, seed=1)
    assert torch.equal(corrupted[0], corrupted[1]) == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("size", [(16, 16), (28, 28), (33, 47)])
def test_any_size_of_colour_or_gray_is_corrupted(name, size):
    for channels in (1, 3):
        images = pictures(2, channels, *size)
        before = images.clone()
        corrupted = corrupt(images, name, 5, seed=0)
        assert torch.equal(images, before)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.uint8
        assert not torch.equal(corrupted, images)


@pytest.mark.parametrize("table", ["tiny-imagenet", "imagenet"])
@pytest.mark.parametrize("name", available())
def test_the_other_tables_are_others(name, table):
    images = pictures(1, 3, 64, 64)
    for severity in (4, 5):
        corrupted = corrupt(images, name, severity, seed=0, table=table)
        same = TABLES[table][name][severity - 1] == CIFAR[name][severity - 1]
        assert torch.equal(corrupted, corrupt(images, name, severity, seed=0)) == same


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_gray_is_the_luminance_of_the_colour_version(name):
    gray = pictures(4, 1)
    for severity in SEVERITIES:
        colour = corrupt(gray.expand(-1, 3, -1, -1), name, severity, seed=0).double()
        ours = corrupt(gray, name, severity, seed=0).double()
        assert (ours - luminance(colour)).abs().max() <= (1 if name in COLOURING else 1e-9)


@pytest.mark.parametrize("name", sorted(COLOURING))
def test_what_brings_in_colour_is_brought_back_to_luminance(name):
    gray = pictures(4, 1)
    colour = corrupt(gray.expand(-1, 3, -1, -1), name, 5, seed=0)
    assert (colour[:, 0] != colour[:, 2]).any()
    assert (corrupt(gray, name, 5, seed=0) - luminance(colour.double())).abs().max() <= 1


@pytest.mark.parametrize("name", available())
def test_extreme_images_stay_images(name):
    for level in (0, 255):
        images = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
        for severity in SEVERITIES:
            changed = (corrupt(images, name, severity, seed=0).int() - level).abs().double().mean()
            assert changed <= 200


def test_no_more_than_a_chunk_is_computed_at_a_time(monkeypatch):
    sizes, made = [], CORRUPTIONS["contrast"]

    def counted(x, parameters, random):
        sizes.append(len(x))
        return made(x, parameters, random)

    images = pictures(10)
    expected = corrupt(images, "contrast", 3, seed=0)
    monkeypatch.setitem(CORRUPTIONS, "contrast", counted)
    monkeypatch.setitem(corruptions.CHUNK_ELEMENTS, "cpu", 4 * images[0].numel() + 5)
    assert torch.equal(corrupt(images, "contrast", 3, seed=0), expected)
    assert sizes == [4, 4, 2]


def test_memory_layout_of_the_input_does_not_matter():
    images = pictures(3)
    for name in ("glass_blur", "fog", "jpeg_compression"):
        expected = corrupt(images, name, 3, seed=0)
        assert torch.equal(corrupt(images.to(memory_format=torch.channels_last), name, 3, seed=0), expected)
        assert corrupt(images.to(memory_format=torch.channels_last), name, 3, seed=0).is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", available())
def test_a_gpu_gives_the_same_pixels(name):
    images = pictures(5)
    for severity in SEVERITIES:
        there = corrupt(images.cuda(), name, severity, seed=0)
        assert there.is_cuda
        assert torch.equal(there.cpu(), corrupt(images, name, severity, seed=0))


# ------------------------------------------------------------------------------------------------ randomness


def test_uniform_numbers_are_uniform_and_uncorrelated():
    u = draws(200, key=stream_key(0, "fog", 1)).uniform((1000,))
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(torch.histc(u, 64, 0, 1).numpy()).pvalue > 1e-3
    assert stats.chisquare(np.bincount((u * 2**32).long().flatten().numpy() % 64)).pvalue > 1e-3
    for one, other in ((u[:, :-1], u[:, 1:]), (u[:, :-2], u[:, 2:]), (u[:-1], u[1:])):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 4 / math.sqrt(one.numel())
    assert (np.corrcoef(u) - np.eye(200)).max() < 6 / math.sqrt(1000)


def test_normal_numbers_are_normal():
    z = draws(200).normal((5, 201)).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(1, abs=0.01)
    assert stats.skew(z) == pytest.approx(0, abs=0.03)
    assert stats.kurtosis(z) == pytest.approx(0, abs=0.05)
    pairs = draws(1000).normal((2,)).numpy()
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.13
    assert abs(np.corrcoef((pairs**2).T)[0, 1]) < 0.13


def test_integers_take_each_value_as_often():
    counts = np.bincount(draws(10).integers(-2, 2, (4000,)).flatten().numpy() + 2)
    assert len(counts) == 4
    assert stats.chisquare(counts).pvalue > 1e-3


def test_streams_and_indices_next_to_each_other_have_nothing_in_common():
    index = torch.tensor([0, 1, 2, 2**40, -1])
    words = [ImageRandom(stream_key(*key), index, torch.device("cpu")) for key in ((0, "fog", 1), (0, "fog", 2), (1,))]
    bits = torch.cat([((w._words(64)[..., None] >> torch.arange(64)) & 1).flatten(1) for w in words]).double()
    agreement = (bits[:, None] == bits[None]).double().mean(2) - torch.eye(len(bits))
    assert (agreement - 0.5 * (1 - torch.eye(len(bits)))).abs().max() < 5 * 0.5 / math.sqrt(bits.shape[1])


def test_every_call_draws_fresh_numbers_which_depend_on_the_index_only():
    index, device = torch.tensor([7, 3, 7]), torch.device("cpu")
    random = ImageRandom(1, index, device)
    first, second = random.uniform((3,)), random.uniform((3,))
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    again = ImageRandom(1, index[1:2], device)
    assert torch.equal(again.uniform((3,)), first[1:2])
    assert torch.equal(again.uniform((3,)), second[1:2])


def test_the_numbers_are_pinned():
    # A change here changes every published corrupted data set: it needs a new major version.
    random = ImageRandom(stream_key(0, "gaussian_noise", 1), torch.tensor([0, 9999]), torch.device("cpu"))
    assert (random.uniform((2,)) * 2**32).long().tolist() == [[1745703200, 3247415302], [1243646665, 1615957494]]


# ---------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "gausian_noise"}, UnknownName, "unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'"),
        (
            {"table": "image-net"},
            UnknownName,
            "unknown severity table 'image-net'; did you mean 'imagenet'.*Known: cifar",
        ),
        ({"severity": 0}, DataError, "expected a severity of 1, 2, 3, 4 or 5, got 0. Pass one of the five"),
        ({"severity": 6}, DataError, "got 6"),
        ({"severity": 2.5}, DataError, "got 2.5"),
        ({"severity": True}, DataError, "got True"),
        ({"images": torch.rand(2, 3, 32, 32)}, DataError, r"uint8 tensor.*got float32 \[2, 3, 32, 32\].*\* 255"),
        ({"images": torch.zeros(2, 3, 32, 32).long()}, DataError, r"got int64 \[2, 3, 32, 32\].*to\(torch.uint8\)"),
        ({"images": torch.zeros(3, 32, 32).byte()}, DataError, r"C = 1 or 3, got uint8 \[3, 32, 32\].*images\[None\]"),
        ({"images": torch.zeros(2, 32, 32, 3).byte()}, DataError, r"got uint8 \[2, 32, 32, 3\].*permute"),
        ({"images": torch.zeros(0, 3, 32, 32).byte()}, DataError, "empty batch.*Pass at least one"),
        ({"images": torch.zeros(2, 3, 32, 15).byte()}, DataError, "at least 16 x 16 pixels, got 32 x 15. Enlarge"),
        ({"indices": torch.arange(3)}, DataError, r"int64 tensor \[2\], one for each image, got int64 \[3\]"),
        ({"indices": torch.zeros(2)}, DataError, r"got float32 \[2\].*leave them out"),
    ],
)
def test_wrong_input_is_refused_in_plain_words(change, error, message):
    arguments = {"images": pictures(2), "name": "fog", "severity": 3, "seed": 0, **change}
    with pytest.raises(error, match=message):
        corrupt(**arguments)
