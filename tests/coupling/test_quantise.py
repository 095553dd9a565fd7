"""Networks that `prepare_qat` prepared are cut: ranges, scales and zero points follow their channels."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization

import secateur as sc

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.a, self.norm, self.act = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.b, self.fc = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.a(self.quant(x))))
        return self.dequant(self.fc(self.b(x).mean((2, 3))))


def prepared(
    backend: str, *, has_run: bool = True, is_fused: bool = True, observes: bool = True
) -> nn.Module:
    torch.manual_seed(0)
    model = Net().train()
    model.qconfig = quantization.get_default_qat_qconfig(backend)
    if is_fused:
        model = quantization.fuse_modules_qat(model, [["a", "norm", "act"]])
    model = quantization.prepare_qat(model)
    if has_run:
        model(torch.randn(4, 3, 8, 8))
    if not observes:
        model.apply(quantization.disable_observer)
    return model.eval()


KINDS = {
    "per channel": {"backend": "fbgemm"},
    "per tensor": {"backend": "qnnpack"},
    "never run, per channel": {"backend": "fbgemm", "has_run": False},
    "never run, per tensor": {"backend": "qnnpack", "has_run": False},
    "not fused": {"backend": "fbgemm", "is_fused": False},
    "observers off": {"backend": "fbgemm", "observes": False},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_network_in_quantisation_aware_training_is_cut_trained_on_and_converted(kind) -> None:
    model = prepared(**kind)
    before = copy.deepcopy(model.state_dict())
    result = sc.prune(model, X, ratio=0.5)
    assert result.model.a.out_channels + result.model.b.out_channels == 16
    assert result.verdict.renormalised
    for name, held in model.state_dict().items():
        assert torch.equal(held, before[name]), name
    trained = copy.deepcopy(result.model).train()
    trained(X).square().mean().backward()
    assert trained.a.weight.grad.abs().sum() > 0
    converted = quantization.convert(copy.deepcopy(trained).eval())
    assert converted(X).shape == (2, 5)


def test_buffers_of_one_number_for_each_channel_are_cut_with_the_channels() -> None:
    model = prepared("fbgemm")
    result = sc.prune(model, X, ratio=0.5)
    kept = list(result.plan.keep["a"])
    assert len(kept) < 16
    for name in ("scale", "zero_point", "activation_post_process.min_val", "activation_post_process.max_val"):
        ours, theirs = (
            dict(held.a.weight_fake_quant.named_buffers())[name] for held in (result.model, model)
        )
        assert torch.equal(ours, theirs[kept]), name


def test_the_range_of_kept_channels_is_what_the_reference_keeps() -> None:
    """A network whose ranges are kept from run to run is proven on a second size, after a first run."""
    result = sc.prune(prepared("fbgemm", has_run=False), X, ratio=0.5)
    assert not any("not proven" in limit for limit in result.verdict.limits)


class Observing(nn.Module):
    """An observer of its own: makes room at its first run and copies what it saw."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("seen", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        largest = y.abs().amax((0, 2, 3))
        self.seen.resize_(largest.shape)
        self.seen.copy_(largest)
        return self.b(y / self.seen[:, None, None])


@pytest.mark.parametrize("size", [0, 1, 8])
def test_a_buffer_that_makes_room_follows_what_is_copied_into_it(size) -> None:
    result = sc.prune(Observing(size).eval(), X, ratio=0.5)
    assert result.model.a.out_channels == 4
    assert result.verdict.passed
    assert result.model.seen.numel() == min(size, 4)


def test_memory_that_is_read_as_another_shape_is_a_barrier() -> None:
    assert "addresses memory" in sc.couple(Observing(6).eval(), X)["a"].reason
