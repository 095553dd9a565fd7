"""What a proof must look at: each test fails when one part of it is left out.

The faults are planted in what a plan makes, so that the proof meets them with real and with random
parameters.
"""

import functools
import math
import threading

import nets
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.errors import PathError
from secateur.plans.making import make_plan
from secateur.proof import elsewhere, verify
from secateur.proof.comparison import measure
from secateur.proof.drawing import randomised
from secateur.proof.passes import compare_outputs, run_pass


def judged(model, x, keep, fault=lambda cut: None):
    """The verdict on a cut in which something was changed."""
    groups = couple_graph(capture(model, x))
    plan = make_plan(model, groups, keep)

    class Planted(type(plan)):
        def apply(self, model):
            cut = super().apply(model)
            with torch.no_grad():
                fault(cut)
            return cut

    planted = Planted(**dict(plan))
    return verify(model, planted.apply(model), x, groups, planted)


def swapped(name, one=0, two=1):
    """Two kept positions of one tensor change places."""

    def fault(cut):
        tensor = {**dict(cut.named_parameters()), **dict(cut.named_buffers())}[name]
        tensor[[one, two]] = tensor[[two, one]].clone()

    return fault


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.last(self.norm(self.conv(x)))


KEEP = {"conv": (0, 2, 3, 6)}
PHOTO = torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize(
    "name", ["norm.running_var", "norm.running_mean", "norm.weight", "norm.bias", "conv.bias"]
)
def test_positions_of_equal_numbers_are_told_apart(name):
    """A fresh norm holds ones and zeros: only drawn numbers show in which order it holds them."""
    model = Normed().eval()
    nn.init.zeros_(model.conv.bias)
    assert judged(model, PHOTO, KEEP).exact
    verdict = judged(model, PHOTO, KEEP, swapped(name))
    assert not verdict.passed
    assert verdict.node.op == ("aten.conv2d" if name == "conv.bias" else "aten.batch_norm")
    assert verdict.suspects == ("conv",)


def test_an_example_of_zeros_hides_nothing():
    verdict = judged(Normed().eval(), torch.zeros(2, 3, 4, 4), KEEP, swapped("conv.weight"))
    assert not verdict.passed
    assert "differ by" in verdict.failure  # seen in the numbers that are computed, not in those that are held


class Two(nn.Module):
    """Two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x)
        return self.one(h), self.two(h)


@pytest.mark.parametrize("name", ["one", "two"])
def test_every_output_counts(name):
    def fault(cut):
        getattr(cut, name).weight.mul_(1.01)

    verdict = judged(nets.randomise(Two()), torch.randn(3, 4), {"first": (1, 4, 5)}, fault)
    assert not verdict.passed
    assert name in verdict.node.modules


def test_what_is_returned_is_compared_output_by_output():
    one, two = torch.randn(3, 4), torch.arange(3)
    assert compare_outputs([one, two], [one, two], 1e-9) == (None, ())
    assert "output 1, of whole numbers" in compare_outputs([one, two], [one, two + 1], 1e-9)[0]
    assert "output 1 differs" in compare_outputs([one, one], [one, 2 * one], 1e-9)[0]
    assert "other shapes" in compare_outputs([one, two], [one, two[:2]], 1e-9)[0]


class Scaled(Two):
    scale = 1.0

    def forward(self, x):
        one, two = super().forward(x)
        return one, two * self.scale


def test_the_verdict_tells_the_largest_error():
    def fault(cut):
        cut.scale = 1 + 3e-11

    verdict = judged(nets.randomise(Scaled()), torch.randn(3, 4), {"first": (1, 4, 5)}, fault)
    assert verdict.passed
    assert 1e-11 < verdict.relative_error < 1e-9


class Gated(Two):
    """It runs with one number in a matrix alone."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.full((2, 2), 3.0))

    def forward(self, x):
        if self.gate[0, 0].item() != 3.0:
            raise ValueError("the gate is shut")
        return super().forward(x)


def test_a_model_that_fails_with_random_parameters_is_told_of():
    torch.manual_seed(0)
    verdict = judged(Gated(), torch.randn(3, 4), {"first": (1, 4, 5)})
    assert verdict.passed
    assert any("not proven with randomised parameters" in limit for limit in verdict.limits)
    assert not judged(Gated(), torch.randn(3, 4), {"first": (1, 4, 5)}, swapped("first.bias")).passed


