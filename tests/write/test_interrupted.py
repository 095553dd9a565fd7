"""Processes that are killed while they save, and what the next one finds and leaves."""

import os
import signal
import subprocess
import sys

import nets
import pytest
import torch

import secateur as sc
from secateur.errors import SecateurError
from secateur.write import atomic
from secateur.write.atomic import atomic_folder, atomic_write, leftovers, scratch_folder

X = torch.zeros(2, 3, 6, 6)

KILLED_AFTER_RENAMES = """
import os, signal, sys, torch, nets
import secateur as sc
model = nets.randomise(nets.Residual())
result = sc.prune(model, torch.zeros(2, 3, 6, 6), ratio=float(sys.argv[2]), check=False)
left, replace = int(sys.argv[3]), os.replace
def counting(*names):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*names)
os.replace = counting
sc.save(result, sys.argv[1], overwrite=True)
"""


def killed(folder, ratio, renames):
    """Save in a process that dies before the rename after so many."""
    words = (sys.executable, "-c", KILLED_AFTER_RENAMES, folder, str(ratio), str(renames))
    path = os.pathsep.join(sys.path)
    done = subprocess.run(list(map(str, words)), env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL


def pruned(ratio):
    torch.manual_seed(0)
    return sc.prune(nets.randomise(nets.Residual()), X, ratio=ratio, check=False)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["plan.json", "weights.safetensors"]


@pytest.mark.parametrize("first", [True, False])
def test_a_save_that_was_killed_between_its_renames_is_finished_by_loading(tmp_path, first):
    if not first:
        sc.save(pruned(0.6), tmp_path, overwrite=True)
    killed(tmp_path, 0.3, renames=1)
    assert len(files(tmp_path)) == (2 if first else 3)
    loaded = sc.load(tmp_path, nets.Residual())
    assert loaded.inner.out_channels == pruned(0.3).model.inner.out_channels
    assert files(tmp_path) == WHOLE
    assert sc.load(tmp_path, nets.Residual()).inner.out_channels == loaded.inner.out_channels


def test_a_save_that_was_killed_before_its_renames_leaves_the_old_model_and_the_next_one_cleans_up(tmp_path):
    sc.save(pruned(0.6), tmp_path, overwrite=True)
    killed(tmp_path, 0.3, renames=0)
    assert len(files(tmp_path)) == 4
    old = sc.load(tmp_path, nets.Residual())
    assert old.inner.out_channels == pruned(0.6).model.inner.out_channels
    sc.save(pruned(0.4), tmp_path, overwrite=True)
    assert files(tmp_path) == WHOLE


def test_an_unfinished_save_survives_a_later_one_that_fails(tmp_path, monkeypatch):
    sc.save(pruned(0.6), tmp_path, overwrite=True)
    killed(tmp_path, 0.3, renames=1)
    with monkeypatch.context() as patch:
        patch.setattr("secateur.write.checkpoint.save_file", _full)
        with pytest.raises(SecateurError, match="no space"):
            sc.save(pruned(0.5), tmp_path, overwrite=True)
    loaded = sc.load(tmp_path, nets.Residual())
    assert loaded.inner.out_channels == pruned(0.3).model.inner.out_channels


def _full(*_):
    raise OSError(28, "No space left on device")


DIES_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from secateur.write.atomic import atomic_folder, atomic_write
def die(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "file":
    atomic_write(Path(sys.argv[2], "plan.json"), die)
else:
    with atomic_folder(Path(sys.argv[2], "epoch-0001")) as folder:
        die(folder / "state.json")
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_it(tmp_path, kind):
    words = [sys.executable, "-c", DIES_WHILE_WRITING, kind, str(tmp_path)]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert len(leftovers(tmp_path)) == 1
    atomic_write(tmp_path / "report.html", b"another name")
    assert len(leftovers(tmp_path)) == 1
    if kind == "file":
        atomic_write(tmp_path / "plan.json", b"{}")
    else:
        with atomic_folder(tmp_path / "epoch-0001"):
            pass
    made = {"file": "plan.json", "folder": "epoch-0001"}[kind]
    assert files(tmp_path) == [made, "report.html"]


def test_what_a_living_process_or_thread_writes_is_left_alone(tmp_path):
    words = DIES_WHILE_WRITING.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "print('wrote', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", words, "file", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "wrote\n"
        assert leftovers(tmp_path) == []
        with scratch_folder(tmp_path / "states") as folder:
            atomic_write(tmp_path / "plan.json", b"mine")
            assert folder.is_dir()
            assert leftovers(tmp_path) == []
        process.communicate("go on\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "plan.json").read_text() == "half"
    assert files(tmp_path) == ["plan.json"]


def test_what_another_machine_writes_is_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(atomic.socket, "gethostname", lambda: "elsewhere")
        patch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
        with scratch_folder(tmp_path / "states") as folder:
            pass
    atomic.remove_leftovers(tmp_path)
    assert folder.is_dir()
