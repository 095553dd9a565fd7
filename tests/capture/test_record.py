"""What the recorder writes down, and what it must not disturb."""

import copy
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import nets
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from secateur.capture import as_call, capture, cast_inputs, follow, output_tensors
from secateur.capture.recording import record
from secateur.capture.shadow import shadow
from secateur.capture.switches import recording_context
from secateur.errors import CaptureError, RequestError
from secateur.graph.node import Ref

X = torch.randn(2, 3, 6, 6)


def ops(graph):
    return [node.op.removeprefix("aten.") for node in graph.nodes]


def test_operators_are_whole_and_in_order():
    expected = "conv2d batch_norm relu conv2d batch_norm relu conv2d add max_pool2d flatten linear"
    assert ops(capture(nets.Residual(), X)) == expected.split()


def test_composite_operators_stay_whole():
    expected = "linear reshape permute unbind scaled_dot_product_attention transpose flatten linear"
    assert " ".join(ops(capture(nets.Attention(), torch.zeros(1, 5, 12)))) == expected


def test_values_have_shapes_kinds_and_element_types():
    graph = capture(nets.Residual(), X)
    value = graph.values[graph.tensors["inner.weight"]]
    assert (value.shape, value.dtype, value.kind) == ((6, 8, 3, 3), "float32", "parameter")
    assert graph.values[graph.tensors["norm.running_mean"]].kind == "buffer"
    assert graph.values[graph.tensors["norm.num_batches_tracked"]].dtype == "int64"
    assert [graph.values[index].shape for index in graph.inputs] == [(2, 3, 6, 6)]
    assert [graph.values[index].shape for index in graph.outputs] == [(2, 5)]
    assert graph.nodes[0].args["weight"] == Ref(graph.tensors["stem.weight"])


def test_arguments_are_named_and_defaults_filled_in():
    args = capture(nets.Residual(), X).nodes[0].args
    assert args["padding"] == (1, 1)
    assert args["groups"] == 1
    assert args["bias"] is None


def test_a_node_knows_its_modules_and_its_source_line():
    node = capture(nn.Sequential(nets.Residual()), X).nodes[1]
    assert node.modules == ("", "0", "0.norm")
    assert node.source.startswith("tests/nets.py:")
    line = Path(nets.__file__).read_text().splitlines()[int(node.source.rpartition(":")[2]) - 1]
    assert "self.norm(self.stem(x))" in line


def test_tied_tensors_share_a_value():
    graph = capture(nets.Tied(), torch.zeros(1, 4))
    assert graph.tensors["one.weight"] == graph.tensors["two.weight"]
    assert graph.names[graph.tensors["one.weight"]] == ("one.weight", "two.weight")


def test_an_in_place_write_is_a_new_value():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            y.add_(1)
            return y

    graph = capture(InPlace(), torch.zeros(3))
    assert [node.op for node in graph.nodes] == ["aten.mul", "aten.add_"]
    assert graph.outputs == (graph.nodes[1].outputs[0].value,)
    assert graph.nodes[1].outputs[0] != graph.nodes[0].outputs[0]


@pytest.mark.parametrize("substrate", ["fake", "real"])
def test_substrates_record_the_same(substrate):
    one, two = capture(nets.Residual(), X, substrate), capture(nets.Residual(), X)
    assert one.substrate == substrate
    assert [(n.op, dict(n.args), n.outputs, n.modules, n.source) for n in one.nodes] == [
        (n.op, dict(n.args), n.outputs, n.modules, n.source) for n in two.nodes
    ]
    assert one.values == two.values


@pytest.mark.parametrize("substrate", ["fake", "real"])
def test_the_model_is_not_touched(substrate):
    model = nets.Residual().train()
    before = copy.deepcopy(model.state_dict())
    capture(model, X, substrate)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.norm.num_batches_tracked == 0


def test_buffers_that_forward_writes_are_those_of_a_copy():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return x + self.calls

    model = Counter()
    capture(model, X, "real")
    capture(model, X, "fake")
    assert model.calls == 0


def test_a_copy_to_run_shares_no_tensor_with_the_model():
    model = nets.Residual()
    memory = {held.untyped_storage().data_ptr() for held in (*model.parameters(), *model.buffers())}
    held = shadow(model)
    assert not memory & {one.untyped_storage().data_ptr() for one in (*held.parameters(), *held.buffers())}
    fake = shadow(model, FakeTensorMode())
    assert all(isinstance(one, FakeTensor) and isinstance(one, nn.Parameter) for one in fake.parameters())


