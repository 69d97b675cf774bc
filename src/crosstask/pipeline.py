"""The spine: a recipe becomes a run folder, stage by stage. A finished stage is found and not made again.

OUT/config.toml  checkpoints/{supervised,self-supervised,aligned,...}/  records.jsonl  examples.json  report.html
log.txt
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import tomli_w
import torch
from torch import Tensor, nn

from crosstask import checkpoint as checkpoints
from crosstask import config, report, runtime
from crosstask.bench import examples, records
from crosstask.bench.grid import Grid, cells, check, is_shown, measure, missing, work
from crosstask.checkpoint import Checkpoint
from crosstask.config import Auxiliary, JointKind, Kind, Recipe, Task
from crosstask.data.images import ImageSet, check_same_kind, is_divided, load_images
from crosstask.errors import CheckpointError, ConfigError, UnknownName
from crosstask.files import storage_errors, sweep, write_text
from crosstask.methods import find
from crosstask.nets.encoders import ENCODERS, ResNet, initialise, make_encoder
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import (
    TASKS,
    JointTask,
    SelfSupervisedTask,
    SimCLR,
    check_joint_task,
    make_joint_task,
    make_task,
)
from crosstask.tasks.reconstruction import Reconstruction
from crosstask.train.align import align
from crosstask.train.joint import pretrain_joint, pretrain_on_frozen, pretrain_with_views
from crosstask.train.loop import Run
from crosstask.train.moments import class_moments, projection_moments
from crosstask.train.pretrain import check_labels, pretrain_self_supervised, pretrain_supervised
from crosstask.train.statistics import feature_statistics, fisher_information, pixel_statistics

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
    """A recipe, its run folder, and whoever wants to hear of it."""

    recipe: Recipe
    folder: Path
    command: str
    narrator: Narrator = field(default_factory=Silent)

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("encoder", self.recipe.encoder, ENCODERS),
            ("self-supervised task", self.recipe.task.name, TASKS),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)
        for name, arguments in self.recipe.tasks.items():
            check_joint_task(Auxiliary(name=name, arguments=arguments))
        runtime.pick_device(self.recipe.device)

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return runtime.pick_device(self.recipe.device)

    def path(self, kind: str) -> Path:
        """Return the folder of the checkpoint of this kind."""
        return self.folder / "checkpoints" / kind

    def say(self, text: str) -> None:
        """Tell the narrator, and keep the line with its time in `log.txt`."""
        self.narrator.say(text)
        with storage_errors(self.folder), (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def open(self) -> None:
        """Make the run folder, clear away what a kill left half-written, and write the resolved recipe into it."""
        with storage_errors(self.folder):
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            sweep(self.folder / "checkpoints")
        write_text(self.folder / "config.toml", tomli_w.dumps(_without_none(config.to_dict(self.recipe))))


def source_images(recipe: Recipe, say: Callable[[str], None] | None = None) -> ImageSet:
    """Load the images to train on: all that `data.name` stands for, or its training split where it is divided."""
    return _load(recipe.data.name, "train", recipe, say)


def target_images(recipe: Recipe, say: Callable[[str], None] | None = None) -> ImageSet:
    """Load the images to test on, before any corruption.

    Raises:
        ConfigError: there are none beside those to train on.
    """
    if not recipe.data.test and not is_divided(recipe.data.name) and Path(recipe.data.name).exists():
        raise ConfigError(
            f"{recipe.data.name} is not divided into train and test: divide it into folders or shards of these names, "
            "or name the images to test on, as with --set data.test=FOLDER"
        )
    return _load(recipe.data.test or recipe.data.name, "test", recipe, say)


def _load(spec: str, split: str, recipe: Recipe, say: Callable[[str], None] | None) -> ImageSet:
    return load_images(spec, split=split if is_divided(spec) else None, data_dir=recipe.data.folder, report=say)


def supervised_stage(experiment: Experiment, images: ImageSet) -> Checkpoint:
    """Stage 1a: train encoder and head on labels, or find them trained."""
    recipe = experiment.recipe
    check_labels(images)

    def make(run: Run) -> Checkpoint:
        encoder = _fresh_encoder(recipe, images, SUPERVISED)
        head = nn.Linear(encoder.feature_dim, len(images.class_names))
        initialise(head, _initial(recipe, SUPERVISED, "head"))
        classifier = runtime.place(Classifier(encoder, head), run.device)
        losses = pretrain_supervised(classifier, images, recipe.supervised, run)
        return Checkpoint(
            kind="supervised",
            encoder=encoder,
            head=head,
            metrics={"loss": losses[-1]},
            statistics=_statistics(encoder, head, images, run),
            **_origin(recipe, images),
        )

    return _stage(experiment, SUPERVISED, images, {"supervised": recipe.supervised}, {}, make)


def self_supervised_stage(experiment: Experiment, images: ImageSet) -> Checkpoint:
    """Stage 1b: train the twin encoder without labels, or find it trained."""
    recipe = experiment.recipe

    def make(run: Run) -> Checkpoint:
        encoder = _fresh_encoder(recipe, images, SELF_SUPERVISED)
        task = make_task(recipe.task, encoder.feature_dim)
        initialise(task, _initial(recipe, SELF_SUPERVISED, "task"))
        runtime.place(encoder, run.device), runtime.place(task, run.device)
        losses = pretrain_self_supervised(encoder, task, images, recipe.self_supervised, run)
        return Checkpoint(
            kind="self-supervised",
            encoder=encoder,
            task=task,
            task_config=recipe.task,
            metrics={"loss": losses[-1]},
            statistics=feature_statistics(encoder, images, run),
            **_origin(recipe, images),
        )

    what = {"task": recipe.task, "self_supervised": recipe.self_supervised}
    return _stage(experiment, SELF_SUPERVISED, images, what, {}, make)


def align_stage(experiment: Experiment, images: ImageSet, teacher: Checkpoint, student: Checkpoint) -> Checkpoint:
    """Stage 2: align the self-supervised encoder with the supervised one, or find it aligned."""
    recipe = experiment.recipe

    task = _check_twins(teacher, student, images)
    parents: dict[str, str] = {SUPERVISED: teacher.weights_hash, SELF_SUPERVISED: student.weights_hash}

    def make(run: Run) -> Checkpoint:
        classifier = runtime.place(copy.deepcopy(teacher.classifier), run.device)
        encoder = runtime.place(copy.deepcopy(student.encoder), run.device)
        own_task = runtime.place(copy.deepcopy(task), run.device)
        losses = align(encoder, own_task, classifier, images, recipe.align, run)
        return Checkpoint(
            kind="aligned",
            encoder_name=student.encoder_name,
            encoder=encoder,
            head=classifier.head,
            task=own_task,
            task_config=student.task_config,
            image_shape=teacher.image_shape,
            class_names=teacher.class_names,
            metrics={"loss": losses[-1]},
            statistics=_statistics(encoder, classifier.head, images, run),
            parents=parents,
        )

    return _stage(experiment, ALIGNED, images, {"align": recipe.align}, parents, make)


def _check_twins(teacher: Checkpoint, student: Checkpoint, images: ImageSet) -> SelfSupervisedTask:
    """Check that two checkpoints and the images go together; return the student's task."""
    if not isinstance(student.task, SelfSupervisedTask):
        raise CheckpointError(f"alignment starts from a self-supervised checkpoint, and this one is {student.kind}")
    for checkpoint in (teacher, student):
        check_same_kind(images, checkpoint.image_shape)
    expected, found = (len(checkpoint.statistics["mean"]) for checkpoint in (teacher, student))
    if expected != found:
        raise CheckpointError(
            f"the supervised encoder has {expected} features and the self-supervised one {found}; "
            "alignment needs two of one width"
        )
    return student.task


