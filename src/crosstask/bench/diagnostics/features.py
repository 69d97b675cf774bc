"""Encoders as they are looked at: copies, in eval mode but for batch norm, which takes the statistics of the batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from crosstask import runtime
from crosstask.data.streams import Stream
from crosstask.methods.batchnorm import set_batch_norm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def copied(module: ModuleT, device: torch.device) -> ModuleT:
    """Return a frozen copy of a network on `device` that normalises by the statistics of the batch."""
    twin = copy.deepcopy(module).eval().requires_grad_(False)
    set_batch_norm(twin, "batch")
    return runtime.place(twin, device)


def batches(stream: Stream, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images, float [B, C, H, W] in [0, 1], with their labels, int64 [B], both on `device`."""
    assert stream.labels is not None
    for images, labels in zip(stream.batches(), stream.labels.split(stream.batch_size), strict=True):
        yield runtime.to_unit_floats(images, device), labels.to(device)


@torch.no_grad()
def features(encoder: nn.Module, stream: Stream, device: torch.device) -> Tensor:
    """Return the encoder's features of a stream, float32 [N, D] on the CPU."""
    twin = copied(encoder, device)
    return torch.cat([twin(x).float().cpu() for x, _ in batches(stream, device)])
