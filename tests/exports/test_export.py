"""The one way to a file, on a toy format: what is wrong never gets its name, and the error says why."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ExportError, RequestError, SecateurError
from secateur.exports.format import Format, formats
from secateur.exports.reading import difference
from secateur.exports.trials import Trials
from secateur.write.atomic import leftovers

READER = """
import numpy as np

def load(path, **about):
    held = np.load(path)
    def run(x):
        {run}
        return [x @ held["weight"].T + held["bias"]]
    return "numpy " + np.__version__, run
"""
EXAMPLE = torch.zeros(2, 4)


def write(subject, path):
    with path.open("wb") as file:
        np.savez(file, **{name: held.numpy() for name, held in subject.model.state_dict().items()})
    return ["a toy"]


@pytest.fixture
def toy(tmp_path_factory):
    """Registers a format for one test: a function writes it, a script with a line of its own reads it."""
    added = []

    def add(writer=write, run="pass", **more):
        reader = tmp_path_factory.mktemp("toy") / "reader.py"
        reader.write_text(READER.format(run=run))
        formats.load()
        added.append("toy")
        return formats.add("toy", Format("a toy", ".npz", writer, reader, **more))

    yield add
    for name in added:
        del formats._entries[name]


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def export(folder, **options):
    return sc.export(linear(), folder / "model.npz", example_inputs=EXAMPLE, **options)


def test_a_format_is_one_plug_in(toy, tmp_path):
    toy()
    made = export(tmp_path)
    assert (made.format, made.reader, made.notes) == ("toy", f"numpy {np.__version__}", ("a toy",))
    assert list(made.errors) == ["batch 2", "batch 3"]
    assert made.error < 1e-6
    assert made.size_bytes == (tmp_path / "model.npz").stat().st_size
    assert str(made).startswith(f"{tmp_path / 'model.npz'}: {made.size_bytes} bytes, read back by numpy ")
    assert [one.name for one in tmp_path.iterdir()] == ["model.npz"]


def other_weights(subject, path):
    with torch.no_grad():
        subject.model.weight[0, 0] += 0.1
    return write(subject, path)


def nothing(subject, path):
    return []


def broken(subject, path):
    path.write_bytes(b"half")
    raise ValueError("no words for this model\nmore")


def dropped_row(subject, path):
    subject.model.weight = nn.Parameter(subject.model.weight[:2])
    subject.model.bias = nn.Parameter(subject.model.bias[:2])
    return write(subject, path)


FAULTS = {
    "other weights": (
        {"writer": other_weights},
        "computes other numbers than the model on batch 2: output 0 differs",
    ),
    "nothing written": ({"writer": nothing}, "the writer made no model.npz"),
    "the writer fails": ({"writer": broken}, "cannot write toy: ValueError: no words for this model"),
    "a row too few": ({"writer": dropped_row}, "the file: 1 tensors, [2, 2]"),
    "the reader fails": ({"run": "raise ValueError('no such operator')"}, "ValueError: no such operator"),
    "the reader is killed": (
        {"run": "import os; os.kill(os.getpid(), 9)"},
        "its reader ended with signal 9",
    ),
    "NaN": ({"run": "x = x * float('nan')"}, "differs by inf"),
    "a size baked in": ({"run": "x = x + (len(x) != 2)"}, "a size of the example is baked into the file"),
    "a size refused": ({"run": "assert len(x) == 2"}, "cannot be read back on batch 3"),
    "a reader with secateur": ({"run": "import secateur"}, "import of secateur halted"),
    "another output": ({"run": "return [x, x]"}, "computes other outputs than the model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_of_what_is_wrong_nothing_is_left(fault, toy, tmp_path):
    options, reason = FAULTS[fault]
    toy(**options)
    with pytest.raises(ExportError) as caught:
        export(tmp_path)
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_where_the_new_one_is_wrong(toy, tmp_path):
    toy(writer=other_weights)
    (tmp_path / "model.npz").write_bytes(b"before")
    with pytest.raises(RequestError, match=r"exists already\n.*overwrite=True"):
        export(tmp_path)
    with pytest.raises(ExportError):
        export(tmp_path, overwrite=True)
    assert (tmp_path / "model.npz").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_overwriting_replaces_the_file(toy, tmp_path):
    toy()
    (tmp_path / "model.npz").write_bytes(b"before")
    assert export(tmp_path, overwrite=True).size_bytes > 6
    assert list(np.load(tmp_path / "model.npz")) == ["weight", "bias"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_export
from secateur.exports.format import Format, formats
def write(subject, path):
    test_export.write(subject, path)
    os.kill(os.getpid(), signal.SIGKILL)
formats.load()
formats.add("toy", Format("a toy", ".npz", write, Path("reader.py")))
test_export.export(Path({folder!r}))
"""


