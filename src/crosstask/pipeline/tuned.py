"""`tuned.toml`: what was chosen for each column, on what, and by how much."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict

from crosstask import config
from crosstask.bench.candidates import candidates, trial, with_arguments
from crosstask.bench.cells import updates
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Recipe, Tune
from crosstask.errors import ConfigError
from crosstask.files import write_text
from crosstask.pipeline.experiment import Experiment
from crosstask.report.summary.estimates import over_images, over_seeds

_HEADER = """\
# Written by `crosstask tune`. Steps and learning rates by the accuracy on source images; no target image was loaded.
# Intervals are of 95 %: Student's t over seeds, or Wilson's over the images of a single seed.
"""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A candidate and how it did.

    Attributes:
        steps, learning_rate: what was tried.
        accuracy: share in 0..1, the mean over corruptions and seeds.
        interval: of 95 %, around the accuracy and within 0..1. On a single seed it is as wide as for the images of one
            corruption, which is wider than it need be.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int
    learning_rate: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for a column.

    Attributes:
        chosen: the best candidate; of several, the one with fewer steps, then with the smaller learning rate.
        runner_up: the next; None where no other candidate was left.
        as_given: that with the column's own steps and learning rate, if it was tried and scored.
        lost: candidates that had no score: an update was not finite, or the method refused.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    chosen: Scored
    runner_up: Scored | None = None
    as_given: Scored | None = None
    lost: int


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """All that was chosen.

    Attributes:
        key: content hash of whatever decided it; equal keys, the same choices.
        criterion, corruptions, severity, images, seeds, dataset: on what; `images` under each corruption.
        candidates: how many were tried for each column, the same for all: the budget.
        columns: by label in the recipe.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    key: str
    criterion: Literal["held-out", "clean"]
    dataset: str
    corruptions: tuple[str, ...]
    severity: int
    images: int
    seeds: tuple[int, ...]
    candidates: int
    columns: Mapping[str, Choice]

    def applied(self, bench: Bench) -> Bench:
        """Return the bench with the chosen steps and learning rates in the columns' arguments."""
        columns = dict(bench.columns)
        for label, choice in self.columns.items():
            columns[label] = with_arguments(columns[label], choice.chosen.steps, choice.chosen.learning_rate)
        return replace(bench, columns=columns)

    def rows(self) -> list[dict[str, str]]:
        """Return a row of texts a column, for a table: accuracies in per cent."""
        return [_row(label, choice) for label, choice in self.columns.items()]


def key_of(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str:
    """Return the content hash of what decides the choices: settings, images by name, and the checkpoints' weights.

    Raises:
        ConfigError: the recipe has no [tune].
    """
    tune = wanted(recipe)
    weights = {kind: checkpoint.weights_hash for kind, checkpoint in checkpoints.items()}
    own = {label: updates(recipe.bench, recipe.bench.columns[label]) for label in candidates(recipe.bench, tune)}
    return config.digest(trial(recipe.bench, tune), tune, own, recipe.data.name, recipe.data.validation, weights)


def wanted(recipe: Recipe) -> Tune:
    """Return the [tune] of a recipe.

    Raises:
        ConfigError: it has none.
    """
    if recipe.tune is None:
        raise ConfigError(
            f"the recipe {recipe.name} has no [tune], so its columns say everything; "
            "add one, as with --set tune.criterion=held-out"
        )
    return recipe.tune


def find_tuned(experiment: Experiment, checkpoints: Mapping[str, Checkpoint]) -> Tuned | None:
    """Return what was chosen for a recipe with [tune]; None where the recipe says everything itself.

    Raises:
        ConfigError: nothing was chosen yet, or for other settings or checkpoints.
    """
    recipe, path = experiment.recipe, experiment.folder / "tuned.toml"
    if recipe.tune is None:
        return None
    found = read(path)
    if found is None or found.key != key_of(recipe, checkpoints):
        state = "is not there" if found is None else "was made with other settings or checkpoints"
        raise ConfigError(f"the recipe has [tune], and {path} {state}; run `crosstask tune` first, or take [tune] away")
    return found


def scored(steps: int, learning_rate: float, by_seed: Sequence[float], n: int) -> Scored:
    """Return a candidate with its mean accuracy and interval.

    Args:
        by_seed: for each seed the mean over corruptions.
        n: images under each corruption.
    """
    estimate = over_seeds(by_seed) if len(by_seed) > 1 else over_images(by_seed[0], n)
    half = estimate.half or 0.0
    return Scored(
        steps=steps,
        learning_rate=learning_rate,
        accuracy=round(estimate.mean, 6),
        interval=(round(max(0.0, estimate.mean - half), 6), round(min(1.0, estimate.mean + half), 6)),
    )


def best_first(found: Sequence[Scored]) -> list[Scored]:
    """Rank candidates: the most accurate first; on a tie fewer steps, then the smaller learning rate."""
    return sorted(found, key=lambda one: (-one.accuracy, one.steps, one.learning_rate))


def write(tuned: Tuned, path: Path) -> None:
    """Write what was chosen in one step."""
    write_text(path, _HEADER + tomli_w.dumps(_plain(asdict(tuned))))


def read(path: Path) -> Tuned | None:
    """Return what a file says, or None where there is none.

    Raises:
        ConfigError: it is not what `write` writes.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; delete it and run `crosstask tune`") from error
    return config.validate(Tuned, tree, str(path))


def _row(label: str, choice: Choice) -> dict[str, str]:
    chosen, next_best, given = choice.chosen, choice.runner_up, choice.as_given
    low, high = chosen.interval
    nothing = "\N{EN DASH}"
    return {
        "column": label,
        "steps": str(chosen.steps),
        "rate": f"{chosen.learning_rate:g}",
        "accuracy": f"{100 * chosen.accuracy:.1f}",
        "95 %": f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}",
        "as given": f"{100 * given.accuracy:.1f}" if given else nothing,
        "runner-up": f"{100 * next_best.accuracy:.1f}, {next_best.steps} x {next_best.learning_rate:g}"
        if next_best
        else nothing,
    }


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items() if value is not None}
    return list(tree) if isinstance(tree, tuple) else tree