def joint_stage(experiment: Experiment, kind: JointKind, images: ImageSet, supervised: Checkpoint) -> Checkpoint:
    """The source-time stage of a method CTA is compared with, at the backbone, epochs and augmentation of stage 1a.

    `joint` (SimCLR beside the classifier) and `tttflow` go on from the supervised checkpoint, `rec-ttt` from two copies
    of it; the others start anew.
    """
    recipe = experiment.recipe
    task_config = recipe.task if kind == "joint" else Auxiliary(name=kind, arguments=recipe.tasks.get(kind, {}))
    goes_on = kind in ("joint", "tttflow", "rec-ttt")
    parents: dict[str, str] = {SUPERVISED: supervised.weights_hash} if goes_on else {}

    def make(run: Run) -> Checkpoint:
        classifier, task = _joint_start(recipe, kind, images, supervised if goes_on else None, task_config)
        runtime.place(classifier, run.device), runtime.place(task, run.device)
        if isinstance(task, SelfSupervisedTask):
            losses = pretrain_with_views(classifier, task, images, recipe.supervised, run)
        elif kind == "tttflow":
            losses = pretrain_on_frozen(classifier.encoder, task, images, recipe.supervised, run)
        else:
            losses = pretrain_joint(classifier, task, images, recipe.supervised, run)
        statistics = _statistics(classifier.encoder, classifier.head, images, run)
        if isinstance(task, SimCLR):
            statistics |= class_moments(classifier.encoder, images, run)
            statistics |= projection_moments(classifier.encoder, task, images, run)
        return Checkpoint(
            kind=kind,
            encoder=classifier.encoder,
            head=classifier.head,
            task=task,
            task_config=task_config,
            metrics={"loss": losses[-1]},
            statistics=statistics,
            parents=parents,
            **_origin(recipe, images),
        )

    return _stage(experiment, kind, images, {"supervised": recipe.supervised, "task": task_config}, parents, make)


