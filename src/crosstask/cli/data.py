"""`crosstask data`: data sets, known and cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from crosstask.cli.common import Constants, DataDir, Json, Shifts, load_any, print_table, register_shifts
from crosstask.console import ConsoleNarrator
from crosstask.errors import ConfigError

app = typer.Typer(help="Data sets: what is known, what is here, and how to get it.", no_args_is_help=True)


@app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the known data sets and say which are here."""
    from crosstask.data.download import data_table

    rows: list[dict[str, Any]] = [row._asdict() for row in data_table()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows, ("name", "what", "size", "cached", "how"))


@app.command("get")
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


@app.command("show")
def data_show(
    data: Annotated[str, typer.Argument(help="A known data set, or a path; of what is divided, the split `test`.")],
    out: Annotated[Path, typer.Option(help="The image to write, .png.")] = Path("corruptions.png"),
    table: Constants = "cifar",
    index: Annotated[int, typer.Option(min=0, help="Which image.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the random numbers.")] = 0,
    shift: Shifts = None,
    data_dir: DataDir = None,
) -> None:
    """Draw one image under every corruption at every severity."""
    from crosstask.data.corruptions import available
    from crosstask.data.sheet import contact_sheet
    from crosstask.files import check_writable, written_whole

    register_shifts(shift)
    check_writable(out)
    with ConsoleNarrator("interrupted; the same command begins anew") as narrator:
        images = load_any(data, data_dir, narrator)
    if index >= len(images):
        raise ConfigError(f"--index goes from 0 to {len(images) - 1}, got {index}")
    sheet = contact_sheet(images.images, available(), table=table, seed=seed, index=index)
    with written_whole(out) as temporary:
        sheet.save(temporary, format="PNG")
    print(out)
