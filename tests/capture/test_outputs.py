"""What counts of what a model returns: outputs keep their shapes, the rest may change."""

import itertools
from collections import namedtuple
from dataclasses import dataclass

import nets
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.capture.inputs import output_tensors
from secateur.errors import RequestError

X = torch.randn(2, 5, 6)


@dataclass
class Made:
    y: torch.Tensor
    past: object = None


class Decoder(nn.Module):
    """Adds up what it has seen, and returns it to be given back."""

    def __init__(self):
        super().__init__()
        self.keys, self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x, past=None):
        keys = self.keys(x)
        if past is not None:
            keys = torch.cat([past[0], keys], 1)
        return Made(self.head(self.hidden(keys).relu()), (keys,))


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Anything(Around):
    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Pair(Around):
    def forward(self, x):
        made = self.inner(x)
        return made.y, made.past


class Deep(Around):
    def forward(self, x):
        return {"step": 1, "made": [self.inner(x)]}


class Listed(Around):
    """Hands on the tensors in a container of its own."""

    def forward(self, x):
        made = self.inner(x)
        return {"y": made.y, "cache": list(made.past)}


class Doubled(Around):
    """What it returns is computed from the state, and is none."""

    def forward(self, x):
        made = self.inner(x)
        return {"y": made.y, "past": (2 * made.past[0],)}


STATES = {
    Around: {"past"},
    Anything: {"past"},
    Pair: {"1"},
    Deep: {"made.0.past"},
    Listed: {"cache"},
    Doubled: set(),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_state_of_a_model_inside_is_state_of_the_one_around_it(kind, wrapped):
    model = kind(Anything(Decoder()) if wrapped else Decoder())
    groups = sc.couple(model, X)
    assert groups.graph.state == STATES[kind]
    keys = groups["inner.inner.keys" if wrapped else "inner.keys"]
    assert keys.reason == (None if STATES[kind] else "model output")


def test_what_is_cut_of_the_state_serves_the_next_call():
    model = nets.randomise(Pair(Decoder()))
    cut = sc.prune(model, X, ratio=0.5, scope="local").model
    assert cut.inner.keys.out_features == 4
    with torch.no_grad():
        whole = cut.inner(X).y
        first = cut.inner(X[:, :3])
        torch.testing.assert_close(cut.inner(X[:, 3:], first.past).y[:, -1], whole[:, -1])


Named = namedtuple("Named", ["y", "hidden"])


class Stepping(Decoder):
    """Looks at a number that it holds, as detectors look at their strides."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.tensor([3]))

    def forward(self, x, past=None):
        made = super().forward(x, past)
        return Made(made.y * self.steps.item(), made.past)


def test_the_state_of_a_model_that_looks_at_numbers_is_found():
    graph = capture(Pair(Stepping()), X)
    assert (graph.substrate, graph.state) == ("fake", {"1"})


RUNS = itertools.count()
"""How often something ran; a record puts back what runs leave behind, but for where an iterator stands."""


class Several(nn.Module):
    """Returns a list of what it made."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        next(RUNS)
        return {"maps": [self.inner(x)]}


@pytest.mark.parametrize(("inner", "runs"), [(nn.Linear(6, 3), 1), (Decoder(), 2)])
def test_a_model_runs_again_only_where_a_module_may_take_something_back(inner, runs):
    before = next(RUNS)
    graph = capture(Several(inner), X)
    assert next(RUNS) - before - 1 == runs
    assert graph.state == ({"maps.0.past"} if runs == 2 else set())


class Auxiliary(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.pack, self.body, self.head = pack, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.body(x)
        return self.pack(self.head(hidden), hidden)


PACKS = {
    "dict": (lambda y, hidden: {"y": y, "hidden": hidden}, "y"),
    "dataclass": (Made, "y"),
    "named tuple": (Named, "y"),
    "tuple": (lambda y, hidden: (y, hidden), 0),
    "tuple, from its end": (lambda y, hidden: (hidden, y), -1),
    "position in a dict": (lambda y, hidden: {"y": y, "hidden": hidden}, 0),
}


@pytest.mark.parametrize("name", PACKS)
def test_only_the_outputs_that_count_keep_their_widths(name):
    pack, wanted = PACKS[name]
    model = nets.randomise(Auxiliary(pack))
    assert sc.couple(model, X)["body"].reason == "model output"
    for outputs in ([wanted], wanted):
        assert sc.couple(model, X, outputs=outputs)["body"].reason is None
        result = sc.prune(model, X, ratio=0.5, outputs=outputs)
        assert result.verdict.exact
        assert result.model.body.out_features == 4
        assert sc.plan(model, X, ratio=0.5, outputs=outputs).keep == result.plan.keep
        assert sc.check(model, result.plan, X, outputs=outputs).exact
        refit = sc.recover(result, [torch.randn(8, 5, 6) for _ in range(3)])
        assert refit.errors[-1].after < refit.errors[0].before
    assert sc.check(model, result.plan, X).failure is not None


def test_an_output_that_is_not_there_is_named():
    model = Auxiliary(PACKS["dict"][0])
    with pytest.raises(RequestError, match=r"outputs names 'z'.*\n  it returns y, hidden\n"):
        sc.couple(model, X, outputs=["z"])
    with pytest.raises(RequestError, match="outputs names '2'"):
        sc.prune(model, X, ratio=0.5, outputs=[2])
    with pytest.raises(RequestError, match="outputs is empty"):
        sc.couple(model, X, outputs=[])
    with pytest.raises(RequestError, match="one value without a name"):
        sc.couple(nn.Linear(6, 2), X, outputs=["y"])


def test_state_that_is_asked_for_as_an_output_is_one():
    assert sc.couple(Decoder(), X, outputs=["y", "past"])["keys"].reason == "model output"
    assert sc.couple(Decoder(), X, outputs=["y"])["keys"].reason is None


def test_state_is_left_out_by_its_path_or_its_own_name():
    one, two = torch.zeros(1), torch.ones(1)
    nested = {"0": one, "made": Made(one, (two, two))}
    assert len(output_tensors(nested)) == 4
    for state in (["past"], ["made.past"]):
        assert len(output_tensors(nested, state)) == 2
    assert len(output_tensors(nested, ["0"])) == 3
    assert len(output_tensors(nested, ["0", "made"])) == 4
