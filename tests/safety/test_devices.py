"""Where a model lies: on the meta device without values, on the CPU, on an accelerator."""

import nets
import nets_deep
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError

X = torch.randn(2, 3, 6, 6)
IMAGE = torch.randn(2, 3, 8, 8)


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_on_the_meta_device_is_coupled_measured_planned_and_cut(device):
    model, real, x = on_meta(nets.Residual), nets.Residual(), X.to(device)
    assert [str(group) for group in sc.couple(model, x)] == [str(group) for group in sc.couple(real, X)]
    cost, expected = sc.measure(model, x), sc.measure(real, X)
    assert (cost.params, cost.macs) == (expected.params, expected.macs)
    plan = sc.plan(model, x, ratio=0.5, criterion="random")
    result = sc.prune(model, x, ratio=0.5, criterion="random", check=False)
    assert result.plan == plan == sc.plan(real, X, ratio=0.5, criterion="random")
    assert result.verdict is None
    assert all(held.is_meta for held in [*result.model.parameters(), *result.model.buffers()])
    assert all(held.is_meta for held in [*model.parameters(), *model.buffers()])
    assert {name: held.shape for name, held in result.model.named_parameters()} == {
        name: held.shape for name, held in plan.apply(real).named_parameters()
    }


def test_a_callable_that_reads_no_values_plans_on_the_meta_device():
    def first_come(view):
        return torch.arange(view.size, 0, -1)

    plan = sc.prune(on_meta(nets.Residual), X, ratio=0.5, criterion=first_come, check=False).plan
    assert plan.keep["stem"] == tuple(range(len(plan.keep["stem"])))


def test_blocks_are_dropped_on_the_meta_device():
    model = on_meta(nets_deep.SmallResNet)
    result = sc.drop_blocks(model, IMAGE, count=1, criterion="random", check=False)
    assert all(held.is_meta for held in result.model.parameters())
    assert isinstance(result.plan.apply(nets_deep.SmallResNet()), nets_deep.SmallResNet)
    with pytest.raises(RequestError, match="on the meta device and have no values"):
        sc.drop_blocks(model, IMAGE, count=1, criterion="random")
    with pytest.raises(RequestError, match="a criterion asks for the values of"):
        sc.drop_blocks(model, IMAGE, count=1, check=False)


def test_what_needs_values_is_refused_on_the_meta_device():
    model = on_meta(nets.Residual)
    with pytest.raises(RequestError, match="on the meta device and have no values, but check=True") as caught:
        sc.prune(model, X, ratio=0.5, criterion="random")
    assert "check=False" in str(caught.value)
    with pytest.raises(
        RequestError, match=r"asks for the values of stem\.weight, which is on the meta device"
    ):
        sc.prune(model, X, ratio=0.5, check=False)


def test_buffers_that_a_loader_left_on_the_cpu_keep_their_values():
    model = on_meta(nets.Residual)
    model.norm.running_var = torch.rand(8)
    result = sc.prune(model, X, ratio=0.5, criterion="random", check=False)
    keep = list(result.plan.keep["stem"])
    assert torch.equal(result.plan.apply(model).norm.running_var, model.norm.running_var[keep])
    assert torch.equal(result.model.norm.running_var, model.norm.running_var[keep])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_on_an_accelerator_stays_there(dtype):
    model, x = nets.randomise(nets.Residual()).to("cuda", dtype), X.to("cuda", dtype)
    result = sc.prune(model, x, ratio=0.5, recover=["absorb"])
    assert result.verdict.exact
    assert {held.device.type for held in [*result.model.parameters(), *result.model.buffers()]} == {"cuda"}
    assert {held.dtype for held in result.model.parameters()} == {dtype}
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    carried = sc.carry(optimizer, result)
    assert {held["exp_avg"].device.type for held in carried.state.values()} == {"cuda"}
    result.model(x).sum().backward()
    carried.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_blocks_are_dropped_on_an_accelerator():
    torch.set_default_device("cuda")
    try:
        result = sc.drop_blocks(nets_deep.SmallViT(), IMAGE.to("cuda"), count=1)
    finally:
        torch.set_default_device(None)
    assert result.verdict.exact
    assert {held.device.type for held in result.model.parameters()} == {"cuda"}


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_layers_may_lie_on_different_devices():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8, device="cuda:0"), nn.Linear(8, 3, device="cuda:1")

        def forward(self, x):
            return self.last(self.first(x).to("cuda:1"))

    result = sc.prune(Split(), torch.randn(2, 4, device="cuda:0"), ratio=0.5)
    assert result.verdict.exact
    assert [str(held.device) for held in result.model.parameters()] == ["cuda:0"] * 2 + ["cuda:1"] * 2