class InPlace(nn.Module):
    """Removed channels are written to in place: one that is not masked again shows in the sum."""

    def __init__(self, write):
        super().__init__()
        self.first, self.last, self.write = nn.Linear(4, 8), nn.Linear(1, 2), write

    def forward(self, x):
        return self.last(self.write(self.first(x)).sum(1, keepdim=True))


@pytest.mark.parametrize(
    "write", [lambda h: h.add_(1), lambda h: h.exp_(), lambda h: nn.functional.softplus(h).mul_(2).sub_(1)]
)
def test_results_of_operators_in_place_are_masked(write):
    model = nets.randomise(InPlace(write)).eval()
    assert judged(model, torch.randn(3, 4), {"first": (1, 4, 5)}).passed


def test_infinities_and_nan_count_by_their_places():
    here = torch.tensor([[1.0, math.nan, 2.0], [math.inf, 1.0, 1.0]])
    assert measure(here, here.clone(), 1).error == 0
    for place, value in [((0, 0), math.nan), ((0, 1), 1.0), ((1, 0), -math.inf), ((1, 1), math.inf)]:
        moved = here.clone()
        moved[place] = value
        assert measure(here, moved, 1).error == math.inf, (place, value)


def test_one_channel_is_not_measured_by_another():
    loud = torch.tensor([[1e9, 1e-6], [2e9, 2e-6]])
    other = loud.clone()
    other[0, 1] += 1e-8
    assert measure(loud, other, 1).error == pytest.approx(1e-2, rel=1e-3)
    assert measure(loud[:, :1], other[:, :1], 1).error == 0


def test_drawn_parameters_hide_nothing():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Parameter(torch.full((16, 1, 1), 1e-8))
            self.gate, self.gain = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(16))
            self.table = nn.Parameter(torch.zeros(1, 9, 16))
            self.register_buffer("variance", torch.ones(16))
            self.register_buffer("steps", torch.arange(4))

    drawn = randomised(Scales(), 0)
    for tensor in drawn.parameters():
        assert float(tensor.detach().abs().mean()) > 0.1
    assert (drawn.gain < 0).any()
    assert (drawn.gain > 0).any()
    assert len(drawn.variance.unique()) == 16
    assert (drawn.variance > 0).all()
    assert drawn.steps.tolist() == [0, 1, 2, 3]
    assert (randomised(Scales(), 0, "positive").gain > 0).all()


def test_a_float32_kernel_is_told_of():
    class Narrow(Two):
        def __init__(self):
            super().__init__()
            self.first, self.one, self.two = nn.Linear(4, 513), nn.Linear(513, 2), nn.Linear(513, 3)

        def forward(self, x):
            h = self.first(x)
            narrow = nn.functional.linear(h.float(), self.one.weight.float())
            return narrow.to(x.dtype), self.two(h)

    model, x, keep = nets.randomise(Narrow()), torch.randn(3, 4), {"first": tuple(range(0, 513, 2))}
    verdict = judged(model, x, keep)
    assert verdict.passed
    assert any("computes in float32" in limit for limit in verdict.limits)
    assert not judged(model, x, keep, swapped("first.bias")).passed
    assert "1e-09" in judged(model, x, keep, swapped("two.weight")).failure


class OnlyFloat32(Two):
    def forward(self, x):
        h = self.first(x)
        if h.dtype == torch.float64:
            raise RuntimeError("no kernel for double")
        return self.one(h), self.two(h)


def test_a_model_without_float64_is_proven_in_float32_and_says_so():
    verdict = judged(nets.randomise(OnlyFloat32()), torch.randn(3, 4), {"first": (1, 4, 5)})
    assert verdict.passed
    assert any("proven in float32" in limit for limit in verdict.limits)
    fault = swapped("first.bias")
    assert not judged(nets.randomise(OnlyFloat32()), torch.randn(3, 4), {"first": (1, 4, 5)}, fault).passed


class OnlyFinite(Two):
    def forward(self, x):
        return super().forward(x + torch.full_like(x, math.nan if x.dtype == torch.float64 else 1.0))


def test_a_model_that_makes_nan_in_float64_is_proven_in_float32_and_says_so():
    verdict = judged(nets.randomise(OnlyFinite()), torch.randn(3, 4), {"first": (1, 4, 5)})
    assert verdict.passed
    assert any("computes NaN in float64" in limit for limit in verdict.limits)


