"""The command line. Thin: torch is imported inside a command, never for `--help`."""

from __future__ import annotations

import json
import os
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
    from crosstask.checkpoint import Checkpoint
    from crosstask.executors import Executor
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
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Who measures the cells: inline (this process), processes, ray or slurm.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="How many measure at once; one a processor, or GPU.")]
Supervised = Annotated[Path | None, typer.Option(help="The classifier's checkpoint; the run folder's own.")]
Aligned = Annotated[Path | None, typer.Option(help="The aligned checkpoint; the run folder's own.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_FEW = 16
"""In smaller batches the statistics of the batch cost accuracy on clean images, as measured in docs/log.md."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"crosstask {__version__}")
        raise typer.Exit


@app.callback()
def crosstask(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Test-time training by cross-task alignment: pretrain, align, adapt, and prove it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and context.invoked_subcommand not in ("pretrain", "align"):
        raise ConfigError("torchrun is for pretrain and align; to measure with several processes: --executor processes")


@app.command()
def run(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    executor: ExecutorName = "inline",
    workers: Workers = None,
) -> None:
    """Run a recipe from images to report: pretrain, align, tune, bench, report. Goes on where it stopped."""
    from crosstask import pipeline
    from crosstask.executors import Executor

    with ConsoleNarrator() as narrator:
        who = Executor(name=executor, workers=workers)
        report = pipeline.run_recipe(_experiment(recipe, out, set_, data_dir, narrator, executor=who))
    _show(report.parent)


@app.command()
def pretrain(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    only: Annotated[str | None, typer.Option(help="One kind: supervised, self-supervised, joint, ttt ...")] = None,
) -> None:
    """Stage 1: train the supervised encoder, its self-supervised twin, and what other methods of the recipe need."""
    from crosstask import distributed, pipeline

    if only is not None and only not in pipeline.PRETRAINED:
        raise ConfigError(f"--only takes one of {', '.join(pipeline.PRETRAINED)}; got {only!r}")
    with ConsoleNarrator() as narrator, distributed.together():
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        images, _ = pipeline.source_images(experiment.recipe, narrator.say)
        made = pipeline.pretrain_stages(experiment, images, only)
    for kind in made:
        narrator.result(experiment.path(kind))


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
    from crosstask import checkpoint, distributed, pipeline

    with ConsoleNarrator() as narrator, distributed.together():
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        teacher = checkpoint.load(supervised or experiment.path(pipeline.SUPERVISED))
        student = checkpoint.load(self_supervised or experiment.path(pipeline.SELF_SUPERVISED))
        images, _ = pipeline.source_images(experiment.recipe, narrator.say)
        pipeline.align_stage(experiment, images, teacher, student)
    narrator.result(experiment.path(pipeline.ALIGNED))


@app.command()
def tune(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    supervised: Supervised = None,
    aligned: Aligned = None,
) -> None:
    """Choose steps and learning rates on source images, as the recipe's [tune] says, before the bench uses them."""
    from crosstask import pipeline

    with ConsoleNarrator() as narrator:
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        _, images = pipeline.source_images(experiment.recipe, narrator.say)
        pipeline.check_tuning(experiment.recipe, images)
        tuned = pipeline.tune_stage(experiment, images, _family(experiment, supervised, aligned))
    rows = tuned.rows()
    _table(rows, tuple(rows[0]))
    print(experiment.folder / "tuned.toml")


@app.command()
def bench(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    supervised: Supervised = None,
    aligned: Aligned = None,
    executor: ExecutorName = "inline",
    workers: Workers = None,
) -> None:
    """Stage 3: adapt and score every column of the recipe under every corruption."""
    from crosstask import pipeline
    from crosstask.executors import Executor

    with ConsoleNarrator() as narrator:
        who = Executor(name=executor, workers=workers)
        experiment = _experiment(recipe, out, set_, data_dir, narrator, executor=who)
        family = _family(experiment, supervised, aligned)
        images = pipeline.target_images(experiment.recipe, narrator.say)
        pipeline.bench_stage(experiment, images, family)
    print(experiment.folder / "records.jsonl")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder with records.jsonl.")],
    format_: Annotated[
        str, typer.Option("--format", help="html (report.html and a table), md, csv, latex, json or tensorboard.")
    ] = "html",
    out: Annotated[Path | None, typer.Option(help="A file for md, csv, latex or json; else they are printed.")] = None,
) -> None:
    """Stage 4: turn records into a table and report.html, or into another program's format."""
    from crosstask import report as reports
    from crosstask.bench import records
    from crosstask.errors import UnknownName
    from crosstask.files import write_text

    known = ("html", *reports.TEXTS, "tensorboard")
    if format_ not in known:
        raise UnknownName("format", format_, known)
    if out is not None and format_ not in reports.TEXTS:
        raise ConfigError(f"--out is for {', '.join(reports.TEXTS)}; {format_} has its place in the run folder")
    if format_ == "html":
        reports.write(folder)
        _show(folder)
    elif format_ == "tensorboard":
        print(reports.write_events(folder))
    else:
        text = reports.TEXTS[format_](records.read(folder / "records.jsonl"))
        if out is None:
            print(text, end="")
        else:
            write_text(out, text)
            print(out)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run folder with records.jsonl.")],
    second: Annotated[Path, typer.Argument(help="Another one, on the same test images.")],
    as_json: Json = False,
) -> None:
    """Set two runs side by side: what changed, by how much, and whether that may be chance."""
    from rich.console import Console

    from crosstask import report as reports
    from crosstask.bench import records

    names = (first.resolve().name, second.resolve().name)
    if names[0] == names[1]:
        names = (str(first), str(second))
    one, other = (records.read(folder / "records.jsonl") for folder in (first, second))
    found = reports.compare(one, other, names)
    if as_json:
        print(reports.comparison_json(found))
    else:
        Console(highlight=False).print(reports.comparison_text(found))


