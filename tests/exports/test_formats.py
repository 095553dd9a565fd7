"""Every format, on networks whose code a cut corrects, too: the file computes what the cut network does."""

import copy
import json
import subprocess
import sys

import nets_exports
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import ExportError, RequestError
from secateur.exports import writing
from secateur.exports.format import formats
from secateur.plans.memory import forget

FILES = {"onnx": "cut.onnx", "pt2": "cut.pt2", "torchscript": "cut.torchscript", "state-dict": "cut"}
CORRECTED = ("corrected", "shifted", "language", "wrapped")
_RESULTS = {}


def cut(name):
    if name not in _RESULTS:
        model, example = nets_exports.make(name)
        _RESULTS[name] = sc.prune(model, example, ratio=0.5)
    return _RESULTS[name]


@pytest.fixture(autouse=True, scope="module")
def _packages():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


def test_these_are_the_formats_of_the_core():
    assert set(FILES) <= set(formats)


@pytest.mark.parametrize("name", CORRECTED)
def test_the_networks_are_such_that_code_is_corrected(name):
    assert cut(name).plan.corrections
    assert cut(name).verdict.exact or cut(name).verdict.renormalised


@pytest.mark.parametrize("name", nets_exports.NETS)
@pytest.mark.parametrize("format", FILES)
def test_the_file_computes_what_the_cut_network_does(format, name, tmp_path):
    result = cut(name)
    before = copy.deepcopy(result.model.state_dict())
    made = sc.export(result, tmp_path / FILES[format], format=format)
    assert made.error < 1e-5
    first, second = made.errors
    assert first.startswith(("batch 1", "batch 2"))
    assert second.startswith("batch 3")
    assert first.partition(", ")[2] != second.partition(", ")[2]  # another image or length, too
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert made.size_bytes == sum(one.stat().st_size for one in files)
    assert {one.name for one in tmp_path.iterdir()} == {FILES[format]}
    assert all(torch.equal(held, before[key]) for key, held in result.model.state_dict().items())


FOLDING = ("onnx", "pt2", "torchscript")


def test_these_formats_hold_folded_models():
    assert {name for name, one in formats.items() if not one.needs_norms} == set(FOLDING)


@pytest.mark.parametrize("format", FOLDING)
def test_a_file_without_norms_is_compared_with_the_model_that_has_them(format, tmp_path):
    model = _with_norms()
    before = copy.deepcopy(model.state_dict())
    made = sc.export(model, tmp_path / FILES[format], example_inputs=torch.zeros(1, 3, 16, 16), fold=True)
    assert made.error < 1e-5
    assert made.notes[0].startswith("1 of 2 batch norms were folded into the layers before them: folded ==")
    assert made.notes[1] == "3 stays: it follows aten.relu, which is no convolution or linear layer"
    assert all(torch.equal(held, before[key]) for key, held in model.state_dict().items())


def _with_norms():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    for at in (1, 3):
        model[at].running_mean.normal_()
        model[at].running_var.uniform_(0.5, 2.0)
    return model.eval()


def test_a_file_of_a_wrongly_folded_model_is_not_written(tmp_path, monkeypatch):
    def wrong(model, inputs):
        folded = sc.fold(model, inputs, check=False)
        folded.model[0].bias.data.zero_()
        return folded

    monkeypatch.setattr(writing, "fold_norms", wrong)
    with pytest.raises(ExportError, match="other numbers than the model"):
        sc.export(_with_norms(), tmp_path / "a.onnx", example_inputs=torch.zeros(1, 3, 16, 16), fold=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", sorted(set(formats) - set(FOLDING)))
def test_what_needs_its_norms_is_refused_at_once(format, tmp_path):
    with pytest.raises(ExportError, match="cannot hold a model whose norms were folded"):
        sc.export(_with_norms(), tmp_path / "a", format=format, fold=True)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_norms_is_written_and_the_notes_say_so(tmp_path):
    made = sc.export(nn.Linear(4, 2), tmp_path / "a.pt2", example_inputs=torch.zeros(1, 4), fold=True)
    assert made.notes == ("0 of 0 batch norms were folded into the layers before them",)


@pytest.mark.parametrize("name", CORRECTED)
def test_torch_compile_takes_the_corrected_code(name):
    result = cut(name)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(result.model).eval(), backend="aot_eager", dynamic=True)
    given = result.example_inputs
    with torch.no_grad():
        for inputs in (given, other(given)):
            args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
            one, two = result.model(*args, **kwargs), compiled(*args, **kwargs)
            for key in one if isinstance(one, dict) else [slice(None)]:
                torch.testing.assert_close(two[key], one[key])


def other(inputs):
    if isinstance(inputs, dict):
        return {name: torch.cat([one, one[:1]]) for name, one in inputs.items()}
    return torch.randn(3, *inputs.shape[1:])


