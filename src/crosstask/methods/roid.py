"""ROID: robust entropy minimisation by universal test-time adaptation."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import losses
from crosstask.config import Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.augment import StrongViews
from crosstask.methods.batchnorm import Policy, norm_parameters
from crosstask.methods.state import Average, Descent

_CLIP, _SMOOTH = 0.99, 1e-5


@final
class ROID(Adapter):
    """Weighted soft likelihood ratios, consistency, and a pull to the source (Marsden, Doebler & Yang 2024).

    Weights: `w_i = exp(d_i c_i / temperature)` with d_i the unlikeness `1 - cos(m, p_i)` to the moving average m of
    the predictions and c_i the negative entropy, each scaled to [0, 1] within the batch; images with d_i below its mean
    are left out. Loss: `sum_i w_i (SLR(p_i) + SCE(p'_i, p_i)) / B`, with
    `SLR(p) = -sum_k p_k ln(p_k / (1 - p_k))`, p clipped at 0.99, and SCE the symmetric cross-entropy against a weakly
    changed view. Adam on the norm layers' scales and shifts; then each moves back by `1 - keep` of the way to the
    source. Logits are scaled by the batch's smoothed class prior.
    Differences from the official code: the prediction is made after the update; the weak view is CoTTA's without blur
    and noise, as there, but at half its strength, where that code has full strength.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: updates on each batch.
        learning_rate: of Adam; for 224 pixels the paper has SGD with 2.5e-4.
        temperature: of the weights.
        keep: of the adapted weights, for each step.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the views.

    Raises:
        AdapterError: the model has no norm layer with a scale and a shift.
    """

    answers_first: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        temperature: Positive = 1 / 3,
        keep: Share = 0.99,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.temperature, self.keep = temperature, keep
        self.weak_views = StrongViews(0.5, blur=False, padding="reflection")
        self.average = Average(keep=0.9)
        moving = self.begin(norm_parameters(self.model))
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(x)
        weights, chosen = self._weights(logits.detach().float())
        if not chosen.any():
            return _corrected(logits.detach())
        changed = self.model(self.weak_views(x[chosen], generator))
        kept = logits[chosen]
        agreement = (losses.soft_cross_entropies(changed, kept) + losses.soft_cross_entropies(kept, changed)) / 2
        loss = (weights[chosen] * (likelihood_ratios(kept) + agreement)).sum() / len(x)
        if self.descent(loss):
            with torch.no_grad():
                torch._foreach_lerp_(self.moving_parameters, self.source_values, 1 - self.keep)
        return _corrected(logits.detach())

    def predict(self, x: Tensor) -> Tensor:
        return _corrected(self.model(x))

    @torch.no_grad()
    def _weights(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images' weights [B] and which images count; move the average prediction."""
        p = logits.softmax(dim=1)
        if self.average.value is None:
            self.average(torch.full_like(p[0], 1 / p.shape[1]))
        assert self.average.value is not None
        unlike = _scaled(1 - F.cosine_similarity(self.average.value.to(p)[None], p, dim=1))
        sure = _scaled(-losses.entropies(logits))
        self.average(p.mean(dim=0))
        return (unlike * sure / self.temperature).exp(), unlike >= unlike.mean()


def likelihood_ratios(logits: Tensor) -> Tensor:
    """Return the negative soft likelihood ratios [B] of predictions [B, K]: `-sum_k p_k ln(p_k / (1 - p_k))`."""
    p = logits.float().softmax(dim=1).clamp(max=_CLIP)
    return -(p * (p / (1 - p) + _SMOOTH).log()).sum(dim=1)


def _corrected(logits: Tensor) -> Tensor:
    """Return logits [B, K] weighted by the batch's own prior, smoothed (sec. 3.5); what is not finite has no part."""
    p = logits.float().softmax(dim=1)
    finite = p.isfinite().all(dim=1)
    if 0 < int(finite.sum()) < len(p):
        p = p[finite]
    prior = p.mean(dim=0)
    smooth = max(1 / len(p), 1 / len(prior)) / prior.max()
    return (logits * ((prior + smooth) / (1 + smooth * len(prior)))).to(logits.dtype)


def _scaled(values: Tensor) -> Tensor:
    """Scale values [B] to [0, 1]; equal ones become 0."""
    return (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
