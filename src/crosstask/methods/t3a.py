"""T3A: test-time classifier adjustment."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import losses
from crosstask.config import Count, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.nets.taps import last_linear, with_features

_EMPTY = 1e6
"""The entropy of a place without a support, higher than any."""


@final
class T3A(Adapter):
    """Replace the last layer by templates of the classes, from the surest features seen (Iwasawa & Matsuo 2021).

    Every feature z joins the supports of the class it is predicted as; a class keeps the `keep` supports of lowest
    entropy, the rows of the last layer being the first. Prediction: `z . c_k / ||c_k||`, with c_k the sum of the
    class's supports, each of length one. No gradient: only the supports move. Online by nature: a batch by itself
    changes little.
    Difference from the official code: the supports have a bounded number of places; "all of them" is not offered.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K] by an `nn.Linear` at its end.
        steps: how often a batch's features join the supports.
        keep: supports a class; the paper chooses among 1, 5, 20, 50, 100 and all.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model has no linear layer; on a batch, it does not end with its last one.
    """

    entropies: Tensor
    supports: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        keep: Count = 100,
        batch_norm: Policy = "source",
        batch_share: Share = 0.5,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        last = last_linear(self.model)
        classes, width = last.weight.shape
        self.register_buffer("entropies", torch.full((classes, keep), _EMPTY, device=last.weight.device))
        self.register_buffer("supports", torch.zeros(classes, keep, width, device=last.weight.device))
        with torch.no_grad(), torch.autocast(last.weight.device.type, enabled=False):
            self._remember(last(last.weight), last.weight)
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        with torch.no_grad():
            self._remember(*with_features(self.model, x))

    def predict(self, x: Tensor) -> Tensor:
        logits, features = with_features(self.model, x)
        templates = F.normalize(F.normalize(self.supports, dim=2).sum(dim=1), dim=1)
        with torch.autocast(x.device.type, enabled=False):
            return (features.float() @ templates.T).to(logits.dtype)

    def _remember(self, logits: Tensor, features: Tensor) -> None:
        """Let features [B, D] compete for the places of the class they are predicted as; NaN has no chance."""
        entropies = losses.entropies(logits).nan_to_num(nan=_EMPTY)
        mine = logits.argmax(dim=1) == torch.arange(len(self.entropies), device=logits.device)[:, None]
        offered = torch.cat([self.entropies, torch.where(mine, entropies, _EMPTY)], dim=1)
        keep, width = self.supports.shape[1:]
        lowest, places = offered.topk(keep, dim=1, largest=False)
        old = self.supports.gather(1, places.clamp(max=keep - 1)[:, :, None].expand(-1, -1, width))
        new = features.float()[(places - keep).clamp(min=0)]
        chosen = torch.where((places < keep)[:, :, None], old, new)
        self.supports.copy_(torch.where((lowest < _EMPTY)[:, :, None], chosen, 0))
        self.entropies.copy_(lowest)
