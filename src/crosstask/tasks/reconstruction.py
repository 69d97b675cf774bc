"""ReC-TTT's task: from the maps of one encoder, reconstruct those that another encoder makes of the same images."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.errors import ConfigError
from crosstask.nets.resnet import BasicBlock
from crosstask.nets.taps import map_shapes, maps_of, tapped, upstream
from crosstask.nets.twin import Twin
from crosstask.tasks.base import JointTask

Shape = tuple[int, ...]

_WIDEST = 256
"""Channels inside bottleneck and decoder are at most so many, or they would outgrow the encoders."""


class Reconstruction(JointTask):
    """Reconstruct the maps of a frozen teacher from those of two encoders, and the other way (Colussi et al. 2025).

    Four streams of maps go through one bottleneck and one decoder and end in convolutions of their own. With the
    mirrored image x', encoders f1 and f2, and teacher t, each has a target that carries no gradient:
    f1(x) -> t(x), t(x) -> f1(x), t(x') -> f2(x'), f2(x') -> t(x').

        L = 1/4 * sum over streams and maps of mean_b (1 - cos(target_b, reconstruction_b))

    with a map's pixels and channels in one vector. At test time the teacher's two streams have no gradient with respect
    to the encoders, so they are left out; the factor stays 1/4.

    Differences from the official code: the teacher is the supervised source encoder, not one of ImageNet; bottleneck
    and decoder are of few plain residual blocks, not a mirrored ResNet-50, and see all streams as one batch; no hard
    mining of pixels; the classifier's head is one linear layer on both encoders' features, so that the cross-entropies
    of two heads and the divergence between them have no counterpart.

    Args:
        encoder: the two encoders. The teacher starts as a copy of the first.
        image_shape: (C, H, W) of the images.
        layers: names of modules inside each encoder, separated by commas, finest maps first; by default all stages of
            our own encoders but the last.

    Raises:
        ConfigError: `layers` is empty and the encoder has fewer than two stages; or a module gives no map [C, H, W].
        UnknownName: `layers` names no module.
    """

    def __init__(self, encoder: Twin, image_shape: Sequence[int], *, layers: str = "") -> None:
        super().__init__()
        self.layers = [name.strip() for name in layers.split(",")] if layers else _all_but_the_last(encoder.first)
        shapes = map_shapes(encoder.first, image_shape, self.layers)
        if any(len(shape) != 3 for shape in shapes):
            raise ConfigError(f"expected modules that give maps [C, H, W], got shapes {shapes}")
        own = upstream(encoder.first, image_shape, self.layers)
        self.upstream = [f"{which}.{name}" for which in ("first", "second") for name in own]
        self.teacher = copy.deepcopy(encoder.first).eval().requires_grad_(False)
        self.bottleneck = _Bottleneck(shapes)
        self.decoder = _Decoder(self.bottleneck.width, shapes)
        self.outputs = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(_narrow(shape[0]), shape[0], 1) for shape in shapes) for _ in range(4)
        )

    def train(self, mode: bool = True) -> Reconstruction:
        """Switch the mode of all but the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        names = [f"{which}.{name}" for which in ("first", "second") for name in self.layers]
        features, maps = tapped(encoder, x, names)
        first, second = maps[: len(self.layers)], maps[len(self.layers) :]
        plain, mirrored = self._teach(x), self._teach(x.flip(3))
        return features, self._loss([first, plain, mirrored, second], [plain, first, second, mirrored], range(4))

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        first = maps_of(encoder.get_submodule("first"), x, self.layers)
        second = maps_of(encoder.get_submodule("second"), x.flip(3), self.layers)
        return self._loss([first, second], [self._teach(x), self._teach(x.flip(3))], (0, 3))

    @torch.no_grad()
    def _teach(self, x: Tensor) -> list[Tensor]:
        return maps_of(self.teacher, x, self.layers)

    def _loss(self, streams: list[list[Tensor]], targets: list[list[Tensor]], outputs: Sequence[int]) -> Tensor:
        """Return the loss of some streams, each the maps of one encoder, and of their targets."""
        together = [torch.cat(maps) for maps in zip(*streams, strict=True)]
        decoded = self.decoder(self.bottleneck(together))
        distances = []
        for layer, whole in enumerate(decoded):
            for part, target, output in zip(whole.chunk(len(streams)), targets, outputs, strict=True):
                distances.append(_distance(self.outputs[output][layer](part), target[layer]))  # type: ignore[index]
        return torch.stack(distances).sum() / 4


class _Bottleneck(nn.Module):
    """Brings all maps to the size of the last one, side by side, and halves that."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.size = shapes[-1][1:]
        between = _narrow(shapes[-1][0])
        self.down = nn.ModuleList(_halvings(shape, shapes[-1], between) for shape in shapes[:-1])
        self.width = 2 * between
        inputs = between * len(self.down) + shapes[-1][0]
        self.block = BasicBlock(inputs, self.width, 2)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        smaller = [_resized(down(each), self.size) for down, each in zip(self.down, maps[:-1], strict=True)]
        return self.block(torch.cat([*smaller, maps[-1]], dim=1))


class _Decoder(nn.Module):
    """Grows from the bottleneck's map to each of the sizes, coarsest first; returns the maps finest first."""

    def __init__(self, width: int, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.sizes = [shape[1:] for shape in reversed(shapes)]
        widths = [width, *(_narrow(shape[0]) for shape in reversed(shapes))]
        self.blocks = nn.ModuleList(BasicBlock(before, after, 1) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for block, size in zip(self.blocks, self.sizes, strict=True):
            x = block(_resized(x, size))
            maps.insert(0, x)
        return maps


def _halvings(shape: Shape, last: Shape, width: int) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2, one at least, that take a map about to the height of the last one."""
    convolutions, inputs = nn.Sequential(), shape[0]
    for _ in range(max(1, round(math.log2(shape[1] / last[1])))):
        convolutions.extend([nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()])
        inputs = width
    return convolutions


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="nearest")


def _distance(found: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cos, in float32, averaged over the batch."""
    cosine = F.cosine_similarity(found.float().flatten(1), target.detach().float().flatten(1), dim=1)
    return (1 - cosine).mean()


def _narrow(channels: int) -> int:
    return min(channels, _WIDEST)


def _all_but_the_last(encoder: nn.Module) -> list[str]:
    stages = getattr(encoder, "stages", ())
    if len(stages) < 2:
        raise ConfigError(
            f"{type(encoder).__name__} has no two stages to take maps from; name modules inside it with layers=..."
        )
    return [f"stages.{index}" for index in range(len(stages) - 1)]
