"""What can go wrong: one clear message, the right exit code, nothing half-written, nothing lost."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from secateur.cli.options import emit
from secateur.sources import open_model
from secateur.write.checkpoint import save_model
from secateur.zoo import models

DIGITS = ("--arg", "width=0.0625", "--arg", "in_channels=1", "--arg", "image_size=8")


def content_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


@pytest.fixture
def copy_of(studio, tmp_path):
    def copied(stage):
        folder = tmp_path / stage
        shutil.copytree(getattr(studio, stage), folder)
        return folder

    return copied


def edit(folder, change, *, forge=False):
    """Edit a plan; a forger also writes the new hash into the weights."""
    path = folder / "plan.json"
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    if forge:
        weights = folder / "weights.safetensors"
        tensors = load_file(weights)
        save_file(tensors, weights, {"secateur_plan": hashlib.sha256(path.read_bytes()).hexdigest()})


def group(plan, name):
    return next(held for held in plan["groups"] if held["name"] == name)


def other_channels(plan):
    held = group(plan, "feature.25")
    removed = [index for index in range(held["size"]) if index not in held["keep"]]
    held["keep"] = sorted((removed + held["keep"])[: len(held["keep"])])


REQUESTS = {
    "ratio above": (("--ratio", 1.5), "ratio is 1.5"),
    "ratio one": (("--ratio", 1), "ratio is 1"),
    "ratio below": (("--ratio", -0.1), "ratio is -0.1"),
    "ratio nan": (("--ratio", "nan"), "ratio is nan"),
    "two budgets": (("--ratio", 0.5, "--macs", 0.5), "2 budgets were given: ratio, macs"),
    "no budget": ((), "0 budgets were given"),
    "criterion": (("--ratio", 0.5, "--criterion", "bnscale"), "did you mean 'bn-scale'?"),
    "scope": (("--ratio", 0.5, "--scope", "all"), "unknown scope 'all'"),
    "step": (("--ratio", 0.5, "--recover", "absorbe"), "did you mean 'absorb'?"),
    "step without data": (("--ratio", 0.5, "--recover", "refit"), "recovery step 'refit' needs data"),
    "protect": (("--ratio", 0.5, "--protect", "layer9"), "protect pattern 'layer9' fits no module"),
    "everything protected": (("--ratio", 0.5, "--protect", "*"), "feature.25: asked for by protect='*'"),
    "channels": (("--channels", "feature.25"), "write it as pattern=share"),
    "channel pattern": (("--channels", "stem=0.5"), "fits no group"),
    "min_keep": (("--ratio", 0.5, "--min-keep", 2), "min_keep is 2"),
    "round_to": (("--ratio", 0.5, "--round-to", 0), "round_to is 0"),
    "no effect": (("--ratio", 0.5, "--min-keep", 1), "keeps"),
    "macs": (("--macs", 1e12), "the uncut model has"),
    "input": (("--ratio", 0.5, "--input", "1,a,8"), "write it as positive sizes"),
    "weights": (("--ratio", 0.5, "--weights", "nowhere.pth"), "nowhere.pth: no such file"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_makes_no_sense_is_refused_and_nothing_is_written(studio, refuse, tmp_path, case):
    words, message = REQUESTS[case]
    code = 1 if case == "weights" else 2
    assert message in refuse(code, "prune", studio.dense, *words, "--save", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("zoo:vgg12", "did you mean 'vgg"),
        ("zo:vgg11", "did you mean 'zoo'?"),
        ("vgg11", "did you mean 'zoo:vgg11'?"),
        ("torchvision:resnet81", "did you mean 'resnet18'?"),
        ("nowhere/at/all", "is no model and no saved folder"),
        ("", "is no model and no saved folder"),
        ("zoo:", "is no model and no saved folder"),
        ("missing.py:make", "no such file: missing.py"),
    ],
)
def test_an_unknown_model_is_refused(refuse, word, message):
    assert message in refuse(2, "inspect", word)


def test_a_name_that_the_system_refuses_is_no_stack_trace(refuse):
    assert "File name too long" in refuse(1, "inspect", "a" * 5000)


def test_the_model_that_is_read_is_never_written_over(copy_of, refuse):
    folder = copy_of("pruned")
    before = content_of(folder)
    for words in (("prune", folder, "--ratio", 0.5), ("finetune", folder), ("train", folder)):
        message = refuse(2, *words, "--save", folder.parent / "." / folder.name)
        assert "the model that is read" in message
    assert content_of(folder) == before


def test_prune_does_not_write_into_a_training_run(studio, copy_of, refuse):
    folder = copy_of("dense")
    before = content_of(folder)
    assert "holds a training run" in refuse(2, "prune", studio.sparse, "--ratio", 0.5, "--save", folder)
    assert content_of(folder) == before


@pytest.mark.parametrize("option", ["--batch", "--threads", "--repeats"])
def test_counts_below_one_are_refused(studio, run, option):
    outcome = run("bench", studio.dense, option, 0)
    assert outcome.code == 2
    assert option in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", 0), "epochs is 0"),
        (("--lr", -1), "lr is -1"),
        (("--schedule", "cosin"), "schedule is 'cosin'"),
        (("--sparsity", "bn-l2"), "did you mean 'bn-l1'?"),
        (("--device", "cuda:99"), "device 'cuda:99' was asked for"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--precision", "16-mixed"), "precision 16-mixed was asked for on the cpu"),
        (("--data", "digit"), "did you mean 'digits'?"),
        (("--resume", "--overwrite"), "choose one of them"),
        (("--arg", "widht=2"), "unexpected keyword argument 'widht'"),
        (("--arg", "width"), "write it as key=value"),
    ],
)
def test_training_settings_that_make_no_sense_are_refused(refuse, tmp_path, tiny, words, message):
    epochs = () if "--epochs" in words else ("--epochs", 1)
    assert message in refuse(2, "train", "zoo:vgg11", *tiny, *epochs, *words, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_negative_strength_is_refused(run, tmp_path, tiny):
    words = ("--sparsity", "bn-l1", "--s", -1, "--epochs", 1, "--save", tmp_path / "out")
    assert run("train", "zoo:vgg11", *tiny, *words).code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ratio", 1.5), "ratio is 1.5"),
        (("--passes", 0), "passes is 0"),
        (("--min-keep", 2), "min_keep is 2"),
        (("--round-to", 0), "round_to is 0"),
    ],
)
def test_slim_refuses_before_it_trains(refuse, tmp_path, words, message):
    assert message in refuse(2, "slim", "zoo:vgg11", *words, "--save", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slim_refuses_a_model_without_batch_norm_before_it_trains(refuse, tmp_path):
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))\n"
    )
    words = ("slim", f"{tmp_path}/plain.py:make", "--epochs", 1, "--save", tmp_path / "out")
    assert "no prunable channel has a batch-norm scale" in refuse(2, *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_plan_is_named(studio, refuse):
    message = refuse(1, "inspect", studio.folder)
    assert "there is no plan.json" in message
    assert "found: again, dense, pruned, sparse, tuned" in message
    assert "no such folder" in refuse(1, "check", studio.dense, studio.folder / "nowhere")
    file = studio.pruned / "plan.json"
    assert "is a file, not a folder" in refuse(1, "check", studio.dense, file)


def test_a_half_trained_folder_says_how_to_go_on(copy_of, refuse):
    folder = copy_of("dense")
    (folder / "plan.json").unlink()
    (folder / "weights.safetensors").unlink()
    assert "go on with --resume" in refuse(1, "inspect", folder)


def test_an_epoch_of_a_run_is_a_saved_model_too(studio, run):
    assert run("evaluate", studio.dense / "epoch-0001", "--json").json["params"] > 0


@pytest.mark.parametrize("size", [0, 7, 300, 5000])
def test_truncated_weights_are_refused(copy_of, studio, refuse, size):
    folder = copy_of("pruned")
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    message = refuse(1, "inspect", folder)
    assert f"the file has {size:,} bytes; it is truncated" in message
    assert "truncated" in refuse(1, "check", studio.sparse, folder)
    path.unlink()
    assert "no such file" in refuse(1, "inspect", folder)


EDITS = {
    "index too large": lambda plan: group(plan, "feature.25").update(keep=[99]),
    "index negative": lambda plan: group(plan, "feature.25").update(keep=[-1]),
    "indices repeated": lambda plan: group(plan, "feature.25").update(keep=[1, 1]),
    "indices unsorted": lambda plan: group(plan, "feature.25").update(keep=[2, 1]),
    "nothing kept": lambda plan: group(plan, "feature.25").update(keep=[]),
    "other channels": other_channels,
    "unknown version": lambda plan: plan.update(schema_version=2),
    "extra key": lambda plan: plan.update(extra=1),
    "missing key": lambda plan: plan.pop("groups"),
    "wrong type": lambda plan: plan.update(groups="all"),
    "renamed group": lambda plan: group(plan, "feature.25").update(name="renamed"),
    "unknown tensor": lambda plan: plan["tensors"].update(nothing=["feature.25"]),
    "unknown module": lambda plan: plan["attributes"].update(nothing={"out_channels": 3}),
    "class replaced": lambda plan: plan["attributes"]["feature.25"].update(__class__=3),
    "dims missing": lambda plan: plan["tensors"].update({"classifier.weight": [10]}),
    "dim wrong": lambda plan: plan["tensors"].update({"classifier.weight": [10, 3]}),
    "tensor missing": lambda plan: plan["tensors"].pop("classifier.weight"),
    "giant": lambda plan: group(plan, "feature.25").update(size=10**13),
}


@pytest.mark.parametrize("forge", [False, True], ids=["edited", "forged"])
@pytest.mark.parametrize("case", EDITS)
def test_an_edited_plan_is_refused(copy_of, studio, refuse, case, forge):
    folder = copy_of("pruned")
    edit(folder, EDITS[case], forge=forge)
    if forge and case == "other channels":
        return  # a consistent forgery is another plan; its values cannot be known to be wrong
    assert "cannot " in refuse(1, "inspect", folder)
    refuse(1, "check", studio.sparse, folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"{" * 100_000])
def test_a_plan_that_is_no_json_object_is_refused(copy_of, refuse, text):
    folder = copy_of("pruned")
    (folder / "plan.json").write_bytes(text)
    assert "cannot read" in refuse(1, "inspect", folder)


def test_a_forged_plan_that_computes_something_else_fails_the_check(copy_of, studio, run):
    folder = copy_of("pruned")
    edit(folder, lambda plan: plan["attributes"].setdefault("feature.26", {}).update(eps=1), forge=True)
    outcome = run("check", studio.sparse, folder)
    assert outcome.code == 1
    assert outcome.out.startswith("failed: ")
    found = run("check", studio.sparse, folder, "--json")
    assert found.code == 1
    assert found.json["verdict"] == "failed"


def test_numbers_that_are_not_finite_are_words_in_json(capsys):
    emit({"a": [float("inf"), 1.0], "b": {"c": float("nan")}, "d": None}, "", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": ["Infinity", 1.0], "b": {"c": "NaN"}, "d": None}


def test_weights_and_plan_of_different_saves_are_not_mixed(copy_of, studio, refuse):
    folder = copy_of("pruned")
    shutil.copy(studio.again / "plan.json", folder)
    assert "belong to different models" in refuse(1, "evaluate", folder)
    assert "belong to different models" in refuse(1, "check", studio.tuned, folder)


def test_a_plan_for_another_architecture_names_the_first_difference(copy_of, studio, refuse):
    folder = copy_of("pruned")
    edit(folder, lambda plan: plan.update(source="zoo:vgg13"), forge=True)
    message = refuse(1, "evaluate", folder)
    assert "the plan was made for" in message
    assert "first difference: feature.4.weight is [4], the plan expects [8, 4, 3, 3]" in message
    message = refuse(1, "check", studio.tuned, studio.pruned)
    assert f"{studio.pruned} was not cut from {studio.tuned}" in message
    assert "first difference: " in message


def test_an_uncut_model_has_nothing_to_check(studio, refuse):
    assert "holds an uncut model" in refuse(2, "check", studio.sparse, studio.dense)


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["pickle", "torch", "inside", "safetensors", "plan"])
def test_a_pickle_is_never_executed(copy_of, refuse, tmp_path, form):
    trap = tmp_path / "executed"
    state = models["vgg11"](width=0.0625, in_channels=1, image_size=8).state_dict()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form in ("pickle", "safetensors", "plan"):
        file.write_bytes(pickle.dumps(Payload(trap)))
    else:
        torch.save(Payload(trap) if form == "torch" else {**state, "x": Payload(trap)}, file)
    if form == "plan":
        folder = copy_of("pruned")
        for name in ("plan.json", "weights.safetensors"):
            shutil.copy(file, folder / name)
        refuse(1, "inspect", folder)
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", file, "--ratio", 0.5, "--save", tmp_path / "out")
    message = refuse(1, *words)
    assert not trap.exists()
    assert not (tmp_path / "out").exists()
    assert "weights_only" not in message
    if form in ("torch", "inside"):
        assert "a pickle is never executed" in message
        assert "it asks for posix.mkdir" in message


@pytest.mark.parametrize("text", [b"", b"hello", b"PK\x03\x04" + bytes(60), bytes(200)])
def test_a_foreign_weights_file_is_refused(refuse, tmp_path, text):
    (tmp_path / "w.pth").write_bytes(text)
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", tmp_path / "w.pth", "--ratio", 0.5)
    message = refuse(1, *words, "--save", tmp_path / "out")
    assert message.startswith(f"cannot load {tmp_path}/w.pth: ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_form_shows_its_keys(refuse, tmp_path):
    torch.save({"net": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "w.pth")
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", tmp_path / "w.pth", "--ratio", 0.5)
    assert "its keys: net, epoch" in refuse(1, *words, "--save", tmp_path / "out")


def test_weights_of_another_architecture_are_not_half_loaded(refuse, tmp_path):
    torch.save(models["vgg11"](width=0.125, in_channels=1, image_size=8).state_dict(), tmp_path / "w.pth")
    words = ("prune", "zoo:vgg11", *DIGITS, "--weights", tmp_path / "w.pth", "--ratio", 0.5)
    message = refuse(1, *words, "--save", tmp_path / "out")
    assert "first difference: feature.0.weight is [8, 1, 3, 3], the model has [4, 1, 3, 3]" in message


FACTORIES = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, gives="tensor"):
        super().__init__()
        self.conv, self.head, self.gives = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), gives
    def forward(self, x):
        y = self.head(self.conv(x).flatten(1))
        if self.gives == "raise":
            raise RuntimeError("from within")
        return {"tensor": y, "none": None, "text": "text", "number": 1.0}[self.gives]
def make(**options):
    return Net(**options)
def raising():
    raise OSError("no such luck")
def leaving():
    raise SystemExit(5)
def number():
    return 3
"""


