"""Losses: pure functions, tensors in, a scalar tensor out, always computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's normalised-temperature cross-entropy (Chen et al. 2020, eq. 1).

    For each of the 2B unit vectors z_i with partner z_p: `-log(exp(z_i.z_p / t) / sum_{k != i} exp(z_i.z_k / t))`,
    averaged over i.

    Args:
        projections: float tensor [2B, D]; rows i and i + B are two views of one image. Any length: normalised here.
        temperature: t > 0.
    """
    with torch.autocast(projections.device.type, enabled=False):
        z = F.normalize(projections.float(), dim=1)
        similarity = z @ z.T / temperature
        similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return F.cross_entropy(similarity, partner)


def alignment(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the symmetric contrastive loss between paired features, as CLIP aligns two modalities.

    With `S_ij = cos(student_i, teacher_j) / t`: the mean of the cross-entropies of S and of its transpose against the
    diagonal (Radford et al. 2021, fig. 3; CTA, arXiv 2507.05221).

    Args:
        student: float tensor [B, D], which receives the gradient.
        teacher: float tensor [B, D], held constant.
        temperature: t > 0.
    """
    with torch.autocast(student.device.type, enabled=False):
        similarity = F.normalize(student.float(), dim=1) @ F.normalize(teacher.detach().float(), dim=1).T / temperature
        diagonal = torch.arange(len(similarity), device=similarity.device)
        return (F.cross_entropy(similarity, diagonal) + F.cross_entropy(similarity.T, diagonal)) / 2


def distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the divergence KL(teacher || student) between two classifiers' outputs, averaged over the batch.

    Args:
        student_logits: float tensor [B, K], which receives the gradient.
        teacher_logits: float tensor [B, K], held constant.
    """
    student = F.log_softmax(student_logits.float(), dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float(), dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def entropies(logits: Tensor) -> Tensor:
    """Return the Shannon entropies [B] in nats of the predictions of `logits` [B, K]."""
    log_p = F.log_softmax(logits.float(), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the mean Shannon entropy in nats of the predictions of `logits` [B, K]."""
    return entropies(logits).mean()


def soft_cross_entropies(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the cross-entropies [B] in nats of predictions against soft targets: `-sum_k softmax(t)_k log p_k`.

    Args:
        logits: float tensor [B, K], which receives the gradient.
        target_logits: float tensor [B, K]; detach it where it is to be held constant.
    """
    return -(F.softmax(target_logits.float(), dim=1) * F.log_softmax(logits.float(), dim=1)).sum(dim=1)
