"""MEMO: marginal entropy minimisation with one test point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from crosstask.config import Count, Positive, Share, Steps
from crosstask.methods.adapter import Adapter, Passes
from crosstask.methods.augment import memo_views
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import all_names
from crosstask.methods.state import Descent


@final
class MEMO(Adapter):
    """Minimise the entropy of the mean prediction over views of one image, each image for itself (Zhang et al. 2022).

    Loss, with p the mean of the predictions of `views` AugMix views of the image: `H(p)`. Plain SGD over all
    parameters; the next image starts from the source again, whatever the caller resets.
    Differences from the official code: batch norm mixes the source's statistics with the views' (17 parts, one of them
    the views'; Schneider et al. 2020), as in the benchmark test-time-adaptation, where the official one has a network
    with group norm in eval mode; the views are batched, and what they lose at the edges is black.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: updates on each image.
        learning_rate: of SGD; for 224 pixels 2.5e-4.
        views: an image; for 224 pixels 64.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the views.

    Raises:
        AdapterError: the model has no parameters.
    """

    images_apart: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 5e-3,
        views: Count = 32,
        batch_norm: Policy = "mixed",
        batch_share: Share = 1 / 17,
        seed: int = 0,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.views = views
        moving = self.begin(all_names(self.model))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, fused=True))

    @classmethod
    def passes(cls, usual: Passes, arguments: Mapping[str, Any], task: nn.Module | None) -> Passes:
        return arguments["views"], arguments["views"]

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        logits = self.model(memo_views(x.expand(self.views, -1, -1, -1), generator))
        log_mean = logits.float().log_softmax(dim=1).logsumexp(dim=0) - math.log(self.views)
        self.descent(-(log_mean.exp() * log_mean).sum())