@pytest.fixture
def factories(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


@pytest.mark.parametrize("gives", ["none", "text", "number"])
def test_a_model_that_returns_no_tensor_is_refused(refuse, factories, tmp_path, gives):
    words = (f"{factories}:make", "--arg", f"gives={gives}")
    assert "which holds no tensor" in refuse(1, "inspect", *words, "--input", "1,1,8,8")
    words = ("train", *words, "--epochs", 1, "--save", tmp_path / "out")
    assert "not a tensor of logits" in refuse(2, *words)
    assert not (tmp_path / "out").exists()


def test_a_model_that_raises_is_quoted(refuse, factories):
    words = (f"{factories}:make", "--arg", "gives=raise", "--input", "1,1,8,8")
    message = refuse(1, "inspect", *words)
    assert "RuntimeError: from within" in message
    assert "input shapes: [1, 1, 8, 8]" in message


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("raising", "OSError: no such luck"),
        ("leaving", "SystemExit: 5"),
        ("number", "returned int"),
        ("maek", "has no factory 'maek'"),
    ],
)
def test_a_factory_that_fails_is_quoted(refuse, factories, factory, message):
    assert message in refuse(2, "inspect", f"{factories}:{factory}", "--input", "1,1,8,8")


def test_an_unknown_input_is_asked_for(refuse, factories):
    assert "pass its shape" in refuse(2, "inspect", f"{factories}:make")


