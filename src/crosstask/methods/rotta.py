"""RoTTA: robust test-time adaptation in dynamic scenarios."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Count, Positive, Share, Steps
from crosstask.methods.adapter import Adapter
from crosstask.methods.augment import StrongViews
from crosstask.methods.batchnorm import Policy, learning, norm_parameters
from crosstask.methods.state import Descent, Forgetful
from crosstask.nets.shadow import Shadow


@final
class RoTTA(Adapter):
    """Learn from a balanced memory of the stream, with batch norm that moves slowly (Yuan et al. 2023).

    Every image enters a memory of `capacity` places, balanced over the classes the teacher predicts, where old and
    unsure images are replaced first. After every `every` images: loss `mean_i w_i CE(student(strong view of m_i),
    teacher(m_i))` over the memory, with `w_i = exp(-a_i) / (1 + exp(-a_i))` for the age a_i in capacities; a step of
    Adam on the norm layers' scales and shifts; and the teacher moves by `rate` of the way to the student. Batch norm
    normalises by running averages that each update moves by `batch_share`. The teacher predicts.
    Differences from the official code: the prediction is made after the update; the blur stands before the affine
    change in a strong view. Online by nature: reset after every batch, it learns only if `every` fits into one.

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
        entropies, classes = losses.entropies(logits) / math.log(logits.shape[1]), logits.argmax(dim=1)
        for image, label, unsure in zip(x, classes.tolist(), entropies.tolist(), strict=True):
            self.memory.add(image, label, unsure, logits.shape[1])
            if self.memory.seen % self.every == 0 and self.memory.items:
                self._learn(x, generator)

    def predict(self, x: Tensor) -> Tensor:
        return self.teacher(self.model, x)

    def _learn(self, x: Tensor, generator: torch.Generator) -> None:
        images = torch.stack([item["image"] for item in self.memory.items]).to(x)
        ages = torch.tensor([item["age"] / self.memory.capacity for item in self.memory.items], device=x.device)
        target = self.teacher(self.model, images)
        student = self.model(self.strong_views(images, generator))
        if self.descent((torch.sigmoid(-ages) * losses.soft_cross_entropies(student, target)).mean()):
            self.teacher.follow(self.model, self.rate)


class BalancedMemory(Forgetful):
    """Images with predicted class, uncertainty and age, balanced over classes (category-balanced sampling, sec. 3.3).

    Args:
        capacity: most images kept.

    Attributes:
        items: one dictionary an image: image, label, unsure (entropy / ln K), age in images.
        seen: images offered so far.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.items: list[dict[str, Any]] = []
        self.seen = 0

    def add(self, image: Tensor, label: int, unsure: float, classes: int) -> None:
        """Offer an image: it finds a place if its class or the memory has one, or in place of a worse image."""
        self.seen += 1
        if math.isfinite(unsure) and self._has_place(label, unsure, classes):
            self.items.append({"image": image.detach().clone(), "label": label, "unsure": unsure, "age": 0})
        for item in self.items:
            item["age"] += 1

    def _has_place(self, label: int, unsure: float, classes: int) -> bool:
        counts: dict[int, int] = {}
        for item in self.items:
            counts[item["label"]] = counts.get(item["label"], 0) + 1
        if counts.get(label, 0) >= self.capacity / classes:
            crowded = {label}
        elif len(self.items) < self.capacity:
            return True
        else:
            crowded = {each for each, count in counts.items() if count == max(counts.values())}
        worst = max((item for item in self.items if item["label"] in crowded), key=self._score)
        if self._score(worst) <= self._score({"age": 0, "unsure": unsure}):
            return False
        self.items = [item for item in self.items if item is not worst]
        return True

    def _score(self, item: dict[str, Any]) -> float:
        return 1 / (1 + math.exp(-item["age"] / self.capacity)) + item["unsure"]

    def forget(self) -> None:
        """Be empty."""
        self.items, self.seen = [], 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"items": [dict(item) for item in self.items], "seen": self.seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.items, self.seen = [dict(item) for item in state["items"]], state["seen"]
