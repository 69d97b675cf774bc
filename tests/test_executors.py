"""Executors: what is killed is done again, nothing is done twice or lost, and every number is inline's."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from crosstask import checkpoint, errors
from crosstask.bench import records
from crosstask.bench.cells import Grid, work
from crosstask.checkpoint import Checkpoint
from crosstask.config import Task, load_recipe
from crosstask.data.images import load_images
from crosstask.errors import CheckpointError, ConfigError, DataError, UnknownName, WorkerLost
from crosstask.executors import Executor, crew, processes, ray, slurm
from crosstask.nets.encoders import initialise, make_encoder
from crosstask.pipeline import Experiment, bench_stage
from crosstask.pipeline.units import Item, Measuring, plan, units
from crosstask.tasks import make_task
from test_pipeline import ONE_THREAD, stripes
from work_for_crews import Noted, Seeing, deadly, mistaken

ROOT = Path(__file__).parents[1]
RECIPE = """
name = "few"
precision = "float32"
[data]
name = "test.npz"
test = "test.npz"
[supervised]
epochs = 1
[self_supervised]
epochs = 1
[align]
epochs = 1
[bench]
shifts = {{ held = "{folder}/held.py:held" }}
corruptions = ["contrast", "held", "gaussian_noise"]
seeds = [0, 1]
images = 8
batch_size = 4
curve = [0, 1]
[bench.columns.source]
method = "source"
[bench.columns.tent]
method = "tent"
[bench.columns.cta]
method = "cta"
arguments = {{ steps = 1 }}
"""
HELD = """
import os, time
from pathlib import Path
HERE = Path(__file__).parent

def held(images, severity, random):
    with (HERE / "begun").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while (HERE / "hold").exists():
        time.sleep(0.01)
    return images // 2
"""


class Bench:
    """A folder with images, a recipe, untrained checkpoints, and a shift that waits while a file `hold` lies there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe, self.out = folder, folder / "few.toml", folder / "run"
        self.started: list[subprocess.Popen[str]] = []
        stripes(folder / "test.npz", 30, 1)
        self.recipe.write_text(RECIPE.format(folder=folder))
        (folder / "held.py").write_text(HELD)
        encoder, head, task = make_encoder("resnet-small", 1), nn.Linear(128, 3), make_task(Task(hidden=16, out=8), 128)
        for module in (encoder, head, task):
            initialise(module, torch.Generator().manual_seed(0))
        about = {"encoder_name": "resnet-small", "image_shape": (1, 16, 16), "class_names": ("0", "1", "2")}
        start = Checkpoint(kind="supervised", encoder=encoder, head=head, **about)
        start = checkpoint.save(start, self.out / "checkpoints" / "supervised")
        aligned = Checkpoint(
            kind="aligned", encoder=encoder, head=head, task=task, task_config=Task(hidden=16, out=8),
            parents={"supervised": start.weights_hash}, **about,
        )  # fmt: skip
        checkpoint.save(aligned, self.out / "checkpoints" / "aligned")

    def run(self, executor: Executor, **changes: object) -> list[dict[str, object]]:
        """Measure with changed checkpoints; return what must be the same whoever measures, in the records' order."""
        experiment = Experiment(
            recipe=load_recipe(str(self.recipe)), folder=self.out, command="crosstask bench few", executor=executor
        )
        family = {kind: dataclasses.replace(model, **changes) for kind, model in self.grid.checkpoints.items()}
        bench_stage(experiment, self.grid.images, family)
        return same(self.out)

    @property
    def grid(self) -> Grid:
        return Grid(
            bench=load_recipe(str(self.recipe)).bench,
            images=load_images(self.folder / "test.npz"),
            checkpoints={kind: checkpoint.load(self.out / "checkpoints" / kind) for kind in ("supervised", "aligned")},
            device=torch.device("cpu"),
            precision="float32",
            command="crosstask bench few",
        )

    def command(self, *arguments: object) -> subprocess.Popen[str]:
        """Start `crosstask bench` with these arguments."""
        command = [sys.executable, "-m", "crosstask", "bench", self.recipe, "--out", self.out, *arguments]
        environment = ONE_THREAD | {"PYTHONPATH": str(ROOT / "src")}
        listens = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a shell's background job does not
        process = subprocess.Popen(
            [str(part) for part in command], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=listens, process_group=0,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        """Leave no process behind, whatever has failed."""
        for process in self.started:
            process.kill()
            process.wait()
            process.stderr.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[int], list[int]]]:
        """Have cells under `held` wait within the `with` block, which is given what waits for so many processes."""
        (self.folder / "hold").touch()
        before = len(self._begun())
        yield lambda count: eventually(lambda: (new := self._begun()[before:]) and len(set(new)) >= count and new)
        (self.folder / "hold").unlink()

    def _begun(self) -> list[int]:
        path = self.folder / "begun"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def same(out: Path) -> list[dict[str, object]]:
    """Return the records without what is the machine's: times, memory, its name, and who asked."""
    own = {"ms_per_batch", "images_per_second", "peak_memory_mb", "device", "command"}
    found = [asdict(record) for record in records.read(out / "records.jsonl")]
    return [{name: value for name, value in record.items() if name not in own} for record in found]


