"""Training by several processes: the same losses and weights as one process with the whole batch, within rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crosstask import checkpoint, distributed
from crosstask.errors import ConfigError

HERE = Path(__file__).parent


def torchrun(processes: int, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(launch, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def made(processes: int, work: str, folder: Path) -> Path:
    """Have so many processes do a work of `work_for_processes.py`, and return the folder with what they wrote."""
    folder.mkdir(exist_ok=True)
    done = torchrun(processes, str(HERE / "work_for_processes.py"), work, str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    folders = [made(n, "train", tmp_path / f"{n}") for n in (1, 2)]
    one, two = (torch.load(folder / "weights.pt") for folder in folders)
    assert one.keys() == two.keys() and len(one) > 10
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    before, after = (json.loads((folder / "losses.json").read_text()) for folder in folders)
    assert before.keys() == after.keys() == {"supervised", "self-supervised", "aligned"}
    assert all(after[stage] == pytest.approx(losses, rel=1e-4) for stage, losses in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_losses_see_the_images_of_all_processes_and_send_gradients_back(tmp_path: Path, processes: int) -> None:
    one, more = (torch.load(made(n, "compare", tmp_path / f"{n}") / "losses.pt") for n in (1, processes))
    assert one.keys() == more.keys() == {"nt_xent", "vicreg", "barlow_twins", "alignment"}
    for name, parts in one.items():
        for part, expected in parts.items():
            torch.testing.assert_close(more[name][part], expected, msg=lambda text, n=name, p=part: f"{n} {p}: {text}")


@pytest.mark.slow
def test_when_one_process_is_killed_all_go_on_from_the_saved_state(tmp_path: Path) -> None:
    whole = torch.load(made(2, "kill", tmp_path / "whole") / "trained.pt")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/kill").touch()
    broken = torchrun(2, str(HERE / "work_for_processes.py"), "kill", str(tmp_path / "broken"), cwd=tmp_path)
    assert broken.returncode != 0 and not (tmp_path / "broken/trained.pt").exists()
    (tmp_path / "broken/kill").unlink()
    again = torch.load(made(2, "kill", tmp_path / "broken") / "trained.pt")
    assert whole["first"] == 25
    assert again["first"] in (50, 75), "on from the state after 25 steps, or 50 where the first had time to save it"
    assert all(torch.equal(again["weights"][name], tensor) for name, tensor in whole["weights"].items())


def halves(folder: Path) -> list[str]:
    """Write a recipe on toy images and return the command line's arguments for it."""
    random = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 8)):
        labels = np.arange(count) % 2
        images = random.integers(0, 120, (count, 12, 12, 3), dtype=np.uint8)
        images[labels == 1, :6] += 100
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    (folder / "recipe.toml").write_text(
        'name = "halves"\nencoder = "resnet-small"\nprecision = "float32"\n'
        f'data.name = "{folder / "train.npz"}"\ndata.test = "{folder / "test.npz"}"\n'
        "supervised = { epochs = 2, batch_size = 16 }\nself_supervised = { epochs = 2, batch_size = 16 }\n"
        "align = { epochs = 2, batch_size = 16 }\ntask = { hidden = 8, out = 8 }\n"
        'bench = { corruptions = ["clean"], columns = { cta = { method = "cta" } } }\n'
    )
    return [str(folder / "recipe.toml"), "--out", str(folder / "run")]


@pytest.mark.slow
def test_the_command_line_trains_under_torchrun_and_the_first_process_alone_writes_and_speaks(tmp_path: Path) -> None:
    recipe = halves(tmp_path)
    for stage in ("pretrain", "align"):
        done = torchrun(2, "-m", "crosstask", stage, *recipe, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == (2 if stage == "pretrain" else 1)
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("trained in") == 3
    aligned = checkpoint.load(tmp_path / "run/checkpoints/aligned")
    assert all(torch.isfinite(tensor).all() for tensor in aligned.encoder.state_dict().values())
    again = torchrun(2, "-m", "crosstask", "pretrain", *recipe, cwd=tmp_path)
    assert again.returncode == 0 and (tmp_path / "run/log.txt").read_text().count("found in") == 2


@pytest.mark.slow
def test_paths_go_to_standard_output_where_a_terminal_shows_the_bars(tmp_path: Path) -> None:
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "crosstask", "pretrain", *halves(tmp_path), "--only", "supervised"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs), os.close(terminal)
    assert done.stdout == f"{tmp_path / 'run/checkpoints/supervised'}\n"


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    recipe = halves(tmp_path)
    odd = torchrun(2, "-m", "crosstask", "pretrain", *recipe, "--set", "supervised.batch_size=15", cwd=tmp_path)
    assert odd.returncode != 0 and "a batch of 15 cannot be divided among 2 processes: change batch_size" in odd.stderr
    whole = torchrun(2, "-m", "crosstask", "run", *recipe, cwd=tmp_path)
    assert whole.returncode != 0 and "torchrun is for pretrain and align" in whole.stderr


@pytest.mark.slow
def test_run_folders_that_are_not_shared_are_told_before_any_training(tmp_path: Path) -> None:
    recipe, *_ = halves(tmp_path)
    apart = f"exec {sys.executable} -m crosstask pretrain {recipe} --out run$RANK"
    done = torchrun(2, "--no-python", "bash", "-c", apart, cwd=tmp_path)
    assert done.returncode != 0 and "the processes differ in what they train and what they find" in done.stderr
    assert not list(tmp_path.glob("run*/checkpoints/*"))


def test_a_process_alone_has_all_and_waits_for_nobody() -> None:
    x = torch.arange(6.0).reshape(6, 1)
    assert (distributed.rank(), distributed.world(), distributed.other()) == (0, 1, ())
    with distributed.together(), distributed.comparing():
        assert distributed.gather(x) is x and distributed.gather_pairs(x) is x and distributed.mean(x) is x
        assert torch.equal(distributed.share(torch.arange(5)), torch.arange(5))
        distributed.wait()
        distributed.check_agreed(3, "anything")


def test_shares_are_even_and_cover_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda r=rank: r)
        shares.append(distributed.share(torch.arange(8)))
    assert torch.equal(torch.cat(shares), torch.arange(8)) and {len(share) for share in shares} == {2}
    with pytest.raises(ConfigError, match="a batch of 6 cannot be divided among 4 processes"):
        distributed.share(torch.arange(6))
