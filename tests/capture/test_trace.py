"""A traced run: integers know where they came from."""

import pickle
import types

import pytest
import torch
from torch import nn

from secateur.capture import capture, trace
from secateur.capture.tracer import Traced, numbers_in
from secateur.graph.origin import Field, Made, Size

X = torch.zeros(2, 6)


class Reader(nn.Module):
    """Reads a width from everywhere it can lie."""

    def __init__(self):
        super().__init__()
        self.width = 3
        self.shape = (2, 3)
        self.config = types.SimpleNamespace(width=3, inner=types.SimpleNamespace(width=3))
        self.plain = 2

    def forward(self, x):
        batch, size = x.shape
        x = x.view(batch, 2, self.width)
        x = x.reshape(batch, *self.shape)
        x = x.view(batch, size // self.config.width, self.config.inner.width)
        return x.reshape(x.size(0) * 2, -1)


def origins(model, x):
    graph = capture(model, x)
    found = trace(model, x, graph)
    return [
        [found.origins.get((node.index, ("size" if "size" in node.args else "shape", at))) for at in range(3)]
        for node in graph.nodes
        if node.op in ("aten.view", "aten.reshape")
    ]


def test_every_integer_of_a_call_has_its_origin():
    first, second, third, last = origins(Reader(), X)
    assert first == [Size(0, 0), 2, Field("", ("width",))]
    assert second == [Size(0, 0), Field("", ("shape", 0)), Field("", ("shape", 1))]
    assert third[1] == Made("//", Size(0, 1), Field("", ("config", "width")))
    assert third[2] == Field("", ("config", "inner", "width"))
    assert last[0] == Made("*", Size(3, 0), 2)


def test_the_model_and_its_config_keep_plain_integers():
    model = Reader()
    trace(model, X, capture(model, X))
    assert type(model.width) is int
    assert type(model.config.inner.width) is int
    assert all(type(part) is int for part in model.shape)


def test_a_shared_config_has_a_field_for_each_module():
    class Half(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config

        def forward(self, x):
            return x.view(-1, self.config.width)

    config = types.SimpleNamespace(width=3)
    model = nn.Sequential(Half(config), Half(config))
    graph = capture(model, X)
    found = trace(model, X, graph)
    assert {str(origin) for origin in found.origins.values() if isinstance(origin, Field)} == {
        "0.config.width",
        "1.config.width",
    }


def test_comparisons_that_held_are_remembered():
    class Asserting(nn.Module):
        width = 6

        def __init__(self):
            super().__init__()
            self.width, self.heads = 6, 2

        def forward(self, x):
            assert x.shape[1] == self.width
            assert self.width // self.heads != 4
            assert self.width // self.heads * self.heads == x.shape[1]
            return x * 1

    found = trace(Asserting(), X, capture(Asserting(), X))
    width, heads = Field("", ("width",)), Field("", ("heads",))
    assert found.equalities == (
        (Size(0, 1), width),
        (Made("*", Made("//", width, heads), heads), Size(0, 1)),
    )


def test_multi_head_attention_is_open():
    model = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.zeros(1, 3, 6)
    graph = capture(model, (x, x, x))
    found = trace(model, (x, x, x), graph)
    assert Field("", ("num_heads",)) in {
        held for origin in found.origins.values() if isinstance(origin, Made) for held in [origin.right]
    }


def test_a_model_that_refuses_traced_integers_is_not_traced():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 6

        def forward(self, x):
            if type(self.width) is not int:
                raise TypeError("an int, please")
            return x.view(-1, self.width)

    assert trace(Strict(), X, capture(Strict(), X)) is None


@pytest.mark.parametrize("other", [2, 5])
def test_a_traced_integer_counts_as_an_integer(other):
    held = Traced(5, Field("", ("n",)), lambda pair: None)
    for left, right in ((held, other), (other, held)):
        assert (left + right, left - right, left * right) == (5 + other, left - int(right), 5 * other)
        assert (left // right, left % right) == (int(left) // int(right), int(left) % int(right))
    assert (held == other, held != other, held < other) == (other == 5, other != 5, other > 5)
    assert hash(held) == hash(5)
    assert list(range(10))[held] == 5
    assert type(pickle.loads(pickle.dumps(held))) is int


@pytest.mark.parametrize("turned", [False, True])
def test_a_traced_integer_leaves_it_to_a_tensor_whether_they_are_equal(turned):
    held, ids = Traced(5, Field("", ("pad",)), lambda pair: None), torch.tensor([5, 6])
    same, other = (ids == held, ids != held) if turned else (held == ids, held != ids)
    assert same.tolist() == [True, False]
    assert other.tolist() == [False, True]
    assert (held == 5.0, held != 5.0, held == "5", held != "5") == (True, False, False, True)


def test_the_numbers_of_a_call_are_listed_in_order():
    call = ((torch.zeros(1), 1, [2, (3.5,)], slice(None, 4)), {"dim": 5, "flag": True, "name": "x"})
    assert [number for _, number in numbers_in(call)] == [1, 2, 3.5, 4, 5]
