"""Parameters that a model takes for positions keep their numbers in the proof."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.proof.drawing import HELD, randomised

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
HALF = (torch.arange(16) % 2).float()


class Select(nn.Module):
    def __init__(self, choose, marks: Tensor, *, is_buffer: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1)
        self.choose = choose
        if is_buffer:
            self.register_buffer("marks", marks)
        else:
            self.marks = nn.Parameter(marks)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)[:, self.choose(self.marks)]).relu())


CHOICES = {
    "numpy": lambda marks: marks.detach().numpy().nonzero()[0],
    "numpy of data": lambda marks: np.squeeze(np.argwhere(marks.data.cpu().numpy())),
    "nonzero": lambda marks: marks.nonzero()[:, 0],
    "mask": lambda marks: marks > 0.5,
    "list": lambda marks: [at for at, mark in enumerate(marks.tolist()) if mark],
}
ORDERS = {
    "topk": lambda marks: marks.topk(8).indices,
    "argsort": lambda marks: marks.argsort()[8:],
    "above": lambda marks: (marks > 7.5).nonzero()[:, 0],
}


@pytest.mark.parametrize("is_buffer", [False, True], ids=["parameter", "buffer"])
@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_a_parameter_whose_nonzeros_are_positions_is_no_obstacle(choose, is_buffer) -> None:
    torch.manual_seed(0)
    model = Select(choose, HALF.clone(), is_buffer=is_buffer).eval()
    result = sc.prune(model, X, ratio=0.5)
    assert result.model.b.out_channels == 6
    assert result.verdict.exact
    assert not any("float32" in limit for limit in result.verdict.limits)


@pytest.mark.parametrize("choose", ORDERS.values(), ids=ORDERS)
def test_a_parameter_whose_order_is_positions_is_no_obstacle(choose) -> None:
    torch.manual_seed(0)
    result = sc.prune(Select(choose, torch.arange(16.0)).eval(), X, ratio=0.5)
    assert result.model.b.out_channels == 6
    assert result.verdict.exact


def test_what_was_held_is_told() -> None:
    torch.manual_seed(0)
    result = sc.prune(Select(CHOICES["nonzero"], HALF.clone()).eval(), X, ratio=0.5)
    (told,) = result.verdict.limits
    assert told == "proven with the marks that the model holds as they are: it does not run with others"


def test_a_wrong_cut_is_seen_beside_marks() -> None:
    """All but the marks is still random: a factor of the width is no constant of one in the proof."""

    def widened(marks: Tensor) -> Tensor:
        return marks.nonzero()[:, 0]

    class Wrong(Select):
        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x)[:, self.choose(self.marks)])
            return self.c(y * torch.tensor(float(y.shape[1])))

    torch.manual_seed(0)
    with pytest.raises(sc.errors.RequestError, match="other numbers than the masked one"):
        sc.prune(Wrong(widened, HALF.clone()).eval(), X, ratio=0.5)


@pytest.mark.parametrize("held", HELD)
def test_only_what_is_held_keeps_its_numbers(held) -> None:
    model = Select(CHOICES["mask"], HALF.clone())
    drawn = randomised(model, 0, held=held)
    stays = {
        name for name, tensor in model.named_parameters() if torch.equal(drawn.get_parameter(name), tensor)
    }
    vectors = {"marks", "a.bias", "b.bias", "c.bias"}
    assert stays == {"nothing": set(), "marks": {"marks"}, "vectors": vectors}[held]


class Refusing(nn.Module):
    """Refuses some inputs by an error of its own."""

    def __init__(self, refuses) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.refuses = refuses

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses(x):
            raise LookupError("no table for these numbers")
        return self.b(self.a(x))


def test_an_original_that_refuses_double_precision_is_proven_in_single() -> None:
    result = sc.prune(Refusing(lambda x: x.dtype == torch.float64).eval(), X, ratio=0.5)
    assert result.verdict.limits[0] == "proven in float32, as in float64: no table for these numbers"


def test_an_original_that_does_not_run_for_the_proof_is_refused_as_such() -> None:
    with pytest.raises(sc.errors.CheckError, match="original does not run for the proof: no table"):
        sc.prune(Refusing(lambda x: type(x) is Tensor).eval(), X, ratio=0.5)
