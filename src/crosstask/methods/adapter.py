"""The contract of every test-time method: an `nn.Module` that you call on a batch and that answers with logits.

    adapter = Method(model)          # copies the model, never touches it
    logits = adapter(x)              # adapts on the batch x, then predicts it
    curve = adapter.curve(x, (0, 1, 5, 20))   # the predictions after 0, 1, 5 and 20 updates, from one pass
    adapter.reset()                  # back to the source, bit for bit

Whether an adapter is reset after every batch (episodic), after every shift (online) or never (continual) is up to the
caller. `crosstask.testing.check_adapter` checks the whole contract on any adapter.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from crosstask import runtime
from crosstask.errors import AdapterError, ConfigError
from crosstask.methods.batchnorm import learning, moving_averages, set_batch_norm
from crosstask.methods.state import Forgetful
from crosstask.nets.group_norm import guard_group_norm

Passes = tuple[int, int]
"""Forward and backward passes of one batch of images through the network."""

_RANGE = (-0.5, 1.5)
"""Images in [0, 1] lie within it, interpolated or a little noisy ones too; normalised ones, or up to 255, do not."""


class Adapter(nn.Module, ABC):
    """The base of all methods. A method says what one `update` on a batch is; the rest of the contract stands here.

    A method's `__init__` calls this one's, prepares `self.model`, and ends with `self.begin(names of what moves)`.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K]. It is copied.
        steps: updates on each batch before it is predicted.
        batch_norm: which statistics normalise; see `crosstask.methods.batchnorm`.
        batch_share: the batch's share of the statistics under `mixed`, `ema` and `robust`.
        seed: fixes every random draw of the method.

    Attributes:
        images_apart: whether each image of a batch is adapted to by itself, from the source, as in MEMO.
        answers_first: whether `update` returns what `predict` would have returned of the batch just before it.
        needs_batch_norm: whether it is nothing without batch-norm layers, as PTBN.
        model: the copy that adapts.
        adapted_names: names, within `model`, of the parameters and running averages that may move.
    """

    images_apart: ClassVar[bool] = False
    answers_first: ClassVar[bool] = False
    needs_batch_norm: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, *, steps: int, batch_norm: str, batch_share: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ConfigError(f"steps must be 0 or more, got {steps}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.batch_norm_layers = set_batch_norm(self.model, batch_norm, batch_share)
        guard_group_norm(self.model)
        self.steps, self.seed = steps, seed
        self.batches_seen = 0
        self.adapted_names: list[str] = []
        self._parameter_names: list[str] = []

    @final
    def begin(self, moving: Iterable[str]) -> list[Tensor]:
        """Take the present state as the source, and switch on gradients for the parameters that may move.

        All that the method holds follows the model to its device first.

        Args:
            moving: their names within `self.model`.
        """
        self._parameter_names = list(moving)
        if (first := next(self.model.parameters(), None)) is not None:
            self.to(first.device)
        self.adapted_names = [*self._parameter_names, *moving_averages(self.model)]
        self.train(self.training)
        self._source = _Saved(self._live())
        for parameter in self.moving_parameters:
            parameter.requires_grad_()
        return self.moving_parameters

    @classmethod
    def check_together(cls, arguments: Mapping[str, Any]) -> None:
        """Raise a `ConfigError` where keyword arguments, all of them given, do not go together."""

    @classmethod
    def passes(cls, usual: Passes, arguments: Mapping[str, Any], task: nn.Module | None) -> Passes:
        """Return what an update costs, about, with these keyword arguments, all of them given, and the model's task.

        Args:
            usual: what it costs at the method's defaults.
        """
        return usual

    @abstractmethod
    def update(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Learn once from `x`, float [B, C, H, W] in [0, 1]. Gradients are on; `generator` is on its device.

        Returns:
            The logits [B, K] of before the update where `answers_first`; they save `curve` a pass.
        """

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits [B, K] of the batch `x` under the present state. Gradients are off."""
        return self.model(x)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt on the batch and return its logits.

        Args:
            x: float tensor [B, C, H, W] in [0, 1], B >= 1.

        Raises:
            AdapterError: wrong shape, dtype or range, or called under `torch.inference_mode`.
        """
        return self.curve(x, (self.steps,))[self.steps]

    @final
    def curve(self, x: Tensor, at: Sequence[int]) -> dict[int, Tensor]:
        """Adapt on the batch and return its logits after each number of updates in `at`, from one pass.

        The largest number in `at` takes the place of `steps`.

        Raises:
            AdapterError: as above; or `at` is empty or holds a negative number.
        """
        _check_batch(x, self.model)
        if not at or min(at) < 0:
            raise AdapterError(f"expected numbers of updates, each 0 or more, got {list(at)}")
        x = x.clone() if x.is_inference() else x.detach()
        if self.images_apart:
            parts = [self._curve_of_one(image, at, index) for index, image in enumerate(x.split(1))]
            logits = {step: torch.cat([part[step] for part in parts]) for step in parts[0]}
        else:
            logits = self._curve(x, at)
        self.batches_seen += 1
        return logits

    def _curve(self, x: Tensor, at: Sequence[int], *place: int) -> dict[int, Tensor]:
        """Alternate predictions and updates; `place` is an image's in its batch, where images stand apart."""
        wanted, last, saves_a_pass = set(at), max(at), self.saves_a_pass
        logits: dict[int, Tensor] = {}
        for step in range(last + 1):
            torch.clear_autocast_cache()
            if step in wanted and not (step < last and saves_a_pass):
                with torch.no_grad():
                    logits[step] = self.predict(x)
                torch.clear_autocast_cache()
            if step < last:
                with torch.enable_grad(), learning(self):
                    answer = self.update(x, runtime.generator(x.device, self.seed, self.batches_seen, *place, step))
                if step in wanted and saves_a_pass and answer is not None:
                    logits[step] = answer.detach()
        torch.clear_autocast_cache()
        return logits

    def _curve_of_one(self, image: Tensor, at: Sequence[int], place: int) -> dict[int, Tensor]:
        self.restore()
        return self._curve(image, at, place)

    @final
    def reset(self) -> None:
        """Return to the source: weights, buffers, optimiser and random state, bit for bit."""
        self.restore()
        self.batches_seen = 0

    @final
    @torch.no_grad()
    def restore(self) -> None:
        """Return to the source but go on counting batches, so that random draws are new ones."""
        if live := self._live():
            torch._foreach_copy_(live, list(self._source.buffers()))
        for module in self.modules():
            if isinstance(module, Forgetful):
                module.forget()

    @property
    def saves_a_pass(self) -> bool:
        """Whether the logits before an update come with the update: not where its forward moves running averages."""
        return self.answers_first and not moving_averages(self.model)

    @property
    def moving_parameters(self) -> list[Tensor]:
        """The parameters that may move, in the order of `adapted_names`."""
        return [self.model.get_parameter(name) for name in self._parameter_names]

    @property
    def source_values(self) -> list[Tensor]:
        """What the parameters that may move were at the source, in the order of `adapted_names`."""
        return list(self._source.buffers())[: len(self._parameter_names)]

    @final
    def train(self, mode: bool = True) -> Adapter:
        """Accept the caller's mode; all that is inside stays in eval mode, and batch norm follows its policy."""
        super().train(mode)
        for child in self.children():
            child.eval()
        return self

    def _live(self) -> list[Tensor]:
        """Return everything that can move: the adapted parameters, and the buffers of the method and its model."""
        return self.moving_parameters + [
            buffer for name, buffer in self.named_buffers() if not name.startswith("_source.")
        ]

    def get_extra_state(self) -> dict[str, Any]:
        return {"batches_seen": self.batches_seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.batches_seen = state["batches_seen"]


class _Saved(nn.Module):
    """Copies of tensors, kept as buffers outside `state_dict` so that they follow the adapter to another device."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        for index, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{index}", tensor.detach().clone(), persistent=False)


def _check_batch(x: Tensor, model: nn.Module) -> None:
    if torch.is_inference_mode_enabled():
        raise AdapterError(
            "an adapter learns, and torch.inference_mode forbids it; call it under torch.no_grad instead"
        )
    if x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
        raise AdapterError(
            f"expected a float batch [B, C, H, W] in [0, 1], got {x.dtype} {list(x.shape)}; "
            "turn uint8 images into floats with `images / 255`"
        )
    weight = next(model.parameters(), None)
    if x.dtype == torch.float64 and weight is not None and weight.dtype != torch.float64:
        raise AdapterError(
            f"expected a batch of {weight.dtype}, as the model's weights are, got {x.dtype}; x.float() will do"
        )
    low, high = (float(end) for end in x.detach().aminmax())
    if -math.inf < low < _RANGE[0] or _RANGE[1] < high < math.inf:
        raise AdapterError(
            f"expected images in [0, 1], got values from {low:.3g} to {high:.3g}; divide by 255, or put the "
            "normalisation inside the network, as `nn.Sequential(normalise, network)`"
        )
