"""Every setting on one page: one frozen dataclass a stage, read from TOML and `--set a.b=c`, checked all at once."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import tomllib
import types
import typing
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    model_serializer,
)
from pydantic.dataclasses import dataclass

from crosstask import presets
from crosstask.errors import ConfigError, UnknownName, did_you_mean

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("expected the smaller number first")
    return pair


def _different(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected different values")
    return values


def without_empty(plain: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leave out what older versions did not know, where it is empty: the same settings keep their digest."""
    return {key: value for key, value in plain.items() if key not in names or value}


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Factors = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_different)]
Areas = Annotated[tuple[Annotated[Share, Field(gt=0)], Annotated[Share, Field(gt=0)]], AfterValidator(_ordered)]


JointKind = Literal["joint", "ttt", "tttflow", "clust3", "nc-ttt", "rec-ttt"]
"""Kinds of checkpoints whose classifier was trained beside a task."""

Kind = Literal["supervised", "self-supervised", "aligned", "joint", "ttt", "tttflow", "clust3", "nc-ttt", "rec-ttt"]
"""Kinds of checkpoints, by the stage that makes them. `joint`: supervised and self-supervised on one encoder, with
SimCLR as in TTT++."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Data:
    """Which images."""

    name: str
    """Images to train on: a known data set (`crosstask data list`) or a path; of what is divided, the split `train`."""
    test: str | None = None
    """Images to test on; by default the split `test` of `name`."""
    corrupted: str | None = None
    """Corrupted copies of the images to test on, shown in the place of corrupting them: `cifar10-c`, `cifar100-c`, or
    the path of a folder or archive, official or of `crosstask corrupt`, from the working folder on. A seed then draws
    images and their order, and `bench.table` only says what the copies were made with."""
    folder: Path | None = None
    """Where to look for a known data set before the cache and the network."""
    validation: Steps = 0
    """So many of the images to train on, drawn by the recipe's seed, no stage trains on: `crosstask tune` takes them in
    place of training images."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Views:
    """The random views of a self-supervised task (Chen et al. 2020, app. A)."""

    crop: Areas = (0.5, 1.0)
    """Smallest and largest share of the image's area that a crop keeps; its aspect ratio lies in [3/4, 4/3]. A smaller
    piece than the supervised stage has shown is one that the teacher knows little about."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    jitter: Share = 0.8
    """Probability that brightness, contrast, saturation and hue are jittered."""
    brightness: Share = 0.4
    """Brightness is multiplied by a factor in [1 - v, 1 + v]."""
    contrast: Share = 0.4
    """Contrast is multiplied by a factor in [1 - v, 1 + v]."""
    saturation: Share = 0.4
    """Saturation is multiplied by a factor in [1 - v, 1 + v]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest turn of the hue, as a share of the colour circle."""
    gray: Share = 0.2
    """Probability of losing all colour."""
    blur: Share = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Annotated[tuple[Positive, Positive], AfterValidator(_ordered)] = (0.1, 1.0)
    """Smallest and largest deviation of the blur, in pixels of a 32-pixel image."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Task:
    """The self-supervised task of pretraining, alignment and adaptation."""

    name: str = "simclr"
    """Which task: `simclr`, `vicreg`, `barlow-twins`, `byol` or `rotation`."""
    temperature: Positive = 0.2
    """Temperature of NT-Xent, for `simclr` alone."""
    hidden: Steps = 512
    """Width of the projector's hidden layers; `rotation` has no projector, and `simclr` none at 0."""
    out: Count = 128
    """Width of the projections."""
    views: Views = Views()
    """How views are drawn."""
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The task's other keyword arguments, as `{ covariance = 2.0 }`."""

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: Any) -> Any:
        return without_empty(handler(self), "arguments")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Auxiliary:
    """A task trained beside the classifier, for the method of the same name."""

    name: str
    """The method that adapts with it, as `ttt` or `clust3`."""
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The task's own keyword arguments."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Optimisation:
    """How long and how fast a stage trains: SGD with Nesterov momentum 0.9, a linear warm-up, then a cosine to zero."""

    epochs: Positive
    """Passes over the images; fractions are allowed."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images a step."""
    learning_rate: Positive = 0.1
    """Peak learning rate."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of matrices and kernels; norm scales and biases are not decayed."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Supervised(Optimisation):
    """Stage 1a: cross-entropy with random resized crops and flips, of which AugMix may change some.

    The models with a task beside the classifier see the same; but `joint` sees the views of its task.
    """

    crop: Areas = (0.5, 1.0)
    """Smallest and largest share of the image's area that a crop keeps."""
    augmix: Share = 0.0
    """Share of the crops that are mixed with chains of small changes (AugMix), without its consistency loss."""
    joint_epochs: NotNegative = 0.0
    """Passes of the models with a task beside the classifier, where they are to be other than `epochs` (0)."""

    def alone(self) -> Supervised:
        """Return the settings of the classifier alone."""
        return dataclasses.replace(self, joint_epochs=0.0)

    def beside_task(self) -> Supervised:
        """Return the settings of a classifier with a task beside it."""
        return dataclasses.replace(self, epochs=self.joint_epochs or self.epochs, joint_epochs=0.0)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: Any) -> Any:
        return without_empty(handler(self), "augmix", "joint_epochs")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelfSupervised(Optimisation):
    """Stage 1b: the self-supervised task on the same images, without labels."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Align(Optimisation):
    """Stage 2: the self-supervised encoder learns the features of the frozen supervised one, without labels."""

    start: Literal["supervised", "self-supervised"] = "supervised"
    """Whose weights the student's encoder starts with; its task comes from the self-supervised stage in any case."""
    augmix: Share = 1.0
    """Share of the student's views that are mixed with chains of small changes (AugMix); the teacher's are not."""
    temperature: Positive = 0.1
    """Temperature of the contrastive alignment loss."""
    contrastive: NotNegative = 1.0
    """Weight of the contrastive alignment loss."""
    distillation: NotNegative = 2.0
    """Weight of the divergence between the frozen head's outputs on both features."""
    self_supervised: NotNegative = 0.5
    """Weight of the self-supervised loss, kept so that the projector stays valid for the moving encoder."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Column:
    """One column of the comparison: a method, its arguments, and when it is reset."""

    method: str
    """A name of `crosstask methods`."""
    reset: Literal["batch", "corruption", "never"] = "batch"
    """Back to the source before every batch (episodic), before every corruption (online), or never (continual: the way
    of streams on which nothing tells where the corruption changes)."""
    predict: Literal["after", "before"] = "after"
    """Whether a batch is predicted after the updates on it, or before them, so that they help later batches alone."""
    checkpoint: Kind | None = None
    """The model it starts from; by default the one the method needs."""
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The method's own keyword arguments."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Bench:
    """Which cells are measured: columns x corruptions x seeds."""

    protocol: Literal["ets", "tent", "continual", "wild"] | None = None
    """A published protocol, see `crosstask.presets`: it decides what it names, and all of it."""
    corruptions: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of corruptions; `clean` for the images as they are."""
    severity: Annotated[int, Field(ge=1, le=5)] = 5
    """From 1 (mild) to 5."""
    table: Literal["cifar", "tiny-imagenet", "imagenet"] = "cifar"
    """The benchmark whose constants define the severities; it goes with the size of the images."""
    shifts: dict[str, str] = Field(default_factory=dict)
    """Shifts of one's own: a name for `corruptions` to the function, `FILE.py:FUNCTION` (the path begins at the recipe)
    or `MODULE:FUNCTION`."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Each seed draws its own test images, noise and views."""
    images: Count = 256
    """Test images under each corruption."""
    batch_size: Count = 128
    """Test images that arrive at once."""
    shift: Literal["constant", "mixed", "gradual", "continual"] = "constant"
    """`constant`: a stream a corruption. Else one stream of all: see `crosstask.data.streams.StreamPlan`."""
    delta: Positive | None = None
    """None: classes come at random. A number: in clumps, the more so the smaller it is; 0.1 is usual."""
    slots: Count | None = None
    """Time slots over which `delta` spreads a class; by default as many as there are classes, 100 at most."""
    rounds: Count = 1
    """How often a `continual` or `gradual` stream goes through its corruptions."""
    shuffled: bool = False
    """Whether the seed orders the corruptions of a `continual` or `gradual` stream."""
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """None: the stream waits for the method. Else it brings a batch each 1 / rate forward passes, and what comes while
    a method is still learning is predicted without learning from it (Alfarra et al., ICML 2024)."""
    steps: Steps | None = None
    """Updates on each batch, for every method that takes updates and whose column says nothing else."""
    curve: tuple[Steps, ...] = (0, 1, 3, 5, 10, 20)
    """Updates a batch after which a learning method is also scored."""
    columns: dict[str, Column]
    """Label of a column to what it runs."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Tune:
    """How each learning column gets its steps and its learning rate: by trial on source images, the same for all.

    The labels that decide are those of source images: of the `data.validation` ones, that no stage has trained on, or
    else of training images, which the models have learned as they are. No target image is loaded, and no label of one
    decides anything.
    """

    criterion: Literal["held-out", "clean"] = "held-out"
    """`held-out`: the mean accuracy under `speckle_noise`, `gaussian_blur`, `spatter` and `saturate`, which are not of
    the fifteen that are reported, and may not be in this bench. `clean`: that on the images as they are, to which the
    models know the answers: it tells which learning does harm, hardly which helps."""
    images: Count = 256
    """Source training images under each corruption."""
    severity: Annotated[int, Field(ge=1, le=5)] = 5
    """From 1 (mild) to 5."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each seed draws its own images, noise and views."""
    steps: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_different)] = (1, 5, 20)
    """Updates on each batch that are tried, whatever the column says."""
    factors: Factors = (0.1, 0.3, 1.0, 3.0, 10.0)
    """What the column's learning rate, or else the method's own, is multiplied by. Each is tried with each of `steps`,
    so that every method has the same number of trials."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Diagnose:
    """What `crosstask diagnose` looks at inside the models of a run. It chooses nothing."""

    corruption: str | None = None
    """Of the test images, at the bench's severity; by default the bench's first that is not `clean`."""
    batches: Annotated[int, Field(ge=2)] = 32
    """Batches of source images, and of test images, each as large as the bench's; intervals are over them."""
    adapted: Annotated[int, Field(ge=2)] = 4
    """The first so many batches of test images that CTA adapts to; by far the longest part."""
    steps: Annotated[tuple[Steps, ...], Field(min_length=1)] = (0, 1, 2, 5, 10, 20, 50, 100)
    """Updates on a batch after which the drift of features is measured."""
    points: Annotated[int, Field(ge=3, le=500)] = 300
    """The most images that a picture of features shows."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recipe:
    """A whole experiment, from images to report."""

    name: Annotated[str, Field(min_length=1)]
    """Names the run folder."""
    seed: int = 0
    """Fixes initial weights, order and views of all training stages."""
    encoder: str = "resnet-small"
    """Architecture of both encoders: a name of `crosstask.nets.encoders.ENCODERS`."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:index]`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 where the processor multiplies it in hardware."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """In what checkpoints keep kernels and matrices. `bfloat16` halves them; what comes after goes on from those."""
    data: Data
    """Source images for training and target images for testing."""
    supervised: Supervised
    """Stage 1a."""
    task: Task = Task()
    """The self-supervised task."""
    self_supervised: SelfSupervised
    """Stage 1b."""
    align: Align
    """Stage 2."""
    tasks: dict[str, dict[str, bool | int | float | str]] = Field(default_factory=dict)
    """Arguments of the tasks trained beside the classifier, by their method: `[tasks.clust3]`."""
    bench: Bench
    """The comparison."""
    tune: Annotated[Tune | None, BeforeValidator(lambda value: None if value is False else value)] = None
    """How the columns' steps and learning rates are chosen; `false`, or none: they are what the columns say."""
    diagnose: Diagnose = Diagnose()
    """A look inside the models, apart from the comparison."""