@app.command()
def diagnose(recipe: RecipeName, out: Out = None, set_: Sets = None, data_dir: DataDir = None) -> None:
    """Look inside the models of a run: gradients, likeness and drift of features; the report shows it."""
    from rich.console import Console

    from crosstask import pipeline
    from crosstask import report as reports
    from crosstask.report.diagnosis import table

    with ConsoleNarrator() as narrator:
        experiment = _experiment(recipe, out, set_, data_dir, narrator)
        family = pipeline.diagnosed_models(experiment)
        source, _ = pipeline.source_images(experiment.recipe, narrator.say)
        target = pipeline.target_images(experiment.recipe, narrator.say)
        found = pipeline.diagnose_stage(experiment, source, target, family)
    Console(highlight=False).print(table(found))
    print(experiment.folder / "diagnostics.json")
    if (experiment.folder / "records.jsonl").exists():
        print(reports.write(experiment.folder))


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
        _table(rows, ("name", "family", "needs", "moves", "cost", "paper"))


@app.command()
def corrupt(
    data: Annotated[str, typer.Option(help="A known data set, or a path; of what is divided, the split `test`.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a half-written one is completed.")],
    table: Annotated[str, typer.Option(help="cifar, tiny-imagenet or imagenet: whose constants.")] = "cifar",
    severity: Annotated[str, typer.Option(help="One, or a range: 5, 1-5.")] = "1-5",
    corruption: Annotated[list[str] | None, typer.Option(help="Only this one; again for more. All by default.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the random numbers.")] = 0,
    shift: Annotated[list[str] | None, typer.Option(help="Your own function, NAME=FILE.py:FUNCTION.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:index].")] = "auto",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write corrupted copies of a data set in the layout of CIFAR-10-C, or of Tiny-ImageNet-C."""
    from crosstask import runtime
    from crosstask.data.corruptions import available
    from crosstask.data.corruptions.own import register_from
    from crosstask.data.images import is_divided, load_images
    from crosstask.data.writer import Copies, write_copies

    for setting in shift or ():
        register_from(*_pair(setting))
    severities = _severities(severity)
    with ConsoleNarrator() as narrator:
        split = "test" if is_divided(data) else None
        copies = Copies(
            images=load_images(data, split=split, data_dir=data_dir, report=narrator.say),
            corruptions=tuple(corruption or available()),
            severities=severities,
            table=table,
            seed=seed,
            device=runtime.pick_device(device),
        )
        manifest = write_copies(copies, out, lambda done, total, note: narrator.progress("corrupt", done, total, note))
    if as_json:
        print(json.dumps({"out": str(out), "images": len(copies.images), "files": len(manifest["files"])}))
    else:
        print(f"{len(copies.corruptions)} corruptions of {len(copies.images)} images in {out}")


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
def data_get(
    name: Annotated[str, typer.Argument(help="See `crosstask data list`.")],
    data_dir: DataDir = None,
    mirror: Annotated[
        str | None, typer.Option(help="An address or a folder that holds the official files; else $CROSSTASK_MIRROR.")
    ] = None,
) -> None:
    """Fetch a data set into the cache, check it and print where it lies."""
    from crosstask.data.download import KNOWN
    from crosstask.errors import UnknownName

    if name not in KNOWN:
        raise UnknownName("data set", name, KNOWN)
    with ConsoleNarrator() as narrator:
        place = KNOWN[name].ensure(data_dir, narrator.say, mirror=mirror, fetch=True)
    print(place)


@data_app.command("show")
def data_show(
    data: Annotated[str, typer.Argument(help="A known data set, or a path; of what is divided, the split `test`.")],
    out: Annotated[Path, typer.Option(help="The image to write, .png.")] = Path("corruptions.png"),
    table: Annotated[str, typer.Option(help="cifar, tiny-imagenet or imagenet: whose constants.")] = "cifar",
    index: Annotated[int, typer.Option(min=0, help="Which image.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the random numbers.")] = 0,
    shift: Annotated[list[str] | None, typer.Option(help="Your own function, NAME=FILE.py:FUNCTION.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Draw one image under every corruption at every severity."""
    from crosstask.data.corruptions import available
    from crosstask.data.corruptions.own import register_from
    from crosstask.data.images import is_divided, load_images
    from crosstask.data.sheet import contact_sheet
    from crosstask.files import check_writable, written_whole

    for setting in shift or ():
        register_from(*_pair(setting))
    check_writable(out)
    with ConsoleNarrator() as narrator:
        split = "test" if is_divided(data) else None
        images = load_images(data, split=split, data_dir=data_dir, report=narrator.say)
    if index >= len(images):
        raise ConfigError(f"--index goes from 0 to {len(images) - 1}, got {index}")
    sheet = contact_sheet(images.images, available(), table=table, seed=seed, index=index)
    with written_whole(out) as temporary:
        sheet.save(temporary, format="PNG")
    print(out)


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
    recipe: str,
    out: Path | None,
    sets: list[str] | None,
    data_dir: Path | None,
    narrator: ConsoleNarrator,
    **options: Executor,
) -> Experiment:
    from crosstask import config, pipeline

    overrides = list(sets or ())
    if data_dir is not None:
        overrides.append(f"data.folder={json.dumps(str(data_dir))}")
    loaded = config.load_recipe(recipe, overrides)
    command = shlex.join(["crosstask", *sys.argv[1:]])
    folder = out or Path("out") / loaded.name
    return pipeline.Experiment(recipe=loaded, folder=folder, command=command, narrator=narrator, **options)


def _family(experiment: Experiment, supervised: Path | None, aligned: Path | None) -> dict[str, Checkpoint]:
    """Load the checkpoints that the recipe's columns start from."""
    from crosstask import checkpoint, pipeline

    given = {pipeline.SUPERVISED: supervised, pipeline.ALIGNED: aligned}
    kinds = pipeline.needed(experiment.recipe)
    return {kind: checkpoint.load(given.get(kind) or experiment.path(kind)) for kind in kinds}


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(f"--shift takes NAME=FILE.py:FUNCTION, got {setting!r}")
    return name, value


def _severities(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit() and 1 <= int(first) <= int(last or first) <= 5):
        raise ConfigError(f"--severity takes a number from 1 to 5 or a range of them, as 1-5, got {text!r}")
    return tuple(range(int(first), int(last or first) + 1))


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
