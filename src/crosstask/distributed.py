"""Training by several processes, as `torchrun` starts them: who is who, and what they do together.

Each process has a share of every batch. Losses that compare images with each other see the whole batch: `gather` hands
the others' features over, and their gradients back. Everything here is the identity in a process alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
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

    A process on CUDA takes the GPU of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _together():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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
    if len(indices) % world():
        raise ConfigError(f"a batch of {len(indices)} cannot be divided among {world()} processes: change batch_size")
    return indices.chunk(world())[rank()]


def gather(x: Tensor) -> Tensor:
    """Return the rows [B, ...] of all processes, [W * B, ...], in the order of their ranks; gradients flow back."""
    return _Gather.apply(x) if _together() else x


def own_rows(count: int, device: torch.device) -> Tensor | None:
    """Return which rows of what `gather` returns are the `count` of this process; None in a process alone."""
    return torch.arange(count, device=device) + count * rank() if _together() else None


def own_pair_rows(count: int, device: torch.device) -> Tensor | None:
    """Return which rows of what `gather_pairs` returns are the `count` of this process; None in a process alone."""
    first = own_rows(count // 2, device)
    return None if first is None else torch.cat([first, first + world() * (count // 2)])


def gather_pairs(x: Tensor) -> Tensor:
    """Return the rows [2B, D] of all processes, two views of B images, as [2WB, D]: first views first."""
    return torch.cat([gather(view) for view in x.chunk(2)]) if _together() else x


def mean(value: Tensor) -> Tensor:
    """Return the mean of a value over all processes, without gradient."""
    if _together():
        value = value.detach().clone()
        dist.all_reduce(value)
        value /= world()
    return value


def check_agreed(value: int, what: str) -> None:
    """Raise a `TrainingError` unless all processes have the same value."""
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
    has no such layer, each process has those of its own share.
    """
    if not _together():
        return step
    if next(trainee.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    return DistributedDataParallel(step)


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
