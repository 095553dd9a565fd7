"""What rows belong to: other values of the model or other images are another sweep."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur.domains.classification import Images
from secateur.sweep.rows import fingerprint
from secateur.write.rows import fingerprint_of


@pytest.fixture
def part(digits):
    return Images(digits.spec, digits.test.pixels[:300], digits.test.labels[:300])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))


def with_changed(name, change):
    def changed(model):
        change(model.state_dict()[name])
        return model

    return changed


MODELS = {
    "a weight": with_changed("0.weight", lambda tensor: tensor.view(-1)[-1].add_(1e-6)),
    "a statistic": with_changed("1.running_var", lambda tensor: tensor[0].mul_(2)),
    "a count": with_changed("1.num_batches_tracked", lambda tensor: tensor.add_(1)),
    "the type": lambda model: model.double(),
    "a name": lambda model: nn.Sequential(nn.Identity(), *model),
    "the sign of a zero": with_changed("1.bias", lambda tensor: tensor[0].neg_()),
}


@pytest.mark.parametrize("change", MODELS)
def test_another_model_is_another_sweep(part, change):
    before, after = fingerprint(net(), part), fingerprint(MODELS[change](net()), part)
    assert before["model"] != after["model"]
    assert before["images"] == after["images"]


IMAGES = {
    "a pixel": lambda pixels, labels: (pixels.index_put((torch.tensor(299),), pixels[0]), labels),
    "a label": lambda pixels, labels: (
        pixels,
        labels.index_put((torch.tensor(299),), (labels[299] + 1) % 10),
    ),
    "their number": lambda pixels, labels: (pixels[:-1], labels[:-1]),
    "their order": lambda pixels, labels: (pixels.flip(0), labels.flip(0)),
}


@pytest.mark.parametrize("change", IMAGES)
def test_other_images_are_another_sweep(part, change):
    pixels, labels = IMAGES[change](part.pixels, part.labels)
    before, after = fingerprint(net(), part), fingerprint(net(), replace(part, pixels=pixels, labels=labels))
    assert before["model"] == after["model"]
    assert before["images"] != after["images"]


def test_the_same_model_and_images_are_the_same_sweep(part):
    model = net()
    again = replace(part, pixels=part.pixels.clone(), labels=part.labels.clone())
    assert fingerprint(model, part) == fingerprint(copy.deepcopy(model), again)


def test_a_hash_of_tensors_takes_every_value_of_every_one():
    batches = [(torch.arange(3.0), torch.arange(4)), (torch.zeros(2), torch.ones(2))]
    known = fingerprint_of(batches)
    assert fingerprint_of(copy.deepcopy(batches)) == known
    for pair in batches:
        for tensor in pair:
            for at in range(len(tensor)):
                tensor[at] += 1
                assert fingerprint_of(batches) != known
                tensor[at] -= 1
    assert fingerprint_of(batches) == known
    assert fingerprint_of([*batches, "a text"]) != known
