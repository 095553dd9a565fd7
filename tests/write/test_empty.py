"""Architectures on the meta device: buffers that no checkpoint holds are computed anew, or named."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError
from secateur.write.empty import filled


class Rotary(nn.Module):
    def __init__(self, config, device=None):
        super().__init__()
        self.config = config
        angles = config["base"] ** -torch.arange(0, config["width"], dtype=torch.float32, device=device)
        self.register_buffer("angles", angles, persistent=False)

    def forward(self, x):
        return x * self.angles.cos()


class Unkept(Rotary):
    """Does not keep what it was made from."""

    def __init__(self, base, width):
        super().__init__({"base": base, "width": width})


class Defaulted(Rotary):
    """Was made with another value than its default, and does not keep it."""

    def __init__(self, width, base=100.0):
        super().__init__({"base": base, "width": width})
        self.width = width


class Doubled(nn.Module):
    """Keeps something else under the name of its argument."""

    def __init__(self, width):
        super().__init__()
        self.width = 2 * width
        self.register_buffer("angles", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return x * self.angles.cos()


class Random(Doubled):
    def __init__(self, width):
        super().__init__(width)
        self.width = width
        self.angles = torch.rand(width, device=self.angles.device)


MAKERS = {
    "config": lambda: Rotary({"base": 10.0, "width": 8}),
    "unkept": lambda: Unkept(10.0, 8),
    "defaulted": lambda: Defaulted(8, base=10.0),
    "doubled": lambda: Doubled(8),
    "random": lambda: Random(8),
}


class Tied(nn.Module):
    def __init__(self, maker="config"):
        super().__init__()
        self.table, self.turn, self.head = nn.Embedding(5, 8), MAKERS[maker](), nn.Linear(8, 5, bias=False)
        self.inner, self.out = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.turn(self.table(ids))
        return self.head(x + self.out(self.inner(x).relu()))


IDS = torch.tensor([[0, 3, 1, 4]])


def saved(folder, maker="config"):
    result = sc.prune(Tied(maker).eval(), IDS, ratio=0.5, protect="turn")
    sc.save(result, folder)
    return result.model


def empty(maker="config"):
    with torch.device("meta"):
        return Tied(maker).eval()


def untied(maker="config"):
    """As `accelerate.init_empty_weights` leaves a model: each parameter by itself, buffers with values."""
    made = Tied(maker).eval()
    for module in made.modules():
        for name, held in module._parameters.items():
            if held is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(held, device="meta"))
    return made


@pytest.mark.parametrize("make", [empty, untied])
def test_a_model_is_loaded_into_an_empty_architecture(make, tmp_path):
    expected, architecture = saved(tmp_path), make()
    before = {name: id(held) for name, held in architecture.named_parameters(remove_duplicate=False)}
    state = torch.get_rng_state()
    loaded = sc.load(tmp_path, architecture)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(loaded.turn.angles, expected.turn.angles)
    assert loaded.head.weight is loaded.table.weight
    with torch.no_grad():
        assert torch.equal(loaded(IDS), expected(IDS))
    assert before == {name: id(held) for name, held in architecture.named_parameters(remove_duplicate=False)}
    assert all(held.is_meta for held in architecture.parameters())


@pytest.mark.parametrize("maker", ["unkept", "defaulted", "doubled", "random"])
def test_a_buffer_that_cannot_be_known_is_named(maker, tmp_path):
    saved(tmp_path, maker)
    with pytest.raises(CheckpointError, match=r"1 buffers of Tied are on the meta device.*\n  turn.angles\n"):
        sc.load(tmp_path, empty(maker))


def test_an_architecture_with_values_is_left_as_it_is():
    model = Tied()
    assert filled(model, {"head.weight": "table.weight"}) is model
