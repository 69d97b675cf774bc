"""Shifts of one's own: functions that stand, by name, wherever a built-in corruption does.

    def dusk(images, severity, random):  # uint8 [N, C, H, W] -> uint8 [N, C, H, W]
        return (images * (1 - 0.15 * severity)).to(torch.uint8)

    register("dusk", dusk)

A recipe names the file instead: `shifts = { dusk = "dusk.py:dusk" }` below `[bench]`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstask.data.randomness import ImageRandom
from crosstask.data.severities import BENCHMARK, CLEAN, HELD_OUT
from crosstask.errors import ConfigError, DataError

Shift = Callable[[Tensor, int, ImageRandom], Tensor]
"""(uint8 images [N, C, H, W], severity 1 to 5, random numbers) -> uint8 images of the same shape.

An image must come out the same whatever batch it is in: take what is random from `random`, as
`random.normal(images.shape[1:])`, which gives each image numbers of its own.
"""

REGISTERED: dict[str, Shift] = {}
"""The shifts registered in this process, by name."""

_CODE: dict[str, tuple[Shift, str]] = {}
"""Name -> the function that was registered, and the hash of its code at that time."""


def register(name: str, shift: Shift) -> None:
    """Make `shift` available under `name` to `corrupt`, to streams, to recipes and to the command line.

    Registering a name anew replaces its function.

    Raises:
        ConfigError: the name cannot be a file's, or is that of a built-in corruption; or `shift` is no function.
    """
    if not re.fullmatch(r"[\w-]+", name) or name in (CLEAN, *BENCHMARK, *HELD_OUT, "labels"):
        raise ConfigError(
            f"the name {name!r} is taken or no name of a file: choose another for the shift, of letters, digits, _ and "
            "-; not 'labels' and no built-in corruption's"
        )
    if not callable(shift):
        raise ConfigError(f"the shift {name!r} is no function (images, severity, random): got {type(shift).__name__}")
    REGISTERED[name] = shift
    _CODE[name] = shift, _hashed(shift)


def register_from(name: str, reference: str) -> None:
    """Register the function that `reference` names: `FILE.py:FUNCTION` or `PACKAGE.MODULE:FUNCTION`.

    The file or module is run: name only code you trust.

    Raises:
        ConfigError: there is no such file, module or function, or running it fails.
    """
    source, colon, attribute = reference.rpartition(":")
    if not colon or not source or not attribute:
        raise ConfigError(f"the shift {name!r}: expected FILE.py:FUNCTION or MODULE:FUNCTION, got {reference!r}")
    try:
        module = _module_of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:
        raise ConfigError(f"the shift {name!r}: {source} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"the shift {name!r}: {source} has no function {attribute!r}")
    register(name, getattr(module, attribute))


def _module_of_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"_crosstask_shift_{path.stem}", path.expanduser())
    assert spec and spec.loader, "a name that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for the module it is in
    spec.loader.exec_module(module)
    return module


def code_hash(name: str) -> str | None:
    """Return the SHA-256 of a registered shift's code, as it was registered, with the file it is in; else None."""
    if name not in REGISTERED:
        return None
    shift, code = _CODE.get(name, (None, ""))
    return code if shift is REGISTERED[name] else _hashed(REGISTERED[name])


def _hashed(shift: Shift) -> str:
    """Return the SHA-256 of a function's name, its source and its whole file, whose constants and helpers it uses."""
    named: Any = inspect.unwrap(shift.func if isinstance(shift, functools.partial) else shift)
    named = named if hasattr(named, "__qualname__") else type(named)
    digest = hashlib.sha256(named.__qualname__.encode())
    with contextlib.suppress(OSError, TypeError):  # made at a prompt, or not in Python: what there is must do
        digest.update(inspect.getsource(named).encode())
        digest.update(Path(inspect.getfile(named)).read_bytes())
    return digest.hexdigest()


def applied(name: str, images: Tensor, severity: int, random: ImageRandom) -> Tensor:
    """Return what the registered shift makes of `images`.

    Raises:
        DataError: it is not what a shift must return.
    """
    shifted = REGISTERED[name](images.clone(), severity, random)
    if not isinstance(shifted, Tensor) or shifted.dtype != torch.uint8 or shifted.shape != images.shape:
        got = f"{shifted.dtype} {list(shifted.shape)}" if isinstance(shifted, Tensor) else type(shifted).__name__
        raise DataError(
            f"the shift {name!r} must return uint8 {list(images.shape)}, as it was given, and returned {got}"
        )
    return shifted
