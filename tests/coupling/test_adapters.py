"""Low-rank adapters beside frozen layers: the rank stays unless it is asked for."""

from functools import partial

import nets
import pytest
import torch
from torch import nn

import secateur as sc


class Lora(nn.Module):
    """As PEFT writes it: the layer, and an adapter beside it."""

    def __init__(self, base, rank, *, dropout=0.1, in_place=False):
        super().__init__()
        self.base_layer, self.scale, self.in_place = base.requires_grad_(False), 2.0, in_place
        make = nn.Linear if isinstance(base, nn.Linear) else partial(nn.Conv2d, kernel_size=1)
        sizes = base.weight.shape
        self.down, self.up, self.dropout = make(sizes[1], rank), make(rank, sizes[0]), nn.Dropout(dropout)

    def forward(self, x):
        made, added = self.base_layer(x), self.up(self.down(self.dropout(x))) * self.scale
        if self.in_place:
            made += added
            return made
        return made + added


class Net(nn.Module):
    def __init__(self, rank=3, **options):
        super().__init__()
        self.stem, self.inner, self.head = (
            nn.Linear(6, 16),
            Lora(nn.Linear(16, 16), rank, **options),
            nn.Linear(16, 2),
        )

    def forward(self, x):
        return self.head(self.inner(self.stem(x)).relu())


X = torch.randn(4, 6)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.0}, {"in_place": True}])
@pytest.mark.parametrize("is_loaded_for_inference", [False, True])
def test_the_rank_of_an_adapter_stays(options, is_loaded_for_inference):
    model = nets.randomise(Net(**options))
    if is_loaded_for_inference:
        model.requires_grad_(False)
    reason = sc.couple(model, X)["inner.down"].reason
    assert reason == "the rank of an adapter beside inner.base_layer, which is frozen"
    result = sc.prune(model, X, ratio=0.5, scope="local")
    assert result.verdict.exact
    assert (result.model.inner.down.out_features, result.model.inner.down.in_features) == (3, 8)
    assert result.model.inner.base_layer.in_features == 8


def test_the_rank_of_an_adapter_beside_a_convolution_stays():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Lora(nn.Conv2d(8, 8, 1), 2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert "rank of an adapter" in sc.couple(model, torch.randn(1, 3, 4, 4))["1.down"].reason


@pytest.mark.parametrize("words", [{"channels": {"inner.down": 0.7}}, {"keep": {"inner.down": [1]}}])
def test_the_rank_goes_where_it_is_named(words):
    result = sc.prune(nets.randomise(Net()), X, **words)
    assert result.model.inner.down.out_features == 1
    assert result.verdict.exact
    assert sc.check(result.original, result.plan, X).exact


def wide(model):
    model.inner.down, model.inner.up = nn.Linear(16, 20), nn.Linear(20, 16)


def trained(model):
    model.requires_grad_(True)


def curved(model):
    model.inner.down = nn.Sequential(model.inner.down, nn.ReLU())


def elsewhere(model):
    model.inner.dropout = nn.Linear(16, 16)


@pytest.mark.parametrize("change", [wide, trained, curved, elsewhere], ids=lambda change: change.__name__)
def test_what_is_no_adapter_is_cut(change):
    model = Net().eval()
    change(model)
    groups = sc.couple(model, X)
    name = "inner.down.0" if change is curved else "inner.down"
    assert groups[name].reason is None
