"""The contract of test-time methods as a public check. Run it on your own adapters too:

    check_adapter(lambda: Tent(model), torch.rand(8, 3, 32, 32), model=model)

Each clause is one function below; its docstring is the clause.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crosstask.errors import AdapterError, ConfigError
from crosstask.methods.adapter import Adapter


def check_adapter(factory: Callable[[], Adapter], example: Tensor, *, model: nn.Module | None = None) -> None:
    """Check every clause of the contract in `crosstask.methods.adapter` on a small example.

    Args:
        factory: returns a fresh adapter, the same one each time: on the same weights and with the same seed.
        example: float tensor [B, C, H, W] in [0, 1] that the adapter's model accepts, B at least 4.
        model: what the factory's adapters are made from, if they share it. It is compared bit by bit before and after;
            its train and eval mode is switched meanwhile and put back.

    Raises:
        AdapterError: names every clause that broke, and how.
        ConfigError: the example is no such batch.
    """
    if example.ndim != 4 or not example.is_floating_point() or len(example) < 4:
        raise ConfigError(f"expected a float example [B, C, H, W] with B >= 4, got {example.dtype} {[*example.shape]}")
    batches = (example, example.flip(0).square(), 1 - example)
    case = _Case(factory=factory, batches=batches, model=model, model_at_first={} if model is None else _looks(model))
    with _deterministic():
        broken = _broken(case, {"factory": _factory}) or _broken(case, CLAUSES)
    if broken:
        raise AdapterError(f"{len(broken)} clause(s) of the adapter contract broken:\n" + "\n".join(broken))


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What every clause works on: fresh adapters and three different batches."""

    factory: Callable[[], Adapter]
    batches: tuple[Tensor, ...]
    model: nn.Module | None
    model_at_first: dict[str, Any]

    @property
    def x(self) -> Tensor:
        return self.batches[0]

    def answers(self, adapter: Adapter | None = None) -> list[Tensor]:
        """Return the logits of all batches in turn, by a fresh adapter if none is given."""
        adapter = adapter or self.factory()
        return [adapter(x) for x in self.batches]


class _Broken(Exception):
    """A clause does not hold."""


def _broken(case: _Case, clauses: dict[str, Callable[[_Case], None]]) -> list[str]:
    """Return a line for each clause that does not hold; an exception from inside the adapter is one way to break it."""
    lines = []
    for name, clause in clauses.items():
        try:
            clause(case)
        except _Broken as error:
            lines.append(f"  {name}: {error}")
        except Exception as error:
            lines.append(f"  {name}: {type(error).__name__}: {error}")
    return lines


def _factory(case: _Case) -> None:
    """Two adapters from the factory are the same one, bit for bit."""
    first, second = case.factory(), case.factory()
    for adapter in (first, second):
        _expect(isinstance(adapter, Adapter), f"expected a crosstask.methods.Adapter, got {type(adapter).__name__}")
    _expect(first is not second, "returned the same object twice; it must make a new adapter each time")
    _expect_same(_state(first), _state(second), "two adapters differ in {}; seed the factory or share one model")


def _logits(case: _Case) -> None:
    """Calling answers with finite logits [B, K] without a gradient, and leaves the batch alone."""
    x = case.x.clone().requires_grad_()
    logits = case.factory()(x)
    _expect(isinstance(logits, Tensor), f"expected a tensor, got {type(logits).__name__}")
    _expect(logits.ndim == 2 and len(logits) == len(x), f"expected [{len(x)}, K], got {list(logits.shape)}")
    _expect(bool(logits.isfinite().all()), "the logits of a finite batch are not finite")
    _expect(not logits.requires_grad, "the logits carry a gradient; predict under torch.no_grad")
    _expect(x.grad is None and _equal(x.detach(), case.x), "the caller's batch was changed")


def _random_state(case: _Case) -> None:
    """Nobody's global random state is used."""
    adapter, before = case.factory(), _global_random_state(case.x.device)
    case.answers(adapter)
    adapter.reset()
    after = _global_random_state(case.x.device)
    _expect_same(before, after, "the global random state of {} was used; pass a generator")


