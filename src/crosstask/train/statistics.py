"""What the source looks like from inside: pixel statistics, batch-norm averages, and moments of features."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from crosstask import runtime
from crosstask.data.images import ImageSet
from crosstask.nets.group_norm import guard_group_norm
from crosstask.train.loop import Run

SAMPLE = 10_000
"""Images that features and batch-norm averages are taken over: a seeded sample where there are more."""


def pixel_statistics(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, two tensors [C], of pixels in [0, 1]."""
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.images.unbind(dim=1)])
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.double) / 255
    mean = share @ values
    variance = share @ values.square() - mean.square()
    return mean.float(), variance.clamp(min=1e-6).sqrt().float()


def feature_statistics(encoder: nn.Module, images: ImageSet, run: Run) -> dict[str, Tensor]:
    """Return `mean` [D] and `covariance` [D, D] of the encoder's features of the images as they are, in eval mode."""
    encoder.eval()
    with torch.no_grad(), runtime.autocast(run.device, run.precision):
        features = torch.cat([encoder(x).double().cpu() for x in _batches(images, run)])
    return {"mean": features.mean(dim=0).float(), "covariance": features.T.cov().float().reshape(-1, features.shape[1])}


def fisher_information(classifier: nn.Module, images: ImageSet, run: Run, count: int = 2000) -> dict[str, Tensor]:
    """Return `fisher.NAME` for each scale and shift of a norm layer: how much the source's predictions hang on it.

    The squared gradient of the cross-entropy against the classifier's own predictions, averaged over batches of 64 of
    `count` images, normalised by the batch's statistics (Niu et al. 2022, eq. 9). Labels are not looked at.
    """
    copied = copy.deepcopy(classifier).eval().requires_grad_(False)
    guard_group_norm(copied)
    named: dict[str, Tensor] = {}
    for prefix, layer in copied.named_modules():
        if isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            layer.train()
            named |= {f"{prefix}.{name}": p.requires_grad_() for name, p in layer.named_parameters(recurse=False)}
    if not named:
        return {}
    totals, batches = [torch.zeros_like(p, dtype=torch.float32) for p in named.values()], 0
    for x in _batches(images, run, batch_size=64, count=count):
        with runtime.autocast(run.device, run.precision):
            logits = copied(x).float()
        loss = F.cross_entropy(logits, logits.detach().argmax(dim=1))
        loss.backward()  # all the way: `torch.autograd.grad` would stop short of what `guard_group_norm` asks for
        gradients = [p.grad for p in named.values() if p.grad is not None]
        totals = [total + gradient.float().square() for total, gradient in zip(totals, gradients, strict=True)]
        copied.zero_grad()
        batches += 1
    return {f"fisher.{name}": (total / batches).cpu() for name, total in zip(named, totals, strict=True)}


def refit_batch_norm(encoder: nn.Module, images: ImageSet, run: Run) -> None:
    """Replace the running averages of batch norm by plain averages over batches of the images as they are.

    An encoder without batch norm is only put into eval mode.
    """
    encoder.eval()
    layers = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad(), runtime.autocast(run.device, run.precision):
        for x in _batches(images, run):
            encoder(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    encoder.eval()


def _batches(images: ImageSet, run: Run, batch_size: int = 500, count: int = SAMPLE) -> Iterator[Tensor]:
    order = torch.randperm(len(images), generator=runtime.generator(torch.device("cpu"), run.seed, "statistics"))
    order = order[:count]
    batches = math.ceil(len(order) / batch_size)
    for indices in order.tensor_split(batches):  # of one size: batch norm's averages weigh every batch alike
        yield runtime.to_unit_floats(images.images[indices], run.device)