def _joint_start(
    recipe: Recipe, kind: str, images: ImageSet, supervised: Checkpoint | None, task_config: Task | Auxiliary
) -> tuple[Classifier, SelfSupervisedTask | JointTask]:
    """Return the classifier and the task that a joint stage starts from."""
    if supervised is None:
        encoder: nn.Module = _fresh_encoder(recipe, images, kind)
        head: nn.Module = nn.Linear(cast(ResNet, encoder).feature_dim, len(images.class_names))
        initialise(head, _initial(recipe, kind, "head"))
    else:
        encoder, head = copy.deepcopy(supervised.encoder), copy.deepcopy(supervised.classifier.head)
    if kind == "rec-ttt":
        encoder = Twin(encoder, copy.deepcopy(encoder))
        head = nn.Linear(encoder.feature_dim, len(images.class_names))
        initialise(head, _initial(recipe, kind, "head"))
    if isinstance(task_config, Task):
        task: SelfSupervisedTask | JointTask = make_task(task_config, cast(ResNet, encoder).feature_dim)
    else:
        task = make_joint_task(task_config, encoder, tuple(images.images.shape[1:]))
    initialise(task, _initial(recipe, kind, "task"))
    if isinstance(task, Reconstruction) and isinstance(encoder, Twin):
        task.teacher.load_state_dict(encoder.first.state_dict())
    return Classifier(encoder, head), task


def _initial(recipe: Recipe, kind: str, part: str) -> torch.Generator:
    """Return the generator of a part's initial weights."""
    return runtime.generator(torch.device("cpu"), recipe.seed, kind, part)


def _statistics(encoder: nn.Module, head: nn.Module, images: ImageSet, run: Run) -> dict[str, Tensor]:
    """Return what methods may ask of a classifier's source: moments of its features, and Fisher values."""
    return feature_statistics(encoder, images, run) | fisher_information(Classifier(encoder, head), images, run)


def _stage(
    experiment: Experiment,
    kind: str,
    images: ImageSet,
    settings: dict[str, Any],
    parents: dict[str, str],
    make: Callable[[Run], Checkpoint],
) -> Checkpoint:
    """Load the checkpoint of this kind if the very same settings made it; else make it, from where a kill left it."""
    experiment.open()
    recipe, path = experiment.recipe, experiment.path(kind)
    plain: dict[str, Any] = {name: config.to_dict(part) for name, part in settings.items()}
    plain |= {"seed": recipe.seed, "encoder": recipe.encoder, "precision": recipe.precision, "data": images.name}
    key = config.digest(plain, images.fingerprint, parents)
    state = path.with_name(f".{kind}.state")
    if path.exists() and checkpoints.read_about(path)["settings"].get("key") == key:
        experiment.say(f"{kind}: found in {path}")
    else:
        started = time.monotonic()
        run = Run(
            seed=runtime.derive_seed(recipe.seed, kind),
            device=experiment.device,
            precision=recipe.precision,
            state=state,
            key=key,
            progress=lambda done, total, loss: experiment.narrator.progress(kind, done, total, f"loss {loss:.3f}"),
        )
        made = make(run)
        _set_aside(experiment, path)
        checkpoints.save(dataclasses.replace(made, settings=plain | {"key": key}), path)
        experiment.say(f"{kind}: trained in {time.monotonic() - started:.0f} s, last loss {made.metrics['loss']:.3f}")
    state.unlink(missing_ok=True)
    return checkpoints.load(path)


def _origin(recipe: Recipe, images: ImageSet) -> dict[str, Any]:
    return {
        "encoder_name": recipe.encoder,
        "image_shape": tuple(images.images.shape[1:]),
        "class_names": images.class_names,
    }


def _set_aside(experiment: Experiment, path: Path) -> None:
    """Keep a checkpoint of other settings under another name, where there is one."""
    if path.exists():
        older = path.with_name(f"{path.name}-{checkpoints.read_about(path)['weights_sha256'][:8]}")
        if not older.exists():
            path.rename(older)
            experiment.say(f"{path.name}: the checkpoint of other settings is kept as {older}")


def _fresh_encoder(recipe: Recipe, images: ImageSet, kind: str) -> ResNet:
    encoder = make_encoder(recipe.encoder, images.images.shape[1])
    initialise(encoder, _initial(recipe, kind, "encoder"))
    mean, deviation = pixel_statistics(images)
    encoder.normalize.mean.copy_(mean.view(1, -1, 1, 1))
    encoder.normalize.std.copy_(deviation.view(1, -1, 1, 1))
    return encoder


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return tree