def test_an_onnx_file_names_its_inputs_and_takes_any_batch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    sc.export(cut("language"), tmp_path / "cut.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["tokens", "mask"]
    assert all(isinstance(size, str) for size in session.get_inputs()[0].shape)


def test_a_trace_that_bakes_a_size_in_is_an_error(tmp_path):
    torch.manual_seed(0)
    baked, example = nets_exports.Baked().eval(), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ExportError) as caught:
        sc.export(baked, tmp_path / "baked.torchscript", example_inputs=example)
    assert "other numbers than the model on batch 3, 32x48" in str(caught.value)
    assert "a size of the example is baked into the file" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    made = sc.export(baked, tmp_path / "baked.onnx", example_inputs=example)  # keeps the size a size
    assert made.error < 1e-5


def test_a_size_that_cannot_be_left_open_is_fixed_and_noted(tmp_path):
    torch.manual_seed(0)
    made = sc.export(nets_exports.Looped().eval(), tmp_path / "looped.onnx", example_inputs=torch.zeros(3, 4))
    assert list(made.errors) == ["batch 3", "batch 3, again"]
    assert any("batch cannot all be left open: torch.export fixes a size" in note for note in made.notes)


def test_fixed_sizes_on_request(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = sc.export(cut("cnn"), tmp_path / "cut.onnx", dynamic=False)
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 16, 16]
    assert list(made.errors) == ["batch 1, 16x16", "batch 1, 16x16, again"]


def test_masks_are_baked_in(tmp_path):
    model, example = nets_exports.make("cnn")
    sc.mask.prune(model, amount=0.5)
    assert sc.export(model, tmp_path / "masked.onnx", example_inputs=example).error < 1e-5
    assert sc.mask.is_pruned(model)


def test_training_mode_and_gradients_stay(tmp_path):
    model, example = nets_exports.make("cnn")
    model.train()
    sc.export(model, tmp_path / "plain", format="state-dict", example_inputs=example)
    assert all(module.training for module in model.modules())
    assert all(one.requires_grad for one in model.parameters())


SCRIPT = """
import json, sys
sys.modules["secateur"] = None
sys.path[:0] = [{tests!r}, {folder!r}]
import torch
from nets_exports import {name}
from rebuild import rebuild
torch.manual_seed(1)
model = rebuild({name}().eval())
with torch.no_grad():
    print(json.dumps(model(**torch.load({inputs!r}))["logits"].tolist()))
model.blocks[0].up(torch.zeros(1, model.blocks[0].up.in_features)).sum().backward()
"""


def test_a_state_dict_is_built_where_there_is_no_secateur(tmp_path):
    first = cut("language")
    result = sc.prune(first.model, nets_exports.TOKENS, ratio=0.3)
    assert result.plan.previous is not None
    made = sc.export(result, tmp_path / "twice", format="state-dict")
    assert any("is Python" in note for note in made.notes)
    torch.save(nets_exports.TOKENS, tmp_path / "tokens.pt")
    names = {"tests": str(__file__).rpartition("/")[0], "folder": str(tmp_path / "twice"), "name": "Language"}
    script = SCRIPT.format(**names, inputs=str(tmp_path / "tokens.pt"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = result.model(**nets_exports.TOKENS)["logits"]
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)
    assert result.after.params < first.after.params


def test_a_state_dict_refuses_another_architecture(tmp_path):
    sc.export(cut("cnn"), tmp_path / "cut", format="state-dict")
    text = (tmp_path / "cut" / "rebuild.py").read_text()
    space = {"__file__": str(tmp_path / "cut" / "rebuild.py"), "__name__": "rebuild"}
    exec(compile(text, space["__file__"], "exec"), space)
    assert "secateur" not in text
    with pytest.raises(ValueError, match="not the architecture that was pruned"):
        space["rebuild"](nn.Linear(3, 3))


def test_a_state_dict_of_a_cut_model_needs_to_know_the_cut(tmp_path):
    model = copy.deepcopy(cut("corrected").model)
    forget(model)
    with pytest.raises(ExportError, match="how this Corrected was cut"):
        sc.export(
            model,
            tmp_path / "cut",
            format="state-dict",
            example_inputs=torch.zeros(1, 3, 32, 32),
        )
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_no_process_can_be_given_are_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x, how):
            return x * how.by

    class How:
        by = 2

    with pytest.raises(RequestError, match="hold a How"):
        sc.export(Odd(), tmp_path / "odd.torchscript", example_inputs=(torch.ones(1, 2), How()))


def test_a_state_dict_brings_the_widths_of_lists_of_dicts(tmp_path):
    """Such as `feature_info` of timm."""

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
            self.feature_info = [{"module": "stem", "num_chs": 8, "reduction": 1}]

        def forward(self, x):
            return self.head(self.stem(x).relu())

    result = sc.prune(Told().eval(), torch.zeros(1, 4), ratio=0.5)
    assert result.model.feature_info[0]["num_chs"] == 4
    sc.export(result, tmp_path / "cut", format="state-dict")
    text = (tmp_path / "cut" / "rebuild.py").read_text()
    space = {"__file__": str(tmp_path / "cut" / "rebuild.py"), "__name__": "rebuild"}
    exec(compile(text, "rebuild.py", "exec"), space)
    uncut = Told().eval()
    held = uncut.feature_info[0]
    built = space["rebuild"](uncut)
    assert built.feature_info == [{"module": "stem", "num_chs": 4, "reduction": 1}]
    assert held["num_chs"] == 8  # others who hold the entry keep theirs
