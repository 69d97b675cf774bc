"""DeYO: destroy your object."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import losses
from crosstask.config import Count, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy, learning, norm_parameters
from crosstask.methods.sar import LATE
from crosstask.methods.state import Descent


@final
class DeYO(Adapter):
    """Minimise the entropy of predictions that rest on the shape of the object (Lee et al. 2024).

    With x' the image cut into patches and shuffled, and `d_i = p_i[y] - p'_i[y]` for the predicted class y: over the
    images S with `H_i < margin * ln K` and `d_i > difference`, the loss is
    `mean_S (exp(0.4 ln K - H_i) + exp(d_i)) H_i`. What moves: scales and shifts of norm layers, but for
    those of a fourth stage, and for those of blocks 9 to 11 of a vision transformer of timm's. Adam.
    Differences from the official code: the prediction is made after the update; the shuffled images of the whole batch
    go through the network, not of the sure ones alone, so that their batch statistics do not hang on the choice; Adam,
    as in the benchmark test-time-adaptation, in place of SGD; the final norm of a vision transformer (`norm`) moves
    here, and not there.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: updates on each batch.
        learning_rate: of Adam; for 224 pixels the paper has SGD with 2.5e-4.
        margin: largest entropy to learn from, as a share of ln K.
        difference: how much probability the predicted class has to lose by the shuffle.
        patches: a side.
        skip: a regular expression; norm parameters in whose names it is found do not move.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the shuffles.

    Raises:
        AdapterError: the model has no norm layer with a scale and a shift.
        ConfigError: `skip` leaves none over.
    """

    answers_first: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        margin: Share = 0.5,
        difference: Share = 0.2,
        patches: Count = 4,
        skip: str = LATE,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.margin, self.difference, self.patches = margin, difference, patches
        moving = self.begin(norm_parameters(self.model, skip))
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(x)
        entropies, classes = losses.entropies(logits), logits.argmax(dim=1, keepdim=True)
        with torch.no_grad():
            with learning(self, under_way=False):
                destroyed = self.model(shuffle_patches(x, self.patches, generator))
            lost, kept = (each.float().softmax(dim=1).gather(1, classes).squeeze(1) for each in (destroyed, logits))
            fall, log_classes = kept - lost, math.log(logits.shape[1])
            chosen = (entropies < self.margin * log_classes) & (fall > self.difference)
            weights = (0.4 * log_classes - entropies).exp() + fall.exp()
        if chosen.any():
            self.descent((weights[chosen] * entropies[chosen]).mean())
        return logits


def shuffle_patches(x: Tensor, patches: int, generator: torch.Generator) -> Tensor:
    """Cut images [B, C, H, W] into `patches` x `patches` pieces and put them together in random order, each its own.

    Sides that `patches` does not divide are resampled to the next smaller ones that it does, and back.
    """
    height, width = x.shape[2:]
    kernel = (max(1, height // patches), max(1, width // patches))
    size = (kernel[0] * patches, kernel[1] * patches)
    whole = x if size == (height, width) else F.interpolate(x, size, mode="bilinear")
    pieces = F.unfold(whole, kernel, stride=kernel)
    order = torch.rand(len(x), 1, pieces.shape[2], generator=generator, device=x.device).argsort(dim=2)
    mixed = F.fold(pieces.gather(2, order.expand_as(pieces)), size, kernel, stride=kernel)
    return mixed if size == (height, width) else F.interpolate(mixed, (height, width), mode="bilinear")
