"""What batch-norm layers normalise with at test time, as an explicit policy instead of a train/eval side effect.

| policy   | mean and variance                                       | in the field            |
|----------|---------------------------------------------------------|-------------------------|
| `source` | the running averages of source training                 | eval mode               |
| `batch`  | those of the current batch                              | PTBN, BN-1, train mode  |
| `mixed`  | `(1 - share)` of the source's and `share` of the batch's | BN-alpha                |
| `prior`  | the same; of B images the share is `B / (B + 16)`       | Schneider et al. 2020   |
| `ema`    | those of the batch in an update, running averages else  | BN-EMA, the ETS papers  |
| `robust` | the running averages, moved first in an update          | RoTTA's RobustBN        |

The last two, and they alone, move the running averages, in an update, by `share` of the way to the batch's, the
variance without Bessel's correction. A single value a channel (one image, one pixel) has no variance: there `batch` and
`ema` take the running averages, and a layer without any raises an `AdapterError`. `prior` is for batches of any size:
the source counts as much as 16 images.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from crosstask.errors import AdapterError, ConfigError, UnknownName

Policy = Literal["source", "batch", "mixed", "prior", "ema", "robust"]

_SOURCE_IMAGES = 16
"""The source's pseudo sample size (N in Schneider et al. 2020); measured beside fixed shares in docs/log.md."""


class PolicyBatchNorm(nn.Module):
    """A batch-norm layer whose statistics follow a policy, whatever its train or eval mode.

    Its parameters and buffers have the names they have in the layer it stands for.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, layer: _BatchNorm, policy: Policy, share: float) -> None:
        super().__init__()
        self.learning = False
        self.policy, self.share, self.eps = policy, share, layer.eps
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        if policy != "batch" and layer.running_mean is None:
            raise AdapterError(
                f"the batch-norm policy {policy!r} needs running statistics and this layer keeps none; use 'batch'"
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.policy in ("mixed", "prior") or (self.policy == "robust" and self.learning):
            return self._mixed(x)
        if self.running_mean is None:
            _check_several(x)
        single = x.numel() == x.shape[1]
        if single or self.policy in ("source", "robust") or (self.policy == "ema" and not self.learning):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self.policy == "ema":
            self._move(*_moments(x.detach()))
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def _mixed(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        mean, var = _moments(x)
        before = self.running_mean.float().clone(), self.running_var.float().clone()
        if self.policy == "robust":
            self._move(mean.detach(), var.detach())
        share = len(x) / (len(x) + _SOURCE_IMAGES) if self.policy == "prior" else self.share
        mean, var = (torch.lerp(old, new, share) for old, new in zip(before, (mean, var), strict=True))
        scale = torch.rsqrt(var + self.eps) * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        shape = [1, -1] + [1] * (x.ndim - 2)
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, var: Tensor) -> None:
        """Move the running averages; what is not finite does not reach them."""
        assert self.running_mean is not None and self.running_var is not None
        for kept, new in ((self.running_mean, mean), (self.running_var, var)):
            moved = torch.lerp(kept.float(), new, self.share)
            kept.copy_(torch.where(moved.isfinite(), moved, kept))


def _check_several(x: Tensor) -> None:
    """Raise an `AdapterError` for a batch of a single value a channel, before PyTorch raises a `ValueError`."""
    if x.numel() == x.shape[1]:
        raise AdapterError(
            "batch norm without running averages needs more than one value a channel, to have a variance, and got "
            f"{list(x.shape)}; give larger batches, or batch_norm='source' where the source's layer keeps such averages"
        )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance by channel, in float32."""
    var, mean = torch.var_mean(x.float(), dim=[dim for dim in range(x.ndim) if dim != 1], unbiased=False)
    return mean, var


@contextlib.contextmanager
def learning(module: nn.Module, under_way: bool = True) -> Iterator[None]:
    """Tell all layers inside `module` that have a policy whether an update is under way."""
    layers = [layer for layer in module.modules() if isinstance(layer, PolicyBatchNorm)]
    before = [layer.learning for layer in layers]
    for layer in layers:
        layer.learning = under_way
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.learning = was


def set_batch_norm(model: nn.Module, policy: str, share: float = 0.5) -> int:
    """Replace every batch-norm layer inside `model` by one that follows `policy`; return how many there were.

    Args:
        model: changed in place; layers of any other kind are left alone.
        policy: one of the table above.
        share: the batch's share in `mixed`, `ema` and `robust`, in [0, 1].

    A subclass with a forward pass of its own (timm's `BatchNormAct2d`, say) is kept; under `batch` it loses its running
    statistics, which makes it normalise with the batch's, and refuse a single value a channel. A layer that stands in
    several places of `model` remains one layer, counted in each.

    Raises:
        UnknownName: there is no such policy.
        ConfigError: `share` is out of range.
        AdapterError: such a subclass can neither mix nor move statistics.
    """
    if policy not in get_args(Policy):
        raise UnknownName("batch-norm policy", policy, get_args(Policy))
    if not 0 <= share <= 1:
        raise ConfigError(f"the batch's share in batch norm must lie in [0, 1], got {share}")
    found = 0
    following: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm):
                found += 1
                if id(child) not in following:
                    following[id(child)] = _following(child, policy, share)  # type: ignore[arg-type]
                setattr(parent, name, following[id(child)])
    return found


_PLAIN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _following(layer: _BatchNorm, policy: Policy, share: float) -> nn.Module:
    """Return a layer that follows the policy in place of this one, or this one where its forward pass is its own."""
    if type(layer).forward in _PLAIN_FORWARDS:
        return PolicyBatchNorm(layer, policy, share)
    if policy not in ("source", "batch"):
        raise AdapterError(
            f"{type(layer).__name__} has a forward pass of its own: it takes 'source' or 'batch', not {policy!r}"
        )
    if policy == "batch":
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = None
        layer.register_forward_pre_hook(_check_inputs)
    return layer


def _check_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    _check_several(inputs[0])


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether `model` has a batch-norm layer."""
    return any(isinstance(layer, PolicyBatchNorm | _BatchNorm) for layer in model.modules())


def moving_averages(model: nn.Module) -> list[str]:
    """Return the names of the running averages that updates move: those under `ema` and `robust`."""
    return [
        f"{name}.{own}" if name else own
        for name, layer in model.named_modules()
        if isinstance(layer, PolicyBatchNorm) and layer.policy in ("ema", "robust")
        for own in ("running_mean", "running_var")
    ]


def norm_parameters(model: nn.Module, skip: str = "") -> dict[str, nn.Parameter]:
    """Return the scales and shifts of all batch, group and layer norms of `model`, by name.

    Args:
        skip: a regular expression; names in which it is found are left out.

    Raises:
        ConfigError: `skip` is no regular expression, or leaves nothing over.
        AdapterError: there are none; the message lists the layer types found.
    """
    kinds = (PolicyBatchNorm, _BatchNorm, nn.GroupNorm, nn.LayerNorm)
    found = {
        f"{name}.{own}" if name else own: parameter
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        for own, parameter in module.named_parameters(recurse=False)
    }
    if not found:
        types = sorted({type(module).__name__ for module in model.modules()})
        raise AdapterError(f"nothing to adapt: no norm layer with a scale and a shift among {', '.join(types)}")
    try:
        left = {name: parameter for name, parameter in found.items() if not (skip and re.search(skip, name))}
    except re.error as error:
        raise ConfigError(f"skip must be a regular expression, got {skip!r}: {error}") from error
    if not left:
        raise ConfigError(f"nothing to adapt: skip={skip!r} is found in all of {', '.join(found)}")
    return left