def _callers_model(case: _Case) -> None:
    """The caller's model keeps its values, gradients, `requires_grad` flags and modes."""
    if case.model is None:
        return
    _expect_same(case.model_at_first, _looks(case.model), "making an adapter changed the caller's model in {}")
    for mode in (True, False):
        with _mode(case.model, mode):
            before = _looks(case.model)
            adapter = case.factory()
            case.answers(adapter)
            adapter.reset()
            _expect_same(before, _looks(case.model), "the caller's model changed in {}; adapt a copy")


def _reset(case: _Case) -> None:
    """`reset` returns to the source, bit for bit, in weights, buffers, optimiser and random state."""
    adapter = case.factory()
    source, first = _state(adapter), case.answers(adapter)
    for _ in range(2):
        adapter.reset()
        _expect_same(source, _state(adapter), "after reset the state differs from the source's in {}")
        _expect_same(first, case.answers(adapter), "after reset the answer to batch {} is another one")


def _adapted_names(case: _Case) -> None:
    """`adapted_names` lists what moves: nothing else does, and something listed does where there are updates."""
    adapter = case.factory()
    before, listed = _tensors(adapter), {f"model.{name}" for name in adapter.adapted_names}
    _expect(listed <= before.keys(), f"adapted_names lists {sorted(listed - before.keys())}, which the model lacks")
    case.answers(adapter)
    after = _tensors(adapter)
    moved = {name for name in before if not _equal(before[name], after[name])}
    own = {name for name, _ in adapter.named_buffers() if not name.startswith("model.")}
    _expect(not moved - listed - own, f"moved without being listed: {', '.join(sorted(moved - listed - own))}")
    if listed and adapter.steps:
        _expect(bool(moved & listed), f"nothing of what adapted_names lists moved in {adapter.steps} update(s)")


def _state_dict(case: _Case) -> None:
    """`state_dict`, saved in mid-stream, continues bit for bit in a fresh adapter, and can be loaded more than once."""
    adapter, file = case.factory(), io.BytesIO()
    adapter(case.x)
    torch.save(adapter.state_dict(), file)
    expected = case.answers(adapter)
    try:
        saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Broken("holds more than tensors and plain values, so that loading it would run code") from error
    for what in ("continues with another", "loaded a second time, continues with another"):
        fresh = case.factory()
        fresh.load_state_dict(saved)
        _expect_same(expected, case.answers(fresh), f"a fresh adapter with the saved state {what} answer to batch {{}}")
    fresh.reset()
    _expect_same(_state(case.factory()), _state(fresh), "reset after load_state_dict is not the source in {}")


def _modes(case: _Case) -> None:
    """The answers are the same in train and in eval mode, of the adapter and of the caller's model."""
    expected = case.answers()
    for mode in (True, False):
        answers = case.answers(case.factory().train(mode))
        _expect_same(expected, answers, f"adapter.train({mode}) changes the answer to batch {{}}")
        if case.model is not None:
            with _mode(case.model, mode):
                answers = case.answers()
            _expect_same(expected, answers, f"model.train({mode}) at the caller's changes the answer to batch {{}}")


def _no_grad(case: _Case) -> None:
    """The answers are the same under `torch.no_grad`."""
    expected = case.answers()
    with torch.no_grad():
        _expect_same(expected, case.answers(), "under torch.no_grad the answer to batch {} is another one")


def _autocast(case: _Case) -> None:
    """Under bfloat16 autocast the logits are finite and close to those in full precision."""
    exact = case.factory().curve(case.x, (0, 1))
    with _bfloat16(case):
        rough = case.factory().curve(case.x, (0, 1))
    for step, logits in exact.items():
        _expect(bool(rough[step].isfinite().all()), f"after {step} update(s) the logits are not finite")
        error, scale = (rough[step].float() - logits).abs().max(), 1 + logits.abs().max()
        _expect(bool(error < 0.1 * scale), f"after {step} update(s) the logits are off by {error:.2g}")


