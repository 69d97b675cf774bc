"""LAME: Laplacian adjusted maximum-likelihood estimation."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.config import Count, Share
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.nets.taps import last_linear, with_features

_STEPS, _TOLERANCE = 100, 1e-8


@final
class LAME(Adapter):
    """Correct a batch's predictions so that neighbours in feature space agree (Boudiaf et al. 2022).

    From `Y_i = p_i`, repeat `Y_i <- softmax(log p_i + sum_j W_ij Y_j)` until the energy rests, at most 100 times, with
    W the affinities of the L2-normalised features. The answer is log Y; no parameter moves. It is made for streams
    whose neighbours in time share a class; on an i.i.d. stream it can only lose a little, and under strong shifts it
    amplifies errors.
    Differences from the official code: `knn` is the default affinity for every data set; an image whose features or
    prediction are not finite is nobody's neighbour, and its logits stay as they are.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K] by an `nn.Linear` at its end.
        affinity: `knn`: W_ij = 1 for the nearest neighbours; `rbf`: Gaussian, as wide as the mean distance to the
            farthest of them; `linear`: the inner product.
        neighbours: how many.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model has no linear layer; on a batch, it does not end with its last one.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        affinity: Literal["knn", "rbf", "linear"] = "knn",
        neighbours: Count = 5,
        batch_norm: Policy = "source",
        batch_share: Share = 0.5,
    ) -> None:
        super().__init__(model, steps=0, batch_norm=batch_norm, batch_share=batch_share)
        last_linear(self.model)
        self.affinity, self.neighbours = affinity, neighbours
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        """Learn nothing: the correction is made when the batch is predicted."""

    def predict(self, x: Tensor) -> Tensor:
        logits, features = with_features(self.model, x)
        with torch.autocast(x.device.type, enabled=False):
            finite = features.isfinite().all(dim=1) & logits.softmax(dim=1).isfinite().all(dim=1)
            if finite.all() or not finite.any():
                return self._corrected(logits, features)
            answer = logits.clone()
            answer[finite] = self._corrected(logits[finite], features[finite])
            return answer

    def _corrected(self, logits: Tensor, features: Tensor) -> Tensor:
        return self._agreed(logits, self._affinities(F.normalize(features.float(), dim=1)))

    def _agreed(self, logits: Tensor, kernel: Tensor) -> Tensor:
        """Return the log of Y where the energy rests."""
        unary = -(logits.float().softmax(dim=1) + 1e-10).log()
        y, last = (-unary).softmax(dim=1), torch.inf
        for step in range(_STEPS):
            pairwise = kernel @ y
            y = (pairwise - unary).softmax(dim=1)
            energy = float((y * (unary - pairwise + y.clamp(min=1e-20).log())).sum())
            if step > 1 and abs(energy - last) <= _TOLERANCE * abs(last):
                break
            last = energy
        return y.clamp(min=1e-20).log().to(logits.dtype)

    def _affinities(self, features: Tensor) -> Tensor:
        """Return W [B, B] of features of length one."""
        if self.affinity == "linear":
            return features @ features.T
        distances = torch.cdist(features, features)
        count = min(self.neighbours + (self.affinity == "knn"), len(features))
        nearest, places = distances.topk(count, dim=1, largest=False)
        if self.affinity == "knn":
            return torch.zeros_like(distances).scatter_(1, places[:, 1:], 1.0)
        width = nearest[:, -1].mean().clamp(min=1e-12)
        return (-distances.square() / (2 * width.square())).exp()
