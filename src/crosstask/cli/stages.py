"""Commands on a run: its stages one by one or all at once, and looks at what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crosstask.cli.common import (
    Aligned,
    DataDir,
    ExecutorName,
    Json,
    Out,
    RecipeName,
    Sets,
    Supervised,
    Workers,
    load_family,
    open_experiment,
    print_table,
    show_report,
)
from crosstask.console import ConsoleNarrator
from crosstask.errors import ConfigError


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
        report = pipeline.run_recipe(open_experiment(recipe, out, set_, data_dir, narrator, executor=who))
    show_report(report.parent)


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
        experiment = open_experiment(recipe, out, set_, data_dir, narrator)
        images, _ = pipeline.source_images(experiment.recipe, narrator.say)
        made = pipeline.pretrain_stages(experiment, images, only)
    for kind in made:
        narrator.result(experiment.path(kind))


def align(
    recipe: RecipeName,
    out: Out = None,
    set_: Sets = None,
    data_dir: DataDir = None,
    supervised: Supervised = None,
    self_supervised: Annotated[Path | None, typer.Option(help="The twin's checkpoint; the run folder's own.")] = None,
) -> None:
    """Stage 2: align the self-supervised encoder with the frozen supervised one, without labels."""
    from crosstask import checkpoint, distributed, pipeline

    with ConsoleNarrator() as narrator, distributed.together():
        experiment = open_experiment(recipe, out, set_, data_dir, narrator)
        teacher = checkpoint.load(supervised or experiment.path(pipeline.SUPERVISED))
        student = checkpoint.load(self_supervised or experiment.path(pipeline.SELF_SUPERVISED))
        images, _ = pipeline.source_images(experiment.recipe, narrator.say)
        pipeline.align_stage(experiment, images, teacher, student)
    narrator.result(experiment.path(pipeline.ALIGNED))


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
        experiment = open_experiment(recipe, out, set_, data_dir, narrator)
        _, images = pipeline.source_images(experiment.recipe, narrator.say)
        pipeline.check_tuning(experiment.recipe, images)
        tuned = pipeline.tune_stage(experiment, images, load_family(experiment, supervised, aligned))
    rows = tuned.rows()
    print_table(rows, tuple(rows[0]))
    print(experiment.folder / "tuned.toml")


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
        experiment = open_experiment(recipe, out, set_, data_dir, narrator, executor=who)
        family = load_family(experiment, supervised, aligned)
        images = pipeline.target_images(experiment.recipe, narrator.say)
        pipeline.bench_stage(experiment, images, family)
    print(experiment.folder / "records.jsonl")


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
        show_report(folder)
    elif format_ == "tensorboard":
        print(reports.write_events(folder))
    else:
        text = reports.TEXTS[format_](records.read(folder / "records.jsonl"))
        if out is None:
            print(text, end="")
        else:
            write_text(out, text)
            print(out)


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


def diagnose(recipe: RecipeName, out: Out = None, set_: Sets = None, data_dir: DataDir = None) -> None:
    """Look inside the models of a run: gradients, likeness and drift of features; the report shows it."""
    from rich.console import Console

    from crosstask import pipeline
    from crosstask import report as reports
    from crosstask.report.diagnosis import table

    with ConsoleNarrator("interrupted; the same command begins anew") as narrator:
        experiment = open_experiment(recipe, out, set_, data_dir, narrator)
        family = pipeline.diagnosed_models(experiment)
        source, _ = pipeline.source_images(experiment.recipe, narrator.say)
        target = pipeline.target_images(experiment.recipe, narrator.say)
        found = pipeline.diagnose_stage(experiment, source, target, family)
    Console(highlight=False).print(table(found))
    print(experiment.folder / "diagnostics.json")
    if (experiment.folder / "records.jsonl").exists():
        print(reports.write(experiment.folder))
