"""Training by several processes, as `torchrun` starts them: who is who, and what they do together.

Each process has a share of every batch. Losses that compare images with each other see the whole batch: `gather` hands
the others' features over, and their gradients back. The balance of ClusT3's clusters is over a process's own share.
Everything here is the identity in a process alone; what compares is so outside of a training step too, so that
adaptation sees its own batch, whoever is there.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from crosstask.errors import ConfigError, TrainingError


def rank() -> int:
    """Return which of the processes this one is; the first, 0, is the one that writes and speaks."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if _together() else 1


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Join the other processes of a `torchrun`, in a `with` block; in a process alone do nothing.

    A process on CUDA takes the GPU of its local rank. Whoever fails leaves at once, and `torchrun` ends the others.

    Raises:
        ConfigError: there are GPUs, and fewer than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _together():
        yield
        return
    if torch.cuda.is_available():
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise ConfigError(f"expected a GPU for each process of this machine, and there are {gpus}: start so many")
        torch.cuda.set_device(place)
    # `DistributedDataParallel` imports this, and its functions' default arguments would keep the group, whose threads
    # then outlive `destroy_process_group` and now and then abort the process as it exits.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield
    dist.destroy_process_group()


@contextlib.contextmanager
def comparing() -> Iterator[None]:
    """Have `gather` and the like reach the other processes, in a `with` block around a training step's loss."""
    token = _COMPARING.set(_together())
    try:
        yield
    finally:
        _COMPARING.reset(token)


def other() -> tuple[int, ...]:
    """Return what tells this process's random draws from the first one's: its rank, or nothing for that one."""
    return (rank(),) if rank() else ()


def wait() -> None:
    """Wait until all processes are here."""
    if _together():
        dist.barrier()


def share(indices: Tensor) -> Tensor:
    """Return this process's share of the indices of a batch.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    check_divisible(len(indices))
    return indices.chunk(world())[rank()]


def check_divisible(batch_size: int) -> None:
    """Raise a `ConfigError` for a batch that cannot be divided evenly among the processes."""
    if batch_size % world():
        raise ConfigError(f"a batch of {batch_size} cannot be divided among {world()} processes: change batch_size")


def gather(x: Tensor) -> Tensor:
    """Return the rows [B, ...] of all processes, [W * B, ...], in the order of their ranks; gradients flow back."""
    return _Gather.apply(x) if _COMPARING.get() else x


def own_rows(count: int, device: torch.device) -> Tensor | None:
    """Return which rows of what `gather` returns are the `count` of this process; None in a process alone."""
    return torch.arange(count, device=device) + count * rank() if _COMPARING.get() else None


def own_pair_rows(count: int, device: torch.device) -> Tensor | None:
    """Return which rows of what `gather_pairs` returns are the `count` of this process; None in a process alone."""
    first = own_rows(count // 2, device)
    return None if first is None else torch.cat([first, first + world() * (count // 2)])


def gather_pairs(x: Tensor) -> Tensor:
    """Return the rows [2B, D] of all processes, two views of B images, as [2WB, D]: first views first."""
    return torch.cat([gather(view) for view in x.chunk(2)]) if _COMPARING.get() else x


def mean(value: Tensor) -> Tensor:
    """Return the mean of a value over all processes, without gradient."""
    if _together():
        value = value.detach().clone()
        dist.all_reduce(value)
        value /= world()
    return value


def check_agreed(value: object, what: str) -> None:
    """Raise a `TrainingError` unless all processes have the same value, which must be hashable and picklable."""
    if _together():
        values: list[Any] = [None] * world()
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise TrainingError(
                f"the processes differ in {what}: {values}. All need the same run folder, on a disk that they share"
            )


def in_step(trainee: nn.Module, step: nn.Module) -> nn.Module:
    """Return `step`, a module around `trainee`, so that each backward pass averages gradients over the processes.

    On CUDA the batch norms of `trainee` take their statistics over all processes from then on; on a CPU, where torch
    has no such layer, each process has those of its own share. Buffers, a target network's among them, are the first
    process's at each step.

    Raises:
        ConfigError: a batch norm on CUDA does more than normalise, which torch's layer for several would undo.
    """
    if not _together():
        return step
    if next(trainee.parameters()).is_cuda:
        for name, layer in trainee.named_modules():
            if isinstance(layer, _BatchNorm) and type(layer).forward is not _BatchNorm.forward:
                raise ConfigError(
                    f"{name} is a {type(layer).__name__}, which several processes cannot share: train in one"
                )
        nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    return DistributedDataParallel(step)


_COMPARING: ContextVar[bool] = ContextVar("comparing", default=False)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world())[rank()]
