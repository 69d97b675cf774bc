"""The ordered, seeded stream of test images that a protocol asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstask import runtime
from crosstask.data.corruptions import corrupt
from crosstask.data.images import ImageSet
from crosstask.data.severities import CLEAN
from crosstask.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """Test images in the order in which they arrive.

    Attributes:
        images: what arrives, in order.
        originals: the same images before corruption.
        corruption, severity: what was done to them; `clean` and 0 for nothing.
        seed: drew the images, their order and the corruption.
        batch_size: images that arrive at once; the last batch may be shorter.
    """

    images: ImageSet
    originals: ImageSet
    corruption: str
    severity: int
    seed: int
    batch_size: int

    def batches(self) -> Iterator[Tensor]:
        """Yield the images, uint8 [B, C, H, W], without their labels."""
        yield from self.images.images.split(self.batch_size)


def draw_stream(
    images: ImageSet, corruption: str, severity: int, *, count: int, batch_size: int, seed: int, table: str = "cifar"
) -> Stream:
    """Draw `count` different images in a random order, and corrupt them.

    The same seed draws the same images in the same order under every corruption.

    Args:
        images: the target set.
        corruption: a name of `data.corruptions.available()`, or `clean`.
        severity: 1 to 5; not looked at for `clean`.

    Raises:
        ConfigError: more images are asked for than there are.
    """
    if count > len(images):
        raise ConfigError(f"{count} images a cell are asked for, {images.name} has {len(images)}; lower bench.images")
    shuffler = runtime.generator(torch.device("cpu"), "stream", seed)
    indices = torch.randperm(len(images), generator=shuffler)[:count]
    originals = images.subset(indices)
    changed = originals
    if corruption == CLEAN:
        severity = 0
    else:
        pixels = corrupt(originals.images, corruption, severity, seed=seed, indices=indices, table=table)
        changed = dataclasses.replace(originals, images=pixels)
    return Stream(
        images=changed, originals=originals, corruption=corruption, severity=severity, seed=seed, batch_size=batch_size
    )
