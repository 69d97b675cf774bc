"""SAR: sharpness-aware and reliable entropy minimisation."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import NotNegative, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy, norm_parameters
from crosstask.methods.state import Average, Descent

LATE = r"(layer4|stages\.3|blocks\.(9|10|11))\."
"""Norm layers of a fourth stage, and of blocks 9 to 11 of a vision transformer of timm's; others have none."""


@final
class SAR(Adapter):
    """Minimise the entropy of sure predictions where its minimum is flat (Niu et al. 2023).

    Loss: `mean H_i` over the images with `H_i < margin * ln K`. Its gradient g is taken at
    `theta + radius * g / ||g||`, over those images of the first choice that are still sure there (SAM), and descended
    with SGD from theta. When the moving average of that second loss falls below `reset_below`, the model goes back to
    the source. What moves: scales and shifts of norm layers, but for those of a fourth stage, and for those of blocks 9
    to 11 of a vision transformer of timm's.
    Differences from the official code: the prediction is made after the update; the average is forgotten when the model
    goes back, where that code puts the old one back after it, and so goes back again after every update until the
    average has risen above the threshold; the final norm of a vision transformer (`norm`) moves here, and not there.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: updates on each batch.
        learning_rate, momentum: of SGD; for 224 pixels the learning rate is 2.5e-4.
        margin: largest entropy to learn from, as a share of ln K.
        radius: how far the gradient is taken uphill.
        reset_below: the average loss below which the model is taken for collapsed, in nats whatever the classes. 0.2 is
            made for 1000 of them, where sure means an entropy below 2.76. With few it means one below 0.92 (10 classes)
            or 0.28 (2): the average, which begins at the first loss, can be below 0.2 at once, and SAR then goes back
            in the same update, each time, and learns nothing. Lower it there; 0 never goes back.
        skip: a regular expression; norm parameters in whose names it is found do not move.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

    Raises:
        AdapterError: the model has no norm layer with a scale and a shift.
        ConfigError: `skip` leaves none over.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        momentum: Share = 0.9,
        margin: Share = 0.4,
        radius: Positive = 0.05,
        reset_below: NotNegative = 0.2,
        skip: str = LATE,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.margin, self.radius, self.reset_below = margin, radius, reset_below
        self.average = Average(keep=0.9)
        moving = self.begin(norm_parameters(self.model, skip))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        entropies, sure = self._sure(x)
        if not sure.any():
            return
        if not self.descent.gradient(entropies[sure].mean()):
            self.descent.optimiser.zero_grad()
            return
        below = self._climb()
        entropies, still_sure = self._sure(x)
        chosen = sure & still_sure
        taken = bool(chosen.any()) and self.descent.gradient(loss := entropies[chosen].mean())
        with torch.no_grad():
            torch._foreach_copy_(self.moving_parameters, below)
        if taken:
            self.descent.optimiser.step()
            self.average(loss)
        self.descent.optimiser.zero_grad()
        if self.average.value is not None and float(self.average.value) < self.reset_below:
            self.restore()

    def _sure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropies of the predictions, and which of them are small enough to learn from."""
        logits = self.model(x)
        entropies = losses.entropies(logits)
        return entropies, entropies.detach() < self.margin * math.log(logits.shape[1])

    @torch.no_grad()
    def _climb(self) -> list[Tensor]:
        """Go uphill along the gradient and drop it; return where the parameters were."""
        below = [parameter.detach().clone() for parameter in self.moving_parameters]
        moved = [parameter for parameter in self.moving_parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        scale = self.radius / (torch.nn.utils.get_total_norm(gradients) + 1e-12)
        torch._foreach_add_(moved, [scale * gradient for gradient in gradients])
        self.descent.optimiser.zero_grad()
        return below
