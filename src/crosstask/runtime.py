"""Where and how a computation runs: device, precision, seeds, and the environment it is recorded with."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import nn

from crosstask.errors import ConfigError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: the name is no device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unavailable = ConfigError(f"device {name!r} is not available here; expected auto, cpu or cuda[:index]")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise unavailable from error
    if device.type not in ("cpu", "cuda"):
        raise unavailable
    return device


def fast_bfloat16(device: torch.device) -> bool:
    """Say whether the processor multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def resolve_precision(device: torch.device, precision: str) -> str:
    """Return `float32` or `bfloat16`; `auto` takes bfloat16 where it is fast."""
    if precision != "auto":
        return precision
    return "bfloat16" if fast_bfloat16(device) else "float32"


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager:
    """Return the context in which networks run: bfloat16 autocast or plain float32.

    Args:
        device: where the networks are.
        precision: `auto`, `float32` or `bfloat16`.
    """
    if resolve_precision(device, precision) == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def place(module: ModuleT, device: torch.device) -> ModuleT:
    """Move a network to `device` in the channels-last layout, which convolutions prefer."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_unit_floats(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Turn uint8 images [N, C, H, W] into floats in [0, 1] on `device`, channels last."""
    return images.to(device).to(torch.float32, memory_format=torch.channels_last).div_(255)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, in their logical order whatever their memory layout.

    Raises:
        OSError: the disk refuses.
    """
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    path.write_bytes(save(plain, about))  # not `save_file`, whose file nobody but its owner may read


def derive_seed(*parts: object) -> int:
    """Mix any printable parts into one seed of 63 bits; the same parts give the same seed on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, *parts: object) -> torch.Generator:
    """Return a random generator on `device`, seeded from `parts`. Randomness is passed on, never global."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def now(device: torch.device) -> float:
    """Return the time in seconds when all work on the device is done, for differences."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Do some work and return how long it took the device, in seconds."""
    started = now(device)
    work()
    return now(device) - started


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` count from here on, where the system can: CUDA and Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed, training's memory among it
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: allocated on the CUDA device, or held by the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def device_name(device: torch.device) -> str:
    """Return what stands in a record: the accelerator's name, or the processor with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {_processor()} x{torch.get_num_threads()}"


def environment() -> dict[str, str]:
    """Return the versions a number was made with."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("crosstask", "torch", "numpy")}}


def diagnosis() -> dict[str, str]:
    """Return what this machine offers, as texts for a person."""
    device = pick_device()
    return {
        **environment(),
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "precision": "bfloat16 (in hardware)" if fast_bfloat16(device) else "float32 (no bfloat16 in hardware)",
    }


@functools.cache
def commit() -> str | None:
    """Return the git commit of the source tree this package runs from, with `+` when it has changes; asked for once.

    A package that was installed somewhere inside another repository has none.
    """
    ours, said = ("ls-files", "--error-unmatch", __file__), ("describe", "--always", "--abbrev=12", "--dirty=+")
    try:
        for words in (ours, said):
            command = ["git", "-C", str(Path(__file__).parent), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def _version(package: str) -> str:
    return metadata.version(package)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
