"""Blocks, curves and feature maps beside what hooks say."""

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.check.numbers import mask_model
from secateur.errors import CheckpointError, RequestError
from secateur.score import score
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


def masked(model, groups, name, removed):
    """The model as a cut would leave it: what reads the channels reads them with weight zero."""
    group = groups[name]
    kept = torch.ones(group.size, dtype=torch.bool)
    kept[removed] = False
    return mask_model(copy.deepcopy(model), groups, {group.axis: kept.numpy()}, torch.float32)


@pytest.mark.parametrize("name", ["conv1", "layer1.0.conv1", "layer3.0.conv2"])
def test_a_group_is_swept_as_a_cut_would_leave_it(resnet, images, name):
    groups = sc.couple(resnet, next(iter(images.batches(2)))[0])
    found = sensitivity(
        resnet, images, (0.25, 0.75), by="groups", layers=[name], criterion="l2", device="cpu", batch_size=50
    )
    order = score(resnet, groups, "l2").by_group[name].argsort(stable=True)
    values = [
        evaluate(masked(resnet, groups, name, order[: point.count]), images, device="cpu").accuracy
        for point in found.by_layer[name]
    ]
    assert [point.value for point in found.by_layer[name]] == values
    assert len(set(values)) > 1  # there is something to tell apart
    assert len({member.module for member in groups[name].members}) > 2
    assert found.by == "groups"


def test_groups_are_all_that_may_be_cut_and_go_on(resnet, images, tmp_path):
    told, file = [], tmp_path / "rows.jsonl"
    options = {"by": "groups", "criterion": "taylor", "rows": file, "on_point": told.append, "device": "cpu"}
    labelled = list(images.batches(60))
    found = sensitivity(resnet, images, (0.5,), data=labelled, **options)
    groups = sc.couple(resnet, next(iter(images.batches(2)))[0])
    assert set(found.by_layer) == {group.name for group in groups.prunable}
    assert len(told) == 2 * len(found.by_layer)
    told.clear()
    assert sensitivity(resnet, images, (0.5,), data=labelled, **options).by_layer == found.by_layer
    assert told == []
    with pytest.raises(CheckpointError, match="another sweep"):
        sensitivity(resnet, images, (0.5,), rows=file, criterion="l1", device="cpu")
    with pytest.raises(RequestError, match="classifier cannot be swept"):
        sensitivity(resnet, images, (0.5,), by="groups", layers=["classifier"], criterion="l1", device="cpu")
    with pytest.raises(RequestError, match="by is 'blocks'"):
        sensitivity(resnet, images, (0.5,), by="blocks", device="cpu")


class Joined(nn.Module):
    """Two layers side by side: their channels lie at other positions in what reads them."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 5, 3)
        self.head = nn.Linear(8 * 9, 10)

    def forward(self, x):
        both = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(nn.functional.avg_pool2d(both, 2).flatten(1))


def test_channels_of_a_group_are_found_behind_a_concatenation(images):
    torch.manual_seed(0)
    model = Joined().eval()
    groups = sc.couple(model, next(iter(images.batches(2)))[0])
    found = sensitivity(model, images, (0.6,), by="groups", layers=["right"], criterion="l1", device="cpu")
    order = score(model, groups, "l1").by_group["right"].argsort(stable=True)
    alone = evaluate(masked(model, groups, "right", order[:3]), images, device="cpu").accuracy
    assert [point.value for point in found.by_layer["right"]][1] == alone
    assert alone != found.by_layer["right"][0].value
