"""Networks of complex numbers: cut, proven in complex128, scored, recovered where there is a solution."""

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.capture.copies import copy_module
from secateur.proof.drawing import drawn_inputs, precise

X = torch.randn(2, 1, 4, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def split_relu(z: Tensor) -> Tensor:
    return torch.complex(z.real.relu(), z.imag.relu())


def halves(z: Tensor) -> Tensor:
    return torch.complex(torch.cat([z.real[:, :4], z.imag[:, 4:]], 1), z.imag)


TO_COMPLEX = {
    "split": split_relu,
    "conj": lambda z: z * z.conj(),
    "conj_physical": torch.conj_physical,
    "resolve_conj": lambda z: z.conj().resolve_conj(),
    "sgn": torch.sgn,
    "polar": lambda z: torch.polar(z.abs(), z.angle()),
    "pairs": lambda z: torch.view_as_complex(torch.view_as_real(z) * 2),
    "unbound pairs": lambda z: torch.complex(*torch.view_as_real(z).unbind(-1)),
    "fft2": torch.fft.fft2,
    "shifted": lambda z: torch.fft.ifftshift(torch.fft.fftshift(z, dim=(-2, -1)), dim=(-2, -1)),
    "written part": lambda z: (z.real.mul_(2), z)[1],
    "adjoint": lambda z: z.mH.adjoint(),
    "halves": halves,
}
TO_REAL = {
    "real": lambda z: z.real,
    "imag": torch.imag,
    "imag of conj": lambda z: z.conj().imag,
    "resolve_neg": lambda z: z.conj().imag.resolve_neg(),
    "abs": torch.abs,
    "angle": torch.angle,
    "power": lambda z: z.real.square() + z.imag.square(),
    "irfft2": torch.fft.irfft2,
    "viewed": lambda z: z.view(torch.float32),
    "first of pairs": lambda z: torch.view_as_real(z)[..., 0],
}


class Net(nn.Module):
    def __init__(self, function, last=torch.complex64) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 1, dtype=torch.complex64), nn.Conv2d(8, 2, 1, dtype=last)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def net(function, last=torch.complex64) -> Net:
    torch.manual_seed(0)
    return Net(function, last).eval()


@pytest.mark.parametrize("function", TO_COMPLEX.values(), ids=TO_COMPLEX)
def test_complex_channels_are_cut_and_proven_in_double_precision(function) -> None:
    result = sc.prune(net(function), X, ratio=0.5)
    assert result.model.a.out_channels < 8
    assert result.verdict.exact
    assert not result.verdict.limits


@pytest.mark.parametrize("function", TO_REAL.values(), ids=TO_REAL)
def test_channels_stay_channels_where_complex_numbers_become_real(function) -> None:
    result = sc.prune(net(function, torch.float32), X, ratio=0.5)
    assert result.model.a.out_channels == 4
    assert result.verdict.exact


def test_bits_that_join_neighbours_are_a_barrier() -> None:
    joined = net(lambda z: z.abs().view(torch.complex64))
    groups = sc.couple(joined, X)
    assert "are read as one" in groups["a"].reason


def test_complex_inputs_are_drawn() -> None:
    drawn = drawn_inputs(X, 0, torch.float64)
    assert drawn.dtype == torch.complex128
    assert drawn.imag.std() > 0.5
    assert not torch.equal(drawn.to(X.dtype), X)


WRONG_PARTS = {
    "real": lambda z: torch.complex(z.real * torch.tensor(float(z.shape[1])), z.imag),
    "imag": lambda z: torch.complex(z.real, z.imag * torch.tensor(float(z.shape[1]))),
}


@pytest.mark.parametrize("function", WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_the_proof_sees_a_part_that_depends_on_the_width(function) -> None:
    with pytest.raises(sc.errors.RequestError, match="other numbers than the masked one"):
        sc.prune(net(function), X, ratio=0.5)


def test_the_derivative_by_a_gate_is_what_the_loss_changes_by() -> None:
    model = net(split_relu)
    taylor = sc.criterion("taylor", loss=lambda output, _: output.abs().square().mean())
    kept = sc.prune(model, X, ratio=0.5, criterion=taylor, data=[X]).plan.keep["a"]

    def changed_by(channel: int) -> float:
        losses = []
        for factor in (1.001, 0.999):
            moved = precise(copy_module(model), torch.float64)
            with torch.no_grad():
                moved.a.weight[channel] *= factor
                moved.a.bias[channel] *= factor
                moved.b.weight[:, channel] *= factor
                losses.append(float(moved(X.to(torch.complex128)).abs().square().mean()))
        return abs(losses[0] - losses[1])

    assert tuple(sorted(sorted(range(8), key=changed_by)[4:])) == kept


@pytest.mark.parametrize("criterion", ["hessian", "fisher", "jacobian", "obs", "activation-mean", "l1"])
def test_criteria_score_complex_layers(criterion) -> None:
    result = sc.prune(net(split_relu), X, ratio=0.5, criterion=criterion, data=[X])
    assert result.model.a.out_channels == 4


@pytest.mark.parametrize("step", ["absorb", "refit"])
def test_recovery_leaves_complex_layers_alone_and_says_so(step) -> None:
    result = sc.prune(net(split_relu), X, ratio=0.5)
    better = sc.recover(result, [X], step)
    assert [str(one) for one in better.recovered] == [
        f"{step} b: approximate, left alone: its numbers are complex"
    ]
    assert torch.equal(better.model.b.weight, result.model.b.weight)
    assert better.errors[0].after > 0
