import dataclasses

import pytest
import torch
from torch import nn

from secateur.errors import RequestError
from secateur.train import evaluate


class Brightest(nn.Module):
    """Knows the answer: the quarter with the most light; batch norm only to have a mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) * 10


def test_accuracy_is_a_share_and_agrees_with_counting(splits, narrow):
    evaluation = evaluate(narrow, splits.test, batch_size=7)
    images, labels = next(iter(splits.test.batches(len(splits.test))))
    logits = narrow.eval()(images)
    right = logits.argmax(1) == labels
    assert evaluation.n == 40
    assert evaluation.accuracy == pytest.approx(right.double().mean().item())
    assert evaluation.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    for label, share in enumerate(evaluation.per_class_accuracy):
        assert share == pytest.approx(right[labels == label].double().mean().item())


def test_a_model_that_knows_the_answer_has_accuracy_one(splits):
    evaluation = evaluate(Brightest(), splits.test)
    assert evaluation.accuracy == 1
    assert evaluation.per_class_accuracy == (1, 1, 1, 1)
    assert "100.00 % of 40 images right" in str(evaluation)


def test_a_class_without_images_has_no_accuracy(splits):
    some = splits.test.labels < 3
    part = dataclasses.replace(splits.test, pixels=splits.test.pixels[some], labels=splits.test.labels[some])
    assert evaluate(Brightest(), part).per_class_accuracy == (1, 1, 1, None)


def test_the_model_is_left_as_it_was(splits, narrow):
    narrow.train()
    narrow.norm.eval()
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    evaluate(narrow, splits.validation)
    assert [module.training for module in (narrow, narrow.norm, narrow.dropout)] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())
    assert narrow.deep.weight.is_contiguous()


class Tuple(Brightest):
    def forward(self, images):
        return super().forward(images), None


class Map(Brightest):
    def forward(self, images):
        return images


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Tuple(), "returns tuple, not a tensor"),
        (Map(), r"returns a tensor of shape \[2, 1, 6, 6\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), r"returns a tensor of shape \[2, 3\]"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"does not accept images of shape \[2, 1, 6, 6\]"),
    ],
)
def test_what_is_no_classifier_of_these_images_is_refused(splits, model, message):
    with pytest.raises(RequestError, match=message):
        evaluate(model, splits.test)


def test_an_empty_part_is_refused(splits):
    part = dataclasses.replace(splits.test, pixels=splits.test.pixels[:0], labels=splits.test.labels[:0])
    with pytest.raises(RequestError, match="empty part"):
        evaluate(Brightest(), part)


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:x"])
def test_unknown_devices_are_refused(splits, device):
    with pytest.raises(RequestError, match=f"unknown device '{device}'"):
        evaluate(Brightest(), splits.test, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_an_absent_device_is_refused(splits):
    with pytest.raises(RequestError, match="torch does not see it"):
        evaluate(Brightest(), splits.test, device="cuda")
    with pytest.raises(RequestError, match="16-mixed was asked for on the cpu"):
        evaluate(Brightest(), splits.test, precision="16-mixed")
