"""The one table of encoders: floats in [0, 1] of shape [B, C, H, W] in, features [B, D] out; and initial weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn

from crosstask.errors import UnknownName
from crosstask.nets.base import Encoder, Normalize
from crosstask.nets.convnext import convnext_narrow
from crosstask.nets.resnet import ResNet, resnet18, resnet18_narrow, resnet18_narrow_gn, resnet50, resnet_small
from crosstask.nets.vit import vit_lite_narrow

ENCODERS: dict[str, Callable[[int], Encoder]] = {
    "resnet-small": resnet_small,
    "resnet18-narrow": resnet18_narrow,
    "resnet18-narrow-gn": resnet18_narrow_gn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vit-lite-narrow": vit_lite_narrow,
    "convnext-narrow": convnext_narrow,
}


def make_encoder(name: str, channels: int) -> Encoder:
    """Return a freshly initialised encoder by its name in `ENCODERS`.

    Raises:
        UnknownName: the name is not in the table.
    """
    if name not in ENCODERS:
        raise UnknownName("encoder", name, ENCODERS)
    return ENCODERS[name](channels)


def projection_head(feature_dim: int, hidden: int = 512, out: int = 128) -> nn.Sequential:
    """Return SimCLR's projector g: Linear, ReLU, Linear (Chen et al. 2020, sec. 4.2)."""
    return nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


def normed_head(*widths: int) -> nn.Sequential:
    """Return a perceptron through `widths`: Linear, batch norm and ReLU to each inner width, Linear to the last.

    The projector and predictor of BYOL (Grill et al. 2020, sec. 3.3), the expander of VICReg (Bardes et al. 2022,
    sec. 4.2), the projector of Barlow Twins (Zbontar et al. 2021, sec. 2.2).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of convolutions and linear layers anew: He-normal, biases zero (He et al. 2015).

    A convolution in groups counts the outputs that each input really has, those of its own group.

    Args:
        generator: on the CPU, where the module is.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.mul_(math.sqrt(layer.groups))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


__all__ = ["ENCODERS", "Encoder", "Normalize", "ResNet", "initialise", "make_encoder", "projection_head"]
