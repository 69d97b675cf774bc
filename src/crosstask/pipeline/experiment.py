"""A recipe with its run folder, and the images it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args

import tomli_w
import torch

from crosstask import config, distributed, runtime
from crosstask.config import Auxiliary, JointKind, Kind, Recipe
from crosstask.data.images import ImageSet, is_divided, load_images, with_copies
from crosstask.errors import ConfigError, UnknownName
from crosstask.executors import Executor
from crosstask.files import storage_errors, sweep, write_text
from crosstask.methods import find
from crosstask.nets.encoders import ENCODERS
from crosstask.tasks import check_joint_task, check_task

SUPERVISED: Kind = "supervised"
SELF_SUPERVISED: Kind = "self-supervised"
ALIGNED: Kind = "aligned"
PRETRAINED = (SUPERVISED, SELF_SUPERVISED, *get_args(JointKind))
"""What `pretrain` makes."""


class Narrator(Protocol):
    """Is told what happens: the command line shows it, a library call may ignore it."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` units of a stage are behind us."""

    def say(self, text: str) -> None:
        """A line worth keeping."""


class Silent:
    """A narrator that says nothing."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A recipe, its run folder, whoever wants to hear of it, and who measures its cells."""

    recipe: Recipe
    folder: Path
    command: str
    narrator: Narrator = field(default_factory=Silent)
    executor: Executor = field(default_factory=Executor)

    def __post_init__(self) -> None:
        if self.recipe.encoder not in ENCODERS:
            raise UnknownName("encoder", self.recipe.encoder, ENCODERS)
        check_task(self.recipe.task)
        for name, arguments in self.recipe.tasks.items():
            check_joint_task(Auxiliary(name=name, arguments=arguments))
        device = runtime.pick_device(self.recipe.device)
        if distributed.world() > 1 and device.index is not None:
            raise ConfigError(f"several processes take a GPU each: expected device auto, cuda or cpu, got {device}")
        for stage in (self.recipe.supervised, self.recipe.self_supervised, self.recipe.align):
            distributed.check_divisible(stage.batch_size)

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return runtime.pick_device(self.recipe.device)

    def path(self, kind: str) -> Path:
        """Return the folder of the checkpoint of this kind."""
        return self.folder / "checkpoints" / kind

    def say(self, text: str) -> None:
        """Tell the narrator, and keep the line with its time in `log.txt`; of several processes only the first does."""
        if distributed.rank():
            return
        self.narrator.say(text)
        with storage_errors(self.folder), (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def open(self) -> None:
        """Make the run folder, clear away what a kill left half-written, and write the resolved recipe into it.

        Of several processes only the first does.
        """
        if distributed.rank():
            return
        with storage_errors(self.folder):
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            sweep(self.folder / "checkpoints")
        write_text(self.folder / "config.toml", tomli_w.dumps(_without_none(config.to_dict(self.recipe))))


def needed(recipe: Recipe) -> list[Kind]:
    """Return the kinds of checkpoints that a recipe's columns start from, the supervised one first."""
    kinds = [column.checkpoint or find(column.method).needs for column in recipe.bench.columns.values()]
    return list(dict.fromkeys([SUPERVISED, *kinds]))


def source_images(recipe: Recipe, say: Callable[[str], None] | None = None) -> tuple[ImageSet, ImageSet]:
    """Load the source images: those to train on, and those to tune on.

    They are what `data.name` stands for, or its training split where it is divided. Of them `data.validation` are to
    tune on alone; if that is 0, all serve both.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    images, count = _load(recipe.data.name, "train", recipe, say), recipe.data.validation
    if not count:
        return images, images
    if count >= len(images):
        raise ConfigError(f"data.validation = {count} leaves nothing of the {len(images)} images of {images.name}")
    drawn = torch.randperm(len(images), generator=runtime.generator(torch.device("cpu"), recipe.seed, "validation"))
    return images.subset(drawn[count:].sort().values), images.subset(drawn[:count].sort().values)


def target_images(recipe: Recipe, say: Callable[[str], None] | None = None) -> ImageSet:
    """Load the images to test on, before any corruption.

    Raises:
        ConfigError: there are none beside those to train on.
    """
    if not recipe.data.test and not is_divided(recipe.data.name) and Path(recipe.data.name).expanduser().exists():
        raise ConfigError(
            f"{recipe.data.name} is not divided into train and test: divide it into folders or shards of these names, "
            "or name the images to test on, as with --set data.test=FOLDER"
        )
    images = _load(recipe.data.test or recipe.data.name, "test", recipe, say)
    if not recipe.data.corrupted:
        return images
    return with_copies(images, recipe.data.corrupted, data_dir=recipe.data.folder, report=say)


def _load(spec: str, split: str, recipe: Recipe, say: Callable[[str], None] | None) -> ImageSet:
    return load_images(spec, split=split if is_divided(spec) else None, data_dir=recipe.data.folder, report=say)


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return tree
