"""Rotations: a classifier tells by how many quarters an image was turned, on features (CTA) or on a branch (TTT)."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.config import Count, Views
from crosstask.errors import ConfigError
from crosstask.nets.base import Encoder
from crosstask.nets.taps import maps_of, spatial_maps, upstream
from crosstask.tasks.base import JointTask, SelfSupervisedTask
from crosstask.views import ViewSampler

TURNS = 4


class RotNet(SelfSupervisedTask):
    """A linear classifier on the features tells by how many quarters an image was turned (Gidaris et al. 2018).

    `loss = mean CE(classifier(features of a turned image), turns)`, over all four rotations of one random view of every
    image. The view is cropped and mirrored before it is turned; colours are drawn after it, for each of the four.

    Args:
        feature_dim: D, the width of the encoder's features.
        sampler: draws the views.
    """

    passes: ClassVar[tuple[int, int]] = (TURNS, TURNS)

    def __init__(self, feature_dim: int, sampler: ViewSampler) -> None:
        super().__init__()
        self.sampler = sampler
        self.classifier = nn.Linear(feature_dim, TURNS)

    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each image in all four rotations, [4 * B, C, H, W]: first all that are not turned.

        Raises:
            ConfigError: the images are not square.
        """
        return self.view_pairs(x, generator)[0]

    def view_pairs(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the turned views, and the same crops, turned alike, in their original colours."""
        _check_square(x.shape[1:])
        plain = torch.cat(_all_turns(self.sampler.geometric(x, generator)))
        return self.sampler.photometric(plain, generator), plain

    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        return F.cross_entropy(self.classifier(features).float(), _turns_of_all(features))


class Rotation(JointTask):
    """A branch b after a layer of the encoder predicts by how many quarters an image was turned (Sun et al. 2020, TTT).

    `loss = mean CE(b(map of the turned image), turns)`: over all four rotations of every image at source time, and over
    `views` random crops of the batch's images, mirrored or not and turned at random, at test time. The branch is a copy
    of what follows the layer, where that is a stage of our own encoders; elsewhere a 3x3 convolution of stride 2 and a
    ReLU; then the mean over positions and a linear layer.
    Differences from the official code: at test time crops keep 60 to 100 % of the area, for a shift by up to 4 pixels
    of 32; an encoder that is not ours has the small branch.

    Args:
        encoder: from whose maps the branch predicts. It is not kept.
        image_shape: (C, H, W) of its images, H = W.
        layers: the name of one of the encoder's modules; the encoder is shared up to it.
        views: turned images at test time, at least; each image of a batch of B has as many, `views / B` rounded up.

    Raises:
        UnknownName: the layer is no module of the encoder.
        ConfigError: the images are not square, or it is not one layer with maps.
    """

    def __init__(
        self, encoder: nn.Module, image_shape: Sequence[int], *, layers: str = "stages.1", views: Count = 32
    ) -> None:
        super().__init__()
        _check_square(image_shape)
        shapes = spatial_maps(encoder, image_shape, layers)
        if len(shapes) != 1:
            raise ConfigError(f"the rotation branch leaves the encoder after one layer, got {', '.join(shapes)}")
        ((name, (channels, _, _)),) = shapes.items()
        self.names, self.upstream = [name], upstream(encoder, image_shape, [name])
        self.views, self.sampler = views, ViewSampler(Views(crop=(0.6, 1.0)))
        self.branch = _branch(encoder, name, channels)

    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        turned = torch.cat(_all_turns(x))
        return encoder(x), self.loss(encoder, turned, _turns_of_all(turned))

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.loss(encoder, *self.turned_views(x, generator))

    def turned_views(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return crops of the images of `x`, turned, [N, C, H, W], and their turns [N], in {0, 1, 2, 3}.

        Raises:
            ConfigError: the images are not square.
        """
        _check_square(x.shape[1:])
        copies = -(-self.views // len(x))
        crops = self.sampler.geometric(x.repeat(copies, 1, 1, 1), generator)
        turns = torch.randint(TURNS, (len(crops),), generator=generator, device=x.device)
        return torch.stack(_all_turns(crops))[turns, torch.arange(len(crops), device=x.device)], turns

    def loss(self, encoder: nn.Module, x: Tensor, turns: Tensor) -> Tensor:
        """Return the cross-entropy of the predicted turns of `x` [N, C, H, W]."""
        return F.cross_entropy(self.branch(maps_of(encoder, x, self.names)[0]).float(), turns)


def _check_square(image_shape: Sequence[int]) -> None:
    if image_shape[1] != image_shape[2]:
        raise ConfigError(f"quarter turns need square images, got {' x '.join(map(str, image_shape[1:]))} pixels")


def _all_turns(x: Tensor) -> list[Tensor]:
    return [x.rot90(turns, (2, 3)) for turns in range(TURNS)]


def _turns_of_all(turned: Tensor) -> Tensor:
    """Return the turns [N] of the N images in `_all_turns`, or of what was made of them."""
    return torch.arange(TURNS, device=turned.device).repeat_interleave(len(turned) // TURNS)


def _branch(encoder: nn.Module, name: str, channels: int) -> nn.Sequential:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(encoder, Encoder) and re.fullmatch(r"stages\.\d+", name):
        rest = copy.deepcopy(encoder.stages[int(name.partition(".")[2]) + 1 :]).requires_grad_()
        return nn.Sequential(rest, *pool, nn.Linear(encoder.feature_dim, TURNS))
    first = nn.Conv2d(channels, channels, 3, 2, 1)
    return nn.Sequential(first, nn.ReLU(), *pool, nn.Linear(channels, TURNS))
