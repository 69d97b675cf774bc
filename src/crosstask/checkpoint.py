"""A trained stage as one folder in the Hub's shape: `model.safetensors` and `config.json`. No pickle anywhere.

`config.json` holds the format number, what is inside, the settings it was trained with, the parents' hashes, the
environment, the metrics, and the SHA-256 of `model.safetensors`, which is checked before a weight is used.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crosstask import runtime
from crosstask.config import Auxiliary, Count, Kind, Task, to_dict, validate
from crosstask.errors import CheckpointError, ConfigError, StorageError
from crosstask.files import folder_written_whole, sha256
from crosstask.nets.encoders import make_encoder
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import JointTask, SelfSupervisedTask, make_joint_task, make_task

FORMAT = 1
CUSTOM = "custom"
WEIGHTS, ABOUT = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained stage: what is needed to adapt and to go on training.

    Attributes:
        kind: the stage that made it.
        encoder_name: its architecture in `nets.encoders.ENCODERS`, of each of the two in a `Twin`, or `CUSTOM`.
        encoder: images [B, C, H, W] in [0, 1] to features [B, D].
        head: features to logits [B, K]; None for a self-supervised encoder.
        task, task_config: what was trained beside the encoder, and its settings; None for a supervised encoder.
        image_shape: (C, H, W) of the images it was trained on.
        class_names: names of the K classes.
        statistics: what `crosstask.train.statistics` says about the source images.
        settings: the stage's config as plain values, and what else determined the weights.
        metrics: figures measured when it was made, as `clean_accuracy`, a share in 0..1.
        parents: kind of each parent checkpoint to the SHA-256 of its weights.
        weights_hash: SHA-256 of its own `model.safetensors`; empty before it is saved.
        folder: where it was loaded from; None if it was not.
    """

    kind: Kind
    encoder_name: str
    encoder: nn.Module
    head: nn.Module | None = None
    task: SelfSupervisedTask | JointTask | None = None
    task_config: Task | Auxiliary | None = None
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    statistics: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    weights_hash: str = ""
    folder: Path | None = None

    @property
    def classifier(self) -> Classifier:
        """The encoder under its head.

        Raises:
            CheckpointError: there is no head, as in a self-supervised checkpoint.
        """
        if self.head is None:
            raise CheckpointError(
                f"a {self.kind} checkpoint has no classifier; align it first, or use a supervised one"
            )
        return Classifier(self.encoder, self.head)


