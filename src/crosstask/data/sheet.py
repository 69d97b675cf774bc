"""A contact sheet: one image under every corruption at every severity, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from crosstask.data.corruptions import corrupt

TILE, GAP, LEFT, TOP, FONT = 96, 6, 150, 30, 14
"""Pixels of a tile's side at least, between tiles, for the names, for the head; size of the letters."""


def contact_sheet(images: Tensor, names: Sequence[str], *, table: str, seed: int, index: int) -> Image.Image:
    """Draw one image of a set, clean and corrupted: a row for each corruption, a column for each severity.

    Args:
        images: uint8 [N, C, H, W].
        names: of corruptions.
        table: a name of `severities.TABLES`.
        seed: chooses the random numbers.
        index: which image of the set.
    """
    clean, place = images[index : index + 1], torch.tensor([index])
    rows = [
        (name, [clean, *(corrupt(clean, name, s, seed=seed, indices=place, table=table) for s in range(1, 6))])
        for name in names
    ]
    height, width = images.shape[2:]
    scale = max(1, -(-TILE // min(height, width)))
    across, down = scale * width + GAP, scale * height + GAP
    sheet = Image.new("RGB", (LEFT + 6 * across, TOP + len(rows) * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for column, head in enumerate(("clean", *(f"severity {severity}" for severity in range(1, 6)))):
        draw.text((LEFT + column * across + scale * width / 2, TOP / 2), head, "black", font, anchor="mm")
    for row, (name, tiles) in enumerate(rows):
        middle = TOP + row * down + scale * height / 2
        draw.text((LEFT - 10, middle), name.replace("_", " "), "black", font, anchor="rm")
        for column, tile in enumerate(tiles):
            enlarged = _picture(tile[0]).resize((scale * width, scale * height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (LEFT + column * across, TOP + row * down))
    return sheet


def _picture(image: Tensor) -> Image.Image:
    """Return uint8 [C, H, W] as a picture."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
