import sys
from importlib.util import find_spec

import pytest
import torch
from darknet_nets import conv, net, randomise
from torch.nn.utils import parametrize

from secateur.domains.darknet import Darknet, load_darknet, prune_darknet, save_darknet
from secateur.domains.darknet.quantise import OnnxMaps, export_onnx, quantise
from secateur.errors import DataError, RequestError

HAS_ONNX = all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="no ONNX Runtime: pip install 'secateur[onnx]'")


def images(count, batch=4, side=64):
    generator = torch.Generator().manual_seed(count)
    return [torch.rand(batch, 3, side, side, generator=generator) for _ in range(count)]


def calls(seen):
    """An `evaluate` that remembers what it was called with, and returns how large the first map is."""

    def evaluate(maps):
        seen.append((maps, maps.training))
        with torch.no_grad():
            return float(
                maps(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)))[0].abs().mean()
            )

    return evaluate


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    model = prune_darknet(randomise(Darknet("digits")), "extreme", percent=0.5, image_size=64).model
    seen = []
    found = quantise(model, tmp_path_factory.mktemp("int8"), images(4), calls(seen), image_size=64, images=10)
    return model, found, seen


@needs_onnx
@pytest.mark.slow
def test_a_pruned_network_is_quantised(quantised):
    model, found, seen = quantised
    assert found.images == 10
    assert found.size_bytes == (found.fp32.stat().st_size, found.int8.stat().st_size)
    assert found.size_bytes[1] < 0.5 * found.size_bytes[0]
    assert 0 < found.difference < 0.05
    assert seen[0] == (model, False)
    assert isinstance(seen[1][0], OnnxMaps)
    assert found.map50[0] != found.map50[1]
    assert found.map50[0] == pytest.approx(found.map50[1], rel=0.02)
    assert "INT8 by 10 calibration images" in str(found)
    assert "mAP@0.5" in str(found)


@needs_onnx
@pytest.mark.slow
def test_the_float_file_computes_what_the_network_does(quantised):
    model, found, _ = quantised
    for batch in (1, 3):
        inputs = torch.rand(batch, 3, 64, 64)
        with torch.no_grad():
            for ours, theirs in zip(model.eval()(inputs), OnnxMaps(found.fp32)(inputs), strict=True):
                assert float((ours - theirs).abs().max() / ours.abs().max()) < 5e-6


@needs_onnx
@pytest.mark.slow
def test_weights_are_int8_and_the_last_convolutions_float(quantised):
    import onnx

    _, found, _ = quantised
    graph = onnx.load(str(found.int8)).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    held = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in kinds]
    assert [kinds[node.input[1]] for node in held] == [onnx.TensorProto.FLOAT] * 2
    assert {node.output[0] for node in held} == {output.name for output in graph.output}
    assert found.in_float == (21, 29)
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node not in held]
    assert len(convolutions) == 19
    assert all(kinds[dequantised[node.input[1]]] == onnx.TensorProto.INT8 for node in convolutions)


@needs_onnx
@pytest.mark.slow
def test_everything_in_int8_with_another_method(tmp_path, capsys):
    model = randomise(Darknet(net(conv(8), conv(8, activation="mish"), side=64)))
    usual = quantise(model, tmp_path, images(2), heads_in_float=False)
    found = quantise(
        model, tmp_path, iter(images(2)), method="percentile", heads_in_float=False, reduce_range=True
    )
    assert found.difference != usual.difference
    assert found.in_float == ()
    assert found.score is None
    assert found.map50 is None
    assert 0 < found.difference < 0.1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.fp32.onnx", "net.int8.onnx"]
    assert capsys.readouterr().out == ""


@needs_onnx
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "guess"}, RequestError, "method is guess"),
        ({"images": 0}, RequestError, "images is 0"),
        ({"image_size": 65}, RequestError, "pass a multiple of"),
        ({"image_size": 32}, DataError, "images of 64 x 64"),
        ({"data": []}, DataError, "holds no image"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options, error, message, tmp_path):
    model = Darknet(net(conv(8, stride=2), side=64))
    data = options.pop("data", images(1))
    with pytest.raises(error, match=message):
        quantise(model, tmp_path, data, **options)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r"pip install 'secateur\[onnx\]'"):
        export_onnx(Darknet("digits"), tmp_path / "net.onnx")


class Binary(torch.nn.Module):
    """DoReFa-Net's weights of one bit (equation 7): the sign, times the mean magnitude."""

    def forward(self, weight):
        sign = weight.abs().mean() * weight.sign()
        return weight + (sign - weight).detach()


def test_low_bit_training_needs_nothing_of_ours(tmp_path):
    """As the docstring says: a parametrisation of a pruned network; the files hold the quantised weights."""
    model = prune_darknet(randomise(Darknet(net(conv(8), conv(8)))), percent=0.25).model.train()
    conv_ = model.layers[1].conv
    parametrize.register_parametrization(conv_, "weight", Binary())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = conv_.parametrizations.weight.original.detach().clone()
    model(torch.rand(2, 3, 32, 32))[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, conv_.parametrizations.weight.original)
    assert is_binary(conv_.weight)
    parametrize.remove_parametrizations(conv_, "weight")
    again = load_darknet(*save_darknet(model, tmp_path / "low"))
    assert is_binary(again.layers[1].conv.weight)


def is_binary(weight):
    magnitudes = weight.detach().abs()
    return torch.allclose(magnitudes, magnitudes.mean().expand_as(magnitudes), rtol=1e-5)
