import struct

import numpy as np
import pytest
import torch
from darknet_nets import conv, net, randomise

from secateur.domains.darknet import Darknet, Header, load_darknet, load_weights, read_header, save_weights
from secateur.errors import CheckpointError

SIZES = {  # bytes of the official files
    "yolov3": 248_007_048,
    "yolov3-spp": 252_209_544,
    "yolov3-tiny": 35_434_956,
    "yolov4": 257_717_640,
    "yolov4-tiny": 24_251_276,
}


@pytest.mark.parametrize("name", SIZES)
def test_networks_take_as_many_bytes_as_the_official_files_have(name):
    with torch.device("meta"):
        model = Darknet(name)
    counted = (value.numel() for key, value in model.state_dict().items() if "num_batches" not in key)
    assert 20 + 4 * sum(counted) == SIZES[name]


def small():
    return randomise(Darknet(net(conv(4), conv(6, 1))))


def same(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(torch.equal(one, other) for (key, one), (_, other) in pairs if "num_batches" not in key)


@pytest.mark.parametrize(
    ("version", "size"),
    [((0, 1, 0), 16), ((0, 2, 0), 20), ((0, 2, 5), 20), ((1, 0, 0), 20), ((0, 1000, 0), 16)],
)
def test_headers_of_all_versions_survive(tmp_path, version, size):
    model = small()
    header = Header(*version, seen=2**31 + 7)
    path = save_weights(model, tmp_path / "a.weights", header=header)
    other = Darknet(model.config)
    assert load_weights(other, path) == header == read_header(path)
    assert other.header == header
    assert same(model, other)
    assert path.stat().st_size == size + 4 * (4 * 4 + 4 * 27 + 4 * 6 + 24 + 6 + 36)
    assert save_weights(other, tmp_path / "b.weights").read_bytes() == path.read_bytes()


def test_the_order_is_darknets(tmp_path):
    model = small()
    values = np.fromfile(save_weights(model, tmp_path / "a.weights"), "<f4", offset=20)
    first, head = model.layers[0], model.layers[2]
    parts = [first.norm.bias, first.norm.weight, first.norm.running_mean, first.norm.running_var]
    expected = torch.cat([part.detach().flatten() for part in [*parts, first.conv.weight]]).numpy()
    assert np.array_equal(values[: len(expected)], expected)
    expected = torch.cat([head.conv.bias, head.conv.weight.flatten()]).detach().numpy()
    assert np.array_equal(values[-len(expected) :], expected)


def test_partial_files_fill_the_first_layers_only(tmp_path, tiny):
    whole = save_weights(tiny, tmp_path / "whole.weights")
    part = save_weights(tiny, tmp_path / "yolov3-tiny.conv.15")
    assert part.stat().st_size < whole.stat().st_size
    for path, cutoff in ((part, None), (whole, 15)):
        other = randomise(Darknet("yolov3-tiny"), seed=1)
        before = {key: value.clone() for key, value in other.state_dict().items()}
        load_weights(other, path, cutoff=cutoff)
        for key, value in other.state_dict().items():
            source = tiny.state_dict() if int(key.split(".")[1]) < 15 else before
            assert torch.equal(value, source[key])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            -1,
            ["holds 213 floats", "takes 214: 1 too few", "layer 2, after 35 of the 36 floats of its kernel"],
        ),
        (-60, ["60 too few", "layer 1, after 6 of the 24 floats of its kernel"]),
        (-214, ["214 too few", "layer 0, after 0 of the 4 floats of its bias"]),
        (5, ["5 too many", "behind layer 2"]),
    ],
)
def test_too_short_and_too_long_say_by_how_many_floats_and_where(tmp_path, change, words):
    model = small()
    path = save_weights(model, tmp_path / "a.weights")
    content = path.read_bytes()
    path.write_bytes(content[: 4 * change] if change < 0 else content + bytes(4 * change))
    other = Darknet(model.config)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, path)
    for word in words:
        assert word in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert other.header == Header()


def test_loose_bytes_are_an_error(tmp_path):
    path = save_weights(small(), tmp_path / "a.weights")
    path.write_bytes(path.read_bytes() + b"xy")
    with pytest.raises(CheckpointError, match="0 too many, and 2 bytes"):
        load_weights(small(), path)


@pytest.mark.parametrize(
    "content", [b"", b"1234", struct.pack("<4i", 0, 2, 0, 0), struct.pack("<4i", -1, 2, 0, 0)]
)
def test_a_broken_header_is_an_error(tmp_path, content):
    (tmp_path / "a.weights").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.weights"):
        read_header(tmp_path / "a.weights")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        load_darknet("digits", tmp_path / "absent.weights")


def test_old_versions_refuse_a_count_that_they_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"version 0\.1 counts to 4294967295"):
        save_weights(small(), tmp_path / "a.weights", header=Header(0, 1, 0, seen=2**32))
    assert not list(tmp_path.iterdir())


def test_double_networks_are_written_and_filled_as_float32(tmp_path):
    model = small()
    path = save_weights(model.double(), tmp_path / "a.weights")
    other = Darknet(model.config).double()
    load_weights(other, path)
    assert next(other.parameters()).dtype == torch.float64
    assert same(model, other)
