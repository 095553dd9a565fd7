import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.domains.classification import load
from secateur.errors import CheckpointError, RequestError, SecateurError
from secateur.penalise import penalties
from secateur.train import FitConfig, best_folder, fit, last_folder
from secateur.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from secateur.train.figures import Figures
from secateur.train.history import EpochRecord
from secateur.write import atomic
from secateur.zoo import models

QUIET = FitConfig(epochs=4, lr=0.05, batch_size=16, quiet=True, device="cpu")


class Killed(BaseException):
    pass


def die_after(epoch):
    def on_epoch(record):
        if record.epoch == epoch:
            raise Killed

    return on_epoch


def penalty_of(model):
    return penalties["bn-l1"]([model.norm.weight], strength=0.01)


def figures(history):
    return [dataclasses.replace(record, seconds=0) for record in history]


@pytest.mark.parametrize("keep", ["best", "last", "best-or-start"])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    splits, narrow, tmp_path, epoch, keep, equal_weights, make_narrow
):
    config = dataclasses.replace(QUIET, keep=keep)
    whole = fit(narrow, splits, config, penalty_of(narrow))
    config = dataclasses.replace(config, save=tmp_path)
    with pytest.raises(Killed):
        fit(narrow, splits, config, penalty_of(narrow), on_epoch=die_after(epoch))
    torch.manual_seed(99)
    other_start = make_narrow()
    resumed = fit(other_start, splits, dataclasses.replace(config, resume=True), penalty_of(other_start))
    assert equal_weights(whole.model, resumed.model)
    assert figures(whole.history) == figures(resumed.history)
    assert (whole.best_epoch, whole.kept_epoch) == (resumed.best_epoch, resumed.kept_epoch)


