"""Sheets of frost, of which `frost` lays a random piece over an image.

The official generator cuts its pieces from five photographs. They are no part of this package: where they have been
fetched (`crosstask data get frost`) they are used, else sheets that are computed. `texture()` says which, and so does
a record.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from crosstask.data.download import frost_folder
from crosstask.data.randomness import ImageRandom, stream_key

Texture = Literal["photographs", "procedural"]

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The five of the six published files that the official generator draws from."""

SHEET = (512, 768)
"""Height and width of a computed sheet, in pixels of the photographs."""


def texture() -> Texture:
    """Return where sheets come from on this machine."""
    return "procedural" if frost_folder() is None else "photographs"


def frost_pieces(height: int, width: int, scale: float, random: ImageRandom) -> Tensor:
    """Return float64 [N, 3, height, width] in [0, 1]: for each image a random piece of a random sheet of frost.

    Args:
        scale: shrinks the sheets first; a sheet that is then smaller than a piece is shrunk less.
    """
    sheets = shrunk_sheets(frost_folder(), height, width, scale)
    chosen = random.integers(0, len(sheets), ()).to("cpu")
    places = random.uniform((2,)).to("cpu")
    pieces = torch.empty(random.count, 3, height, width, dtype=torch.float64)
    for piece, number, (down, across) in zip(pieces, chosen.tolist(), places.tolist(), strict=True):
        sheet = sheets[number]
        top, left = int(down * (sheet.shape[1] - height)), int(across * (sheet.shape[2] - width))
        piece.copy_(sheet[:, top : top + height, left : left + width])
    return pieces.to(random.device)


@functools.lru_cache(maxsize=8)
def shrunk_sheets(folder: Path | None, height: int, width: int, scale: float) -> tuple[Tensor, ...]:
    """Return the sheets, float64 [3, H, W] in [0, 1], `scale` times their size and larger than height x width.

    Pixels are interpolated linearly between the four nearest ones, as OpenCV does by default, and rounded to levels.
    """
    sheets = []
    for sheet in computed_sheets() if folder is None else [photograph(folder / name) for name in PHOTOGRAPHS]:
        least = 1.1 * max(height / sheet.shape[1], width / sheet.shape[2])  # 1.1 leaves room to choose a piece
        factor = max(scale, least)
        size = [round(factor * side) for side in sheet.shape[1:]]
        shrunk = F.interpolate(sheet.unsqueeze(0), size, mode="bilinear", align_corners=False).squeeze(0)
        sheets.append(shrunk.round_().div_(255))
    return tuple(sheets)


def photograph(path: Path) -> Tensor:
    """Return a photograph, float64 [3, H, W], levels 0 to 255."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).double()


def computed_sheets() -> list[Tensor]:
    """Return five sheets, float64 [3, H, W], levels 0 to 255, that look like frost from afar.

    They keep what was measured of the photographs: pieces differ in brightness (163 +- 38 grey levels), have a grain
    of 22 levels whose power falls as 1 / frequency, and are bluer where they are darker. They have no crystals.
    """
    height, width = SHEET
    random = ImageRandom(stream_key("frost"), torch.arange(len(PHOTOGRAPHS)), torch.device("cpu"))
    frequencies = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(height), torch.fft.rfftfreq(width), indexing="ij"))
    frequencies = frequencies.double().clamp(min=1e-9)
    grain = _coloured(random.normal((height, width)), frequencies.rsqrt())
    drift = _coloured(random.normal((height, width)), torch.exp(-((frequencies * DRIFT) ** 2)))
    grey = 97 + 132 * torch.special.ndtr(drift) + GRAIN * grain
    sheets = torch.stack([1.17 * grey - 42, 0.935 * grey + 15, 0.9 * grey + 32.5], dim=1)
    return list(sheets.clamp_(0, 255))


DRIFT = 250
"""Over how many pixels of a sheet the brightness changes."""

GRAIN = 25
"""Standard deviation of the grain, in grey levels; shrinking a sheet leaves 22 of them."""


def _coloured(noise: Tensor, gain: Tensor) -> Tensor:
    """Return `noise` [N, H, W] with its frequencies [H, W / 2 + 1] times `gain`: mean 0, standard deviation 1."""
    spectrum = torch.fft.rfft2(noise) * gain
    spectrum[:, 0, 0] = 0
    coloured = torch.fft.irfft2(spectrum, s=noise.shape[1:])
    return coloured / coloured.std((1, 2), keepdim=True)
