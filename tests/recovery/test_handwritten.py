"""Linear layers that people write by hand: recovered like those of PyTorch, or named and left alone."""

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional

import secateur as sc

WAYS = {
    "F.linear": lambda x, w, b: functional.linear(x, w, b),
    "x @ w.T + b": lambda x, w, b: x @ w.T + b,
    "matmul with t": lambda x, w, b: torch.matmul(x, w.t()) + b,
    "matmul with transpose": lambda x, w, b: b + torch.matmul(x, w.transpose(0, 1)),
    "matmul with mT": lambda x, w, b: torch.matmul(x, w.mT) + b,
    "mm": lambda x, w, b: torch.mm(x, w.swapaxes(1, 0)) + b,
    "addmm": lambda x, w, b: torch.addmm(b, x, w.t()),
    "turned twice": lambda x, w, b: functional.linear(x, w.t().t(), b),
}
UNKNOWN = {
    "einsum": lambda x, w, b: torch.einsum("bi,oi->bo", x, w) + b,
    "bmm": lambda x, w, b: torch.bmm(x[None], w.t()[None])[0] + b,
    "weight first": lambda x, w, b: (w @ x.T).T + b,
}


class Layer(nn.Module):
    def __init__(self, inputs, outputs, way):
        super().__init__()
        self.way = way
        self.weight, self.bias = (
            nn.Parameter(torch.empty(outputs, inputs)),
            nn.Parameter(torch.empty(outputs)),
        )

    def forward(self, x):
        return {**WAYS, **UNKNOWN}[self.way](x, self.weight, self.bias)


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.stem, self.inner, self.head = Layer(6, 24, way), Layer(24, 24, way), Layer(24, 3, way)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.inner(x).relu())


def recovered(way, steps=("absorb", "refit")):
    model = nets.randomise(Net(way))
    data = list(torch.randn(9, 32, 6, generator=torch.Generator().manual_seed(0)))
    return sc.recover(sc.prune(model, data[0], ratio=0.5), data, steps)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [["absorb"], ["refit"], ["absorb", "refit"]], ids="+".join)
def test_a_layer_is_recovered_however_it_is_written(way, steps):
    found, expected = recovered(way, steps), recovered("F.linear", steps)
    assert found.errors[-1].after < found.errors[0].before
    for name, held in expected.model.named_parameters():
        torch.testing.assert_close(found.model.get_parameter(name), held)
    assert [(one.layer, one.status) for one in found.recovered] == [
        (one.layer, one.status) for one in expected.recovered
    ]


@pytest.mark.parametrize("way", UNKNOWN)
def test_a_layer_that_is_not_known_is_named(way):
    result = recovered(way)
    told = {(one.step, one.layer): str(one) for one in result.recovered}
    assert set(told) == {(step, layer) for step in ("absorb", "refit") for layer in ("inner", "head")}
    assert all("left alone: aten." in text for text in told.values())


class Twice(nn.Module):
    """Turns one weight round for two calls, of which one reads what is not cut."""

    def __init__(self):
        super().__init__()
        self.stem, self.weight = nn.Linear(8, 8), nn.Parameter(torch.empty(8, 8))

    def forward(self, x):
        turned = self.weight.T
        return torch.cat([self.stem(x).relu() @ turned, (turned * 2).sum(0, keepdim=True)])


def test_a_turned_weight_that_others_read_is_left_alone():
    model, data = nets.randomise(Twice()), [torch.randn(16, 8)]
    result = sc.recover(sc.prune(model, data[0], ratio=0.5), data, ["refit"])
    assert result.recovered[0].detail.startswith("its weight is also used by aten.mul")
