"""Workers that are Slurm jobs, sent by submitit: a job a unit, whose results come when it ends.

Partition, account and time limit come from `SBATCH_PARTITION`, `SBATCH_ACCOUNT` and `SBATCH_TIMELIMIT`, as `sbatch`
reads them. The run folder, the images and crosstask must be under the same paths on every node. On a machine without
`sbatch` submitit runs the jobs itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crosstask.errors import ConfigError, WorkerLost
from crosstask.executors.crew import Crew, Task, Team, attempt, deaf_to_interrupts, processors
from crosstask.files import own_name, storage_errors

_BEAT, _SILENCE = 1.0, 30.0
"""Seconds between two signs of life, and those after which a job without any ends."""

_HOURS = 12
"""A job's time limit, where SBATCH_TIMELIMIT names no other."""

_OVER = "over"


@contextlib.contextmanager
def crew(workers: int | None, folder: Path, gpu: bool) -> Iterator[Crew]:
    """Yield a crew of jobs with as many threads each as a share of this machine, and a GPU where they need one.

    The jobs' files lie beside the records: they go when all went well, and stay with their logs when it did not.
    """
    from torch import get_num_threads

    workers = workers or processors()
    threads = max(1, get_num_threads() // workers)
    own = folder / own_name(Path("slurm"), "tmp")
    with storage_errors(own):
        own.mkdir(parents=True, exist_ok=True)
    with _pulse(own / "pulse") as pulse:
        cluster = _Cluster(own, threads, gpu)
        about = f"{workers} jobs at once ({cluster.name}), threads: {threads} each"
        yield Team(workers=workers, threads=threads, about=about, start=partial(Jobs, cluster=cluster, pulse=pulse))
    shutil.rmtree(own, ignore_errors=True)


class Jobs:
    """A worker that has a job at a time."""

    def __init__(self, task: Task, cluster: _Cluster, pulse: Path) -> None:
        self._task, self._cluster, self._pulse = task, cluster, pulse
        self._job: Any = None
        self._closed = threading.Event()

    def run(self, items: Sequence[Any]) -> Iterator[Any]:
        """See `crew.Worker.run`."""
        self._job = self._cluster.submit(_do, self._task, items, self._pulse)
        while not self._cluster.is_done(self._job):
            if self._closed.wait(0.2):
                raise WorkerLost("it was ended")
        yield from self._cluster.results(self._job)

    def close(self) -> None:
        """See `crew.Worker.close`."""
        self._closed.set()
        if self._job is not None:
            self._cluster.cancel(self._job)


class _Cluster:
    """What of submitit is used, by one thread at a time."""

    def __init__(self, folder: Path, threads: int, gpu: bool) -> None:
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)
        self._submitit = submitit
        self._executor = submitit.AutoExecutor(folder=folder)
        self._executor.update_parameters(
            name="crosstask", timeout_min=60 * _HOURS, cpus_per_task=threads, gpus_per_node=int(gpu)
        )
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._executor.cluster

    def submit(self, *call: Any) -> Any:
        try:
            with self._lock, deaf_to_interrupts():
                return self._executor.submit(*call)
        except self._submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"Slurm took no job: {error}") from error

    def is_done(self, job: Any) -> bool:
        with self._lock:
            return job.done()

    def results(self, job: Any) -> list[Any]:
        try:
            return job.result()
        except (self._submitit.core.utils.UncompletedJobError, self._submitit.core.utils.FailedJobError) as error:
            raise WorkerLost(f"job {job.job_id}, whose log is {job.paths.stderr}") from error

    def cancel(self, job: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            if not job.done():
                job.cancel(check=False)


@contextlib.contextmanager
def _pulse(pulse: Path) -> Iterator[Path]:
    """Yield `pulse`, a file that changes as long as this process lives and the `with` block lasts."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.is_set():
            with contextlib.suppress(OSError):  # a full disk, say: the next beat may be heard
                pulse.write_text(str(count), encoding="ascii")
            count += 1
            over.wait(_BEAT)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            pulse.write_text(_OVER, encoding="ascii")


def _do(task: Task, items: Sequence[Any], pulse: Path) -> list[Any]:
    """Do a unit, in a job."""
    threading.Thread(target=_leave_with_the_pulse, args=(pulse,), daemon=True).start()
    return [attempt(task, item) for item in items]


def _leave_with_the_pulse(pulse: Path) -> None:
    """End this process when nobody waits for its results any more."""
    heard, last = time.monotonic(), ""
    while last != _OVER and time.monotonic() - heard < _SILENCE:
        time.sleep(_BEAT)
        with contextlib.suppress(OSError):
            if (now := pulse.read_text(encoding="ascii")) != last:
                heard, last = time.monotonic(), now
    os._exit(1)