def save(checkpoint: Checkpoint, folder: str | Path, weights: Literal["float32", "bfloat16"] = "float32") -> Checkpoint:
    """Write the folder in one step, in place of an older checkpoint, and return the checkpoint with its weights' hash.

    Args:
        weights: in what tensors of two and more dimensions are kept, as kernels and matrices; vectors, running averages
            and statistics are kept exactly.
            What `load` returns is float32 again, rounded to what was kept.

    Raises:
        StorageError: the disk refuses, or something that is no checkpoint stands there.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    tensors = {f"encoder.{name}": tensor for name, tensor in checkpoint.encoder.state_dict().items()}
    for part in ("head", "task"):
        module = getattr(checkpoint, part)
        if module is not None:
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
    if weights == "bfloat16":
        tensors = {name: t.bfloat16() if t.dtype == torch.float32 and t.ndim > 1 else t for name, t in tensors.items()}
    tensors |= {f"statistics.{name}": tensor for name, tensor in checkpoint.statistics.items()}
    with folder_written_whole(folder) as temporary:
        runtime.save_tensors(tensors, temporary / WEIGHTS)
        checkpoint = dataclasses.replace(checkpoint, weights_hash=sha256(temporary / WEIGHTS))
        (temporary / ABOUT).write_text(json.dumps(_about(checkpoint), indent=2) + "\n", encoding="utf-8")
    return checkpoint


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not _is_empty_or_ours(folder):
        raise StorageError(f"cannot save a checkpoint as {folder}: something else stands there; name another folder")


def _is_empty_or_ours(folder: Path) -> bool:
    """Tell whether a folder holds nothing, or a checkpoint, of any format, and nothing beside it."""
    try:
        entries = list(folder.iterdir())
        if not all(entry.name in (WEIGHTS, ABOUT) and entry.is_file() for entry in entries):
            return False
        return not entries or {"format", "weights_sha256"} <= json.loads((folder / ABOUT).read_bytes()).keys()
    except (OSError, ValueError, AttributeError):  # no folder, a closed one, or no JSON object
        return False


def load(
    folder: str | Path,
    *,
    encoder: nn.Module | None = None,
    head: nn.Module | None = None,
    task: SelfSupervisedTask | JointTask | None = None,
) -> Checkpoint:
    """Read a checkpoint folder onto the CPU.

    Args:
        folder: holds `model.safetensors` and `config.json`.
        encoder, head, task: the modules to fill, needed only if the checkpoint's own are of a custom architecture.

    Raises:
        CheckpointError: missing, damaged, of another format, or of an architecture that does not fit.
    """
    folder = Path(folder)
    about = read_about(folder)
    found = sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else "no file"
    if found != about["weights_sha256"]:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or was replaced: expected SHA-256 {about['weights_sha256']}, found {found}"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from error
    shape = tuple(about["image_shape"])
    task_config = None if about["task"] is None else _task_config(about["task"], f"the task in {folder / ABOUT}")
    if encoder is None and about["encoder"] != CUSTOM:
        encoder = _make_encoder(about["kind"], about["encoder"], shape[0])
    if head is None and about["classes"]:
        head = nn.Linear(about["feature_dim"], about["classes"], bias="head.bias" in tensors)
    if task is None and task_config is not None:
        task = _make_task(task_config, about["feature_dim"], encoder, shape)
    if encoder is not None:
        encoder = runtime.place(encoder, torch.device("cpu")).eval()
        if isinstance(task, SelfSupervisedTask):
            task.begin(encoder)
    for part, module in (("encoder", encoder), ("head", head), ("task", task)):
        _fill(module, tensors, part, folder)
    assert encoder is not None
    return Checkpoint(
        kind=about["kind"],
        encoder_name=about["encoder"],
        encoder=encoder,
        head=None if head is None else head.eval(),
        task=None if task is None else task.eval(),
        task_config=task_config,
        image_shape=shape,
        class_names=tuple(about["class_names"]),
        statistics={n.removeprefix("statistics."): t for n, t in tensors.items() if n.startswith("statistics.")},
        settings=about["settings"],
        metrics=about["metrics"],
        parents=about["parents"],
        weights_hash=found,
        folder=folder.resolve(),
    )


def read_about(folder: Path) -> dict[str, Any]:
    """Read and check a checkpoint's `config.json` without touching its weights.

    Raises:
        CheckpointError: there is none, it is not whole, or its format is newer than this version knows.
    """
    path = folder / ABOUT
    if not os.path.isfile(path):  # noqa: PTH113  unlike Path.is_file, it answers for names that are too long
        raise CheckpointError(
            f"{folder} is no checkpoint: expected a folder with {WEIGHTS} and {ABOUT}, as "
            "`crosstask pretrain` and `crosstask align` write it"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not whole JSON: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise CheckpointError(f"{path} has format {found!r}; this version reads format {FORMAT}. Update crosstask")
    try:
        found = validate(_About, about, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if found.classes and found.class_names and len(found.class_names) != found.classes:
        raise CheckpointError(f"{path} names {len(found.class_names)} classes and has {found.classes}")
    if found.feature_dim is None and (found.classes or found.task):
        raise CheckpointError(f"{path} does not say feature_dim, the width of the features")
    return about


@dataclass(frozen=True, kw_only=True)
class _About:
    """What `config.json` holds."""

    format: int
    kind: Kind
    encoder: str
    feature_dim: Count | None
    classes: Count | None
    class_names: list[str]
    image_shape: tuple[Count, Count, Count]
    task: dict[str, Any] | None
    settings: dict[str, Any]
    metrics: dict[str, float]
    parents: dict[str, str]
    environment: dict[str, str]
    weights_sha256: str


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    head = checkpoint.head
    return {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "encoder": checkpoint.encoder_name,
        "feature_dim": _feature_dim(checkpoint),
        "classes": head.out_features if isinstance(head, nn.Linear) else None,
        "class_names": list(checkpoint.class_names),
        "image_shape": list(checkpoint.image_shape),
        "task": None if checkpoint.task_config is None else to_dict(checkpoint.task_config),
        "settings": checkpoint.settings,
        "metrics": checkpoint.metrics,
        "parents": checkpoint.parents,
        "environment": runtime.environment(),
        "weights_sha256": checkpoint.weights_hash,
    }


def _feature_dim(checkpoint: Checkpoint) -> int | None:
    """Return D as the encoder, the head or the statistics tell it; only a custom encoder may leave it open."""
    dim = getattr(checkpoint.encoder, "feature_dim", None) or getattr(checkpoint.head, "in_features", None)
    if dim is None and "mean" in checkpoint.statistics:
        dim = len(checkpoint.statistics["mean"])
    if dim is None and checkpoint.task_config is not None:
        raise CheckpointError("the width of the features is not known; set encoder.feature_dim before saving")
    return dim


def _task_config(plain: dict[str, Any], what: str) -> Task | Auxiliary:
    return validate(Task, plain, what) if "views" in plain else validate(Auxiliary, plain, what)


def _make_encoder(kind: Kind, name: str, channels: int) -> nn.Module:
    encoder = make_encoder(name, channels)
    return Twin(encoder, make_encoder(name, channels)) if kind == "rec-ttt" else encoder


def _make_task(
    config: Task | Auxiliary, feature_dim: int, encoder: nn.Module | None, image_shape: tuple[int, ...]
) -> SelfSupervisedTask | JointTask | None:
    """Return the task to fill; None for a joint task without the encoder that it has to fit."""
    if isinstance(config, Task):
        return make_task(config, feature_dim)
    return None if encoder is None else make_joint_task(config, encoder, image_shape)


def _fill(module: nn.Module | None, tensors: dict[str, Tensor], part: str, folder: Path) -> None:
    own = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
    if module is None:
        if own or part == "encoder":
            raise CheckpointError(f"the {part} in {folder} is your own; pass it: load(folder, {part}=...)")
        return
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if expected != found:
        different = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        first = different[0]
        raise CheckpointError(
            f"the {part} in {folder} has another architecture: {len(different)} tensor(s) differ, the first is {first} "
            f"(expected {expected.get(first, 'none')}, found {found.get(first, 'none')})"
        )
    module.load_state_dict(own)
