"""Saved models: what goes in comes out, bit for bit; what does not fit is refused by name."""

import json
import subprocess
import sys

import nets
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, SecateurError
from secateur.plans.making import identity_plan
from secateur.write import checkpoint
from secateur.write.checkpoint import load_state, read_state, save_model
from secateur.zoo import models


class Buffers(nn.Module):
    """A buffer that is not saved, one of integers, and one that several channels share."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("gain", torch.linspace(0.5, 2, 8), persistent=False)
        self.register_buffer("count", torch.zeros(8, dtype=torch.int64))
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("flag", torch.tensor([True, False]))

    def forward(self, x):
        return self.last(self.first(x) * self.gain + self.count)


class Shared(nn.Module):
    """Two parameters over one memory, which is no tie, and a buffer that looks into a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.shift = nn.Parameter(self.last.bias.data)
        self.register_buffer("view", self.last.weight.data.view(-1)[:8])

    def forward(self, x):
        return self.last(self.first(x).relu()) + self.shift


def vgg():
    return models["vgg11"](width=1 / 16, in_channels=1, image_size=8)


def channels_last():
    return vgg().to(memory_format=torch.channels_last)


def bfloat16():
    return nets.Residual().bfloat16()


CASES = {
    "vgg": (vgg, (1, 1, 8, 8)),
    "channels last": (channels_last, (1, 1, 8, 8)),
    "tied weights": (nets.Tied, (2, 4)),
    "buffers": (Buffers, (2, 4)),
    "shared memory": (Shared, (2, 4)),
    "bfloat16": (bfloat16, (2, 3, 6, 6)),
    "residual": (nets.Residual, (2, 3, 6, 6)),
}


def values(model):
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: (tensor.dtype, tensor.detach().clone()) for name, tensor in named}


def randomised(make):
    """Random values wherever the state dict reaches; what it leaves out is the architecture's own."""
    model = nets.randomise(make())
    own = dict(make().named_buffers())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name not in model.state_dict():
                buffer.copy_(own[name])
    return model


def require_same(one, two):
    assert one.keys() == two.keys()
    for name, (dtype, tensor) in one.items():
        assert two[name][0] == dtype, name
        assert torch.equal(two[name][1], tensor), name


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_comes_back_bit_for_bit(case, tmp_path):
    make, shape = CASES[case]
    model = randomised(make)
    x = torch.randn(shape, dtype=next(model.parameters()).dtype)
    result = sc.prune(model, x, ratio=0.4, scope="local")
    folder = sc.save(result, tmp_path / "half")
    architecture = make()
    before = values(architecture)
    loaded = sc.load(folder, architecture)
    require_same(values(result.model), values(loaded))
    require_same(before, values(architecture))
    assert type(loaded) is type(model)
    assert loaded is not architecture
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), result.model.eval()(x))


def test_tied_weights_stay_tied_and_are_written_once(tmp_path):
    result = sc.prune(nets.Tied(), torch.randn(2, 4), ratio=0.5)
    loaded = sc.load(sc.save(result, tmp_path), nets.Tied())
    assert loaded.one.weight is loaded.two.weight
    assert set(load_file(tmp_path / "weights.safetensors")) == set(result.model.state_dict()) - {"two.weight"}


def test_an_uncut_model_with_shared_memory_can_be_saved(tmp_path):
    model = nets.randomise(Shared())
    save_model(model, identity_plan(model, "", {}), tmp_path)
    require_same(values(model), values(sc.load(tmp_path, Shared())))


def test_a_trained_cut_model_is_what_is_saved(tmp_path):
    result = sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.4)
    with torch.no_grad():
        result.model.head.bias += 1
    loaded = sc.load(sc.save(result, tmp_path), nets.Residual())
    assert torch.equal(loaded.head.bias, result.model.head.bias)


def test_mode_and_gradients_follow_the_architecture(tmp_path):
    result = sc.prune(nets.Residual().eval(), torch.randn(2, 3, 6, 6), ratio=0.4)
    sc.save(result, tmp_path)
    architecture = nets.Residual().train()
    architecture.stem.weight.requires_grad_(False)
    loaded = sc.load(tmp_path, architecture)
    assert loaded.training
    assert not loaded.stem.weight.requires_grad
    assert loaded.head.weight.requires_grad


def test_the_files_hold_no_pickle(tmp_path):
    sc.save(sc.prune(nets.Tied(), torch.randn(2, 4), ratio=0.5), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "weights.safetensors"]
    json.loads((tmp_path / "plan.json").read_text())
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"


