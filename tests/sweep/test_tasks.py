"""Sweeps of what is no classifier: any inputs, any outputs, figures of which the lower is better."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from secateur.errors import PathError
from secateur.sweep import block_sweep, channel_sweep, sensitivity
from secateur.train import DatasetPart, Task, judge


@dataclass
class Found:
    """What the network returns: no tuple, no dict."""

    place: torch.Tensor
    extra: dict
    note: str = "kept"


class Twins(nn.Module):
    """Two inputs by keyword, two outputs, a residual block between."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(2, 8)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.place, self.size = nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, one, other):
        hidden = (self.left(one) + self.right(other)).relu()
        hidden = hidden + self.block(hidden)
        return Found(self.place(hidden), {"size": [self.size(hidden).exp()]})


class Placing(Task):
    noun = "twins"
    lower_is_better = True

    def inputs(self, batch):
        return {"one": batch["one"], "other": batch["other"]}

    def loss(self, model, output, batch):
        return {"place": (output.place - batch["place"]).square().mean()}

    def scores(self, output, batch):
        assert output.note == "kept"
        return {
            "distance": (output.place - batch["place"]).norm(dim=1),
            "size": output.extra["size"][0][:, 0],
        }


@pytest.fixture
def part():
    draw = torch.Generator().manual_seed(0)
    sizes = {"one": 3, "other": 2, "place": 2}
    return DatasetPart(
        [{name: torch.randn(n, generator=draw) for name, n in sizes.items()} for _ in range(70)]
    )


@pytest.fixture
def twins():
    torch.manual_seed(0)
    return Twins()


def silenced(model, layer, channels):
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.get_submodule(layer).weight[list(channels)] = 0
        without.get_submodule(layer).bias[list(channels)] = 0
    return without


OPTIONS = {"task": Placing(), "device": "cpu", "batch_size": 16, "fork_size": 64}


def test_the_figures_are_those_of_a_naive_loop(twins, part):
    found = channel_sweep(twins, "block.0", part, (1, 5, 16), **OPTIONS)
    assert (found.figure, found.lower_is_better) == ("distance", True)
    assert len({row.value for row in found.rows}) > 2  # there is something to tell apart
    for row in found.rows:
        expected = judge(silenced(twins, "block.0", row.removed), part, Placing(), device="cpu")
        assert row.figures == pytest.approx(dict(expected.values), rel=1e-5)
        assert row.per_class_accuracy == ()
    assert "distance" in str(found)
    assert "worst class" not in str(found)


def test_what_is_lost_is_told_by_the_direction(twins, part):
    found = block_sweep(twins, part, **OPTIONS)
    (row,) = found.rows
    expected = judge(silenced(twins, "block.2", range(8)), part, Placing(), device="cpu")
    assert row.value == pytest.approx(expected.deciding, rel=1e-5)
    assert row.drop == pytest.approx(row.value - found.value)


def test_a_stopped_sweep_goes_on_by_figures(twins, part, tmp_path):
    told = []
    options = {"layers": ["block.0"], "rows": tmp_path / "rows", "on_point": told.append, **OPTIONS}
    whole = sensitivity(twins, part, (0.5,), **options)
    told.clear()
    again = sensitivity(twins, part, (0.5, 1.0), **options)
    assert [point.ratio for point in told] == [1.0]
    assert again.by_layer["block.0"][:2] == whole.by_layer["block.0"]
    assert again.figure == "distance"


class Mixing(Twins):
    def forward(self, one, other):
        found = super().forward(one, other)
        return Found(found.place, {"size": [found.extra["size"][0].mean().expand(1)]})


class Careless(Placing):
    def scores(self, output, batch):
        return {"distance": (output.place - batch["place"]).norm(dim=1)}


def test_an_output_of_the_whole_batch_is_refused_where_choices_share_one(part):
    torch.manual_seed(0)
    options = OPTIONS | {"task": Careless()}
    with pytest.raises(PathError, match=r"says nothing of single samples|mixes the samples"):
        channel_sweep(Mixing(), "block.0", part, (1, 5), **options)
    alone = channel_sweep(Mixing(), "block.0", part, (1, 5), **options | {"fork_size": 16})
    assert len(alone.rows) == 3
