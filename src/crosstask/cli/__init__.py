"""The command line. Thin: torch is imported inside a command, never for `--help`."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from crosstask import __version__
from crosstask.cli import data, images, stages
from crosstask.errors import ConfigError, CrosstaskError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
for command in (
    stages.run, stages.pretrain, stages.align, stages.tune, stages.bench, stages.report, stages.compare,
    stages.diagnose, images.adapt, images.methods, images.corrupt, images.doctor,
):  # fmt: skip
    app.command()(command)


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


def main() -> None:
    """Run the command line; a user's mistake, or a refusal of the system, becomes one message and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"crosstask: {message}", file=sys.stderr)
    try:
        app()
    except (CrosstaskError, OSError) as error:
        print(f"crosstask: {error}", file=sys.stderr)
        raise SystemExit(2) from None
