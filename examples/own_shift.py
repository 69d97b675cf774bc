"""A shift of your own: register a function by name, and it stands wherever a built-in corruption does.

    python examples/own_shift.py IMAGES          # writes dusk.png: an image under it and under fog
    crosstask corrupt --data IMAGES --out dusk --shift dusk=examples/own_shift.py:dusk --corruption dusk

In a recipe, below [bench]: shifts = { dusk = "own_shift.py:dusk" } and "dusk" among the corruptions.
"""

from __future__ import annotations

import sys

import torch

import crosstask


def dusk(images: torch.Tensor, severity: int, random: crosstask.ImageRandom) -> torch.Tensor:
    """Darken uint8 [N, C, H, W], each image by its own amount, and add the noise of a sensor short of light."""
    darkest = 1 - 0.18 * severity
    light = darkest + (1 - darkest) * 0.3 * random.uniform((1, 1, 1))  # one number for each image
    noise = random.normal(images.shape[1:]) * 2 * severity  # numbers of their own for each image's pixels
    return (images * light + noise).clamp(0, 255).to(torch.uint8)


if __name__ == "__main__":
    crosstask.register("dusk", dusk)
    images = crosstask.load_images(sys.argv[1]).images
    shifted = [crosstask.corrupt(images[:1], "dusk", severity, seed=0)[0] for severity in range(1, 6)]
    crosstask.contact_sheet(images, ["dusk", "fog"], table="cifar", seed=0, index=0).save("dusk.png")
    print("mean grey level:", *(f"{image.float().mean():.0f}" for image in (images[0], *shifted)))
