"""TENT: test-time entropy minimisation."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy, norm_parameters
from crosstask.methods.state import Descent


@final
class Tent(Adapter):
    """Minimise the mean entropy of the predictions over the norm layers' scales and shifts (Wang et al. 2021).

    Loss: `H(softmax(model(x)))`, averaged over the batch. Adam.
    Difference from the official code: the prediction is made after the update, not in the forward pass before it, so
    that one episodic step counts; that costs one more forward pass.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K]; batch, group and layer norms are adapted.
        steps: updates on each batch.
        learning_rate: of Adam; for 224 pixels the paper has SGD with 2.5e-4.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.

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
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        moving = self.begin(norm_parameters(self.model))
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(x)
        self.descent(losses.entropy(logits))
        return logits