def test_a_killed_process_leaves_no_file_and_the_next_one_cleans_up(toy, tmp_path):
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "model.npz").exists()
    assert len(leftovers(tmp_path)) == 1
    toy()
    export(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["model.npz"]


def test_a_folder_is_replaced_only_by_one_with_all_of_its_files(tmp_path):
    def written():
        return sc.export(
            linear(), tmp_path / "model", format="state-dict", example_inputs=EXAMPLE, overwrite=True
        )

    written()
    written()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(SecateurError, match=r"holds notes.txt, which the new folder does not have"):
        written()
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("path", "format", "said"),
    [
        ("model.xyz", None, "cannot tell the format of model.xyz from its suffix '.xyz'"),
        ("model", None, "a folder: state-dict"),
        ("model.onnx", "pt2", "format is pt2, and model.onnx has the suffix of onnx"),
        ("model.onnx", "onx", "did you mean 'onnx'?"),
        ("folder", "onnx", "folder is a folder"),
    ],
)
def test_a_format_that_does_not_fit_is_refused(path, format, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(RequestError) as caught:
        sc.export(linear(), path, format=format, example_inputs=EXAMPLE)
    assert said in str(caught.value)


def test_a_model_alone_needs_an_example(tmp_path):
    with pytest.raises(RequestError, match="the input of Linear is not known"):
        sc.export(linear(), tmp_path / "model.onnx")


def test_a_model_that_does_not_run_says_so(tmp_path):
    with pytest.raises(SecateurError, match="does not run on its example inputs: RuntimeError"):
        sc.export(linear(), tmp_path / "model.onnx", example_inputs=torch.zeros(2, 5))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.seen = nn.Embedding(50, 4), []

    def forward(self, tokens, mask, scale=2.0):
        self.seen.append((tokens, mask))
        return self.embed(tokens) * mask[..., None] * scale


def test_trials_draw_token_ids_and_masks_from_those_of_the_example():
    model = Tokens()
    example = {
        "tokens": torch.tensor([[3, 7, 7, 9]]),
        "mask": torch.tensor([[True, True, False, True]]),
        "scale": 1.5,
    }
    trials = Trials(model, example)
    assert dict(trials.open) == {"batch": ((0, 0), (1, 0)), "length": ((0, 1), (1, 1))}
    assert [one.name for one in trials.of(trials.open)] == ["batch 1, length 4", "batch 3, length 7"]
    assert all(set(tokens.flatten().tolist()) <= {3, 7, 9} for tokens, _ in model.seen)
    assert all(mask.dtype == torch.bool for _, mask in model.seen)
    assert trials.of(trials.open)[1].expected[0].shape == (3, 7, 4)


def test_a_constant_hides_no_difference_and_integers_are_equal_or_not():
    numbers = 1e6 + torch.rand(100, dtype=torch.float64)
    assert difference(numbers, numbers + 0.01) > 0.009
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == float("inf")
    assert difference(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")])) == 0
    assert difference(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 3.0])) == float("inf")
