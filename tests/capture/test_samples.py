"""Batches with labels: read one by one, as often as they are asked for."""

import pytest
import torch
from torch import nn

from secateur.capture.batches import Samples
from secateur.errors import RequestError

EXAMPLE = torch.zeros(1, 3)
LABELS = torch.tensor([1, 0])


def _targets(batch, example=EXAMPLE):
    return [sample.target for sample in Samples([batch], nn.Linear(3, 2), example)]


@pytest.mark.parametrize(
    "batch",
    [
        (torch.zeros(2, 3), LABELS),
        [torch.zeros(2, 3), LABELS],
        {"input": torch.zeros(2, 3), "labels": LABELS},
        {"input": torch.zeros(2, 3), "y": LABELS},
    ],
)
def test_labels_are_found(batch):
    (target,) = _targets(batch)
    assert torch.equal(target, LABELS)


@pytest.mark.parametrize("batch", [torch.zeros(2, 3), (torch.zeros(2, 3),), {"input": torch.zeros(2, 3)}])
def test_there_need_not_be_labels(batch):
    assert _targets(batch) == [None]


def test_labels_follow_all_inputs():
    class Sum(nn.Module):
        def forward(self, one, two):
            return one + two

    pair = (torch.zeros(2, 3), torch.ones(2, 3), LABELS)
    (sample,) = Samples([pair], Sum(), (EXAMPLE, EXAMPLE))
    assert torch.equal(sample.target, LABELS)
    assert len(sample.inputs) == 2


def test_a_loader_is_read_batch_by_batch_and_anew():
    taken = []

    class Loader:
        def __iter__(self):
            for number in range(3):
                taken.append(number)
                yield torch.zeros(2, 3)

    samples = Samples(Loader(), nn.Linear(3, 2), EXAMPLE)
    assert next(iter(samples)).number == 0
    assert taken == [0]
    assert len(list(samples)) == len(list(samples)) == 3


def test_a_generator_is_kept():
    samples = Samples((torch.zeros(2, 3) for _ in range(2)), nn.Linear(3, 2), EXAMPLE)
    assert len(list(samples)) == len(list(samples)) == 2


def test_one_tensor_and_no_batch_are_refused():
    with pytest.raises(RequestError, match="the data is one Tensor, not batches"):
        Samples(torch.zeros(2, 3), nn.Linear(3, 2), EXAMPLE)
    with pytest.raises(RequestError, match="yields no batch"):
        list(Samples([], nn.Linear(3, 2), EXAMPLE))