def test_an_epoch_that_is_interrupted_leaves_the_last_complete_one(
    splits, narrow, tmp_path, monkeypatch, equal_weights
):
    config = dataclasses.replace(QUIET, save=tmp_path)
    batches = type(splits.train).batches

    def interrupted(self, *args, **options):
        for number, batch in enumerate(batches(self, *args, **options)):
            if options.get("epoch") == 3 and number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(
        type(splits.train),
        "batches",
        lambda self, *args, **options: _Lazy(
            len(batches(self, *args, **options)), interrupted(self, *args, **options)
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        fit(narrow, splits, config)
    monkeypatch.undo()
    assert last_folder(tmp_path).name == "epoch-0002"
    resumed = fit(narrow, splits, dataclasses.replace(config, resume=True))
    assert equal_weights(resumed.model, fit(narrow, splits, QUIET).model)


class _Lazy:
    def __init__(self, length, iterator):
        self.length, self.iterator = length, iterator

    def __len__(self):
        return self.length

    def __iter__(self):
        return self.iterator


def test_only_last_and_best_are_kept_and_no_file_is_a_pickle(splits, narrow, tmp_path):
    result = fit(narrow, splits, dataclasses.replace(QUIET, save=tmp_path))
    folders = {last_folder(tmp_path), best_folder(tmp_path)}
    assert last_folder(tmp_path).name == "epoch-0004"
    assert best_folder(tmp_path).name == f"epoch-{result.best_epoch:04d}"
    assert set(tmp_path.iterdir()) == folders | {tmp_path / "checkpoints.json"}
    files = {path.name for path in last_folder(tmp_path).iterdir()}
    assert files == {"weights.safetensors", "optimizer.safetensors", "state.json"}


def test_the_hook_adds_files_to_every_checkpoint_before_it_has_its_name(splits, narrow, tmp_path):
    def add_plan(folder):
        assert folder.name.endswith(".tmp")
        (folder / "plan.json").write_text("{}")

    fit(narrow, splits, dataclasses.replace(QUIET, save=tmp_path), on_checkpoint=add_plan)
    assert (last_folder(tmp_path) / "plan.json").is_file()
    assert (best_folder(tmp_path) / "plan.json").is_file()


def test_a_run_is_neither_overwritten_nor_resumed_unasked(splits, narrow, tmp_path, equal_weights):
    config = dataclasses.replace(QUIET, epochs=1, save=tmp_path)
    first = fit(narrow, splits, config)
    with pytest.raises(RequestError, match=r"already holds a run \(epoch-0001\)"):
        fit(narrow, splits, config)
    finished = fit(narrow, splits, dataclasses.replace(config, resume=True))
    assert equal_weights(first.model, finished.model)
    anew = fit(narrow, splits, dataclasses.replace(config, overwrite=True, seed=5))
    assert not equal_weights(first.model, anew.model)
    assert read_checkpoint(last_folder(tmp_path)).recipe["seed"] == 5


def test_nothing_to_resume_is_said_and_the_run_starts_anew(splits, narrow, tmp_path, capsys):
    config = dataclasses.replace(QUIET, epochs=1, save=tmp_path / "new", resume=True, quiet=False)
    assert len(fit(narrow, splits, config).history) == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_resuming_with_other_settings_lists_the_differences(splits, narrow, tmp_path):
    config = dataclasses.replace(QUIET, epochs=2, save=tmp_path)
    fit(narrow, splits, config, penalty_of(narrow))
    other = dataclasses.replace(config, epochs=9, lr=0.2, resume=True)
    with pytest.raises(RequestError) as caught:
        fit(narrow, splits, other)
    message = str(caught.value)
    assert "epochs: 2 in the checkpoint, 9 asked for" in message
    assert "lr: 0.05 in the checkpoint, 0.2 asked for" in message
    assert "penalty: BnL1 in the checkpoint, None asked for" in message
    assert "batch_size" not in message


def test_resuming_another_architecture_is_refused(splits, narrow, tmp_path, make_narrow):
    fit(narrow, splits, dataclasses.replace(QUIET, epochs=1, save=tmp_path))
    with pytest.raises(
        CheckpointError, match=r"first difference: head.weight is \[4, 8\], the model has \[5, 8\]"
    ):
        fit(make_narrow(outputs=5), splits, dataclasses.replace(QUIET, epochs=1, save=tmp_path, resume=True))


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_damaged_checkpoints_are_refused(splits, narrow, tmp_path, file, damage):
    config = dataclasses.replace(QUIET, epochs=1, save=tmp_path)
    fit(narrow, splits, config)
    path = last_folder(tmp_path) / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": content[:-5], "foreign": b"\x80\x04K\x01."}[damage])
    with pytest.raises(CheckpointError, match=file):
        fit(narrow, splits, dataclasses.replace(config, resume=True))


@pytest.mark.parametrize("pointer", ["", "[]", '{"last": "../../etc", "best": 3}', '{"last": "epoch-0009"}'])
def test_a_foreign_pointer_is_refused(splits, narrow, tmp_path, pointer):
    (tmp_path / "checkpoints.json").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"checkpoints\.json"):
        fit(narrow, splits, dataclasses.replace(QUIET, save=tmp_path, resume=True))


def checkpoint_of(epoch, best=1):
    records = tuple(
        EpochRecord(number, 0.1, {"loss": 1.0}, {}, Figures({"accuracy": 1.0 if number == best else 0.5}, 4))
        for number in range(1, epoch + 1)
    )
    return Checkpoint({"weight": torch.full((3,), float(epoch))}, {}, {}, records, {})


def test_whenever_writing_is_killed_the_old_or_the_new_checkpoint_is_whole(tmp_path, monkeypatch):
    """Kill the writer before each of its operations on the disk, one after the other."""
    outcomes, survived = [], False
    countdown = 0

    def guarded(original):
        def call(*args, **options):
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise Killed
            return original(*args, **options)

        return call

    for operations in range(100):
        run = tmp_path / str(operations)
        for epoch in (1, 2):
            write_checkpoint(run, checkpoint_of(epoch))
        countdown = operations
        with monkeypatch.context() as patch:
            for owner, name in [
                (os, "fsync"),
                (os, "rename"),
                (os, "replace"),
                (os, "mkdir"),
                (os, "unlink"),
            ]:
                patch.setattr(owner, name, guarded(getattr(owner, name)))
            # A killed process cleans nothing up.
            patch.setattr(atomic.shutil, "rmtree", guarded(shutil.rmtree))
            try:
                write_checkpoint(run, checkpoint_of(3))
                survived = True
            except Killed:
                pass
        last, best = read_checkpoint(last_folder(run)), read_checkpoint(best_folder(run))
        assert last.weights["weight"].tolist() == [float(last.epoch)] * 3
        assert best.weights["weight"].tolist() == [1.0] * 3
        outcomes.append(last.epoch)
        write_checkpoint(run, checkpoint_of(3 if last.epoch == 2 else 4))
        assert len(list(run.iterdir())) == 3
        if survived:
            break
    assert survived
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, checkpoint_of(1))

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SecateurError, match="no space to write"):
        write_checkpoint(tmp_path, checkpoint_of(2))
    monkeypatch.undo()
    assert read_checkpoint(last_folder(tmp_path)).epoch == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"epoch-0001", "checkpoints.json"}


