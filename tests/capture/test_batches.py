"""Whatever a loader yields becomes inputs of the model's form, or a clear refusal."""

import pytest
import torch
from torch import nn

from secateur.capture.batches import batches, naming_batch
from secateur.errors import CaptureError, PathError, RequestError

ONE = torch.zeros(1, 3)
X = torch.arange(6.0).view(2, 3)
LABELS = torch.zeros(2)


class Two(nn.Module):
    def forward(self, left, right, flag=None):
        return left + right


@pytest.mark.parametrize(
    "batch",
    [X, (X,), [X, LABELS], (X, LABELS, "name"), {"input": X, "label": LABELS}, {"pixels": X, "name": "a"}],
)
def test_a_model_of_one_input_is_given_a_tensor(batch):
    (found,) = batches([batch], nn.Linear(3, 2), ONE)
    assert torch.equal(found, X)


@pytest.mark.parametrize(
    "batch", [(X, X + 1), [X, X + 1, LABELS], {"right": X + 1, "left": X, "labels": LABELS}]
)
def test_a_model_of_two_inputs_is_given_a_tuple(batch):
    (found,) = batches([batch], Two(), (ONE, ONE))
    assert [torch.equal(one, other) for one, other in zip(found, (X, X + 1), strict=True)] == [True, True]


def test_a_model_of_keyword_inputs_is_given_its_own_in_its_order():
    (found,) = batches([{"labels": LABELS, "b": X, "a": X + 1}], Two(), {"a": ONE, "b": ONE})
    assert list(found) == ["a", "b"]
    assert torch.equal(found["b"], X)


def test_none_stays_none():
    assert batches(None, Two(), ONE) is None


def test_a_last_batch_of_one_is_as_good_as_any():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(9, 3)), batch_size=4)
    assert [len(batch) for batch in batches(loader, nn.Linear(3, 2), ONE)] == [4, 4, 1]


BAD = {
    "nothing": ([], ONE, "the data yields no batch"),
    "a used generator": (iter(()), ONE, "the data yields no batch"),
    "one tensor": (X, ONE, "the data is one Tensor, not batches"),
    "one dict": ({"input": X}, ONE, "the data is one dict, not batches"),
    "a number": (3, ONE, "the data is one int, not batches"),
    "words": (["cat"], ONE, "batch 0 of the data holds no tensor: str"),
    "an empty batch": ([X, X[:0]], ONE, "batch 1 of the data holds no sample"),
    "a missing input": ([{"a": X, "b": X}], ONE, "batch 0 of the data holds a, b, the model takes 'left'"),
    "too few items": ([(X,)], (ONE, ONE), "batch 0 of the data holds 1 items, the model takes 2 inputs"),
    "a missing keyword": ([{"a": X}], {"a": ONE, "b": ONE}, "holds a, the model takes 'b'"),
    "no dict": ([X], {"a": ONE, "b": ONE}, "batch 0 of the data is a Tensor, the model takes a, b"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_batch_of_the_model_is_refused(case):
    data, example, message = BAD[case]
    with pytest.raises(RequestError, match=message):
        batches(data, Two(), example)


def test_errors_name_the_batch():
    unfit = "does not run on batch 3 of the data: ValueError: no"
    with pytest.raises(CaptureError, match=unfit), naming_batch(3):
        raise ValueError("no")
    with pytest.raises(PathError, match="batch 3 of the data takes another path"), naming_batch(3):
        raise PathError("elsewhere")
    with pytest.raises(RequestError, match="as it is"), naming_batch(3):
        raise RequestError("as it is")
