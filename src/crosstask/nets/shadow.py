"""A network that follows another: the teachers of test-time methods and of self-supervised tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shadow(nn.Module):
    """A moving average of a network's parameters, with buffers of its own, that answers in the network's stead.

    All of it is kept as buffers: a teacher that follows its student learns nothing by itself.

    Args:
        model: whose parameters it follows. It is called with the shadow's values in place of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = _tensors(model)
        self.names = list(named)
        for index, tensor in enumerate(named.values()):
            self.register_buffer(f"value{index}", tensor.detach().clone())

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return what `model`, with the shadow's values, makes of `x`, without a gradient."""
        there = _tensors(model)  # a layer may have dropped its running averages since
        values = {name: value for name, value in zip(self.names, self.buffers(), strict=True) if name in there}
        with torch.no_grad():
            return torch.func.functional_call(model, values, (x,))

    @torch.no_grad()
    def follow(self, model: nn.Module, rate: float) -> None:
        """Move by `rate` of the way to the model's parameters."""
        values = dict(zip(self.names, self.buffers(), strict=True))
        named = dict(model.named_parameters())
        torch._foreach_lerp_([values[name] for name in named], [p.detach() for p in named.values()], rate)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