class Table(nn.Module):
    """Positions are read as far as the input is long; what a fault cuts off shows on longer inputs alone."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.table = nn.Parameter(torch.randn(12, 4))

    def forward(self, x):
        return self.last(self.first(x + self.table[: x.shape[1]]))


def test_inputs_of_another_size_are_proven_too():
    def fault(cut):
        cut.table = nn.Parameter(cut.table[:6].clone())

    x = torch.randn(2, 6, 4)
    assert judged(nets.randomise(Table()), x, {"first": (1, 4, 5)}).exact
    verdict = judged(nets.randomise(Table()), x, {"first": (1, 4, 5)}, fault)
    assert not verdict.passed
    assert "[2, 7, 4]" in verdict.failure


def test_a_pass_on_other_inputs_that_cannot_be_made_is_told_of(monkeypatch):
    x = torch.randn(3, 6, 4)

    def on_these(reference, model, cut, inputs, **options):
        if inputs.shape != x.shape:
            raise PathError("another path")
        return run_pass(reference, model, cut, inputs, **options)

    monkeypatch.setattr(elsewhere, "run_pass", on_these)
    verdict = judged(nets.randomise(Table()), x, {"first": (1, 4, 5)})
    assert verdict.passed
    assert any("not proven on inputs of" in limit and "another path" in limit for limit in verdict.limits)


class Modes(nn.Module):
    """Eval and training mode read different tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.drop = nn.Dropout(0.5)
        self.warm = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = self.norm(self.first(x))
        h = h + (self.warm if self.training else 0 * self.warm)
        return self.last(self.drop(h))


def test_training_mode_is_proven_too():
    x = torch.randn(6, 4)
    assert judged(nets.randomise(Modes()), x, {"first": (1, 4, 5)}).exact
    verdict = judged(nets.randomise(Modes()), x, {"first": (1, 4, 5)}, swapped("warm"))
    assert not verdict.passed
    assert "in training mode" in verdict.failure


def test_nothing_compared_is_not_exact():
    with pytest.raises(sc.errors.RequestError, match="nothing could be compared"):
        sc.prune(nets.randomise(Two()), torch.zeros(0, 4), ratio=0.5)


class Noisy(Two):
    def forward(self, x):
        h = self.first(x)
        return self.one(h + torch.randn(len(h), 1)), self.two(nn.functional.dropout(h, 0.5, self.training))


def test_the_users_random_numbers_stay_theirs():
    model, x = nets.randomise(Noisy()), torch.randn(3, 4)
    before = torch.get_rng_state()
    result = sc.prune(model, x, ratio=0.5)
    assert result.verdict.exact
    assert torch.equal(torch.get_rng_state(), before)


class Spectrum(Two):
    """The inverse transform hands out a conjugate that is not computed yet."""

    def forward(self, x):
        h = (torch.fft.ifft(self.first(x), dim=0) + 1j).abs()
        return self.one(h), self.two(h)


def test_conjugates_that_are_not_computed_yet_are_compared():
    model, x, keep = nets.randomise(Spectrum()), torch.randn(3, 4), {"first": (1, 4, 5)}
    assert judged(model, x, keep).exact
    assert not judged(model, x, keep, swapped("first.weight")).passed


LOCK = threading.Lock()


class Locked(Two):
    """One model of a proof holds what the other waits for."""

    def forward(self, x):
        with LOCK:
            return super().forward(x)


def test_models_that_hold_a_lock_are_run_in_turn():
    model, x, keep = nets.randomise(Locked()), torch.randn(3, 4), {"first": (1, 4, 5)}
    assert judged(model, x, keep).exact
    assert not judged(model, x, keep, swapped("first.weight")).passed


class Distances(nn.Module):
    """The root of what is zero up to rounding: a right cut shows 1e-8 there."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(30, 2)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.cdist(h, h))


@pytest.mark.parametrize("seed", range(4))
def test_what_amplifies_rounding_is_no_difference(seed):
    torch.manual_seed(seed)
    model, x, keep = nets.randomise(Distances()), torch.randn(30, 4), {"first": (1, 4, 5, 9)}
    assert judged(model, x, keep).passed
    assert not judged(model, x, keep, swapped("first.weight")).passed


def test_switches_of_the_process_are_given_back_by_the_last_thread():
    before = torch.backends.mha.get_fastpath_enabled()
    run = functools.partial(sc.prune, nets.randomise(Two()), torch.randn(3, 4), ratio=0.5)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mha.get_fastpath_enabled() == before
