"""Losses: pure functions, tensors in, a scalar tensor out, always computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(projections: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
    """Return SimCLR's normalised-temperature cross-entropy (Chen et al. 2020, eq. 1).

    For each of the 2B unit vectors z_i with partner z_p: `-log(exp(z_i.z_p / t) / sum_{k != i} exp(z_i.z_k / t))`,
    averaged over i.

    Args:
        projections: float tensor [2B, D]; rows i and i + B are two views of one image. Any length: normalised here.
        temperature: t > 0.
        rows: the i that are averaged over, int64 [R]; None: all. Each is compared with all others.
    """
    with torch.autocast(projections.device.type, enabled=False):
        z = F.normalize(projections.float(), dim=1)
        every = torch.arange(len(z), device=z.device)
        chosen = every if rows is None else rows
        similarity = (z if rows is None else z[rows]) @ z.T / temperature
        similarity = similarity.masked_fill(chosen[:, None] == every, float("-inf"))
        return F.cross_entropy(similarity, every.roll(len(z) // 2)[chosen])


def vicreg(projections: Tensor, *, invariance: float, variance: float, covariance: float) -> Tensor:
    """Return VICReg's loss (Bardes, Ponce, LeCun 2022, eq. 6, with the means of its algorithm 1).

    With Z, Z' [B, D] the projections of the two views and Cov their covariance over the batch (divisor B - 1):
    `invariance * mean_bj (Z - Z')_bj^2 + sum over Z and Z' of (variance * mean_j max(0, 1 - sqrt(Cov_jj + 1e-4)) +
    covariance / D * sum_{i != j} Cov_ij^2)`. A single image has no spread: there the sum is constant and moves nothing.

    Args:
        projections: float tensor [2B, D]; rows i and i + B are two views of one image.
        invariance, variance, covariance: weights; 25, 25 and 1 in the paper.
    """
    with torch.autocast(projections.device.type, enabled=False):
        pair = _pair(projections)
        loss = invariance * (pair[0] - pair[1]).square().mean()
        for z in pair - pair.mean(dim=1, keepdim=True):
            cov = z.T @ z / max(len(z) - 1, 1)
            spread = (cov.diagonal() + 1e-4).sqrt()
            loss = loss + variance * F.relu(1 - spread).mean() + covariance * _off_diagonal(cov) / len(cov)
        return loss


def barlow_twins(projections: Tensor, off_diagonal: float) -> Tensor:
    """Return Barlow Twins' distance of the views' cross-correlation from the identity (Zbontar et al. 2021, eq. 1).

    With C [D, D] the correlations, over the batch, between the dimensions of the two views' projections:
    `sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2`. Each dimension is divided by `sqrt(variance + 1e-5)`, as
    batch norm does, so that a constant one has no correlation. For a single image all are constant: C is 0, the loss D,
    and nothing moves.

    Args:
        projections: float tensor [2B, D]; rows i and i + B are two views of one image.
        off_diagonal: weight of the redundancy; 0.005 in the paper.
    """
    with torch.autocast(projections.device.type, enabled=False):
        pair = _pair(projections)
        pair = pair - pair.mean(dim=1, keepdim=True)
        first, second = pair / (pair.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        correlation = first.T @ second / len(first)
        return (1 - correlation.diagonal()).square().sum() + off_diagonal * _off_diagonal(correlation)


def byol(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return BYOL's squared distance of unit vectors, predictions from the other view's targets (Grill et al. 2020).

    With p and t of length one: `mean_b |p_b - t_{b+B}|^2 + |p_{b+B} - t_b|^2` (eq. 2, made symmetric as in sec. 3.1).

    Args:
        predictions: float tensor [2B, D], which receives the gradient; rows i and i + B are two views of one image.
        targets: float tensor [2B, D], held constant; likewise.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        p, t = F.normalize(predictions.float(), dim=1), F.normalize(targets.detach().float(), dim=1)
        return 2 * (p - t.roll(len(t) // 2, dims=0)).square().sum(dim=1).mean()


def _pair(projections: Tensor) -> Tensor:
    """Return [2B, D] as float32 [2, B, D]."""
    return projections.float().unflatten(0, (2, -1))


def _off_diagonal(square: Tensor) -> Tensor:
    """Return the sum of the squares of all entries of a square matrix that are not on its diagonal."""
    return (square - square.diagonal().diag()).square().sum()


def alignment(student: Tensor, teacher: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
    """Return the symmetric contrastive loss between paired features, as CLIP aligns two modalities.

    With `S_ij = cos(student_i, teacher_j) / t`: the mean of the cross-entropies of S and of its transpose against the
    diagonal (Radford et al. 2021, fig. 3; CTA, arXiv 2507.05221).

    Args:
        student: float tensor [B, D], which receives the gradient.
        teacher: float tensor [B, D], held constant.
        temperature: t > 0.
        rows: of S and of its transpose, those that are averaged over, int64 [R]; None: all.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(student.float(), dim=1), F.normalize(teacher.detach().float(), dim=1)
        if rows is None:
            similarity = s @ t.T / temperature
            pairs, partner = (similarity, similarity.T), torch.arange(len(s), device=s.device)
        else:
            pairs, partner = (s[rows] @ t.T / temperature, t[rows] @ s.T / temperature), rows
        return (F.cross_entropy(pairs[0], partner) + F.cross_entropy(pairs[1], partner)) / 2


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
