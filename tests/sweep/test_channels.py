"""The channel sweep says what a loop of hooks says, and goes on where it was stopped."""

import copy
import json

import pytest
import torch
from torch import nn

from secateur.errors import CaptureError, CheckpointError, PathError, RequestError
from secateur.sweep import Forks, channel_sweep
from secateur.train import evaluate

COUNTS = (1, 3, 5, 8)
HOOKED = {"removed": "bn", "output": "conv"}


def naive(model, hooked, removed, part):
    """Reload, hook, evaluate."""
    model = copy.deepcopy(model)
    model.get_submodule(hooked).register_forward_hook(lambda _, __, out: out.index_fill(1, removed, 0))
    return evaluate(model, part, device="cpu")


@pytest.mark.parametrize("where", ["removed", "output"])
@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.1.conv2"])
def test_accuracies_are_those_of_the_naive_loop(resnet, images, layer, where):
    found = channel_sweep(resnet, layer, images, COUNTS, where=where, device="cpu", batch_size=50)
    assert [row.count for row in found.rows] == [0, *COUNTS]
    assert len({row.accuracy for row in found.rows}) > 2  # there is something to tell apart
    for row in found.rows:
        hooked = layer.replace("conv", HOOKED[where])
        expected = naive(resnet, hooked, torch.tensor(row.removed, dtype=torch.long), images)
        assert row.accuracy == expected.accuracy
        assert row.per_class_accuracy == expected.per_class_accuracy


class InPlace(nn.Module):
    """Writes in place into what is read again, around each fork, and splits what it returns."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = self.relu(self.one(x))
        y = self.two(x)
        y += x
        x.mul_(0.5)
        left, right = (self.relu(y) - x).chunk(2, 1)
        y = torch.cat([right, left], 1)
        return self.head(nn.functional.avg_pool2d(y, 2).flatten(1))


@pytest.mark.parametrize("layer", ["one", "two"])
def test_writing_in_place_changes_nothing(images, layer):
    torch.manual_seed(0)
    model = InPlace()
    found = channel_sweep(model, layer, images, (2, 4, 7), criterion="l2", device="cpu", batch_size=50)
    assert len({row.accuracy for row in found.rows}) > 1
    for row in found.rows:
        expected = naive(model, layer, torch.tensor(row.removed, dtype=torch.long), images)
        assert row.per_class_accuracy == expected.per_class_accuracy


class Mixing(nn.Module):
    """Takes something of the whole batch."""

    def __init__(self, mix):
        super().__init__()
        self.conv, self.head, self.mix = nn.Conv2d(1, 4, 3), nn.Linear(4, 10), mix

    def forward(self, x):
        return self.head(self.mix(torch.relu(self.conv(x)).mean((2, 3))))


@pytest.mark.parametrize("mix", [lambda x: x.cumsum(0), lambda x: x - x.mean(0, keepdim=True)])
def test_a_model_that_mixes_samples_is_refused(images, mix):
    with pytest.raises(PathError, match="mixes the samples"):
        channel_sweep(Mixing(mix), "conv", images, (1, 2), device="cpu")


@pytest.mark.parametrize("batch_size", [64, 70, len(range(1000))])
def test_a_short_last_batch_counts_each_image_once(resnet, images, batch_size):
    assert len(images) % batch_size
    options = {"device": "cpu", "batch_size": batch_size}
    found = channel_sweep(resnet, "layer3.0.conv1", images, (4, 8), **options, fork_size=3 * batch_size)
    alone = channel_sweep(resnet, "layer3.0.conv1", images, (4, 8), **options, fork_size=batch_size)
    assert found.rows == alone.rows


def test_scores_are_means_after_the_activation(resnet, images):
    seen = []
    model = copy.deepcopy(resnet)
    model.layer2[1].relu.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    with torch.no_grad():
        model(next(iter(images.batches(len(images))))[0])
    inner, outer = (maps.double().mean((0, 2, 3)) for maps in seen)
    for layer, expected in (("layer2.1.conv1", inner), ("layer2.1.conv2", outer)):
        found = channel_sweep(resnet, layer, images, (1,), device="cpu")
        torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-6)
        assert found.rows[1].removed == (int(expected.argmin()),)


def test_the_disk_tells_the_same_as_the_memory(resnet, images, tmp_path):
    with_memory = Forks(resnet, images, device="cpu")
    with_disk = Forks(resnet, images, device="cpu", memory_bytes=100_000, folder=tmp_path)
    choices = [(), (0, 1), range(8)]
    tables = []
    for forks in (with_memory, with_disk):
        place = forks.find("layer2.0.conv1")
        tables.append([counts.confusion for counts in forks.counts(place, choices)])
        assert (len(list(tmp_path.rglob("*.pt"))) > 0) == (forks is with_disk)
        forks.close()
    assert all(map(torch.equal, *tables))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_sweep_goes_on(resnet, images, tmp_path):
    file, told = tmp_path / "rows.jsonl", []
    options = {"rows": file, "device": "cpu", "on_row": told.append}
    whole = channel_sweep(resnet, "layer1.0.conv1", images, COUNTS, **options)
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 2 + len(COUNTS)
    changed = json.loads(lines[1]) | {"accuracy": 0.125}  # to see that it is not computed again
    file.write_text("".join([lines[0], json.dumps(changed) + "\n", lines[2], lines[3][:20]]))
    told.clear()
    again = channel_sweep(resnet, "layer1.0.conv1", images, COUNTS, **options)
    assert [row.count for row in told] == [3, 5, 8]
    assert again.rows[0].accuracy == 0.125
    assert again.rows[1:] == whole.rows[1:]
    with pytest.raises(CheckpointError, match="another sweep"):
        channel_sweep(resnet, "layer1.1.conv1", images, COUNTS, **options)
    file.write_text("hello\n")
    with pytest.raises(CheckpointError, match="no rows"):
        channel_sweep(resnet, "layer1.0.conv1", images, COUNTS, **options)


def test_the_model_stays_as_it_is(resnet, images):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    resnet.train()
    channel_sweep(resnet, "conv1", images, (2,), device="cpu")
    assert resnet.training
    resnet.eval()
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "counts", "options", "message"),
    [
        ("layer9", (1,), {}, "no layer 'layer9'"),
        ("layer1.0.relu", (1,), {}, "runs 2 times"),
        ("classifier", (1,), {}, "nothing reads"),
        ("conv1", (9,), {}, "has 8 channels"),
        ("conv1", (), {}, "counts are none"),
        ("conv1", (1,), {"where": "inside"}, "where is 'inside'"),
        ("conv1", (1,), {"criterion": "taylor"}, "needs gradients"),
        ("conv1", (1,), {"batch_size": 64, "fork_size": 8}, "fork_size is 8"),
    ],
)
def test_what_does_not_fit_is_refused(resnet, images, layer, counts, options, message):
    with pytest.raises(RequestError, match=message):
        channel_sweep(resnet, layer, images, counts, device="cpu", **options)


def test_numbers_that_are_not_finite_name_the_layer(resnet, images):
    broken = copy.deepcopy(resnet)
    with torch.no_grad():
        broken.layer1[0].conv1.weight[0] = float("nan")
    with pytest.raises(CaptureError, match=r"layer1\.0"):
        channel_sweep(broken, "layer1.0.conv1", images, (1,), criterion="random", device="cpu")
