"""Run a recipe in processes that are killed (`kill -9`) as they write, once in each kind of write, until one ends well.

    python kill_in_every_write.py RECIPE FOLDER

Prints what each process was killed in. The processes are forked from one that has everything loaded, which saves
seconds a process; it computes nothing itself.
"""

from __future__ import annotations

import itertools
import os
import platform
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch._dynamo  # noqa: F401  every optimiser loads it

import crosstask.report.html  # noqa: F401  the report loads it
from crosstask import files
from crosstask.bench import records
from crosstask.config import load_recipe
from crosstask.pipeline import Experiment, run_recipe
from crosstask.train import loop


def die_in_a_new_write(survived: set[str], told: int) -> None:
    """Have this process killed in its first write of a kind not yet `survived`, half-way through, and told of it."""
    sync, write_whole = files._sync, records._write_whole

    def last_gasp(kind: str) -> None:
        os.write(told, kind.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_sync(path: Path) -> None:
        kind = "/".join(final_name(part) for part in (path.parent.name, path.name))
        if kind not in survived:
            os.truncate(path, path.stat().st_size // 2)
            last_gasp(kind)
        sync(path)

    def dying_write(descriptor: int, line: bytes, end: int) -> None:
        kind = "a later record" if end else "the first record"
        if kind not in survived:
            os.write(descriptor, line[: len(line) // 2])
            last_gasp(kind)
        write_whole(descriptor, line, end)

    files._sync, records._write_whole = dying_sync, dying_write


def final_name(name: str) -> str:
    """Return the name that a temporary will take, or the name itself."""
    own = f".{platform.node()}-{os.getpid()}.tmp"
    return name.removesuffix(own)[1:] if name.endswith(own) else name


def save_at_every_report() -> None:
    """Let two seconds pass between any two looks at the clock, and let saving a training state be free."""
    loop.time = SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__)
    loop._SAVING_SHARE = float("inf")


def main() -> None:
    """Kill and go on until a process ends by itself."""
    experiment = Experiment(recipe=load_recipe(sys.argv[1]), folder=Path(sys.argv[2]), command="a killed one")
    survived: set[str] = set()
    while True:
        hear, tell = os.pipe()
        child = os.fork()
        if child == 0:
            die_in_a_new_write(survived, tell)
            save_at_every_report()
            run_recipe(experiment)
            os._exit(0)
        os.close(tell)
        kind = os.read(hear, 1000).decode()
        _, status = os.waitpid(child, 0)
        if not kind:
            raise SystemExit(os.waitstatus_to_exitcode(status))
        survived.add(kind)
        print(kind, flush=True)


if __name__ == "__main__":
    main()
