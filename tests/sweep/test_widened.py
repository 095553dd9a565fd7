"""Blocks, curves and feature maps beside what hooks say."""

import copy
import json

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.domains.classification import Images
from secateur.errors import CheckpointError, RequestError
from secateur.graph.keep import Kept
from secateur.proof.masking import mask_model
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


class Functional(nn.Module):
    """A residual block whose convolution is no module of its own."""

    def __init__(self, width):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, width, 3, 3) * 0.2)

    def forward(self, x):
        return x + nn.functional.conv2d(torch.relu(x), self.kernel, padding=1)


@pytest.mark.parametrize("where", ["removed", "output"])
def test_a_branch_without_a_module_is_zeroed_and_the_stream_is_not(images, where):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Functional(8), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(512, 10))
    (row,) = block_sweep(net, images, where=where, device="cpu").rows
    assert (row.block, row.layer) == ("1", "1.kernel")
    without = copy.deepcopy(net)
    torch.nn.init.zeros_(without[1].kernel)
    assert row.accuracy == evaluate(without, images, device="cpu").accuracy
    assert row.accuracy not in {silenced(net, "1", images), row.accuracy + row.drop}


class Positioned(nn.Module):
    """Tokens with a learned position, and a block on them."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, 12, 2, 2), nn.Linear(12, 10)
        self.position = nn.Parameter(torch.randn(1, 16, 12))
        self.mixer = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.gram = nn.Identity()

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.mixer(x)
        x = x * self.gram(x.unsqueeze(3) * x.unsqueeze(2)).mean(3)
        return self.head(x.mean(1))


def test_a_position_is_no_shortcut(images):
    some = Images(images.spec, images.pixels[:5], images.labels[:5])
    found = block_sweep(Positioned(), some, device="cpu", batch_size=1, fork_size=2)
    assert [row.layer for row in found.rows] == ["mixer.2"]


def test_channels_of_a_block_are_no_tokens(images):
    torch.manual_seed(0)
    net = Positioned()
    found = channel_sweep(net, "mixer", images, (6,), device="cpu")
    assert len(found.scores) == 12
    without = copy.deepcopy(net)
    with torch.no_grad():
        without.mixer[2].weight[list(found.rows[1].removed)] = 0
        without.mixer[2].bias[list(found.rows[1].removed)] = 0
    assert found.rows[1].accuracy == evaluate(without, images, device="cpu").accuracy
    with pytest.raises(RequestError, match=r"gram returns .* its dims with channels are \[2, 3\]"):
        channel_sweep(net, "gram", images, (6,), device="cpu")


def test_points_of_another_order_are_not_taken(resnet, images, tmp_path):
    layers, calls = ["layer1.0.conv1"], []

    def swept(criterion, name, **options):
        asked = {"layers": layers, "device": "cpu", "rows": tmp_path / name, "on_point": calls.append}
        return sensitivity(resnet, images, (0.5,), criterion=criterion, **asked, **options)

    def least(view):
        return view.weights[0].abs().sum(1) * sign

    sign = 1.0
    swept(least, "callable")
    calls.clear()
    swept(least, "callable")
    assert calls == []
    sign = -1.0
    with pytest.raises(CheckpointError, match="another sweep"):
        swept(least, "callable")
    swept(sc.criterion("ln", n=1.0), "options")
    with pytest.raises(CheckpointError, match=r"criterion: ln \(n=1\.0\) there, ln \(n=4\.0\) here"):
        swept(sc.criterion("ln", n=4.0), "options")
    lines = (tmp_path / "callable").read_text().splitlines()
    changed = json.loads(lines[2]) | {"removed": [0, 1, 2, 3]}  # what the code does not tell, the rows do
    (tmp_path / "callable").write_text("".join(f"{line}\n" for line in [*lines[:2], json.dumps(changed)]))
    sign = 1.0
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1 at 0\.5: other channels were zeroed there"):
        swept(least, "callable")


def test_ratios_that_lie_close_are_two_points(images):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 2001), nn.ReLU(), nn.Linear(2001, 10))
    ratios = (0.25012490, 0.25012496)
    points = sensitivity(wide, images, ratios, layers=["1"], criterion="l1", device="cpu").by_layer["1"]
    assert [point.ratio for point in points] == [0.0, *ratios]
    assert [point.count for point in points] == [0, 500, 501]


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
    return mask_model(copy.deepcopy(model), groups, Kept({group.axis: kept.numpy()}), torch.float32)


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
