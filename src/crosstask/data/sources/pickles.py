"""The pickles of CIFAR, read without running what a pickle may ask for.

A pickle is a program: it names functions to call. The official files need four names, and each is answered here with a
stand-in of our own; whatever else a file names is refused before anything is called. No object of numpy's is made by
the file: the stand-ins only take down shape, type and bytes, and the array is built here, of bytes alone.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from crosstask.errors import DataError


def read_pickle(content: bytes, path: Path) -> dict[str, Any]:
    """Read a dictionary of plain lists, numbers, bytes and uint8 arrays, pickled by Python 2.

    Args:
        content: the pickle.
        path: named in messages.

    Returns:
        its entries: lists of numbers or of bytes, bytes, numbers, and uint8 arrays.

    Raises:
        DataError: it is damaged, holds something else, or names anything but the parts of a numpy array.
    """
    try:
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
        entries = {key.decode() if isinstance(key, bytes) else key: _plain(value) for key, value in found.items()}
    except Exception as error:  # a pickle made by hand or damaged can raise anything
        raise DataError(
            f"cannot read {path}: {str(error) or type(error).__name__}. Expected a pickle of CIFAR's, of lists and "
            "arrays of bytes alone; nothing in it was run. Fetch the file again from its official address"
        ) from error
    return entries


class _Reader(pickle.Unpickler):
    """An unpickler that knows four names, and for each a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; refuse all others."""
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _StandIn(_Array)
            case "numpy", "ndarray":
                return _StandIn(None)
            case "numpy", "dtype":
                return _StandIn(_Type)
            case _:
                raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _StandIn:
    """What the file gets for a function's name. Calling it makes an empty object of ours; it cannot be changed."""

    __slots__ = ("_makes",)

    def __init__(self, makes: type | None) -> None:
        self._makes = makes

    def __call__(self, *arguments: Any) -> Any:
        if self._makes is None:
            raise pickle.UnpicklingError("it makes an array in an unknown way")
        return self._makes(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Type:
    """numpy.dtype as the file describes it: its name alone counts."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.is_bytes = name in (b"u1", "u1")

    def __setstate__(self, state: Any) -> None:
        """Take no notice of byte order and alignment: bytes have none."""


class _Array:
    """A numpy array as the file describes it."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        if not (isinstance(kind, _Type) and kind.is_bytes and isinstance(content, bytes)):
            raise pickle.UnpicklingError("it holds an array of something else than bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _plain(value: Any) -> Any:
    """Return a value of the file, an array as itself."""
    if not isinstance(value, _Array):
        return value
    if value.values is None:
        raise pickle.UnpicklingError("it holds an array without content")
    return value.values
