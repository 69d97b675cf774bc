"""Commands on one's own images: adapt to them, or corrupt them; and what there is to do it with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from crosstask.cli.common import Constants, DataDir, Json, Shifts, load_any, print_table, register_shifts
from crosstask.console import ConsoleNarrator
from crosstask.errors import ConfigError

_FEW = 16
"""In smaller batches the statistics of the batch cost accuracy on clean images, as measured in docs/log.md."""


def adapt(
    model: Annotated[Path, typer.Option(help="A checkpoint folder; best an aligned one for cta.")],
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
            f"crosstask: the statistics of fewer than {_FEW} images mislead; try --set batch_norm=prior, or a larger "
            "--batch-size where there are more images",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps({"images": len(predictions), "changed": changed, "method": method, "out": str(out)}))
    else:
        print(f"{len(predictions)} images, adaptation changed {changed} predictions; written to {out}")


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
        print_table(rows, ("name", "family", "needs", "moves", "cost", "paper"))


def corrupt(
    data: Annotated[str, typer.Option(help="A known data set, or a path; of what is divided, the split `test`.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a half-written one is completed.")],
    table: Constants = "cifar",
    severity: Annotated[str, typer.Option(help="One, or a range: 5, 1-5.")] = "1-5",
    corruption: Annotated[list[str] | None, typer.Option(help="Only this one; again for more. All by default.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the random numbers.")] = 0,
    shift: Shifts = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:index].")] = "auto",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write corrupted copies of a data set in the layout of CIFAR-10-C, or of Tiny-ImageNet-C."""
    from crosstask import runtime
    from crosstask.data.corruptions import available
    from crosstask.data.writer import Copies, write_copies

    register_shifts(shift)
    severities = _severities(severity)
    with ConsoleNarrator() as narrator:
        copies = Copies(
            images=load_any(data, data_dir, narrator),
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


def _severities(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) <= 5):
        raise ConfigError(f"--severity takes a number from 1 to 5 or a range of them, as 1-5, got {text!r}")
    return tuple(range(int(first), int(last or first) + 1))