def write_idx(path, array, cut=None):
    header = struct.pack(f">BBBB{array.dim()}I", 0, 0, 8, array.dim(), *array.shape)
    path.write_bytes((header + bytes(array.flatten().tolist()))[:cut])


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ({}, 2, "mnist is not in"),
        ({"train-images-idx3-ubyte": b"hello world"}, 1, "is no IDX file of unsigned bytes"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\x03\0\0\0\x09"}, 1, "is truncated"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\x01\0\0\0\x09abc"}, 1, "is truncated"),
        ({"train-images-idx3-ubyte.gz": b"\x1f\x8b\x08\0broken"}, 1, "is truncated"),
    ],
)
def test_a_data_folder_with_the_wrong_files_is_refused(refuse, tmp_path, tiny, files, code, message):
    data = tmp_path / "data"
    data.mkdir()
    for name, content in files.items():
        (data / name).write_bytes(content)
    words = ("train", "zoo:vgg11", *tiny, "--data", "mnist", "--data-dir", data, "--save", tmp_path / "out")
    assert message in refuse(code, *words)
    assert not (tmp_path / "out").exists()
    assert "there is no data folder" in refuse(2, *words[:-3], tmp_path / "gone", *words[-2:])


def test_data_of_another_shape_is_refused(studio, refuse):
    message = refuse(2, "evaluate", studio.pruned, "--data", "fake")
    assert "does not accept images of shape [2, 3, 32, 32]" in message


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json"])
def test_a_full_disk_leaves_the_old_model(studio, run, refuse, tmp_path, monkeypatch, name):
    folder = tmp_path / "out"
    assert run("prune", studio.dense, "--ratio", 0.3, "--save", folder).code == 0
    before = content_of(folder)
    stem = name.partition(".")[0]
    if stem == "plan":
        write = Path.write_bytes

        def full(path, content):
            if path.name.startswith(".plan."):
                write(path, content[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr("secateur.write.checkpoint.save_file", _full_disk)
    words = ("prune", studio.dense, "--ratio", 0.6, "--save", folder, "--overwrite")
    assert f"no space to write {folder}/{name}" in refuse(1, *words)
    assert content_of(folder) == before
    monkeypatch.undo()
    assert run("inspect", folder).code == 0


def _full_disk(tensors, file, metadata):
    """What safetensors really raises, seen on a full tmpfs."""
    from safetensors import SafetensorError

    Path(file).write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_run_killed_between_the_two_files_is_found_out(studio, run, refuse, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    assert run("prune", studio.dense, "--ratio", 0.3, "--save", folder).code == 0
    rename = Path.replace

    def killed(path, target):
        if Path(target).name == "plan.json":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    assert run("prune", studio.dense, "--ratio", 0.6, "--save", folder, "--overwrite").code not in (0, None)
    monkeypatch.undo()
    assert sorted(content_of(folder)) == ["plan.json", "run.yaml", "weights.safetensors"]
    assert "belong to different models" in refuse(1, "inspect", folder)


@pytest.mark.parametrize("place", ["file/out", "/proc/out"])
def test_a_folder_that_cannot_be_written_is_named(studio, refuse, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    message = refuse(1, "prune", studio.dense, "--ratio", 0.5, "--save", tmp_path / place)
    assert "cannot write" in message
    assert "choose a place that you may write to" in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("call", ["read_bytes", "is_dir"])
def test_a_folder_that_cannot_be_read_is_named(studio, refuse, monkeypatch, call):
    real = getattr(Path, call)

    def forbidden(path, *args, **kwargs):
        if studio.pruned in (path, path.parent):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, call, forbidden)
    message = refuse(1, "inspect", studio.pruned)
    assert "Permission denied" in message
    assert str(studio.pruned) in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stop being root")
def test_permissions_are_respected_for_real(studio, refuse, tmp_path):
    """In a child that is nobody: the folder is closed, and the message says so."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setegid(65534)
            os.seteuid(65534)
            message = refuse(1, "inspect", studio.pruned)
            os.write(write, message.encode()[:1000])
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(write, f"failed: {error!r}".encode()[:1000])
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        assert "Permission denied" in pipe.read()


def test_the_weights_name_the_plan_they_belong_to(studio):
    with safe_open(studio.pruned / "weights.safetensors", framework="pt") as file:
        digest = file.metadata()["secateur_plan"]
    assert digest == hashlib.sha256((studio.pruned / "plan.json").read_bytes()).hexdigest()


def test_a_report_of_another_kind_is_refused(studio, refuse, tmp_path):
    assert "cannot read report" in refuse(1, "report", tmp_path / "report.json")
    assert "no report of schema" in refuse(1, "report", studio.pruned / "plan.json")
    (tmp_path / "broken.json").write_text("{")
    assert "is no JSON" in refuse(1, "report", tmp_path / "broken.json")


@pytest.mark.parametrize("seed", [2**70, 2**32, -1])
def test_a_seed_that_no_generator_takes_is_refused(run, studio, tmp_path, seed):
    outcome = run("prune", studio.dense, "--ratio", 0.5, "--seed", seed, "--save", tmp_path / "out")
    assert outcome.code == 2
    assert "--seed" in outcome.err
    assert not (tmp_path / "out").exists()


_HALF_A_GIB = "1,134217729"
SHAPES = {
    "a size that is too large": "1,3,99999999999,9",
    "a size of 5000 digits": "1,3," + "9" * 5000,
    "a digit that is no number": "²,3",
    "sizes too large together": "1,1048576,1048576",
    "more bytes than numbers": "127,1,127,65535",
    "two inputs too large together": f"a={_HALF_A_GIB};b={_HALF_A_GIB}",
    "a type that cannot be filled": "1,2:qint8",
    "no type": "1,2:Tensor",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_input_that_no_memory_holds_is_refused(refuse, studio, shape):
    assert "--input" in refuse(2, "inspect", studio.dense, "--input", shape)


def _process(*words, **environment):
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "secateur", *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, check=False
    )


def test_python_runs_the_package_as_the_program():
    done = _process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"secateur ")


def test_what_a_terminal_cannot_show_is_no_reason_to_fail(studio, tmp_path):
    """The table is drawn with lines that Latin-1 has not; the work is saved by then."""
    words = ("prune", studio.dense, "--ratio", 0.5, "--input", "1,1,8,8", "--save", tmp_path / "out")
    done = _process(*words, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert b"parameters" in done.stdout
    assert (tmp_path / "out" / "plan.json").is_file()


def test_training_under_a_launcher_of_several_processes_is_one_sentence(refuse, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (("train", "zoo:vgg11"), ("slim", "zoo:vgg11"), ("darknet", "train", "digits")):
        message = refuse(2, *words, "--epochs", 1, "--data", "digits", "--save", tmp_path / "out")
        assert message == "training runs in one process and this is one of 2, so start it without torchrun\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
def test_a_model_of_another_precision_keeps_it_and_is_judged_on_images_all_the_same(
    run, studio, tmp_path, kind
):
    dtype = getattr(torch, kind)
    opened = open_model(str(studio.dense))
    save_model(opened.model.to(dtype), opened.plan, tmp_path / "other")
    done = run("prune", tmp_path / "other", "--ratio", 0.5, "--save", tmp_path / "half")
    assert done.code == 0, done.err
    held = load_file(tmp_path / "half" / "weights.safetensors").values()
    assert {value.dtype for value in held if value.is_floating_point()} == {dtype}
    judged = run("evaluate", tmp_path / "half", "--data", "digits", "--json")
    assert judged.code == 0, judged.err
    assert f"note: VGG is in {kind}, what follows is computed in float32" in judged.err
