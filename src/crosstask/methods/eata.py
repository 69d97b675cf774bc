"""EATA: efficient anti-forgetting test-time adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import losses
from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.errors import AdapterError
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy, norm_parameters
from crosstask.methods.state import Average, Descent

FISHER = "fisher."
"""Begins the names of a checkpoint's Fisher values; the parameter's name in the classifier follows."""


@final
class EATA(Adapter):
    """Minimise the entropy of sure and unlike predictions, near the source's weights (Niu et al. 2022).

    Loss, over the images S with `H_i < margin * ln K` and `|cos(p_i, m)| < redundancy`, m the moving average of the
    chosen predictions: `mean_S exp(margin * ln K - H_i) H_i + fisher_weight * sum_j F_j (theta_j - source_j)^2`, over
    the norm layers' scales and shifts. Adam. With `fisher_weight=0` it is ETA and needs no Fisher values.
    Differences from the official code: the prediction is made after the update; Adam, as in the benchmark
    test-time-adaptation, in place of SGD.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        statistics: of the source; `fisher.NAME` for each norm parameter NAME, as a supervised checkpoint holds them.
        steps: updates on each batch.
        learning_rate: of Adam; for 224 pixels the paper has SGD with 2.5e-4.
        margin: largest entropy to learn from, as a share of ln K.
        redundancy: largest likeness to the average prediction; 0.4 for 10 classes, 0.1 for 100, 0.05 for ImageNet. No
            prediction of K classes is less like an even average than 1 / sqrt(K): below that (0.4 is, for K <= 6)
            nothing is chosen after the first update, but for classes that are rare in the average.
        fisher_weight: of the penalty; 1 for CIFAR, 2000 for ImageNet.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: there is no norm layer with a scale and a shift, or Fisher values are missing.
    """

    answers_first: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        statistics: Mapping[str, Tensor],
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        margin: Share = 0.4,
        redundancy: Positive = 0.4,
        fisher_weight: NotNegative = 1.0,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.margin, self.redundancy, self.fisher_weight = margin, redundancy, fisher_weight
        names = list(norm_parameters(self.model))
        for index, name in enumerate(names if fisher_weight else ()):
            if FISHER + name not in statistics:
                raise AdapterError(
                    f"EATA needs the source's Fisher value of {name}, which these statistics lack: an older "
                    "version made the checkpoint. Train it anew in another folder, or set fisher_weight=0 (ETA)"
                )
            self.register_buffer(f"fisher{index}", statistics[FISHER + name].clone())
        self.fisher = [f"fisher{index}" for index in range(len(names))] if fisher_weight else []
        self.average = Average(keep=0.9)
        self.descent = Descent(torch.optim.Adam(self.begin(names), lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(x)
        entropies = losses.entropies(logits)
        limit = self.margin * math.log(logits.shape[1])
        probabilities = logits.detach().float().softmax(dim=1)
        chosen = entropies.detach() < limit
        if self.average.value is not None:
            likeness = F.cosine_similarity(self.average.value.to(x.device)[None], probabilities, dim=1)
            chosen &= likeness.abs() < self.redundancy
        if not chosen.any():
            return logits
        self.average(probabilities[chosen].mean(dim=0))
        weights = (limit - entropies.detach()[chosen]).exp()
        self.descent((weights * entropies[chosen]).mean() + self.fisher_weight * self._forgotten())
        return logits

    def _forgotten(self) -> Tensor | float:
        """Return how far the parameters have moved from the source, by what mattered there."""
        moved = zip(self.fisher, self.moving_parameters, self.source_values, strict=False)
        terms = [(self.get_buffer(fisher) * (now - then).square()).sum() for fisher, now, then in moved]
        return torch.stack(terms).sum() if terms else 0.0