def eventually(holds: Callable[[], object], seconds: float = 60) -> object:
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)
    return found


def is_alive(process: int) -> bool:
    """Say whether a process runs; a dead one that nobody has asked for yet does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """The records of an unbroken run in one process. The images are the same in every folder."""
    bench = Bench(tmp_path_factory.mktemp("reference"))
    found = bench.run(Executor())
    assert len(found) == 3 * 3 * 2
    return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)  # the recipe's path of images is a relative one
    made = Bench(tmp_path)
    yield made
    made.end()


# What is asked for


def test_an_executor_is_refused_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="unknown executor 'process'; did you mean 'processes'"):
        Executor(name="process")
    with pytest.raises(ConfigError, match="for 4 workers take one of processes, ray, slurm"):
        Executor(workers=4)
    with pytest.raises(ConfigError, match="at least one worker, got 0"):
        Executor(name="processes", workers=0)
    for extra, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf"needs {package}.*pip install 'crosstask\[{extra}\]'"):
            Executor(name=extra)


def test_every_error_survives_the_way_from_a_worker() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8
    for kind in kinds:
        error = kind("fog", "fogg", ["fog"]) if kind is UnknownName else kind("a message")
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind and str(back) == str(error)


# Units


def cell(stream: int, passes: int, number: int) -> SimpleNamespace:
    about = {"corruptions": ("fog",), "protocol": SimpleNamespace(shift="constant"), "label": "x", "seed": 0}
    return SimpleNamespace(stream=stream, passes=passes, batches=2, keys=(str(number),), **about)


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), max_size=12), st.integers(1, 9))
def test_units_are_shares_of_streams_that_keep_all_workers_busy(streams: list[list[int]], workers: int) -> None:
    todo = [(stream, passes) for stream, all_passes in enumerate(streams) for passes in all_passes]
    todo = [cell(stream, passes, number) for number, (stream, passes) in enumerate(todo)]
    by_key = {each.keys[0]: each for each in todo}
    made = [[by_key[item.key] for item in unit] for unit in units(todo, workers)]
    assert Counter(each.keys[0] for unit in made for each in unit) == Counter(by_key.keys())
    assert all(len({each.stream for each in unit}) == 1 for unit in made)
    sizes = [sum(map(work, unit)) for unit in made]
    assert sizes == sorted(sizes, reverse=True)
    if workers == 1:
        assert len(made) == len(streams), "a stream is drawn once"
    else:
        limit = sum(sizes) / (2 * workers)
        assert all(size <= limit or len(unit) == 1 for size, unit in zip(sizes, made, strict=True))
    for unit in made:
        assert [int(each.keys[0]) for each in unit] == sorted(int(each.keys[0]) for each in unit), "in order"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_ray_workers_have_as_many_processors_as_fit_on_the_nodes(sizes: list[int], data: st.DataObject) -> None:
    workers = data.draw(st.integers(1, sum(sizes)))
    share = ray._share(sizes, workers)

    def fit(share: int) -> int:
        return sum(size // share for size in sizes)

    assert fit(share) >= workers and share <= max(sizes)
    assert all(fit(larger) < workers for larger in range(share + 1, max(sizes) + 1))


# Crews


class Mortal:
    """A worker in a thread of this process, that is lost when `dies` says so. Notes what is done where."""

    alive = 0
    lock = threading.Lock()

    def __init__(self, task: Callable[[int], int], dies: Callable[[int], bool]) -> None:
        self.task, self.dies, self.closed = task, dies, False
        with Mortal.lock:
            Mortal.alive += 1

    def run(self, items: tuple[int, ...]) -> Iterator[object]:
        for item in items:
            if self.dies(item):
                raise WorkerLost("a bullet")
            yield crew.attempt(self.task, item)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        with Mortal.lock:
            Mortal.alive -= 1


def team(workers: int, dies: Callable[[int], bool] = lambda item: False) -> crew.Team:
    return crew.Team(workers=workers, threads=1, about="mortals", start=lambda task: Mortal(task, dies))


def test_what_the_system_refuses_comes_back_as_it_is() -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "records.jsonl")

    raised = crew.attempt(full, 1)
    assert isinstance(raised, crew.Raised) and pickle.loads(pickle.dumps(raised)).error.errno == errno.ENOSPC


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=5), max_size=8), st.integers(1, 4), st.data())
def test_whoever_dies_when_each_item_comes_back_once(
    numbers: list[list[int]], workers: int, data: st.DataObject
) -> None:
    places = iter(range(1000))
    parts = [[next(places) for _ in unit] for unit in numbers]
    everything = [place for unit in parts for place in unit]
    deaths = Counter({place: data.draw(st.integers(0, crew.ATTEMPTS - 1)) for place in everything})

    def dies(place: int) -> bool:
        deaths[place] -= 1
        return deaths[place] >= 0

    done: list[int] = []
    found = list(team(workers, dies).run(lambda place: done.append(place) or 2 * place, parts))
    assert sorted(found) == [(place, 2 * place) for place in everything]
    assert sorted(done) == everything, "twice"
    assert Mortal.alive == 0
    for unit in parts:
        assert [place for place, _ in found if place in unit] == unit, "a unit keeps its order"


def test_an_item_that_is_the_end_of_every_worker_is_named_and_the_rest_is_kept() -> None:
    found = []
    with pytest.raises(
        WorkerLost, match=r"^2: 3 workers in a row were lost on it, the last one with a bullet\. What is"
    ):
        for each in team(1, lambda item: item == 2).run(lambda item: item, [[0, 1], [2, 3]]):
            found.append(each)
    assert found == [(0, 0), (1, 1)] and Mortal.alive == 0


def test_what_a_task_raises_comes_out_and_all_workers_go() -> None:
    for number, kind, message in ((3, UnknownName, "unknown number 'three'"), (4, RuntimeError, "Unpicklable")):
        with pytest.raises(kind, match=message):
            list(team(2).run(mistaken, [[1, 2], [number], [5]]))
        assert Mortal.alive == 0


def test_a_worker_leaves_its_place_when_nothing_is_left_for_it() -> None:
    """Else one that waits for a processor, as on a Ray cluster, would wait for ever."""
    free, gone = threading.Event(), []
    results = team(2).run(lambda item: free.wait(30) if item == 0 else True, [[0], [1]])
    assert next(results) == (1, True)
    eventually(lambda: Mortal.alive == 1)
    free.set()
    gone.extend(results)
    assert gone == [(0, True)]


# Processes


def process_team(workers: int | None, gpu: bool = False) -> crew.Crew:
    with processes.crew(workers, Path(), gpu) as made:
        return made


def test_a_process_killed_in_mid_item_is_replaced_and_the_other_never_notices(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    task = Noted(tmp_path, slow=(1, 5))
    results = process_team(2).run(task, [[0, 1, 2], [4, 5, 6]])
    killed = {}

    def kill() -> None:
        eventually(lambda: {1, 5} <= {number for number, _ in task.begun()})
        killed["pid"] = dict(task.begun())[1]
        os.kill(killed["pid"], signal.SIGKILL)
        eventually(lambda: [number for number, _ in task.begun()].count(1) == 2)
        (tmp_path / "hold").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    found = dict(results)
    killer.join()
    assert {number: square for number, (square, _) in found.items()} == {n: n * n for n in (0, 1, 2, 4, 5, 6)}
    assert found[0][1] == killed["pid"] != found[1][1] == found[2][1], "only what was under way is done again"
    assert len({found[n][1] for n in (4, 5, 6)}) == 1
    assert Counter(number for number, _ in task.begun()) == {0: 1, 1: 2, 2: 1, 4: 1, 5: 1, 6: 1}


def test_processes_go_when_nobody_wants_more(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    task = Noted(tmp_path, slow=(1,))
    results = process_team(2).run(task, [[0, 1]])
    next(results)
    eventually(lambda: len(task.begun()) == 2)
    results.close()
    assert not is_alive(task.begun()[1][1])


def test_each_process_sees_one_gpu_and_the_one_in_its_place_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = dict(process_team(3, gpu=True).run(Seeing(tmp_path, together=3), [[0], [1], [2]]))
    assert sorted(found.values()) == ["2", "2", "5"]
    again = tmp_path / "again"
    again.mkdir()
    found = dict(process_team(1, gpu=True).run(Seeing(again, together=1, dies=1), [[0, 1, 2]]))
    assert found == {0: "2", 1: "2", 2: "2"}, "the one that died is replaced on its own GPU"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    made = process_team(None, gpu=True)
    assert made.workers == 3 and made.about.startswith("3 processes on 3 GPU(s)")


def test_one_gpu_of_several_is_chosen_by_its_environment_variable() -> None:
    grid = SimpleNamespace(device=torch.device("cuda:1"))
    with pytest.raises(ConfigError, match=r"take device = 'cuda', and say in CUDA_VISIBLE_DEVICES"):
        plan(grid, None, 1)


def test_what_happens_in_a_process_is_told() -> None:
    with pytest.raises(UnknownName, match="unknown number 'three'"):
        list(process_team(1).run(mistaken, [[3]]))
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed on 4:.*Unpicklable"):
        list(process_team(1).run(mistaken, [[4]]))
    with pytest.raises(WorkerLost, match="3: 3 workers in a row were lost on it, the last one with exit code 7"):
        list(process_team(1).run(deadly, [[3]]))


@pytest.mark.parametrize("end", ["over", "silence"])
def test_a_job_ends_when_the_pulse_does(end: str, tmp_path: Path) -> None:
    pulse = tmp_path / "pulse"
    code = (
        "import pathlib, sys; from crosstask.executors import slurm; slurm._BEAT, slurm._SILENCE = 0.02, 1.0\n"
        "print('begun', flush=True); slurm._leave_with_the_pulse(pathlib.Path(sys.argv[1]))"
    )
    job = subprocess.Popen([sys.executable, "-c", code, pulse], env=ONE_THREAD, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "begun\n"
    with slurm._pulse(pulse):
        time.sleep(1.5)
        assert job.poll() is None
        if end == "silence":
            pulse.unlink()
            pulse.mkdir()  # no beat can be written any more
            stopped = time.monotonic()
            job.wait(10)
            assert time.monotonic() - stopped > 0.5
    job.wait(10)
    assert job.returncode == 1
    job.stdout.close()


# Grids


def test_processes_give_the_records_of_one_process_bit_for_bit(bench: Bench, reference) -> None:
    assert bench.run(Executor(name="processes", workers=1)) == reference
    assert not {"executor", "workers"} & set().union(*(record["protocol"] for record in reference))
    assert {path.name for path in bench.out.iterdir()} == {
        "checkpoints", "config.toml", "examples.json", "log.txt", "records.jsonl",
    }  # fmt: skip
    shown = json.loads((bench.out / "examples.json").read_text())["examples"]
    assert [example["corruption"] for example in shown] == ["contrast", "held", "gaussian_noise"]


def test_workers_need_checkpoints_in_folders_and_the_data_of_whoever_asks(bench: Bench) -> None:
    with pytest.raises(CheckpointError, match="load the supervised checkpoint from a folder: save it"):
        bench.run(Executor(name="processes", workers=1), folder=None)
    with pytest.raises(DataError, match=r"a worker found other images, .* that asked for source fog seed 0: give"):
        Measuring(lambda: bench.grid)(Item(key="of other images", name="source fog seed 0"))


@pytest.mark.slow
def test_a_worker_and_then_the_whole_command_are_killed_and_nothing_is_lost_or_left(bench: Bench, reference) -> None:
    with bench.held() as held:
        command = bench.command("--executor", "processes", "--workers", 2)
        os.kill(held(2)[0], signal.SIGKILL)
        workers = held(3)[1:]
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        eventually(lambda: not any(map(is_alive, workers)), 10)
    before = (bench.out / "records.jsonl").read_bytes().splitlines()
    assert 0 < len(before) < len(reference)
    command = bench.command("--executor", "processes", "--workers", 2)
    said = command.communicate()[1]
    assert command.returncode == 0, said
    assert f"{len(reference) - len(before)} cells measured" in said
    assert same(bench.out) == reference
    assert {*before} <= {*(bench.out / "records.jsonl").read_bytes().splitlines()}, "measured twice"


@pytest.mark.slow
def test_after_ctrl_c_no_process_goes_on_and_the_command_says_what_holds(bench: Bench) -> None:
    with bench.held() as held:
        command = bench.command("--executor", "processes", "--workers", 2)
        workers = held(2)
        blocked = [re.search(r"SigBlk:\t(\w+)", Path(f"/proc/{pid}/status").read_text()) for pid in workers]
        assert all(int(found[1], 16) & 1 << signal.SIGINT - 1 for found in blocked), "a worker hears it"
        os.killpg(command.pid, signal.SIGINT)  # as the terminal sends it: to all
        said = command.communicate()[1]
        assert command.returncode == 130 and not any(map(is_alive, workers))
    assert "goes on from here" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_mistake_in_a_worker_is_one_message_and_exit_code_2(bench: Bench) -> None:
    wrong = (bench.folder / "held.py").read_text().replace("images // 2", "images / 2")
    (bench.folder / "held.py").write_text(wrong)
    command = bench.command("--executor", "processes", "--workers", 2)
    said = command.communicate()[1]
    assert command.returncode == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("crosstask: the shift 'held' must return uint8 [8, 1, 16, 16]")


@pytest.mark.slow
def test_a_grid_killed_at_random_instants_ends_in_the_same_records() -> None:
    """60 cells; the run of 900 cells and 50 kills is the script's own."""
    settings = ["--severities", "3", "--seeds", "1", "--kills", "3", "--dice", "1"]
    command = [sys.executable, ROOT / "runs" / "kill_the_grid.py", *settings]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert re.match(
        r"severity 3: 60 cells; \d workers and \d commands killed; records: 0 differ, 0 measured twice", line
    )
    assert sum(map(int, re.findall(r"(\d) (?:workers|commands)", line))) == 3


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A Ray cluster of two nodes with a processor each, on this machine; the second node's raylet."""
    code = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
