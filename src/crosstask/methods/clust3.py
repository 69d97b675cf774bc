"""ClusT3: information-invariant clusters of positions."""

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
from crosstask.tasks.clusters import Clusters


@final
class ClusT3(Adapter):
    """Cluster the positions of early maps surely and evenly on the test batch (Hakim et al. 2023).

    Loss: `mean_i H(p_i) - H(mean_i p_i)` over the cluster probabilities p_i of all positions i, summed over projectors
    and layers; see `crosstask.tasks.clusters`. Adam. What moves: the encoder up to the tapped layers and, under `ema`,
    the running averages of all its batch norms. Projectors and head stay frozen.
    Differences from the official code: the loss is the paper's (see the task); the number of steps is fixed, where the
    paper reports the best of several by test labels.

    Args:
        model: the classifier that was trained beside the task.
        task: the clusters.
        steps: updates on each batch.
        learning_rate: of Adam.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`; `ema` is train mode in an update and eval mode in
            the prediction.

    Raises:
        AdapterError: the model is no `Classifier`, or the task is none of its clusters.
    """

    def __init__(
        self,
        model: Classifier,
        task: Clusters,
        *,
        steps: Steps = 20,
        learning_rate: Positive = 1e-5,
        batch_norm: Policy = "ema",
        batch_share: Share = 0.1,
    ) -> None:
        own = taken("ClusT3", model, task, Clusters)
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share)
        self.task = own
        moving = self.begin(f"encoder.{name}" for name in own.upstream)
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        self.descent(self.task(self.model.get_submodule("encoder"), x, generator))
