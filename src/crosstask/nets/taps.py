"""Feature maps from inside any network, without changing it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from crosstask.errors import AdapterError, ConfigError, UnknownName


def tapped(network: nn.Module, x: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Run the whole network; return its output and what the modules called `names` gave on the way.

    Raises:
        ConfigError: the network then changes one of these in place, so that it is not what the module gave.
    """
    maps, hooks = _tap(network, names, stop=False)
    given: dict[str, int] = {}
    for name in names:
        note = partial(_note_version, given, name)
        hooks.append(network.get_submodule(name).register_forward_hook(note))
    try:
        answer = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if changed := [name for name in names if maps[name]._version != given[name]]:
        raise ConfigError(
            f"what the module {changed[0]!r} gives is changed in place after it, as by nn.ReLU(inplace=True); tap a "
            "module behind that, or let it make a new tensor"
        )
    return answer, [maps[name] for name in names]


def _note_version(given: dict[str, int], name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
    given[name] = output._version


def maps_of(network: nn.Module, x: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Return what the modules called `names` give on `x`, without running what comes after the last of them."""
    maps, hooks = _tap(network, names, stop=True)
    try:
        network(x)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [maps[name] for name in names]


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the layer that should make the logits: the network's last `nn.Linear`; `with_features` checks it.

    Raises:
        AdapterError: there is none.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        types = sorted({type(module).__name__ for module in network.modules()})
        raise AdapterError(f"expected a network that ends in an nn.Linear, found only {', '.join(types)}")
    return linear[-1]


def with_features(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network; return its logits [B, K] and the features [B, D] that its last `nn.Linear` made them from.

    Raises:
        AdapterError: that layer does not make the logits.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    last = last_linear(network)
    hook = last.register_forward_hook(lambda module, inputs, output: kept.append((inputs[0], output.clone())))
    try:
        logits = network(x)
    finally:
        hook.remove()
    if not kept or not _same(kept[-1][1], logits):
        name = next(name for name, module in network.named_modules() if module is last)
        raise AdapterError(
            f"expected the network to return what its last nn.Linear, {name!r}, gives, and it returns something else; "
            "pass `crosstask.split(network, images, head=...)` with the nn.Linear that makes the logits as the head"
        )
    return logits, kept[-1][0]


def _same(output: Tensor, logits: Tensor) -> bool:
    """Say whether a layer's output has the values of the logits; NaN equals NaN."""
    return output.shape == logits.shape and torch.allclose(output.to(logits.dtype), logits, 0, 0, equal_nan=True)


def check_taps(network: nn.Module, names: Sequence[str]) -> None:
    """Raise `UnknownName` for a name that is no module of the network."""
    known = dict(network.named_modules())
    for name in names:
        if name not in known or not name:
            raise UnknownName("module to tap", name, (each for each in known if each))


@torch.no_grad()
def map_shapes(network: nn.Module, shape: Sequence[int], names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the shapes [C, H, W] of those modules' maps for images of `shape` [C, H, W]."""
    check_taps(network, names)
    with _in_eval_mode(network):
        maps = maps_of(network, _blank(network, shape), names)
    return [tuple(each.shape[1:]) for each in maps]


def spatial_maps(encoder: nn.Module, image_shape: Sequence[int], layers: str) -> dict[str, tuple[int, int, int]]:
    """Return the names in a comma-separated text, and the shapes (C, H, W) of those modules' maps.

    Raises:
        UnknownName: a name is no module of the encoder.
        ConfigError: a module gives something else.
    """
    names = [name.strip() for name in layers.split(",")]
    found: dict[str, tuple[int, int, int]] = {}
    for name, shape in zip(names, map_shapes(encoder, image_shape, names), strict=True):
        if len(shape) != 3:
            given = ", ".join(("B", *(str(size) for size in shape)))
            others = ", ".join(_with_maps(encoder, image_shape))
            raise ConfigError(
                f"the task needs maps [B, C, H, W], and the module {name!r} gives [{given}]; tap another: {others}"
            )
        channels, height, width = shape
        found[name] = (channels, height, width)
    return found


@torch.no_grad()
def _with_maps(network: nn.Module, shape: Sequence[int]) -> list[str]:
    """Return the names of the modules that give maps, without those that lie deep if there are others."""
    maps, hooks = _tap(network, [name for name, _ in network.named_modules() if name], stop=False)
    try:
        with _in_eval_mode(network):
            network(_blank(network, shape))
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, given in maps.items() if isinstance(given, Tensor) and given.ndim == 4]
    return sorted(name for name in names if name.count(".") < 2) or sorted(names)


def upstream(network: nn.Module, shape: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return the names of the network's parameters that those modules' maps depend on."""
    copied = copy.deepcopy(network).eval().requires_grad_()
    named = dict(copied.named_parameters())
    with torch.enable_grad():
        maps = maps_of(copied, _blank(copied, shape), names)
        total = torch.stack([each.float().sum() for each in maps]).sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is not None]


def _blank(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return a batch of one black image of `shape` [C, H, W], where the network is and in its precision."""
    weight = next(network.parameters())
    return torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put the network into eval mode, and each of its modules back into its own at the end."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Enough(Exception):
    """All maps that were asked for are there."""


def _tap(network: nn.Module, names: Sequence[str], stop: bool) -> tuple[dict[str, Tensor], list]:
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            maps[name] = output
            if stop and len(maps) == len(set(names)):
                raise _Enough

        return hook

    return maps, [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]  # type: ignore
