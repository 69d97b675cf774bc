"""What adapters remember: optimisers and averages; all of it is dropped by a reset."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Forgetful(nn.Module, ABC):
    """A part of an adapter with a state that is neither a parameter nor a buffer, as one that grows.

    It keeps that state in `get_extra_state` and `set_extra_state`, as tensors and plain values.
    """

    @abstractmethod
    def forget(self) -> None:
        """Return to the state at the source."""


class RefusedUpdate(RuntimeWarning):
    """An update was not made, because its loss or gradient is not finite."""


class Descent(Forgetful):
    """One optimiser step on a loss, refused when the loss or a gradient is not finite. Its state is the optimiser's.

    Args:
        optimiser: over the parameters that move.

    Attributes:
        refused: how many steps were refused since the last reset, or since a method last went back to the source.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        super().__init__()
        self.optimiser = optimiser
        self.refused = 0

    def forward(self, loss: Tensor) -> bool:
        """Take one step downhill; return whether it was taken."""
        taken = self.gradient(loss)
        if taken:
            self.optimiser.step()
        self.optimiser.zero_grad()
        return taken

    def gradient(self, loss: Tensor) -> bool:
        """Add the gradient of a loss to what the parameters hold; return whether loss and gradient are finite."""
        loss.backward()
        gradients = [p.grad for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        finite = bool(torch.isfinite(loss.detach() + torch.nn.utils.get_total_norm(gradients, foreach=True)))
        if not finite:
            self.refused += 1
            warnings.warn("an update was refused: its loss or gradient is not finite", RefusedUpdate, stacklevel=3)
        return finite

    def forget(self) -> None:
        """Drop momentum and moments, as in a fresh optimiser."""
        self.optimiser.state.clear()
        self.optimiser.zero_grad()
        self.refused = 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"optimiser": copy.deepcopy(self.optimiser.state_dict()), "refused": self.refused}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.refused = state["refused"]
        self._follow()

    def _apply(self, fn: Any, recurse: bool = True) -> Descent:
        super()._apply(fn, recurse)
        self._follow()
        return self

    def _follow(self) -> None:
        """Lay momentum and moments as their parameters lie, on their device: the fused step walks raw memory."""
        for parameter, slots in self.optimiser.state.items():
            for name, slot in slots.items():
                if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                    slots[name] = torch.empty_like(parameter, requires_grad=False).copy_(slot)
                elif isinstance(slot, Tensor):
                    slots[name] = slot.to(parameter.device)


class Average(Forgetful):
    """A moving average that begins with its first value; what is not finite is left out.

    Args:
        keep: how much of the old average each move keeps, in [0, 1].

    Attributes:
        value: the average, or None before the first.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep
        self.value: Tensor | None = None

    def forward(self, new: Tensor) -> None:
        """Move towards `new`, a tensor of one shape."""
        new = new.detach().float()
        moved = new if self.value is None else self.value.to(new.device).lerp(new, 1 - self.keep)
        if moved.isfinite().all():
            self.value = moved.clone()

    def forget(self) -> None:
        """Be without a value, as at the source."""
        self.value = None

    def get_extra_state(self) -> dict[str, Any]:
        return {"value": self.value}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
