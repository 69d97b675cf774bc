"""A way around a crash of PyTorch's group norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def guard_group_norm(model: nn.Module) -> None:
    """Have every group norm of `model` see an input that takes a gradient wherever its own scale and shift take one.

    PyTorch 2.13 has the process crash in the backward pass of a group norm on the CPU whose input lies
    channels last and takes no gradient: as where scales and shifts alone are learned, behind frozen convolutions.

    Args:
        model: changed in place; what its layers return stays the same.
    """
    for layer in model.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_pre_hook(_with_gradient)


def _with_gradient(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x,) = inputs
    learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in layer.parameters())
    return (x.detach().requires_grad_(),) if learns and not x.requires_grad else inputs
