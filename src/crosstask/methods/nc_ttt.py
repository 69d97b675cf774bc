"""NC-TTT: a noise-contrastive approach to test-time training."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from crosstask.config import Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.batchnorm import Policy
from crosstask.methods.parts import taken
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.tasks.noise import Noise


@final
class NCTTT(Adapter):
    """Make early maps of the test batch look little noised to a source discriminator (Osowiechi et al. 2024).

    Loss: `mean softplus(q(z))`, where q is the logit of "much noise was added" of projected maps z; see
    `crosstask.tasks.noise`. Adam. What moves: the encoder up to the tapped layer and, under `ema`, the running averages
    of all its batch norms. Projector, discriminator and head stay frozen.
    Differences from the official code: no entropy term (an option there, off); the number of steps is fixed, where the
    paper reports the best of several by test labels.

    Args:
        model: the classifier that was trained beside the task.
        task: the noise told apart.
        steps: updates on each batch.
        learning_rate: of Adam.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`; `ema` is train mode in an update and eval mode in
            the prediction.

    Raises:
        AdapterError: the model is no `Classifier`, or the task is not the one it was trained beside.
    """

    def __init__(
        self,
        model: Classifier,
        task: Noise,
        *,
        steps: Steps = 20,
        learning_rate: Positive = 1e-5,
        batch_norm: Policy = "ema",
        batch_share: Share = 0.1,
    ) -> None:
        own = taken("NC-TTT", model, task, Noise)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.task = own
        moving = self.begin(f"encoder.{name}" for name in own.upstream)
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.task(self.model.get_submodule("encoder"), x, generator))
