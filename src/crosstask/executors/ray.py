"""Workers that are actors on a Ray cluster: the one that is running, else one of this machine alone.

Every node needs crosstask, the images and the run folder under the same paths. Ray ends actors whose driver is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crosstask.errors import ConfigError, WorkerLost
from crosstask.executors.crew import Crew, Task, Team, attempt


@contextlib.contextmanager
def crew(workers: int | None, folder: Path, gpu: bool) -> Iterator[Crew]:
    """Yield a crew of actors that share the cluster's processors, or its GPUs where they need one each.

    Raises:
        ConfigError: there is no such cluster, or it has no GPU where one is needed.
    """
    with _connected():
        sizes = _sizes("GPU" if gpu else "CPU")
        if not sizes:
            raise ConfigError(f"the Ray cluster has no {'GPU' if gpu else 'processor'}; give it one, or another device")
        workers = min(workers or sum(sizes), sum(sizes))
        share = 1 if gpu else _share(sizes, workers)
        needs = {"num_cpus": share, "num_gpus": int(gpu)}
        about = f"{workers} actors on {len(sizes)} Ray node(s), threads: {share} each"
        yield Team(workers=workers, threads=share, about=about, start=partial(Actor, needs=needs))


class Actor:
    """A worker that is an actor; Ray finds it a node."""

    def __init__(self, task: Task, needs: dict[str, int]) -> None:
        import ray

        self._ray: Any = ray
        own = {name: value for name, value in os.environ.items() if name.startswith("CROSSTASK_")}
        options = {"max_restarts": 0, "runtime_env": {"env_vars": own} if own else None, **needs}
        self._actor = self._ray.remote(_Actor).options(**options).remote(task)

    def run(self, items: Sequence[Any]) -> Iterator[Any]:
        """See `crew.Worker.run`."""
        for item in items:
            try:
                result = self._ray.get(self._actor.attempt.remote(item))
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
                raise WorkerLost(" ".join(str(error).split())[:300]) from error
            yield result

    def close(self) -> None:
        """See `crew.Worker.close`."""
        with contextlib.suppress(Exception):  # the cluster itself may be gone
            self._ray.kill(self._actor)


class _Actor:
    def __init__(self, task: Task) -> None:
        self.task = task
        threading.Thread(target=_leave_with_the_node, daemon=True).start()

    def attempt(self, item: Any) -> Any:
        return attempt(self.task, item)


def _leave_with_the_node() -> None:
    """End this process when Ray's own, which started it, is gone: what is under way here is done elsewhere by then."""
    node = os.getppid()
    while os.getppid() == node:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Connect to a cluster: this process's own connection, that of RAY_ADDRESS, one on this machine, or a new one."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot connect to Ray: {error}; see RAY_ADDRESS, or start one with `ray start`") from error
    try:
        yield
    finally:
        ray.shutdown()


def _sizes(resource: str) -> list[int]:
    """Return how many processors or GPUs each living node has that has any."""
    import ray

    found = (int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"])
    return [size for size in found if size]


def _share(sizes: Sequence[int], workers: int) -> int:
    """Return how many processors a worker may have so that all fit on nodes of these sizes at once."""
    return max(share for share in range(1, max(sizes) + 1) if share == 1 or sum(s // share for s in sizes) >= workers)
