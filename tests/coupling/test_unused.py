"""Results of which a model asks for the shape alone do not hold what they were taken from."""

import nets
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture import capture

X = torch.randn(2, 7, 4)


class Net(nn.Module):
    """Positions by the shape of something that is computed on the way."""

    def __init__(self, read):
        super().__init__()
        self.read, self.notes = [read], []
        self.stem, self.positions = nn.Linear(4, 32), nn.Embedding(16, 32)
        self.inner, self.head = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        batch, length = self.read[0](self, x)
        x = x + self.positions(torch.arange(length).expand(batch, -1))
        return self.head(x + self.inner(x).relu())


class WithOutput(Net):
    def forward(self, x):
        y = self.stem(x)[:, :, -1]
        return super().forward(x), y


def noted(model, x):
    model.notes.append(x[:, :, -1])
    return model.notes.pop().shape


def kept(model, x):
    model.notes = {"last": (x[:, :, -1],)}
    return x.shape[:2]


def written(model, x):
    last = x[:, :, -1]
    last.mul_(2)
    return last.shape


UNUSED = {
    "select": lambda model, x: x[:, :, -1].shape,
    "a chain": lambda model, x: (x[:, :, 0] * 2).relu().shape,
    "softmax": lambda model, x: x.softmax(-1).argmax(-1).shape,
    "held for a while": noted,
}
USED = {"kept by the model": kept, "written into": written}


@pytest.mark.parametrize("name", UNUSED)
@pytest.mark.parametrize("substrate", ["fake", "real"])
def test_what_nobody_sees_holds_nothing(name, substrate):
    model = nets.randomise(Net(UNUSED[name]))
    graph = capture(model, X, substrate)
    assert (
        {graph.nodes[at].op for at in graph.unused} >= {"aten.select"} if name != "softmax" else graph.unused
    )
    result = sc.prune(model, X, ratio=0.5)
    assert result.verdict.exact
    assert result.model.stem.out_features == 16
    assert sc.couple(model, X)["stem"].renormalised is None


@pytest.mark.parametrize("name", USED)
def test_what_something_holds_or_writes_is_used(name):
    model = nets.randomise(Net(USED[name]))
    assert not capture(model, X).unused
    assert "addressed by number" in sc.couple(model, X)["stem"].reason


def test_what_is_returned_or_is_state_is_used():
    model = nets.randomise(WithOutput(UNUSED["select"]))
    assert "addressed by number" in sc.couple(model, X)["stem"].reason
    assert "addressed by number" in sc.couple(model, X, state=["1"])["stem"].reason
    assert "addressed by number" in sc.couple(model, X, outputs=[0])["stem"].reason


class Table(Net):
    """A table of which only the shape is asked."""

    def __init__(self):
        super().__init__(lambda model, x: (x.shape[0], model.table[: x.shape[1]].abs().shape[0]))
        self.table = nn.Parameter(torch.randn(9, 3))


def test_a_table_that_only_unused_calls_read_stays_whole():
    model = nets.randomise(Table())
    groups = sc.couple(model, X)
    assert all(group.reason for group in groups for member in group.members if member.tensor == "table")


class BareStream(nn.Module):
    """The last norm runs, and what it makes is thrown away: intermediate results are returned."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Linear(4, 32), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.inner(x).relu()
        self.norm(x)
        return self.head(x)


def test_a_norm_whose_result_is_thrown_away_is_cut_with_its_stream():
    model = nets.randomise(BareStream())
    result = sc.prune(model, X, ratio=0.5)
    assert result.verdict.passed
    assert result.model.norm.weight.shape == result.model.stem.bias.shape == (16,)
