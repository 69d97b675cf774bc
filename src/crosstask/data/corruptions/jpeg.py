"""JPEG as libjpeg-turbo (and so Pillow) writes and reads it, bit for bit, for many images at once and on any device.

Nothing is lost in the entropy coding of a JPEG file, so nothing is written: colours are converted, chroma is halved,
8 x 8 blocks are transformed, quantised and transformed back. All of it is integer arithmetic, done here with whole
numbers in float64, which matrix products handle fast. ITU-T T.81 has the tables (annex K); how sums are rounded is
libjpeg's ("islow" transform, "fancy" upsampling, 4:2:0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crosstask.data.corruptions.filters import cached_matrix
from crosstask.data.corruptions.grey import levels
from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import Parameters

LUMINANCE_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_TABLE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
_EVEN = (
    (8192, 8192, 8192, 8192),
    (10703, 4433, -4433, -10703),
    (8192, -8192, -8192, 8192),
    (4433, -10704, 10704, -4433),
)
_ODD = (
    (11363, 9633, 6437, 2260),
    (9633, -2259, -11362, -6436),
    (6437, -11362, 2261, 9633),
    (2260, -6436, 9633, -11363),
)


def jpeg_compression(x: Tensor, parameters: Parameters, random: ImageRandom) -> Tensor:
    """Write as JPEG of `quality` 1 to 100 and read back; parameters (quality,).

    A gray image is written as a gray JPEG; that equals the luminance of the JPEG of its three equal channels.
    """
    (quality,) = parameters
    pixels = levels(x)
    if x.shape[1] == 1:
        return coded(pixels, quality_table(LUMINANCE_TABLE, quality)).div_(255)
    y, chroma = to_ycc(pixels)
    y = coded(y, quality_table(LUMINANCE_TABLE, quality))
    chroma = coded(halved(chroma), quality_table(CHROMINANCE_TABLE, quality))
    return to_rgb(y, doubled(chroma, *x.shape[2:])).div_(255)


@cached_matrix
def quality_table(base: tuple[int, ...], quality: float) -> Tensor:
    """Return float64 [64]: the steps of quantisation, [horizontal, vertical frequency], as libjpeg scales them."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = (torch.tensor(base) * int(percent) + 50) // 100
    return steps.clamp(1, 255).view(8, 8).T.flatten().double()


@cached_matrix
def transform_matrix() -> Tensor:
    """Return float64 [8, 8]: the cosine transform of 8 numbers, in libjpeg's whole numbers, 2^13 times too large."""
    rows = []
    for even, odd in zip(_EVEN, _ODD, strict=True):
        rows += [[*even, *even[::-1]], [*odd, *(-value for value in odd[::-1])]]
    return torch.tensor(rows, dtype=torch.float64)


def rounded(x: Tensor, bits: int) -> Tensor:
    """Divide x, in place, by 2^bits and round halves up."""
    return x.mul_(2.0**-bits).add_(0.5).floor_()


def coded(x: Tensor, steps: Tensor) -> Tensor:
    """Transform, quantise and transform back x [N, C, H, W], levels 0 to 255.

    Args:
        steps: float64 [64] of `quality_table`.
    """
    (count, channels, height, width), steps = x.shape, steps.to(x.device)
    matrix = transform_matrix().to(x.device)
    rows, columns = -(-height // 8), -(-width // 8)
    x = F.pad(x - 128, (0, 8 * columns - width, 0, 8 * rows - height), mode="replicate")
    x = x.view(count, channels, rows, 8, columns, 8).transpose(3, 4)
    x = rounded(x.reshape(-1, 8) @ matrix.T, 11).view(-1, 8, 8).transpose(1, 2)
    x = rounded(x.reshape(-1, 8) @ matrix.T, 15).view(-1, 64)
    x = x.add_(torch.copysign(4 * steps, x)).div_(8 * steps).trunc_().mul_(steps)
    x = rounded(x.view(-1, 8) @ matrix, 11).view(-1, 8, 8).transpose(1, 2)
    x = rounded(x.reshape(-1, 8) @ matrix, 18).add_(128).clamp_(0, 255)
    x = x.view(count, channels, rows, columns, 8, 8).transpose(3, 4)
    return x.reshape(count, channels, 8 * rows, 8 * columns)[..., :height, :width]


def to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance [N, 1, H, W] and chroma [N, 2, H, W] of RGB levels [N, 3, H, W]."""
    red, green, blue = rgb.unbind(1)
    y = torch.add(19595 * red, green, alpha=38470).add_(blue, alpha=7471)
    offset = 128 * 2**16 - 1  # libjpeg rounds halves of chroma down
    cb = torch.add(32768 * blue, red, alpha=-11059).add_(green, alpha=-21709).add_(offset)
    cr = torch.add(32768 * red, green, alpha=-27439).add_(blue, alpha=-5329).add_(offset)
    return rounded(y, 16).unsqueeze(1), rounded(torch.stack([cb, cr], 1), 16)


def to_rgb(y: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB levels [N, 3, H, W] of luminance [N, 1, H, W] and chroma [N, 2, H, W]."""
    blue, red = (chroma - 128).unbind(1)
    green = torch.add(-22554 * blue, red, alpha=-46802)
    return rounded(torch.stack([91881 * red, green, 116130 * blue], 1), 16).add_(y).clamp_(0, 255)


def halved(x: Tensor) -> Tensor:
    """Return x [N, C, H, W] at half the size: means of 2 x 2 pixels, halves rounded down and up in turns.

    Columns are added to a whole number of blocks, by repeating the edge before the means are taken.
    """
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 16, 0, height % 2), mode="replicate")
    sums = x[..., ::2] + x[..., 1::2]
    sums = sums[..., ::2, :] + sums[..., 1::2, :]
    sums[..., ::2] += 1
    sums[..., 1::2] += 2
    return sums.mul_(0.25).floor_()


def doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Return x [N, C, H / 2, W / 2 or more] as [N, C, H, W]: weights 3/4 and 1/4 along both sides, edges repeated."""
    x = F.pad(x[..., : -(-width // 2)], (1, 1, 1, 1), mode="replicate")
    near = 3 * x[..., 1:-1, :]
    rows = torch.stack([near + x[..., :-2, :], near + x[..., 2:, :]], 3).flatten(2, 3)[..., :height, :]
    near = 3 * rows[..., 1:-1]
    columns = torch.stack([near + rows[..., :-2] + 8, near + rows[..., 2:] + 7], 4)
    return columns.flatten(3, 4)[..., :width].mul(1 / 16).floor_()
