"""Programs of this machine that fetch packages, run quietly and within a time limit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from crosstask.errors import DownloadError


def run(command: list[str], folder: Path, timeout_s: float) -> None:
    """Run a command quietly in `folder`, for at most `timeout_s` seconds.

    Raises:
        DownloadError: it cannot be run, fails or takes longer; the last line it wrote is named.
    """
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"{program} did not finish within {timeout_s:.0f} s") from error
    except OSError as error:
        raise DownloadError(f"{program} cannot be run: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise DownloadError(f"{program} failed: {said[-1].strip() if said else f'exit code {done.returncode}'}")