def load_recipe(source: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its built-in name or the path of its TOML file, with overrides such as `align.epochs=3`.

    Raises:
        UnknownName: there is no such recipe.
        ConfigError: the file is not TOML, or has unknown keys or values out of range; all mistakes are named at once.
    """
    text = _recipe_text(source)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {source} is not valid TOML: {error}") from error
    settings = list(overrides)
    protocols = [setting for setting in settings if setting.startswith("bench.protocol=")]
    for setting in protocols:
        _set(tree, setting)
    presets.apply(tree, instead=bool(protocols))
    for setting in settings:
        _set(tree, setting)
    presets.apply(tree)
    recipe = validate(Recipe, tree, f"recipe {source}")
    shifts = {name: _from_folder(reference, Path(source).parent) for name, reference in recipe.bench.shifts.items()}
    return dataclasses.replace(recipe, bench=dataclasses.replace(recipe.bench, shifts=shifts))


def _from_folder(reference: str, folder: Path) -> str:
    """Return a reference to a function whose file, if it is one, is found from anywhere."""
    file, colon, function = reference.rpartition(":")
    return f"{(folder / file).resolve()}{colon}{function}" if file.endswith(".py") else reference


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Turn `key=value` texts into a dictionary; values are read as TOML, and as plain text where they are not."""
    tree: dict[str, Any] = {}
    for override in overrides:
        _set(tree, override)
    return tree


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes."""
    return sorted(path.name.removesuffix(".toml") for path in _recipes().iterdir() if path.name.endswith(".toml"))


def keyword_config(made: type) -> type:
    """Return a config class of a class's own keyword-only arguments, with their annotations and defaults."""
    hints = typing.get_type_hints(made.__init__, include_extras=True)  # type: ignore[misc]
    own = [p for p in inspect.signature(made).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    fields = [(p.name, _strict(hints[p.name]), p.default) for p in own]
    return dataclass(dataclasses.make_dataclass("Arguments", fields, kw_only=True), config=_STRICT)


def _strict(hint: Any) -> Any:
    """Have a number given as text, say, refused rather than converted; literals are so by themselves."""
    return hint if typing.get_origin(hint) is Literal else Annotated[hint, Strict()]


ConfigT = typing.TypeVar("ConfigT")


def validate(kind: type[ConfigT], tree: object, what: str) -> ConfigT:
    """Check plain values against a config class and build it.

    Raises:
        ConfigError: names every mistake with its key, what came and what was expected.
    """
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        mistakes = [_explain(kind, mistake) for mistake in error.errors()]
        raise ConfigError(f"{what} has {len(mistakes)} mistake(s):\n" + "\n".join(mistakes)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config into plain JSON values."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def digest(*parts: Any) -> str:
    """Return the SHA-256 of plain values or configs: equal settings, equal digest."""
    plain = [to_dict(part) if dataclasses.is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _recipes() -> Any:
    return resources.files("crosstask") / "recipes"


def _recipe_text(source: str) -> str:
    path = Path(source)
    if path.suffix.lower() == ".toml" or (source not in recipe_names() and path.is_file()):
        if not path.is_file():
            raise ConfigError(f"there is no recipe file {source}")
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe {source}: {error}; it must be a text file in UTF-8") from error
    if source not in recipe_names():
        raise UnknownName("recipe", source, recipe_names())
    return (_recipes() / f"{source}.toml").read_text(encoding="utf-8")


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"a setting looks like key=value, as align.epochs=3, got {override!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"cannot set {key}: {parent} is a value, not a table")
    try:
        tree[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        tree[last] = value


def _explain(kind: type, mistake: Any) -> str:
    path = [str(part) for part in mistake["loc"]]
    key = ".".join(path)
    if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _fields_at(kind, path[:-1])
        return f"  {key}: unknown key{did_you_mean(path[-1], known)} Known here: {', '.join(known) or 'none'}"
    if mistake["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"  {key}: is missing"
    return f"  {key}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, got {mistake['input']!r}"


def _fields_at(kind: Any, path: list[str]) -> list[str]:
    """Return the field names of the config class that stands at `path` below `kind`."""
    for part in path:
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else typing.get_args(kind)[-1]
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
