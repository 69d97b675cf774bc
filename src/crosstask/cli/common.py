"""What the commands share: their options, how a recipe is opened, and how tables are printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosstask.console import ConsoleNarrator
from crosstask.errors import ConfigError

if TYPE_CHECKING:
    from crosstask.checkpoint import Checkpoint
    from crosstask.data.images import ImageSet
    from crosstask.executors import Executor
    from crosstask.pipeline import Experiment

RecipeName = Annotated[str, typer.Argument(help="Name of a built-in recipe, or the path of a TOML file.")]
Out = Annotated[Path | None, typer.Option(help="The run folder; out/RECIPE by default.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, as --set align.epochs=3.")]
DataDir = Annotated[Path | None, typer.Option(help="A folder that already holds the data set's files.")]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Who measures the cells: inline (this process), processes, ray or slurm.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="How many measure at once; one a processor, or GPU.")]
Supervised = Annotated[Path | None, typer.Option(help="The classifier's checkpoint; the run folder's own.")]
Aligned = Annotated[Path | None, typer.Option(help="The aligned checkpoint; the run folder's own.")]
Constants = Annotated[str, typer.Option("--table", help="cifar, tiny-imagenet or imagenet: whose constants.")]
Shifts = Annotated[list[str] | None, typer.Option("--shift", help="Your own function, NAME=FILE.py:FUNCTION.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def open_experiment(
    recipe: str,
    out: Path | None,
    sets: list[str] | None,
    data_dir: Path | None,
    narrator: ConsoleNarrator,
    **options: Executor,
) -> Experiment:
    """Open the run folder of a recipe with the overrides of the command line."""
    from crosstask import config, pipeline

    overrides = list(sets or ())
    if data_dir is not None:
        overrides.append(f"data.folder={json.dumps(str(data_dir), ensure_ascii=False)}")
    loaded = config.load_recipe(recipe, overrides)
    command = shlex.join(["crosstask", *sys.argv[1:]])
    folder = out or Path("out") / loaded.name
    return pipeline.Experiment(recipe=loaded, folder=folder, command=command, narrator=narrator, **options)


def load_family(experiment: Experiment, supervised: Path | None, aligned: Path | None) -> dict[str, Checkpoint]:
    """Load the checkpoints that the recipe's columns start from."""
    from crosstask import checkpoint, pipeline

    given = {pipeline.SUPERVISED: supervised, pipeline.ALIGNED: aligned}
    kinds = pipeline.needed(experiment.recipe)
    return {kind: checkpoint.load(given.get(kind) or experiment.path(kind)) for kind in kinds}


def show_report(folder: Path) -> None:
    """Print a run's table, its headline and where its report lies."""
    from rich.console import Console

    from crosstask import report as reports
    from crosstask.bench import records

    found = records.read(folder / "records.jsonl")
    console = Console(highlight=False)
    console.print(reports.table_text(found))
    console.print(reports.headline(found), markup=False)
    print(folder / "report.html")


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print some columns of a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text("yes" if row[c] is True else "no" if row[c] is False else str(row[c])) for c in columns))
    Console(highlight=False).print(table)


def register_shifts(settings: list[str] | None) -> None:
    """Register functions given as `NAME=FILE.py:FUNCTION` as corruptions."""
    from crosstask.data.corruptions.own import register_from

    for setting in settings or ():
        name, equals, function = setting.partition("=")
        if not equals:
            raise ConfigError(f"--shift takes NAME=FILE.py:FUNCTION, got {setting!r}")
        register_from(name, function)


def load_any(data: str, data_dir: Path | None, narrator: ConsoleNarrator) -> ImageSet:
    """Load a data set by name or path; of what is divided, the split `test`."""
    from crosstask.data.images import is_divided, load_images

    return load_images(data, split="test" if is_divided(data) else None, data_dir=data_dir, report=narrator.say)