def _autocast_cache(case: _Case) -> None:
    """One autocast context around many updates gives what fresh ones give: its copies of weights must not go stale."""
    points = ((0, 1, 2), (2,), (1, 3))
    with _bfloat16(case):
        adapter = case.factory()
        held = [adapter.curve(x, at) for x, at in zip(case.batches, points, strict=True)]
    with _bfloat16(case):
        adapter = _clearing(case.factory())
        fresh = [adapter.curve(x, at) for x, at in zip(case.batches, points, strict=True)]
    _expect_same(fresh, held, "autocast's cached weights went stale: (batch.updates) {} is another answer")


def _batch_sizes(case: _Case) -> None:
    """A batch of one and a short last batch work."""
    sizes = (len(case.x), len(case.x) - 1, 1)
    adapter = case.factory()
    for answers in ([adapter(case.x[:size]) for size in sizes], [case.factory()(case.x[:size]) for size in sizes]):
        for size, logits in zip(sizes, answers, strict=True):
            same = logits.shape == (size, answers[0].shape[1])
            _expect(same, f"a batch of {size} is answered with the shape {list(logits.shape)}")
            _expect(bool(logits.isfinite().all()), f"the logits of a batch of {size} are not finite")


def _inference_mode(case: _Case) -> None:
    """Under `torch.inference_mode` an `AdapterError` says to use `no_grad`; a batch made there works elsewhere."""
    adapter, expected = case.factory(), case.answers()
    with torch.inference_mode():
        made_there = case.x.clone()
        message = _refusal(lambda: adapter(made_there), "a call under torch.inference_mode")
    _expect("no_grad" in message, f"the error should say to use torch.no_grad instead, and says {message!r}")
    _expect_same(expected[0], adapter(made_there), "a batch made under torch.inference_mode is answered otherwise{}")


def _wrong_input(case: _Case) -> None:
    """A wrong shape, dtype or range, and a curve over no or negative updates, raise `AdapterError`, change nothing."""
    adapter, expected, x = case.factory(), case.answers(), case.x
    wrong = {"one image [C, H, W]": x[0], "a uint8 batch": (255 * x).to(torch.uint8), "an empty batch": x[:0]}
    if 255 * x.max() > 2:
        wrong["a batch of pixels up to 255"] = 255 * x
    if x.dtype == torch.float32:
        wrong["a float64 batch"] = x.double()
    for what, batch in wrong.items():
        _refusal(lambda batch=batch: adapter(batch), what)  # type: ignore[misc]
    _refusal(lambda: adapter.curve(x, ()), "a curve without points")
    _refusal(lambda: adapter.curve(x, (-1, 1)), "a curve with a negative point")
    _expect_same(expected, case.answers(adapter), "after a refused call the answer to batch {} is another one")


