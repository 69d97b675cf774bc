"""A look inside the models of a run folder: apart from the comparison, and it chooses nothing."""

from __future__ import annotations

import time
from typing import Any

from crosstask import checkpoint as checkpoints
from crosstask import runtime
from crosstask.bench import diagnosis
from crosstask.bench.diagnosis import Diagnosis
from crosstask.bench.diagnostics import SHOWN, Subject, diagnose
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Kind
from crosstask.data.corruptions.own import register_from
from crosstask.data.images import ImageSet
from crosstask.data.severities import CLEAN
from crosstask.errors import CheckpointError, ConfigError
from crosstask.methods import find
from crosstask.pipeline import tuned
from crosstask.pipeline.comparison import check_family
from crosstask.pipeline.experiment import ALIGNED, SELF_SUPERVISED, Experiment, needed

FILE = "diagnostics.json"


def diagnosed_models(experiment: Experiment) -> dict[Kind, Checkpoint]:
    """Load the checkpoints of a run folder that are looked at.

    Raises:
        CheckpointError: the supervised, the self-supervised or the aligned one is missing, or they are not of one run.
    """
    kinds = [kind for kind in SHOWN if kind != "joint" or experiment.path(kind).exists()]
    family = {kind: checkpoints.load(experiment.path(kind)) for kind in kinds}
    check_family({str(kind): found for kind, found in family.items()})
    parent, own = family[ALIGNED].parents.get(SELF_SUPERVISED), family[SELF_SUPERVISED].weights_hash
    if parent != own:
        raise CheckpointError(
            f"the aligned checkpoint was not made from this self-supervised one: expected the weights {parent}, got "
            f"{own}; run `crosstask align` again"
        )
    return family


def diagnose_stage(
    experiment: Experiment, source: ImageSet, target: ImageSet, family: dict[Kind, Checkpoint]
) -> Diagnosis:
    """Look inside the models of a run and write `diagnostics.json`; a look at the very same is found, not taken again.

    Args:
        source, target: the images the models were trained on, and those they are tested on, both with labels.
        family: as `diagnosed_models` returns it.
    """
    recipe, path = experiment.recipe, experiment.folder / FILE
    for name, reference in recipe.bench.shifts.items():
        register_from(name, reference)
    subject = Subject(
        checkpoints=family,
        source=source,
        target=target,
        corruption=recipe.diagnose.corruption or _first_corruption(recipe.bench),
        severity=recipe.bench.severity,
        table=recipe.bench.table,
        batch_size=recipe.bench.batch_size,
        seed=recipe.bench.seeds[0],
        adaptation=_adaptation(_tuned(experiment)),
        settings=recipe.diagnose,
        device=experiment.device,
        precision=runtime.resolve_precision(experiment.device, recipe.precision),
        command=experiment.command,
    )
    found = diagnosis.read(path)
    if found and found.key == subject.key:
        experiment.say(f"diagnose: found in {path}")
        return found
    started = time.monotonic()
    made = diagnose(subject, lambda done, total, note: experiment.narrator.progress("diagnose", done, total, note))
    diagnosis.write(path, made)
    experiment.say(f"diagnose: looked inside {len(family)} models in {time.monotonic() - started:.0f} s")
    return made


def _first_corruption(bench: Bench) -> str:
    corruptions = [name for name in bench.corruptions if name != CLEAN]
    if not corruptions:
        raise ConfigError("the bench has clean images alone; name a corruption, as --set diagnose.corruption=fog")
    return corruptions[0]


def _tuned(experiment: Experiment) -> Bench:
    """Return the recipe's bench with the steps and rates that were chosen for it, if any were.

    Raises:
        ConfigError: they were chosen with other settings or checkpoints.
    """
    recipe = experiment.recipe
    if recipe.tune is None or not (experiment.folder / "tuned.toml").exists():
        return recipe.bench
    family: dict[str, Checkpoint] = {kind: checkpoints.load(experiment.path(kind)) for kind in needed(recipe)}
    found = tuned.find_tuned(experiment, family)
    return found.applied(recipe.bench) if found else recipe.bench


def _adaptation(bench: Bench) -> dict[str, Any]:
    """Return the arguments of the bench's first column of CTA on the aligned model; CTA's own where there is none.

    Each batch stands alone here, and is looked at after many updates: columns with a memory are passed over, and
    `first_steps` is left out.
    """
    columns = [
        column.arguments
        for column in bench.columns.values()
        if column.method == "cta" and column.checkpoint in (None, ALIGNED) and not column.arguments.get("memory")
    ]
    usual = find("cta").defaults["steps"] if bench.steps is None else bench.steps
    own = columns[0] if columns else {}
    return {"steps": usual} | {name: value for name, value in own.items() if name != "first_steps"}
