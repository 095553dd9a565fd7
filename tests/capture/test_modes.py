"""Our modes are PyTorch's, without the import of its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from secateur.capture import capture, frugal
from secateur.capture.shadow import own_inputs, shadow

SLOW = ("sympy", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")
NETWORKS = {
    "pictures": "nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(),"
    " nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3), nn.ELU(),"
    " nn.Upsample(scale_factor=1.5, mode='bilinear')), torch.zeros(1, 3, 8, 8)",
    "words": "nn.Sequential(nn.Embedding(9, 8), nn.RMSNorm(8), nn.TransformerEncoderLayer(8, 2, 16)),"
    " torch.zeros(1, 4, dtype=torch.long)",
    "layers": "nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)), torch.zeros(1, 4)",
    "convolutions": "nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),"
    " nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
    " nn.Linear(8, 2)), torch.zeros(1, 3, 16, 16)",
}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_first_couple_of_a_process_imports_no_compiler(network):
    code = (
        f"import sys, torch, secateur; from torch import nn\n"
        f"groups = secateur.couple({NETWORKS[network]})\n"
        f"print(len(groups.prunable) > 0, *sorted(set(sys.modules) & {set(SLOW)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_our_fake_mode_is_made_as_that_of_pytorch():
    ours, theirs = frugal.fake_mode(), FakeTensorMode(allow_non_fake_inputs=True)
    assert isinstance(ours, frugal.FrugalFakeMode)
    assert vars(ours).keys() == vars(theirs).keys()
    made = {"fake_tensor_converter", "_stack_trace", "cache_enabled"}
    assert {name: value for name, value in vars(ours).items() if name not in made} == {
        name: value for name, value in vars(theirs).items() if name not in made
    }
    assert not hasattr(ours, "nonsense")


def test_a_fake_mode_that_is_made_otherwise_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(frugal, "_IS_KNOWN", False)
    assert type(frugal.fake_mode()) is FakeTensorMode
    assert capture(nn.Linear(2, 3), torch.zeros(1, 2), "fake").nodes[0].op == "aten.linear"


class Compiled(nn.Module):
    """Compiles a part of itself where it runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return torch.compile(lambda y: self.layer(y).relu() + 1, backend="eager")(x)


@pytest.mark.parametrize("substrate", ["fake", "real"])
def test_what_a_mode_does_is_not_compiled(substrate):
    from torch._dynamo.utils import counters

    counters.clear()
    graph = capture(Compiled(), torch.zeros(1, 3), substrate)
    assert [node.op for node in graph.nodes] == ["aten.linear", "aten.relu", "aten.add"]
    assert counters["stats"].get("unique_graphs", 0) == 0


class Shared(nn.Module):
    """Two parameters on one memory, one that is a view, a single number, and one by itself."""

    def __init__(self):
        super().__init__()
        memory = torch.zeros(2, 6)
        self.one, self.two = nn.Parameter(memory[0]), nn.Parameter(memory[1], requires_grad=False)
        self.turned = nn.Parameter(torch.zeros(3, 2).t())
        self.number = nn.Parameter(torch.tensor(2.0))
        self.alone = nn.Parameter(torch.zeros(4, 5, dtype=torch.float16))


def test_a_fake_parameter_is_as_the_fake_mode_makes_it():
    model, mode, theirs = Shared(), frugal.fake_mode(), FakeTensorMode(allow_non_fake_inputs=True)
    for (name, held), made in zip(model.named_parameters(), shadow(model, mode).parameters(), strict=True):
        with torch.no_grad():
            wanted = nn.Parameter(theirs.from_tensor(held.detach()), held.requires_grad)
        for one in (made, wanted):
            assert isinstance(one, nn.Parameter), name
            assert type(one) is FakeTensor
        facts = [
            (
                one.shape,
                one.stride(),
                one.storage_offset(),
                one.dtype,
                one.device,
                one.requires_grad,
                one.is_leaf,
            )
            for one in (made, wanted)
        ]
        assert facts[0] == facts[1], name
        assert made.item_memo == wanted.item_memo
    twins = shadow(model, mode)
    assert twins.one.untyped_storage().nbytes() == model.one.untyped_storage().nbytes()
    assert twins.one.untyped_storage()._cdata == twins.two.untyped_storage()._cdata
    assert twins.one.untyped_storage()._cdata != twins.alone.untyped_storage()._cdata


def test_fake_inputs_are_as_the_inputs_without_their_numbers_and_gradients():
    x = torch.zeros(4, 6, requires_grad=True)
    y = torch.zeros(4, 6)
    inputs = (x, y[1:3], y.t(), torch.tensor(3), torch.zeros(2, dtype=torch.bool))
    with frugal.fake_mode() as mode, torch.inference_mode():
        made = own_inputs(inputs, mode)
    for one, two in zip(inputs, made, strict=True):
        assert type(two) is FakeTensor
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            two.shape,
            two.stride(),
            two.dtype,
            two.device,
        )
        assert not two.requires_grad