def _non_finite(case: _Case) -> None:
    """A batch with an image of NaN, whose loss is not finite, never reaches the weights; the next batch works."""
    adapter, poisoned = case.factory(), case.x.clone()
    poisoned[0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for x in (case.x, poisoned, case.x):
            before = _tensors(adapter)
            logits = adapter(x)
    ill = [name for name, tensor in _tensors(adapter).items() if not tensor.isfinite().all()]
    _expect(not ill, f"not finite after a batch with NaN: {', '.join(ill)}")
    _expect(bool(logits.isfinite().all()), "the logits of the finite batch after a batch with NaN are not finite")
    if adapter.adapted_names and adapter.steps:
        learns = any(not _equal(before[name], tensor) for name, tensor in _tensors(adapter).items())
        _expect(learns, "after a batch with NaN nothing is learned from finite ones")


def _curve(case: _Case) -> None:
    """`curve` gives what calls with that many `steps` give, and leaves the adapter in the state of the last one."""
    whole = case.factory()
    points = sorted({0, 1, 2, whole.steps})
    curve = whole.curve(case.x, points)
    _expect(sorted(curve) == points, f"asked for the updates {points}, got {sorted(curve)}")
    for steps in points:
        single = case.factory()
        single.steps = steps
        _expect_same(curve[steps], single(case.x), f"curve differs from a call with {steps} step(s){{}}")
    x, last = case.batches[1], points[-1]
    _expect_same(single(x), whole.curve(x, points)[last], f"curve leaves another state than {last} step(s){{}}")


def _deepcopy(case: _Case) -> None:
    """`copy.deepcopy` in mid-stream gives an adapter of its own that continues alike."""
    adapter = case.factory()
    adapter(case.x)
    twin, before = copy.deepcopy(adapter), _state(adapter)
    answers = case.answers(twin)
    _expect_same(before, _state(adapter), "using a deep copy moves the original in {}")
    _expect_same(case.answers(adapter), answers, "a deep copy continues with another answer to batch {}")


CLAUSES: dict[str, Callable[[_Case], None]] = {
    "logits": _logits,
    "random state": _random_state,
    "caller's model": _callers_model,
    "reset": _reset,
    "adapted_names": _adapted_names,
    "state_dict": _state_dict,
    "train and eval mode": _modes,
    "no_grad": _no_grad,
    "autocast": _autocast,
    "autocast cache": _autocast_cache,
    "batch sizes": _batch_sizes,
    "inference_mode": _inference_mode,
    "wrong input": _wrong_input,
    "non-finite loss": _non_finite,
    "curve": _curve,
    "deepcopy": _deepcopy,
}
"""Name of a clause, as an error gives it, to its check."""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Broken(otherwise)


def _expect_same(expected: Any, found: Any, otherwise: str) -> None:
    """Compare nested lists and dicts of tensors bit by bit; `{}` in the message becomes the first that differs."""
    left, right = _flat(expected), _flat(found)
    for name in left | right:
        if name not in left or name not in right or not _equal(left[name], right[name]):
            raise _Broken(otherwise.format(name))


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts, lists and tuples by their dotted names."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}" if name else f"{key}").items()}
    return {name: tree}


def _equal(left: Any, right: Any) -> bool:
    """Compare two leaves, tensors by their bits, so that NaN equals NaN."""
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return type(left) is type(right) and left == right
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    one, other = (t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (left, right))
    return torch.equal(one, other)


def _refusal(call: Callable[[], object], what: str) -> str:
    """Return the message of the `AdapterError` that `call` has to raise."""
    try:
        call()
    except AdapterError as error:
        return str(error)
    except Exception as error:
        raise _Broken(f"{what} should raise AdapterError and raises {type(error).__name__}: {error}") from error
    raise _Broken(f"{what} should raise AdapterError and is answered")


def _state(adapter: Adapter) -> dict[str, Any]:
    """Return copies of all tensors and of all further state of an adapter."""
    return _tensors(adapter) | copy.deepcopy(dict(adapter.state_dict()))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, by name."""
    return {n: t.detach().clone() for n, t in (*module.named_parameters(), *module.named_buffers())}


def _looks(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model that its owner would not like to see changed."""
    looks: dict[str, Any] = {
        f"the mode of {name or 'its root'}": module.training for name, module in model.named_modules()
    }
    for name, parameter in model.named_parameters():
        looks[f"requires_grad of {name}"] = parameter.requires_grad
        looks[f"the gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    return looks | _tensors(model)


def _clearing(adapter: Adapter) -> Adapter:
    """Make autocast forget its copies of weights before each forward pass of this adapter."""

    def forgetful(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            torch.clear_autocast_cache()
            return method(*arguments)

        return call

    for name in ("update", "predict"):
        setattr(adapter, name, forgetful(getattr(adapter, name)))
    return adapter


def _bfloat16(case: _Case) -> torch.autocast:
    return torch.autocast(case.x.device.type, torch.bfloat16)


def _global_random_state(device: torch.device) -> dict[str, Any]:
    numpy_state = repr([np.asarray(part).tobytes() for part in np.random.get_state()])
    state = {"torch": torch.get_rng_state(), "random": repr(random.getstate()), "numpy": numpy_state}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


@contextlib.contextmanager
def _mode(model: nn.Module, mode: bool) -> Iterator[None]:
    """Hold the caller's model in train or eval mode and then put each part back as it was."""
    before = {module: module.training for module in model.modules()}
    model.train(mode)
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Have cuDNN choose the same kernels each time: the contract speaks of bits."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
