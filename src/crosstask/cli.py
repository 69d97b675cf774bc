"""The command line. Thin: torch is imported inside a command, never for `--help`."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosstask import __version__
from crosstask.console import ConsoleNarrator
from crosstask.errors import ConfigError, CrosstaskError

if TYPE_CHECKING:
    from crosstask.pipeline import Experiment

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets: what is known, what is here, and how to get it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

RecipeName = Annotated[str, typer.Argument(help="Name of a built-in recipe, or the path of a TOML file.")]
Out = Annotated[Path | None, typer.Option(help="The run folder; out/RECIPE by default.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, as --set align.epochs=3.")]
DataDir = Annotated[Path | None, typer.Option(help="A folder that already holds the data set's files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_FEW = 16
"""In smaller batches the statistics of the batch cost accuracy on clean images, as measured in docs/log.md."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"crosstask {__version__}")
        raise typer.Exit


@app.callback()
def crosstask(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Test-time training by cross-task alignment: pretrain, align, adapt, and prove it."""


@app.command()
def run(recipe: RecipeName, out: Out = None, set_: Sets = None, data_dir: DataDir = None) -> None:
    """Run a recipe from images to report: pretrain, align, bench, report. Goes on where it stopped."""
    from crosstask import pipeline

    with ConsoleNarrator() as narrator:
        report = pipeline.run_recipe(_experiment(recipe, out, set_, data_dir, narrator))
    _show(report.parent)


@app.command()
def pretrain(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    only: Annotated[str | None, typer.Option(help="`supervised` or `self-supervised`; both by default.")] = None,
) -> None:
    """Stage 1: train the supervised encoder with its classifier, and its self-supervised twin."""
    from crosstask import pipeline

    stages = {pipeline.SUPERVISED: pipeline.supervised_stage, pipeline.SELF_SUPERVISED: pipeline.self_supervised_stage}
    if only is not None and only not in stages:
        raise ConfigError(f"--only takes {' or '.join(stages)}, got {only!r}")
    with ConsoleNarrator() as narrator:
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        images = pipeline.source_images(experiment.recipe, narrator.say)
        for name, stage in stages.items():
            if only in (None, name):
                stage(experiment, images)
                print(experiment.path(name))


@app.command()
def align(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    supervised: Annotated[Path | None, typer.Option(help="The classifier's checkpoint; the run folder's own.")] = None,
    self_supervised: Annotated[Path | None, typer.Option(help="The twin's checkpoint; the run folder's own.")] = None,
) -> None:
    """Stage 2: align the self-supervised encoder with the frozen supervised one, without labels."""
    from crosstask import checkpoint, pipeline

    with ConsoleNarrator() as narrator:
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        teacher = checkpoint.load(supervised or experiment.path(pipeline.SUPERVISED))
        student = checkpoint.load(self_supervised or experiment.path(pipeline.SELF_SUPERVISED))
        images = pipeline.source_images(experiment.recipe, narrator.say)
        pipeline.align_stage(experiment, images, teacher, student)
    print(experiment.path(pipeline.ALIGNED))


@app.command()
def bench(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    supervised: Annotated[Path | None, typer.Option(help="The classifier's checkpoint; the run folder's own.")] = None,
    aligned: Annotated[Path | None, typer.Option(help="The aligned checkpoint; the run folder's own.")] = None,
) -> None:
    """Stage 3: adapt and score every column of the recipe under every corruption."""
    from crosstask import checkpoint, pipeline

    with ConsoleNarrator() as narrator:
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        source = checkpoint.load(supervised or experiment.path(pipeline.SUPERVISED))
        twin = checkpoint.load(aligned or experiment.path(pipeline.ALIGNED))
        images = pipeline.target_images(experiment.recipe, narrator.say)
        pipeline.bench_stage(experiment, images, source, twin)
    print(experiment.folder / "records.jsonl")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder with records.jsonl.")]) -> None:
    """Stage 4: turn records into a table and report.html."""
    from crosstask import report as reports

    reports.write(folder)
    _show(folder)


@app.command()
def adapt(
    model: Annotated[Path, typer.Option(help="A checkpoint folder; an aligned one for cta.")],
    images: Annotated[Path, typer.Option(help="A folder of PNG or JPEG files, an .npy/.npz array, or parquet.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("predictions.csv"),
    method: Annotated[str, typer.Option(help="See `crosstask methods`.")] = "cta",
    batch_size: Annotated[int, typer.Option(min=1, help="Images adapted to together.")] = 128,
    set_: Annotated[list[str] | None, typer.Option("--set", help="An argument of the method, as steps=5.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:index].")] = "auto",
    as_json: Json = False,
) -> None:
    """Adapt a model to your own unlabelled images and write its predictions."""
    from crosstask import config, runtime
    from crosstask.adapt import adapt_files
    from crosstask.methods import check_arguments, find

    arguments = config.parse_overrides(set_ or ())
    check_arguments(method, arguments)
    with ConsoleNarrator("interrupted; nothing was written") as narrator:
        predictions = adapt_files(
            model,
            images,
            out,
            method=method,
            arguments=arguments,
            batch_size=batch_size,
            device=runtime.pick_device(device),
            progress=lambda done, total: narrator.progress("adapt", done, total, f"{done} of {total} images"),
        )
    changed = sum(prediction.changed for prediction in predictions)
    policy = arguments.get("batch_norm", find(method).defaults.get("batch_norm"))
    if policy == "batch" and min(batch_size, len(predictions)) < _FEW:
        print(
            f"crosstask: the statistics of fewer than {_FEW} images mislead; try --set batch_norm=source, or a larger "
            "--batch-size where there are more images",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps({"images": len(predictions), "changed": changed, "method": method, "out": str(out)}))
    else:
        print(f"{len(predictions)} images, adaptation changed {changed} predictions; written to {out}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None, as_json: Json = False
) -> None:
    """List the test-time methods, or explain one."""
    from crosstask.methods import METHODS, find, outline

    rows = [outline(each) for each in ([name] if name else METHODS)]
    if as_json:
        print(json.dumps(rows[0] if name else rows, indent=2))
    elif name:
        print(f"{name}: {find(name).explanation}\n\nMoves {rows[0]['moves']}. Cost: {rows[0]['cost']}.")
        print(f"Needs a checkpoint: {rows[0]['needs']}. Source: {rows[0]['paper']}.")
        print("Arguments: " + (", ".join(f"{key}={value}" for key, value in rows[0]["arguments"].items()) or "none"))
    else:
        _table(rows, ("name", "summary", "needs", "moves", "cost"))


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the known data sets and say which are here."""
    from crosstask.data.download import data_table

    rows: list[dict[str, Any]] = [row._asdict() for row in data_table()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _table(rows, ("name", "what", "size", "cached", "how"))


@data_app.command("get")
def data_get(name: Annotated[str, typer.Argument(help="See `crosstask data list`.")], data_dir: DataDir = None) -> None:
    """Bring a data set into the cache and print its folder."""
    from crosstask.data.download import KNOWN
    from crosstask.errors import UnknownName

    if name not in KNOWN:
        raise UnknownName("data set", name, KNOWN)
    with ConsoleNarrator() as narrator:
        folder = KNOWN[name].ensure(data_dir, narrator.say)
    print(folder)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine offers: versions, device, precision, threads, cache."""
    from crosstask.data.download import cache_dir
    from crosstask.runtime import diagnosis

    facts = {**diagnosis(), "data cache": str(cache_dir())}
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        for key, value in facts.items():
            print(f"{key:>18}  {value}")


def main() -> None:
    """Run the command line; a user's mistake, or a refusal of the system, becomes one message and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"crosstask: {message}", file=sys.stderr)
    try:
        app()
    except (CrosstaskError, OSError) as error:
        print(f"crosstask: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _experiment(
    recipe: str, out: Path | None, sets: list[str] | None, data_dir: Path | None, narrator: ConsoleNarrator
) -> Experiment:
    from crosstask import config, pipeline

    overrides = list(sets or ())
    if data_dir is not None:
        overrides.append(f"data.folder={json.dumps(str(data_dir))}")
    loaded = config.load_recipe(recipe, overrides)
    command = shlex.join(["crosstask", *sys.argv[1:]])
    folder = out or Path("out") / loaded.name
    return pipeline.Experiment(recipe=loaded, folder=folder, command=command, narrator=narrator)


def _show(folder: Path) -> None:
    from rich.console import Console

    from crosstask import report as reports
    from crosstask.bench import records

    found = records.read(folder / "records.jsonl")
    console = Console(highlight=False)
    console.print(reports.table_text(found))
    console.print(reports.headline(found), markup=False)
    print(folder / "report.html")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("yes" if row[c] is True else "no" if row[c] is False else str(row[c]) for c in columns))
    Console(highlight=False).print(table)