SCRIPT = """
import time, torch
from pathlib import Path
from secateur.domains.classification import load
from secateur.train import FitConfig, fit
from secateur.zoo import models
torch.manual_seed(0)
model = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
config = FitConfig(epochs=6, quiet=True, device="cpu", threads=1, save=Path({save!r}))
fit(model, load("digits"), config, on_epoch=lambda record: time.sleep(0.3))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_resumes_to_the_same_weights(tmp_path, equal_weights):
    save = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(save=str(save))])
    pointer, deadline = save / "checkpoints.json", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if pointer.is_file() and json.loads(pointer.read_text())["last"] >= "epoch-0003":
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= read_checkpoint(last_folder(save)).epoch < 6
    torch.manual_seed(0)
    model = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
    config, digits = dataclasses.replace(QUIET, epochs=6, lr=0.1, batch_size=64, threads=1), load("digits")
    whole = fit(model, digits, config)
    resumed = fit(model, digits, dataclasses.replace(config, save=save, resume=True))
    assert equal_weights(whole.model, resumed.model)


def _rewritten(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _without_a_momentum(folder):
    _rewritten(folder / "optimizer.safetensors", lambda tensors: tensors.pop("norm.weight|momentum_buffer"))


def _with_another_momentum(folder):
    _rewritten(
        folder / "optimizer.safetensors", lambda tensors: tensors["norm.weight|momentum_buffer"].add_(1e-3)
    )


def _with_a_changed_bit(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _with_another_rate(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"lr": 0.05', '"lr": 0.25'))


def _with_a_better_past(folder):
    path = folder / "state.json"
    told = json.loads(path.read_text())
    told["history"][0]["val_accuracy"] = 1.0
    path.write_text(json.dumps(told))


EDITS = (
    _without_a_momentum,
    _with_another_momentum,
    _with_a_changed_bit,
    _with_another_rate,
    _with_a_better_past,
)


@pytest.mark.parametrize("edit", EDITS)
def test_a_checkpoint_that_is_not_what_was_written_is_refused(splits, narrow, tmp_path, edit):
    config = dataclasses.replace(QUIET, epochs=2, save=tmp_path)
    with pytest.raises(Killed):
        fit(narrow, splits, config, on_epoch=die_after(1))
    edit(last_folder(tmp_path))
    with pytest.raises(CheckpointError, match=r"epoch-0001"):
        fit(narrow, splits, dataclasses.replace(config, resume=True))


def test_a_pointer_to_another_epoch_than_the_best_is_refused(splits, narrow, tmp_path):
    config = dataclasses.replace(QUIET, save=tmp_path)
    fit(narrow, splits, config)
    last, best = last_folder(tmp_path).name, best_folder(tmp_path).name
    (tmp_path / "epoch-0009").mkdir()
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        shutil.copy(tmp_path / last / name, tmp_path / "epoch-0009" / name)
    (tmp_path / "checkpoints.json").write_text(json.dumps({"last": "epoch-0009", "best": best}))
    with pytest.raises(CheckpointError, match=r"checkpoints\.json does not fit the run"):
        fit(narrow, splits, dataclasses.replace(config, resume=True))


def test_checkpoints_of_older_versions_resume(splits, narrow, tmp_path, equal_weights):
    config = dataclasses.replace(QUIET, epochs=2, save=tmp_path)
    with pytest.raises(Killed):
        fit(narrow, splits, config, on_epoch=die_after(1))
    folder = last_folder(tmp_path)
    for part in ("weights", "optimizer"):
        _rewritten(folder / f"{part}.safetensors", lambda tensors: None)
    state = json.loads((folder / "state.json").read_text())
    del state["digest"], state["values"]
    (folder / "state.json").write_text(json.dumps(state))
    resumed = fit(narrow, splits, dataclasses.replace(config, resume=True))
    assert equal_weights(resumed.model, fit(narrow, splits, dataclasses.replace(QUIET, epochs=2)).model)
