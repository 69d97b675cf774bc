"""RoTTA: robust test-time adaptation in dynamic scenarios."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Count, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.augment import StrongViews
from crosstask.methods.batchnorm import Policy, learning, norm_parameters
from crosstask.methods.memory import BalancedMemory
from crosstask.methods.state import Descent
from crosstask.nets.shadow import Shadow


@final
class RoTTA(Adapter):
    """Learn from a balanced memory of the stream, with batch norm that moves slowly (Yuan et al. 2023).

    Every image enters a memory of `capacity` places, balanced over the classes the teacher predicts, where old and
    unsure images are replaced first. After every `every` images: loss `mean_i w_i CE(student(strong view of m_i),
    teacher(m_i))` over the memory, with `w_i = exp(-a_i) / (1 + exp(-a_i))` for the age a_i in capacities; a step of
    Adam on the norm layers' scales and shifts; and the teacher moves by `rate` of the way to the student. Batch norm
    normalises by running averages that each update moves by `batch_share`. The teacher predicts.
    Differences from the official code: the prediction is made after the update; in a strong view, the colours change in
    one order, where there it is random, the blur stands before gamma and the affine change, and its sigma is in pixels
    of an image 32 pixels wide, where there it is 0.001 to 0.5 pixels at every size. Online by nature: reset after every
    batch, it learns only if `every` fits into one.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: how often a batch enters the memory.
        learning_rate: of Adam.
        capacity: of the memory, in images.
        every: images between two updates.
        rate: of the teacher.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes the views.

    Raises:
        AdapterError: the model has no norm layer with a scale and a shift.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        capacity: Count = 64,
        every: Count = 64,
        rate: Share = 1e-3,
        batch_norm: Policy = "robust",
        batch_share: Share = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.every, self.rate = every, rate
        self.strong_views = StrongViews()
        self.memory = BalancedMemory(capacity)
        self.teacher = Shadow(self.model)
        moving = self.begin(norm_parameters(self.model))
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        with learning(self, under_way=False):
            logits = self.teacher(self.model, x)
        for images, ages in self.memory.offer(x, logits, self.every):
            self._learn(images, ages, generator)

    def predict(self, x: Tensor) -> Tensor:
        return self.teacher(self.model, x)

    def _learn(self, images: Tensor, ages: Tensor, generator: torch.Generator) -> None:
        target = self.teacher(self.model, images)
        student = self.model(self.strong_views(images, generator))
        if self.descent((torch.sigmoid(-ages) * losses.soft_cross_entropies(student, target)).mean()):
            self.teacher.follow(self.model, self.rate)