def test_global_switches_are_put_back():
    before = torch.backends.mha.get_fastpath_enabled()
    seen = []

    def fail():
        seen.extend([torch.backends.mha.get_fastpath_enabled(), torch.is_inference_mode_enabled()])
        raise KeyError

    with pytest.raises(KeyError), recording_context():
        fail()
    assert seen == [False, True]
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert not torch.is_inference_mode_enabled()


def test_numbers_are_looked_at_on_real_tensors_only():
    assert capture(nets.Branching(), torch.ones(1, 4)).substrate == "real"
    with pytest.raises(CaptureError, match="not while it is recorded"):
        capture(nets.Branching(), torch.ones(1, 4), "fake")


def test_a_scalar_that_only_scales_needs_no_real_tensors():
    class Scaled(nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    assert capture(Scaled(), X).substrate == "symbolic"


def test_multi_head_attention_is_not_fused_away():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ops(capture(layer, torch.zeros(1, 5, 8)))
    assert "scaled_dot_product_attention" in found
    assert not any(name.startswith(("_transformer", "_native_multi_head")) for name in found)


def test_a_meta_model_is_recorded_without_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**5, 10**5), nn.ReLU())
        x = torch.zeros(1, 10**5)
    assert ops(capture(model, x)) == ["linear", "relu"]


def test_a_partial_record_comes_with_the_failure():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError(f"after {x.relu().shape}")

    graph, failure = record(Failing(), X, "fake")
    assert ops(graph) == ["relu"]
    assert isinstance(failure, ValueError)


def test_failures_are_chained_and_name_the_shapes():
    with pytest.raises(CaptureError, match=r"RuntimeError(.|\n)*input shapes: \[1, 5\]") as caught:
        capture(nn.Linear(3, 2), torch.zeros(1, 5))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_unknown_substrate_is_refused():
    with pytest.raises(RequestError, match="substrate is 'paper'"):
        capture(nn.Linear(3, 2), torch.zeros(1, 3), "paper")


# Inputs and outputs.


def test_inputs_of_every_form():
    assert as_call(X) == ((X,), {})
    args, kwargs = as_call([X, 3])
    assert args[1] == 3
    assert not kwargs
    args, kwargs = as_call({"x": {"deep": X}})
    assert not args
    assert kwargs["x"]["deep"] is X


@pytest.mark.parametrize("wrong", [None, 3, "x", (), {}, {"x": 1}])
def test_inputs_without_a_tensor_are_refused(wrong):
    with pytest.raises(RequestError, match="holds no tensor"):
        as_call(wrong)


def test_only_floating_inputs_are_cast():
    cast = cast_inputs((X, torch.tensor([1])), torch.float64)
    assert [tensor.dtype for tensor in cast] == [torch.float64, torch.int64]


def test_outputs_of_every_form_are_found():
    @dataclass
    class Output:
        logits: torch.Tensor
        rest: tuple

    class Plain:
        def __init__(self):
            self.boxes = X

    tensors = output_tensors({"a": Output(X, (X, None, 3)), "b": [Plain()], "c": "text"})
    assert len(tensors) == 3
    assert all(tensor is X for tensor in tensors)


# Following.


def test_following_sees_every_call_and_may_change_it():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3)
    graph, seen = capture(model, x), []

    def step(call):
        seen.append(call.node.op)
        return torch.zeros_like(call.run()) if call.node.op == "aten.relu" else call.run()

    torch.testing.assert_close(follow(model, x, graph, step), model[2].bias.expand(2, 2))
    assert seen == ["aten.linear", "aten.relu", "aten.linear"]


def test_another_path_than_in_the_record_is_an_error():
    graph = capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(1, 3))
    for other in (
        nn.Sequential(nn.Linear(3, 3), nn.Tanh()),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU()),
    ):
        with pytest.raises(CaptureError, match="took another path than in its record"):
            follow(other, torch.zeros(1, 3), graph, lambda step: step.run())


@functools.lru_cache
def cached_table(size):
    return torch.arange(size).float()


@functools.lru_cache
def cached_zeros(size):
    return torch.zeros(size=(size,))  # a factory detaches its result, which is another tensor


def test_caches_keep_no_fake_tensor_that_was_made_by_a_factory():
    class Tabled(nn.Module):
        def forward(self, x):
            return x + cached_zeros(x.shape[-1])

    capture(Tabled(), X)
    assert type(cached_zeros(X.shape[-1])) is torch.Tensor


def test_caches_of_the_process_keep_no_fake_tensors():
    class Tabled(nn.Module):
        def forward(self, x):
            return x + cached_table(x.shape[-1])

    model = Tabled()
    first = ops(capture(model, X))
    assert torch.equal(model(X), X + torch.arange(X.shape[-1]))
    assert "arange" in first
    assert ops(capture(model, X)) == first, "the real table of the run before would make another record"
