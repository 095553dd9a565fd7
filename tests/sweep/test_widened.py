"""Blocks, curves and feature maps beside what hooks say."""

import copy

import pytest
import torch
from torch import nn

from secateur.errors import RequestError
from secateur.sweep import block_sweep, channel_sweep, feature_maps, sensitivity
from secateur.train import evaluate


def silenced(model, hooked, part):
    model = copy.deepcopy(model)
    model.get_submodule(hooked).register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    return evaluate(model, part, device="cpu").accuracy


def test_every_block_is_judged_without_its_branch(resnet, images, tmp_path):
    told, file = [], tmp_path / "rows.jsonl"
    found = block_sweep(resnet, images, device="cpu", rows=file, on_row=told.append)
    names = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert [(row.block, row.layer) for row in found.rows] == [(name, f"{name}.conv2") for name in names]
    dense = evaluate(resnet, images, device="cpu").accuracy
    assert found.accuracy == dense
    for row in (found.rows[0], found.rows[3], found.rows[-1]):
        assert row.accuracy == silenced(resnet, f"{row.block}.bn2", images)
        assert row.drop == dense - row.accuracy
    told.clear()
    assert block_sweep(resnet, images, device="cpu", rows=file, on_row=told.append).rows == found.rows
    assert told == []
    assert found.plot(tmp_path / "blocks.svg").read_text().startswith("<?xml")


def test_a_model_without_blocks_is_refused(images):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(RequestError, match="no residual block"):
        block_sweep(plain, images, device="cpu")


def test_curves_are_sweeps_of_each_layer(resnet, images, tmp_path):
    layers = ("layer1.0.conv1", "layer3.0.conv1")
    found = sensitivity(resnet, images, (0.25, 0.75), layers=layers, criterion="l1", device="cpu")
    assert tuple(found.by_layer) == layers
    for layer, size in zip(layers, (8, 32), strict=True):
        counts = (size // 4, 3 * size // 4)
        alone = channel_sweep(resnet, layer, images, counts, criterion="l1", device="cpu")
        assert [point.value for point in found.by_layer[layer]] == [row.accuracy for row in alone.rows]
        assert [point.count for point in found.by_layer[layer]] == [0, *counts]
    assert found.plot(tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_maps_are_means_after_the_activation(resnet, images, tmp_path):
    seen = []
    model = copy.deepcopy(resnet)
    model.layer2[0].register_forward_hook(lambda _, __, out: seen.append(out.double()))
    with torch.no_grad():
        model(next(iter(images.batches(len(images))))[0])
    mean = seen[0].mean(0)
    found = feature_maps(resnet, "layer2.0.conv2", images, count=5, device="cpu")
    order = mean.mean((1, 2)).argsort(descending=True)[:5]
    assert found.channels == tuple(order.tolist())
    torch.testing.assert_close(found.maps, mean[order], rtol=1e-5, atol=1e-6)
    assert found.plot(tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
