"""Scripted parts: run as they are where they hold no tensor, refused where they do."""

import pytest
import torch
from torch import Tensor, nn

import secateur as sc

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], self.count, -1).tanh().view(x.shape)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def with_part(part: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1), part, nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)).eval()


PARTS = {
    "scripted": lambda: torch.jit.script(nn.SiLU()),
    "scripted chain": lambda: torch.jit.script(nn.Sequential(nn.ReLU(), nn.Hardtanh())),
    "traced": lambda: torch.jit.trace(nn.GELU(), torch.randn(2, 16, 4, 4)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(nn.ReLU().eval())),
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("criterion", ["l2", "activation-mean", "taylor"])
def test_a_scripted_activation_is_no_obstacle(make, criterion, tmp_path) -> None:
    result = sc.prune(with_part(make()), X, ratio=0.5, criterion=criterion, data=[X, X])
    assert result.model[0].out_channels == 8
    assert result.verdict.exact
    result.model.train()(X).sum().backward()
    assert sc.recover(result, [X, X]).model[3].weight.shape == (4, 8, 1, 1)
    sc.save(result, tmp_path / "half")
    loaded = sc.load(tmp_path / "half", with_part(make())).eval()
    assert torch.equal(loaded(X), result.model.eval()(X))


def test_a_width_inside_a_script_is_a_barrier_with_its_line() -> None:
    with pytest.raises(sc.errors.RequestError, match=r"argument size\.1 is 16 where 8 is predicted"):
        sc.prune(with_part(torch.jit.script(Blocks(16))), X, ratio=0.5)


@pytest.mark.parametrize("part", [Scale, Shift])
def test_a_script_with_tensors_is_refused_by_name(part) -> None:
    with pytest.raises(sc.errors.RequestError, match="1 is a RecursiveScriptModule"):
        sc.prune(with_part(torch.jit.script(part())), X, ratio=0.5)


def test_a_model_that_is_a_script_is_refused() -> None:
    with pytest.raises(sc.errors.RequestError, match="model is a RecursiveScriptModule"):
        sc.couple(torch.jit.script(nn.ReLU()), X)
