"""A memory of the stream, balanced over the classes that are predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from crosstask import losses
from crosstask.errors import ConfigError
from crosstask.methods.state import Forgetful


class BalancedMemory(Forgetful):
    """Images with predicted class, uncertainty and age, balanced over classes (RoTTA, Yuan et al. 2023, sec. 3.3).

    Args:
        capacity: most images kept.

    Attributes:
        items: one dictionary an image: image, label, unsure (entropy / ln K), age in images.
        seen: images offered so far.

    Raises:
        ConfigError: the capacity is less than one.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ConfigError(f"a memory has one place or more, got {capacity}")
        self.capacity = capacity
        self.items: list[dict[str, Any]] = []
        self.seen = 0

    def offer(self, x: Tensor, logits: Tensor, every: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Offer the images of a batch one by one, as asked for; yield what is kept after every `every` of them.

        Args:
            x: [B, C, H, W].
            logits: what was predicted of all of them beforehand, [B, K].
            every: images between two yields, counted on from batch to batch; while nothing is kept nothing is yielded.

        Yields:
            The images [M, C, H, W], and their ages [M] in capacities.
        """
        entropies, classes = losses.entropies(logits) / math.log(logits.shape[1]), logits.argmax(dim=1)
        for image, label, unsure in zip(x, classes.tolist(), entropies.tolist(), strict=True):
            self.add(image, label, unsure, logits.shape[1])
            if self.seen % every == 0 and self.items:
                ages = torch.tensor([item["age"] / self.capacity for item in self.items], device=x.device)
                yield torch.stack([item["image"].to(x) for item in self.items]), ages

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
