"""The target of some positions is that of all, at these positions."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.recovery import target as targets


class Branches(nn.Module):
    """A residual block whose branch is scaled, normalised, dropped out and moved about before the sum."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.stem, self.inner, self.branch = (
            nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 8), (8, 8))
        )
        self.drop = nn.Dropout(0.5)
        if way == "normed":
            self.norm = nn.BatchNorm2d(8)
            self.norm.running_var.uniform_(0.5, 2)
        elif way == "scaled":
            self.scale = nn.Parameter(torch.linspace(-1, 2, 8).view(8, 1, 1))
        self.end = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.branch(self.inner(x).relu())
        if self.way == "moved":
            return self.end((self.drop(y).flatten(2) + x.flatten(2)).unflatten(2, (6, 6)))
        return self.end(x + self.drop(self.norm(y) if self.way == "normed" else y * self.scale))


@pytest.mark.parametrize("way", ["scaled", "normed", "moved"])
def test_some_positions_of_the_target_are_those_of_all(way, monkeypatch):
    torch.manual_seed(0)
    model = Branches(way).eval()
    data = [torch.randn(4, 3, 6, 6) for _ in range(2)]
    cut = sc.prune(model, data[0][:1], ratio=0.4)
    seen = []
    plain = targets.LayerTarget.of

    def of(self, pair, rows=None):
        every = plain(self, pair)
        for count in (1, 7):
            some = torch.arange(count) * 5
            for one, whole in zip(plain(self, pair, some), every, strict=True):
                torch.testing.assert_close(one, whole[some])
        seen.append((self.layer.name, len(self.path)))
        return plain(self, pair, rows)

    monkeypatch.setattr(targets.LayerTarget, "of", of)
    sc.recover(cut, data, ["refit"])
    assert any(name == "branch" and length >= 2 for name, length in seen)


@pytest.mark.parametrize("way", ["scaled", "normed"])
def test_a_way_that_moves_nothing_is_followed_like_one_that_does(way, monkeypatch):
    torch.manual_seed(0)
    model = Branches(way).eval()
    data = [torch.randn(4, 3, 6, 6) for _ in range(2)]
    cut = sc.prune(model, data[0][:1], ratio=0.4)
    one = sc.recover(cut, data, ["refit"]).model.state_dict()
    monkeypatch.setattr(targets.LayerTarget, "_stays", lambda self, node: False)
    for name, tensor in sc.recover(cut, data, ["refit"]).model.state_dict().items():
        torch.testing.assert_close(tensor, one[name])


class Windows(nn.Module):
    """A small network makes a table that is added to the products of all windows, then a mask for each."""

    def __init__(self):
        super().__init__()
        self.table = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
        self.make = nn.Linear(5, 12)
        self.end = nn.Linear(12, 2)
        self.places, self.mask = nn.Buffer(torch.randn(16, 2)), nn.Buffer(torch.randn(2, 1, 4, 4))

    def forward(self, x):
        tokens = self.make(x)
        heads = tokens.unflatten(2, (3, 4)).transpose(1, 2)
        table = self.table(self.places).transpose(1, 0).reshape(3, 4, 4).unsqueeze(0)
        products = (heads @ heads.mT + table).view(-1, 2, 3, 4, 4) + self.mask
        mixed = products.flatten(0, 1).softmax(-1) @ heads
        return self.end(mixed.transpose(1, 2).flatten(2))


def test_a_table_that_is_added_to_many_is_refitted():
    torch.manual_seed(0)
    model = Windows().eval()
    data = [torch.randn(6, 4, 5) for _ in range(4)]
    cut = sc.prune(model, data[0], channels={"table.0": 0.5})
    found = sc.recover(cut, data, ["refit"])
    assert found.errors[-1].after < 0.8 * found.errors[-1].before
    assert [note.layer for note in found.recovered] == ["table.2"]
