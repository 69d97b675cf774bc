"""Figures of merit: logits and labels in, shares in 0..1 or nats out. Means and intervals live with the report."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `logits` [N, K] whose largest entry is at `labels` [N]."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-probability of the true class, in nats."""
    return F.cross_entropy(logits.double(), labels).item()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal bins of confidence (Guo et al. 2017, eq. 3)."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    correct = (predicted == labels).double()
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.double).index_add_(0, place, confidence - correct)
    return gap.abs().sum().item() / len(labels)


def flips(before: Tensor, after: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the shares of images that went from right to wrong and from wrong to right between two sets of logits."""
    right_before, right_after = before.argmax(dim=1) == labels, after.argmax(dim=1) == labels
    to_wrong = (right_before & ~right_after).double().mean().item()
    to_right = (~right_before & right_after).double().mean().item()
    return to_wrong, to_right


def over_stream(right: Tensor, windows: int = 20) -> list[float]:
    """Return the accuracy over the stream: the share of `right`, bool [N] in order of arrival, in equal parts of it."""
    parts = right.double().tensor_split(min(windows, len(right)))
    return [round(part.mean().item(), 6) for part in parts]


def packed(right: Tensor) -> str:
    """Return bool [N] as the base64 of its bits, the first image in the highest bit; `records.unpacked` undoes it."""
    return base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()