second = cluster.add_node(**node)
(raylet,) = second.all_processes["raylet"]
print("at", cluster.address, raylet.process.pid, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
    environment = ONE_THREAD | {"PYTHONPATH": str(ROOT / "src"), "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address, raylet = next(line for line in cluster.stdout if line.startswith("at ")).split()[1:]
    monkeypatch.setitem(ONE_THREAD, "RAY_ADDRESS", address)
    yield int(raylet)
    cluster.communicate("", timeout=60)


@pytest.mark.slow
def test_on_two_ray_nodes_a_killed_worker_and_a_killed_node_cost_only_what_was_under_way(
    bench: Bench, reference, ray_cluster: int
) -> None:
    with bench.held() as held:
        command = bench.command("--executor", "ray", "--workers", 2)
        os.kill(held(2)[0], signal.SIGKILL)
        workers = held(3)[1:]
        os.kill(ray_cluster, signal.SIGKILL)
        eventually(lambda: sum(map(is_alive, workers)) == 1)
    said = command.communicate()[1]
    assert command.returncode == 0, said
    assert "2 actors on 2 Ray node(s), threads: 1 each" in said
    assert same(bench.out) == reference


@pytest.mark.slow
def test_ray_workers_go_with_the_one_who_wants_their_results(bench: Bench, ray_cluster: int) -> None:
    with bench.held() as held:
        command = bench.command("--executor", "ray", "--workers", 2)
        workers = held(2)
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        eventually(lambda: not any(map(is_alive, workers)), 20)


@pytest.mark.slow
def test_slurm_jobs_are_done_again_and_go_when_nobody_waits_for_them(bench: Bench, reference) -> None:
    """On submitit's local cluster."""
    with bench.held() as held:
        few = ("--set", "bench.seeds=[0]", "--set", 'bench.corruptions=["contrast","held"]')
        command = bench.command("--executor", "slurm", "--workers", 2, *few)
        os.kill(held(1)[0], signal.SIGKILL)
        workers = held(2)[1:]
    said = command.communicate()[1]
    assert command.returncode == 0, said
    assert same(bench.out) == [
        record for record in reference if record["seed"] == 0 and record["corruption"] != "gaussian_noise"
    ]
    assert not [path for path in bench.out.iterdir() if "slurm" in path.name] and not any(map(is_alive, workers))
