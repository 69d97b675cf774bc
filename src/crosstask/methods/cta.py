"""CTA: test-time training by cross-task alignment, the method this project exists for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Count, NotNegative, Positive, Share, Steps
from crosstask.errors import AdapterError, ConfigError
from crosstask.methods.adapter import Adapter, Passes
from crosstask.methods.batchnorm import Policy, has_batch_norm, learning, set_batch_norm
from crosstask.methods.memory import BalancedMemory
from crosstask.methods.parts import check_classifier, encoder_names
from crosstask.methods.state import Descent
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask, SimCLR
from crosstask.views import ViewSampler

_UNALIGNED = (
    "CTA without a task, on a network without batch norm: the two such networks measured gained nothing by it or were "
    "harmed; align the encoder first (`crosstask.align`)"
)


@final
class CTA(Adapter):
    """Train the aligned encoder with its self-supervised task on the test batch (Barbeau et al., arXiv 2507.05221).

    The frozen head of the supervised classifier reads the features of an encoder that was trained without labels and
    then aligned to the supervised one. On a batch of unlabelled images x, `steps` times:

        theta <- theta - learning_rate * grad task(f_theta, views of x)

    over all parameters theta of the encoder f, with momentum; then `head(f_theta(x))` on the images themselves. With
    SimCLR, as in the paper, the task is NT-Xent on two random views; it may be any of `crosstask.tasks.TASKS`. What the
    task holds stays frozen, as the head does: its projector, BYOL's target network, the classifier of rotations. With
    `entropy` above zero the mean entropy of the head's predictions, as TENT has it, is a second loss (CTA + TENT).

    Each step ends, as in ROID (Marsden et al. 2024), with `theta <- keep * theta + (1 - keep) * source`: however many
    steps there are, the encoder stays near its source. The paper has nothing of the kind: `keep=1`.

    A classifier as it is, trained by anyone and aligned with nothing, has no task. Without one (`task=None`) NT-Xent
    compares the views in the features themselves, with no projector between, and no crop is of less than half of the
    image, as the classifier may not know smaller ones; all else is as above. That helped a small ResNet with batch norm
    about as much as CTA with alignment. Two networks without batch norm had to be aligned: as they were, a rate of 1e-4
    did nothing for them, and larger ones, the default too, did harm (`docs/log.md`): there a warning says so.

    Online, with one step a batch and no reset, the first batches are predicted before much is learned. With
    `first_steps=20` the first one is learned from as long as if it stood alone, and the others go on from there.

    In small batches with classes at random `batch_norm="prior"` is what helps, and `learning_rate=1e-3` does no harm;
    updates add nothing to sixteen images (`docs/log.md`).

    On a stream whose batches are small, or hold few classes at a time, the task has too little to compare. With a
    `memory`, as in RoTTA (Yuan et al. 2023), images are kept that are balanced over the classes predicted, and after
    every `memory` new ones a step is taken on what is kept, however they come in batches. That is for streams that are
    never reset, with `steps=1`, `learning_rate=1e-3`, `batch_norm="robust"`, `batch_share=0.05`.

    Args:
        model: the aligned encoder with the frozen head.
        task: the self-supervised task the encoder was aligned with; None for an encoder that is not aligned.
        steps: updates on each batch; 1 with a memory.
        first_steps: with one step a batch, those on the first batch after the start or a reset.
        learning_rate, momentum: of SGD.
        batch_norm, batch_share: see `crosstask.methods.batchnorm`; for the views and for the prediction alike.
        entropy: weight of the predictions' mean entropy as a second loss; costs a pass more.
        keep: how much of what was learned each step keeps.
        memory: places in the memory, of which there should be several for each class; 0: none.
        seed: fixes the views.

    Raises:
        AdapterError: the model is no `Classifier`, the task of another kind, or the encoder has no parameters.
        ConfigError: `steps`, `first_steps` and `memory` do not go together.
    """

    started: Tensor

    def __init__(
        self,
        model: Classifier,
        task: SelfSupervisedTask | None = None,
        *,
        steps: Steps = 20,
        first_steps: Count = 1,
        learning_rate: Positive = 1e-2,
        momentum: Share = 0.9,
        batch_norm: Policy = "batch",
        batch_share: Share = 0.5,
        entropy: NotNegative = 0.0,
        keep: Share = 0.95,
        memory: Steps = 0,
        seed: int = 0,
    ) -> None:
        check_classifier("CTA", model)
        if task is None:
            if not has_batch_norm(model):
                warnings.warn(_UNALIGNED, stacklevel=2)
            task = SimCLR(0, ViewSampler(), hidden=0)
        elif not isinstance(task, SelfSupervisedTask):
            raise AdapterError(f"CTA needs the self-supervised task of its alignment, and got a {type(task).__name__}")
        self.check_together({"steps": steps, "first_steps": first_steps, "memory": memory})
        super().__init__(model, steps=steps, batch_norm=batch_norm, batch_share=batch_share, seed=seed)
        self.entropy, self.keep, self.first_steps = entropy, keep, first_steps
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.memory = BalancedMemory(memory) if memory else None
        self.task = copy.deepcopy(task).requires_grad_(False)
        set_batch_norm(self.task, batch_norm, batch_share)
        moving = self.begin(encoder_names(self.model))
        self.descent = Descent(torch.optim.SGD(moving, lr=learning_rate, momentum=momentum, fused=True))

    @classmethod
    def check_together(cls, arguments: Mapping[str, Any]) -> None:
        steps, first_steps, memory = (arguments[name] for name in ("steps", "first_steps", "memory"))
        if memory and (steps > 1 or first_steps > 1):
            raise ConfigError(
                f"with a memory a step is taken after every {memory} images: steps=1 and first_steps=1, "
                f"not {steps} and {first_steps}"
            )
        if first_steps > 1 and steps != 1:
            raise ConfigError(f"first_steps is for one step a batch: steps=1, not {steps}")

    @classmethod
    def passes(cls, usual: Passes, arguments: Mapping[str, Any], task: nn.Module | None) -> Passes:
        forward, backward = task.passes if isinstance(task, SelfSupervisedTask) else usual
        predicted, entropy = int(arguments["memory"] > 0), int(arguments["entropy"] > 0)
        return forward + predicted + entropy, backward + entropy

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        if self.memory is None:
            for _ in range(1 if self.first_steps == 1 or self.started else self.first_steps):
                self._learn(x, generator)
            self.started.fill_(True)
            return
        with torch.no_grad(), learning(self, under_way=False):
            logits = self.model(x)
        for images, _ in self.memory.offer(x, logits, self.memory.capacity):
            self._learn(images, generator)

    def _learn(self, x: Tensor, generator: torch.Generator) -> None:
        torch.clear_autocast_cache()  # it has the weights as they were before the last step
        loss = self.task(self.model.get_submodule("encoder"), x, generator)
        if self.entropy:
            loss = loss + self.entropy * losses.entropy(self.model(x))
        if self.descent(loss) and self.keep < 1:
            with torch.no_grad():
                torch._foreach_lerp_(self.moving_parameters, self.source_values, 1 - self.keep)
