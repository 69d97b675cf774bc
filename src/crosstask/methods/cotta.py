"""CoTTA: continual test-time adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Count, Positive, Share, Steps
from crosstask.methods.adapter import Adapter, Passes
from crosstask.methods.augment import StrongViews
from crosstask.methods.batchnorm import Policy, learning
from crosstask.methods.parts import all_names
from crosstask.methods.state import Descent
from crosstask.nets.shadow import Shadow


@final
class CoTTA(Adapter):
    """Learn from a teacher that averages the student over time and its predictions over views (Wang et al. 2022).

    Loss: the mean cross-entropy of the student's predictions of x against the teacher's. Where the source model is sure
    of the batch (mean largest probability at least `sure`) the teacher looks at x itself, else its logits are averaged
    over `views` strong views. After a step of Adam on all parameters, the teacher moves `1 - keep` of the way to the
    student, and a share `restore_share` of the student's weights, drawn at random, goes back to the source. The
    teacher predicts.
    Differences from the official code: the prediction is one pass of the teacher over x after the update, where that
    code returns the teacher's prediction from before it, averaged over the views where the source is unsure; in a view,
    the colours change in one order, where there it is random, the blur stands before gamma and the affine change, and
    its sigma is in pixels of an image 32 pixels wide, where there it is 0.001 to 0.5 pixels at every size. For ImageNet
    the official loss is symmetric.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
        steps: updates on each batch.
        learning_rate: of Adam.
        keep: of the teacher's average.
        views: averaged by the teacher.
        sure: 0.92 for CIFAR-10, 0.72 for CIFAR-100, 0.1 for ImageNet.
        restore_share: of the weights, for each step; 0.001 for ImageNet.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`.
        seed: fixes views and what is restored.

    Raises:
        AdapterError: the model has no parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Steps = 1,
        learning_rate: Positive = 1e-3,
        keep: Share = 0.999,
        views: Count = 32,
        sure: Share = 0.92,
        restore_share: Share = 0.01,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.keep, self.views, self.sure, self.restore_share = keep, views, sure, restore_share
        self.strong_views = StrongViews()
        self.anchor, self.teacher = Shadow(self.model), Shadow(self.model)
        moving = self.begin(all_names(self.model))
        self.descent = Descent(torch.optim.Adam(moving, lr=learning_rate, fused=True))

    @classmethod
    def passes(cls, usual: Passes, arguments: Mapping[str, Any], task: nn.Module | None) -> Passes:
        return arguments["views"] + 2, 1  # where the source is not sure

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        target = self._target(x, generator)
        if not self.descent(losses.soft_cross_entropies(self.model(x), target).mean()):
            return
        self.teacher.follow(self.model, 1 - self.keep)
        self._restore_some(generator)

    def predict(self, x: Tensor) -> Tensor:
        return self.teacher(self.model, x)

    def _target(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the teacher's logits: of the batch itself, or averaged over views where the source is not sure."""
        with learning(self, under_way=False):
            sureness = self.anchor(self.model, x).float().softmax(dim=1).amax(dim=1).mean()
        if sureness >= self.sure:
            return self.teacher(self.model, x)
        total = torch.stack(
            [self.teacher(self.model, self.strong_views(x, generator)).float() for _ in range(self.views)]
        )
        return total.mean(dim=0)

    @torch.no_grad()
    def _restore_some(self, generator: torch.Generator) -> None:
        for parameter, source in zip(self.moving_parameters, self.source_values, strict=True):
            draws = torch.rand(parameter.shape, generator=generator, device=parameter.device)
            parameter.copy_(torch.where(draws < self.restore_share, source, parameter))