def bench_stage(experiment: Experiment, images: ImageSet, checkpoints: dict[str, Checkpoint]) -> None:
    """Stage 3: adapt and score every column under every corruption, one record a cell; keep an example of some.

    Args:
        checkpoints: by kind, each kind that `needed` names.
    """
    _check_family(checkpoints)
    recipe, path, shown = experiment.recipe, experiment.folder / "records.jsonl", experiment.folder / "examples.json"
    grid = Grid(
        bench=recipe.bench,
        images=images,
        checkpoints=checkpoints,
        device=experiment.device,
        precision=runtime.resolve_precision(experiment.device, recipe.precision),
        command=experiment.command,
    )
    wanted = {cell.key for cell in cells(grid) if is_shown(grid, cell)}
    experiment.open()
    kept = examples.prune(shown, wanted)
    unrecorded = {cell.key for cell in missing(grid, path)}
    todo = [cell for cell in cells(grid) if cell.key in unrecorded | (wanted - kept.keys())]
    total, done = sum(work(cell) for cell in todo), 0
    started = time.monotonic()
    for measured in measure(grid, todo):
        if measured.example:
            kept[measured.cell.key] = measured.example
            examples.keep(shown, kept)
        if measured.cell.key in unrecorded:
            records.append(path, measured.record)
        cell, done = measured.cell, done + work(measured.cell)
        note = f"{cell.label} {cell.corruption} seed {cell.seed}: {measured.record.accuracy:.1%}"
        experiment.narrator.progress("bench", done, total, note)
    if todo:
        experiment.say(f"bench: {len(todo)} cells measured in {time.monotonic() - started:.0f} s")
    else:
        experiment.say(f"bench: found all {len(cells(grid))} cells in {path}")


def _check_family(family: dict[str, Checkpoint]) -> None:
    """Check that checkpoints are what they are used for, and made from the supervised one where they have parents."""
    supervised = family[SUPERVISED]
    for kind, checkpoint in family.items():
        expected = "a classifier" if kind == SUPERVISED else f"one that is {kind}"
        if (checkpoint.head is None) if kind == SUPERVISED else (checkpoint.kind != kind):
            raise CheckpointError(f"expected as the checkpoint {kind} {expected}, got one that is {checkpoint.kind}")
        parent = checkpoint.parents.get(SUPERVISED, supervised.weights_hash)
        if kind != SUPERVISED and parent != supervised.weights_hash:
            raise CheckpointError(
                f"the checkpoint {kind} was not made from this supervised one: expected the weights {parent}, got "
                f"{supervised.weights_hash}; give those of one run"
            )


def needed(recipe: Recipe) -> list[Kind]:
    """Return the kinds of checkpoints that a recipe's columns start from, the supervised one first."""
    kinds = [column.checkpoint or find(column.method).needs for column in recipe.bench.columns.values()]
    return list(dict.fromkeys([SUPERVISED, *kinds]))


def pretrain_stages(experiment: Experiment, images: ImageSet, only: str | None = None) -> dict[str, Checkpoint]:
    """Stage 1: train the supervised encoder, its self-supervised twin, and what else the recipe's columns need.

    Args:
        only: the one kind to train; what it goes on from is trained, or found, too.
    """
    kinds = [kind for kind in needed(experiment.recipe) if kind in get_args(JointKind)]
    wanted = [SUPERVISED, SELF_SUPERVISED, *kinds] if only is None else [only]
    made: dict[str, Checkpoint] = {}
    if wanted != [SELF_SUPERVISED]:
        made[SUPERVISED] = supervised_stage(experiment, images)
    if SELF_SUPERVISED in wanted:
        made[SELF_SUPERVISED] = self_supervised_stage(experiment, images)
    for kind in get_args(JointKind):
        if kind in wanted:
            made[kind] = joint_stage(experiment, kind, images, made[SUPERVISED])
    return made


def report_stage(experiment: Experiment) -> Path:
    """Stage 4: turn the records into `report.html` and return its path."""
    path = report.write(experiment.folder)
    experiment.say(f"report: {path}")
    return path


def run_recipe(experiment: Experiment) -> Path:
    """Run all stages of a recipe and return the path of the report. Whatever is finished is found, not made again."""
    source = source_images(experiment.recipe, experiment.narrator.say)
    target = target_images(experiment.recipe, experiment.narrator.say)
    check(experiment.recipe.bench, target)
    check_same_kind(target, source.images.shape[1:], source.class_names)
    made = pretrain_stages(experiment, source)
    if ALIGNED in needed(experiment.recipe):
        made[ALIGNED] = align_stage(experiment, source, made[SUPERVISED], made[SELF_SUPERVISED])
    bench_stage(experiment, target, {kind: made[kind] for kind in needed(experiment.recipe)})
    return report_stage(experiment)