def test_loading_needs_neither_pickle_nor_the_process_that_saved(tmp_path):
    result = sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.5)
    folder = sc.save(result, tmp_path / "half")
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    program = (
        "import pickle, sys, torch, secateur as sc\n"
        "from secateur.zoo import models\n"
        "pickle.Unpickler = pickle.load = pickle.loads = None\n"
        "model = sc.load(sys.argv[1], models['vgg11'](width=1 / 16, in_channels=1, image_size=8)).eval()\n"
        "x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)\n"
        "print([value.hex() for value in model(x).detach().flatten().double().tolist()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    with torch.no_grad():
        expected = [value.hex() for value in result.model.eval()(x).flatten().double().tolist()]
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: models["vgg13"](width=1 / 16, in_channels=1, image_size=8), "feature.4.weight is"),
        (
            lambda: models["vgg11"](width=1 / 8, in_channels=1, image_size=8),
            "feature.0.weight is [8, 1, 3, 3]",
        ),
        (lambda: models["vgg11"](width=1 / 16, in_channels=1, image_size=8, bias=True), "feature.0.bias is"),
        (
            lambda: models["vgg11"](width=1 / 16, in_channels=1, image_size=8, num_classes=3),
            "classifier.weight is",
        ),
        (nets.Residual, "feature.0.weight is missing"),
    ],
)
def test_another_architecture_is_refused_with_the_first_difference(tmp_path, make, first):
    sc.save(sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.5), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        sc.load(tmp_path, make())
    message = str(caught.value)
    assert message.startswith(f"cannot load {tmp_path}: the plan was made for VGG (36,710 parameters), got ")
    assert f"first difference: {first}" in message


def test_the_cut_architecture_is_refused_too(tmp_path):
    result = sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.5)
    sc.save(result, tmp_path)
    with pytest.raises(CheckpointError, match="build the architecture that the plan names, uncut"):
        sc.load(tmp_path, result.model)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda state: state.pop("0.bias"), "0.bias is not in the file"),
        (
            lambda state: state.update(extra=torch.zeros(1)),
            "extra is in the file, the model has no such tensor",
        ),
        (lambda state: state.update({"0.bias": torch.zeros(9)}), r"0.bias is \[9\], the model has \[8\]"),
        (lambda state: state.update({"0.bias": torch.zeros(1)}), r"0.bias is \[1\], the model has \[8\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, first):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    state = {name: torch.full_like(tensor, 7) for name, tensor in model.state_dict().items()}
    change(state)
    before = values(model)
    with pytest.raises(CheckpointError, match=f"first difference: {first}"):
        load_state(model, state, "w.pth")
    require_same(before, values(model))


def test_a_failed_save_leaves_the_old_model_and_says_why(tmp_path, monkeypatch):
    one = sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.3)
    two = sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.6)
    sc.save(one, tmp_path)

    def full(tensors, file, metadata):
        raise checkpoint.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(SecateurError, match=r"no space to write .*weights.safetensors(.|\n)*free some space"):
        sc.save(two, tmp_path, overwrite=True)
    require_same(values(one.model), values(sc.load(tmp_path, vgg())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "weights.safetensors"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("swapped", ["plan.json", "weights.safetensors"])
def test_plan_and_weights_of_two_saves_are_not_taken_together(tmp_path, swapped, packed):
    """Of equal shapes: nothing else would tell that channel 3 has the weights of channel 5."""
    model = nets.randomise(nets.Residual())
    for name, kept in (("one", (0, 1, 2)), ("two", (3, 4, 5))):
        result = sc.prune(model, torch.randn(2, 3, 6, 6), keep={"inner": kept})
        save_model(result.model, result.plan, tmp_path / name, packed=packed)
        sc.load(tmp_path / name, nets.Residual())
    (tmp_path / "one" / swapped).write_bytes((tmp_path / "two" / swapped).read_bytes())
    with pytest.raises(CheckpointError, match="belong to different models") as caught:
        sc.load(tmp_path / "one", nets.Residual())
    assert str(tmp_path / "one") in str(caught.value)


def test_weights_that_name_no_plan_are_taken_with_any(tmp_path):
    """Others write weights too, and the shapes decide then."""
    result = sc.prune(nets.Residual(), torch.randn(2, 3, 6, 6), ratio=0.5)
    sc.save(result, tmp_path)
    save_file(load_file(tmp_path / "weights.safetensors"), tmp_path / "weights.safetensors")
    require_same(values(result.model), values(sc.load(tmp_path, nets.Residual())))


def test_another_fault_of_the_writer_is_not_hidden(tmp_path, monkeypatch):
    def broken(tensors, file, metadata):
        raise checkpoint.SafetensorError("something else")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(checkpoint.SafetensorError, match="something else"):
        sc.save(sc.prune(vgg(), torch.zeros(1, 1, 8, 8), ratio=0.3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_chain_of_three_loads(tmp_path):
    plan = identity_plan(vgg(), "zoo:vgg11", {})
    model = nets.randomise(vgg())
    for number in range(3):
        result = sc.prune(model, torch.zeros(1, 1, 8, 8), ratio=0.2, scope="local")
        model, plan = result.model, result.plan.after(plan)
        save_model(model, plan, tmp_path / str(number))
        require_same(values(model), values(sc.load(tmp_path / str(number), vgg())))
    assert plan.previous.previous.source == "zoo:vgg11"


def test_a_state_dict_is_read_under_the_usual_keys(tmp_path):
    state = {"module.a": torch.zeros(2), "module.b": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "w.pth")
    assert set(read_state(tmp_path / "w.pth")) == {"a", "b"}
