"""The ordered, seeded stream of test images that a protocol asks for.

    stream = draw_stream(images, "fog", 5, count=1000, batch_size=100, seed=0)  # i.i.d., one corruption

    plan = StreamPlan(shift="continual", corruptions=BENCHMARK, severity=5, count=1000, batch_size=100, seed=0)
    stream = build_stream(images, plan)  # fifteen corruptions, one after the other
    description = json.dumps(stream.to_dict())
    same = rebuild_stream(images, json.loads(description))

Two things make a stream, and every pair of them does: how the corruption goes (`StreamPlan.shift`), and whether classes
come at random or in clumps (`StreamPlan.delta`). A stream says which image comes when and what is done to it; pixels
are made when they are asked for, so that one of any length fits into memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor

from crosstask import config, runtime
from crosstask.data.corruptions import MINIMUM_SIZE, available, corrupt
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.data.corruptions.own import code_hash
from crosstask.data.images import ImageSet
from crosstask.data.severities import CLEAN, TABLES
from crosstask.errors import ConfigError, DataError, UnknownName

MOST_SLOTS = 100
"""The most time slots that a class-correlated stream takes by itself, as in RoTTA's code."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What decides a stream besides the images: plain values, which fit into a recipe and into a record.

    Raises:
        UnknownName: there is no such shift, corruption or table.
        ConfigError: a value is out of its range, or has no meaning beside the others.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    shift: Literal["constant", "mixed", "gradual", "continual"]
    """How the corruption goes. Where it changes, nothing tells: batches run across.

    `constant`: there is one. `mixed`: each image has one of them, each one equally often (to within one image), in
    random order. `continual`: one after the other, as in CoTTA (Wang et al., CVPR 2022). `gradual`: the same, while the
    severity of each goes 1, 2, ... up to its height and down again, as in RMT (Döbler et al., CVPR 2023); CoTTA's own
    code differs in that it begins at the height of the first corruption.
    """
    corruptions: tuple[str, ...]
    """Names of `data.corruptions.available()`, or `clean`."""
    severity: int
    """From 1 (mild) to 5; of `gradual` streams the height; 0 will do if all images stay clean."""
    count: int
    """Different images drawn. A `continual` or `gradual` stream shows them anew at every change, in another order."""
    batch_size: int
    """Images that arrive at once; it has no influence on their order."""
    seed: int
    """Draws the images, their order, the corruptions' order and what is random in them."""
    delta: float | None = None
    """None: classes come at random. A number: they come in clumps, the more so the smaller it is; NOTE (Gong et al.,
    NeurIPS 2022) and RoTTA (Yuan et al., CVPR 2023) take 0.1. See `dirichlet_order`."""
    slots: int | None = None
    """Time slots over which `delta` spreads a class; by default as many as there are classes, 100 at most."""
    rounds: int = 1
    """How often a `continual` or `gradual` stream goes through its corruptions (PeTTA, Hoang et al., NeurIPS 2024, goes
    through them 20 times). An image under the same corruption is the same image in each round."""
    shuffled: bool = False
    """Whether the seed, instead of the tuple, orders the corruptions of a `continual` or `gradual` stream."""
    table: str = "cifar"
    """The constants that define the severities, a name of `severities.TABLES`."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_numbers(self)
        _check_together(self)


class Shift(NamedTuple):
    """What is done to an image."""

    corruption: str
    """Its name, or `clean`."""
    severity: int
    """1 to 5; 0 for `clean`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """Test images in the order in which they arrive.

    Attributes:
        target: the set they are drawn from.
        plan: what decided their order.
        indices: int64 [N], where each of them stands in `target`.
        shifts: the different shifts that occur.
        shift_of: int64 [N], the row in `shifts` of what is done to each of them.
    """

    target: ImageSet
    plan: StreamPlan
    indices: Tensor
    shifts: tuple[Shift, ...]
    shift_of: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Stream({self.target.name}: {len(self)} images, {self.plan})"

    @property
    def seed(self) -> int:
        """The plan's seed."""
        return self.plan.seed

    @property
    def batch_size(self) -> int:
        """Images that arrive at once; the last batch may be shorter."""
        return self.plan.batch_size

    @property
    def corruption(self) -> str:
        """The corruption's name; of several, how they go: `mixed`, `gradual` or `continual`."""
        names = {shift.corruption for shift in self.shifts}
        return names.pop() if len(names) == 1 else self.plan.shift

    @property
    def severity(self) -> int:
        """The highest severity; 0 if all images are clean."""
        return max(shift.severity for shift in self.shifts)

    @property
    def labels(self) -> Tensor | None:
        """int64 [N] in the order of arrival, or None. No adapter may see them."""
        return None if self.target.labels is None else self.target.labels.cpu()[self.indices]

    @property
    def originals(self) -> ImageSet:
        """The images before corruption, in the order of arrival."""
        return self.target.subset(self.indices)

    @functools.cached_property
    def images(self) -> ImageSet:
        """All that arrives, in order; made when first asked for, and kept in memory."""
        return dataclasses.replace(self.originals, images=self.pixels(slice(None)))

    def batches(self) -> Iterator[Tensor]:
        """Yield the images, uint8 [B, C, H, W], without their labels.

        They are taken from `images` if that has been asked for. Otherwise they are made batch by batch, again on every
        pass, and no more than one batch is held; or they are rows of stored copies, which `StoredCopies.read` reads.
        """
        for start in range(0, len(self), self.batch_size):
            yield self.pixels(slice(start, start + self.batch_size))

    def pixels(self, rows: slice | Tensor) -> Tensor:
        """Return the images that arrive at `rows`, a slice or int64 [n] counted from 0, as uint8 [n, C, H, W].

        An image's pixels depend on its place in `target`, its shift, the seed, the table and `made_with` alone.
        """
        if "images" in vars(self):
            return self.images.images[rows]
        indices, shift_of = self.indices[rows], self.shift_of[rows]
        pixels = self.target.images[indices.to(self.target.images.device)]
        for number, (name, severity) in enumerate(self.shifts):
            here = (shift_of == number).nonzero().flatten()
            if name == CLEAN or not len(here):
                continue
            if self.target.copies:
                pixels[here] = self.target.copies.read(name, severity)[indices[here]].to(pixels.device)
                continue
            pixels[here] = corrupt(
                pixels[here], name, severity, seed=self.seed, indices=indices[here], table=self.plan.table
            )
        return pixels

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over `indices`, `shifts` and `shift_of`, 64 hexadecimal digits; the same on every machine."""
        digest = hashlib.sha256(json.dumps(self.shifts).encode())
        for numbers in (self.indices, self.shift_of):
            digest.update(numbers.numpy().astype("<i8").data)
        return digest.hexdigest()

    @property
    def made_with(self) -> dict[str, str]:
        """What else decides the pixels: where the sheets of `frost` come from, the hash of the code of an own shift; of
        stored copies, the hash of each corruption's at each severity."""
        if copies := self.target.copies:
            stored = sorted(shift for shift in self.shifts if shift.corruption != CLEAN)
            return {f"{name} {severity}": copies.digest(name, severity) for name, severity in stored}
        found = {name: texture() if name == "frost" else code_hash(name) for name, _ in self.shifts}
        return {name: what for name, what in sorted(found.items()) if what is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values from which `rebuild_stream` makes this stream again, bit by bit."""
        return {
            "plan": config.to_dict(self.plan),
            "images": self.target.name,
            "fingerprint": self.target.fingerprint,
            "digest": self.digest,
            "made_with": self.made_with,
        }


def draw_stream(
    images: ImageSet, corruption: str, severity: int, *, count: int, batch_size: int, seed: int, table: str = "cifar"
) -> Stream:
    """Draw `count` different images in a random order, under one corruption.

    The same seed draws the same images in the same order under every corruption.

    Args:
        images: the target set.
        corruption: a name of `data.corruptions.available()`, or `clean`.
        severity: 1 to 5; not looked at for `clean`.

    Raises:
        UnknownName: there is no such corruption or table, or no stored copy under it.
        ConfigError: a number is out of range, or more images are asked for than there are.
        DataError: the images are too small to be corrupted, or their stored copies lack the severity.
    """
    plan = StreamPlan(
        shift="constant",
        corruptions=(corruption,),
        severity=0 if corruption == CLEAN else severity,
        count=count,
        batch_size=batch_size,
        seed=seed,
        table=table,
    )
    return build_stream(images, plan)


def build_stream(images: ImageSet, plan: StreamPlan) -> Stream:
    """Order images as a plan says.

    A stream under one corruption and the first part of a stream under several show the same images in the same order.

    Args:
        images: the target set; a plan with a `delta` needs its labels, which decide the order and nothing else.

    Raises:
        ConfigError: more images are asked for than there are.
        UnknownName: there are stored copies, and none under a corruption of the plan.
        DataError: labels are needed and there are none, the images are too small to be corrupted, or their stored
            copies lack a severity.
    """
    _check_images(images, plan)
    sequence = _sequence(plan)
    shifts = tuple(dict.fromkeys(sequence))
    numbers = torch.tensor([shifts.index(shift) for shift in sequence])
    if plan.shift == "mixed":
        indices = _order(images, plan, 0)
        shift_of = numbers[_shuffled(plan.count, "mixed", plan.seed) % len(numbers)]
    else:
        indices = torch.cat([_order(images, plan, part) for part in range(len(sequence))])
        shift_of = numbers.repeat_interleave(plan.count)
    return Stream(target=images, plan=plan, indices=indices, shifts=shifts, shift_of=shift_of)


def rebuild_stream(images: ImageSet, description: Mapping[str, Any]) -> Stream:
    """Build the stream that `Stream.to_dict` described, and check that it is the same bit by bit.

    Args:
        images: the set that it was drawn from.

    Raises:
        ConfigError: the description's plan has mistakes.
        DataError: the description is incomplete, or the images, their order or what corrupts them would be others.
    """
    missing = [key for key in ("plan", "images", "fingerprint", "digest", "made_with") if key not in description]
    if missing:
        raise DataError(f"expected a description that Stream.to_dict() wrote, this one lacks {', '.join(missing)}")
    plan = config.validate(StreamPlan, description["plan"], "the plan of the stream")
    if images.fingerprint != description["fingerprint"]:
        raise DataError(
            f"the stream was drawn from {description['images']} with the fingerprint {description['fingerprint']}, got "
            f"{images.name} with {images.fingerprint}; load the same images and labels in the same order"
        )
    stream = build_stream(images, plan)
    if stream.digest != description["digest"]:
        raise DataError(
            f"expected a stream with the digest {description['digest']}, this plan gives {stream.digest}; the plan was "
            "changed, or another version of crosstask, torch or numpy wrote it: take that one"
        )
    if stream.made_with != description["made_with"]:
        raise DataError(
            f"the stream was made with {description['made_with']}, here it would be with {stream.made_with}; take the "
            "same sheets of frost (`crosstask data get frost` has the photographs), the same code of your own shift "
            "and the same copies"
        )
    return stream


def dirichlet_order(labels: Tensor, delta: float, slots: int | None, random: np.random.Generator) -> Tensor:
    """Order images so that their classes come in clumps.

    Time is divided into slots. Each class spreads its images over the slots in proportions drawn from a symmetric
    Dirichlet distribution; within a slot the classes come one after the other, in random order. So does the code of
    NOTE (Gong et al., NeurIPS 2022) and of RoTTA (Yuan et al., CVPR 2023), with a slot for each class; that the slots
    need not be equally full is RoTTA's way.

    A class comes in at most `slots` runs. Hence with few slots even a large `delta` leaves runs, of N / K^2 images for
    K classes and K slots; with at least as many slots as images of a class it comes close to i.i.d.

    Args:
        labels: int64 [N]; images of a class keep their order among themselves.
        delta: the concentration, above 0; small: each class in few slots; large: equally in all.
        slots: how many; None: one for each class that occurs, 100 at most.

    Returns:
        int64 [N]: the rows of `labels` in their new order.
    """
    names, classes = np.unique(labels.cpu().numpy(), return_inverse=True)
    slots = slots or min(len(names), MOST_SLOTS)
    slot = np.empty(len(classes), dtype=np.int64)
    for number, shares in enumerate(random.dirichlet([delta] * slots, size=len(names))):
        rows = np.flatnonzero(classes == number)
        ends = np.rint(np.cumsum(shares) * len(rows))
        slot[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    turns = random.random((slots, len(names)))
    return torch.from_numpy(np.lexsort((turns[slot, classes], slot)))


def _sequence(plan: StreamPlan) -> list[Shift]:
    """Return the shifts of a plan one after the other; for `mixed`, those that are dealt out."""
    names = plan.corruptions
    if plan.shuffled:
        names = tuple(names[place] for place in _shuffled(len(names), "corruptions", plan.seed).tolist())
    ramp = [*range(1, plan.severity), *range(plan.severity, 0, -1)]
    severities = ramp if plan.shift == "gradual" else [plan.severity]
    once = [Shift(name, 0 if name == CLEAN else severity) for name in names for severity in severities]
    return once * plan.rounds


def _order(images: ImageSet, plan: StreamPlan, part: int) -> Tensor:
    """Return where the images of one part of a stream stand in their set, int64 [count]: the same ones in each part."""
    order = _shuffled(len(images), "stream", plan.seed)[: plan.count]
    if part > 0:
        order = order[_shuffled(plan.count, "stream", plan.seed, part)]
    if plan.delta is None:
        return order
    if images.labels is None:
        raise DataError(
            f"a class-correlated stream needs labels, and {images.name} has none; load them, or leave delta out"
        )
    random = np.random.default_rng(runtime.derive_seed("dirichlet", plan.seed, part))
    return order[dirichlet_order(images.labels.cpu()[order], plan.delta, plan.slots, random)]


def _shuffled(count: int, *key: object) -> Tensor:
    return torch.randperm(count, generator=runtime.generator(torch.device("cpu"), *key))


def _check_choices(plan: StreamPlan) -> None:
    shifts = ("constant", "mixed", "gradual", "continual")
    if plan.shift not in shifts:
        raise UnknownName("shift", plan.shift, shifts)
    if not isinstance(plan.corruptions, tuple) or not plan.corruptions:
        raise ConfigError(f"expected corruptions as a tuple of at least one name, got {plan.corruptions!r}")
    for name in plan.corruptions:
        if name not in (CLEAN, *available()):
            raise UnknownName("corruption", name, (CLEAN, *available()))
    if plan.table not in TABLES:
        raise UnknownName("severity table", plan.table, TABLES)


def _check_numbers(plan: StreamPlan) -> None:
    mildest = 0 if set(plan.corruptions) == {CLEAN} else 1
    if plan.severity not in range(mildest, 6):
        raise ConfigError(f"expected a severity of 1, 2, 3, 4 or 5, got {plan.severity!r}")
    for name in ("count", "batch_size", "slots", "rounds"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise ConfigError(f"expected {name} of at least 1, got {value!r}")
    if plan.delta is not None and not 0 < plan.delta < math.inf:
        raise ConfigError(
            f"expected a delta above 0, got {plan.delta!r}; leave it out for a random order of the classes"
        )


def _check_together(plan: StreamPlan) -> None:
    """Refuse what would have no effect."""
    if plan.shift == "constant" and len(plan.corruptions) > 1:
        raise ConfigError(f"a constant stream has one corruption, got {len(plan.corruptions)}; say mixed or continual")
    if plan.shift == "gradual" and CLEAN in plan.corruptions:
        raise ConfigError("a gradual stream changes severities, and clean images have none; take 'clean' away")
    if plan.shift in ("constant", "mixed") and (plan.rounds > 1 or plan.shuffled):
        raise ConfigError(f"a {plan.shift} stream has no sequence of corruptions: leave rounds and shuffled out")
    if plan.slots is not None and plan.delta is None:
        raise ConfigError("slots are those of a class-correlated stream: give a delta, or leave slots out")


def _check_images(images: ImageSet, plan: StreamPlan) -> None:
    if plan.count > len(images):
        raise ConfigError(
            f"{plan.count} different images are asked for, {images.name} has {len(images)}; lower the count "
            "(in a recipe, bench.images)"
        )
    if images.copies:
        shifts = [shift for shift in _sequence(plan) if shift.corruption != CLEAN]
        images.copies.check({name for name, _ in shifts}, {severity for _, severity in shifts})
        return
    height, width = images.images.shape[2:]
    if min(height, width) < MINIMUM_SIZE and set(plan.corruptions) != {CLEAN}:
        raise DataError(
            f"corruptions need images of at least {MINIMUM_SIZE}x{MINIMUM_SIZE} pixels, and {images.name} has "
            f"{height}x{width}; enlarge them first"
        )
