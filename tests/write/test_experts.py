"""Checkpoints that hold each expert by itself, for models that hold all experts of a layer in one tensor."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError
from secateur.write.experts import joined_experts
from secateur.write.shards import open_shards

X = torch.randn(3, 6)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(4, 2 * 8, 6))
        self.down_proj = nn.Parameter(torch.empty(4, 6, 8))

    def forward(self, x, share):
        gate, up = torch.einsum("bh,efh->bef", x, self.gate_up_proj).chunk(2, -1)
        return torch.einsum("bef,ehf,be->bh", gate.relu() * up, self.down_proj, share)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 4, bias=False), Experts()

    def forward(self, x):
        return x + self.experts(x, self.gate(x).softmax(-1))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Mixture(), Mixture()])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def model():
    made, generator = Model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for held in made.parameters():
            held.copy_(torch.randn(held.shape, generator=generator))
    return made.eval()


def apart(state, parts=("gate_proj", "up_proj", "down_proj"), block=""):
    """A state as a file that holds each expert by itself."""
    found = {}
    for name, held in state.items():
        prefix, _, own = name.rpartition(".")
        if block:
            layer = ".".join(prefix.split(".")[:2])
            prefix, name = (text.replace(layer, f"{layer}.{block}", 1) for text in (prefix, name))
        if own == "gate_up_proj":
            for at, one in enumerate(held):
                for part, half in zip(parts, one.chunk(2), strict=False):
                    found[f"{prefix}.{at}.{part}.weight"] = half.clone()
        elif own == "down_proj":
            found |= {f"{prefix}.{at}.{parts[2]}.weight": one.clone() for at, one in enumerate(held)}
        else:
            found[name] = held.clone()
    return found


class Blocks(nn.Module):
    """The same with a module around the experts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"mlp": Mixture()}) for _ in range(2)])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer["mlp"](x)
        return self.head(x)


def blocks():
    made = Blocks()
    made.load_state_dict(
        {
            name.replace("0.", "0.mlp.", 1).replace("1.", "1.mlp.", 1) if "layers" in name else name: held
            for name, held in model().state_dict().items()
        }
    )
    return made.eval()


CASES = {
    "gate_proj, up_proj": (model, {}),
    "w1, w3": (model, {"parts": ("w1", "w3", "w2")}),
    "another block": (blocks, {"parts": ("w1", "w3", "w2"), "rename": ".block_sparse_moe."}),
}


def stored(make, options, folder):
    names = dict(options)
    other = names.pop("rename", None)
    state = apart(make().state_dict(), **names)
    if other is not None:
        state = {name.replace(".mlp.", other): held for name, held in state.items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_planned_and_cut_from_files_with_a_tensor_for_each_expert(name, tmp_path):
    make, options = CASES[name]
    source = stored(make, options, tmp_path)
    with torch.device("meta"):
        empty = type(make())()
    whole = sc.prune(make(), X, ratio=0.5)
    plan = sc.plan(empty, X, weights=source, ratio=0.5)
    assert plan.keep == whole.plan.keep
    done = sc.stream(plan, source, tmp_path / "half")
    assert done.dropped == ()
    loaded = sc.load(tmp_path / "half", type(make())())
    assert loaded.state_dict().keys() == whole.model.state_dict().keys()
    for key, held in whole.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], held)


CHANGES = {
    "an expert is missing": lambda state: state.pop("layers.0.experts.2.up_proj.weight"),
    "an expert has another shape": lambda state: state.update(
        {"layers.0.experts.2.up_proj.weight": torch.zeros(7, 6)}
    ),
    "an expert has another type": lambda state: state.update(
        {"layers.0.experts.2.up_proj.weight": torch.zeros(8, 6, dtype=torch.float16)}
    ),
    "the parts have other names": lambda state: [
        state.update({name.replace("up_proj", "other"): state.pop(name)})
        for name in list(state)
        if "up_proj" in name
    ],
    "numbers have a gap": lambda state: state.update(
        {"layers.0.experts.9.up_proj.weight": state.pop("layers.0.experts.3.up_proj.weight")}
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_experts_that_do_not_fit_are_missing(name, tmp_path):
    state = apart(model().state_dict())
    CHANGES[name](state)
    save_file(state, tmp_path / "model.safetensors")
    plan = sc.prune(model(), X, ratio=0.5).plan
    with pytest.raises(CheckpointError, match=r"gate_up_proj is missing"):
        sc.stream(plan, tmp_path, tmp_path / "half")


def test_a_checkpoint_that_fits_is_not_touched(tmp_path):
    save_file(model().state_dict(), tmp_path / "model.safetensors")
    shards = open_shards(tmp_path)
    assert joined_experts(shards, {name: held.shape for name, held in model().state_dict().items()}) is shards
