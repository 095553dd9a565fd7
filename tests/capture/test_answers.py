"""What the fake mode answered before is answered again, and only what the form of a call decides."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor

from secateur.capture import answers
from secateur.capture.fakes import faked
from secateur.capture.frugal import fake_mode
from secateur.capture.paths import path_of, record_path
from secateur.capture.recording import Moment, record
from secateur.capture.shortcuts import run
from secateur.capture.walk import walk_modules, walk_tensors

ATEN = torch.ops.aten


@pytest.fixture(autouse=True)
def _no_answers():
    answers._ANSWERS.clear()


def form(made):
    parts = made if isinstance(made, (list, tuple)) else [made]
    return [(type(one), one.shape, one.stride(), one.dtype, one.device) for one in parts]


CALLS = {
    "compare": (ATEN.le.Tensor, lambda make: (make(2, 3, dtype=torch.long), make(3, dtype=torch.long)), {}),
    "index": (ATEN.index.Tensor, lambda make: (make(4, 5), [make(2, dtype=torch.long)]), {}),
    "attention": (
        ATEN.scaled_dot_product_attention.default,
        lambda make: (make(2, 6, 4, 8).transpose(1, 2), make(2, 6, 4, 8).transpose(1, 2), make(2, 4, 6, 8)),
        {},
    ),
    "factory": (ATEN.arange.default, lambda make: (7,), {"dtype": torch.long}),
    "several": (ATEN.topk.default, lambda make: (make(3, 9), 2), {}),
    "promoted": (ATEN.mul.Tensor, lambda make: (make(3, dtype=torch.long), 0.5), {}),
    "transposed": (ATEN.add.Tensor, lambda make: (make(3, 4).t(), make(4, 3)), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_answer_is_the_fake_mode_s(name):
    func, arguments, options = CALLS[name]
    with torch.inference_mode(), fake_mode():
        args = arguments(torch.empty)
        expected = form(func(*args, **options))
        first = run(func, args, options)
        assert answers._ANSWERS
        second = run(func, args, options)
    assert second is not first
    assert form(first) == form(second) == expected
    one, two = (made if isinstance(made, (list, tuple)) else [made] for made in (first, second))
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(one, two, strict=True))


def test_numbers_of_other_types_and_another_default_are_other_questions():
    with torch.inference_mode(), fake_mode():
        x = torch.empty(3, dtype=torch.long)
        made = [run(ATEN.add.Tensor, (x, number), {}).dtype for number in (1, 1.0, True)]
        assert made == [torch.long, torch.float32, torch.long]
        torch.set_default_dtype(torch.float64)
        try:
            assert run(ATEN.add.Tensor, (x, 1.0), {}).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


def test_what_numbers_decide_and_what_shows_the_operand_is_not_kept():
    with torch.inference_mode(), fake_mode():
        x = torch.empty(4, 5)
        with pytest.raises(DynamicOutputShapeException):
            run(ATEN.index.Tensor, (x, [torch.empty(4, dtype=torch.bool)]), {})
        assert run(ATEN.type_as.default, (x, x), {}) is x
        assert not answers._ANSWERS
        assert run(ATEN.type_as.default, (x, x), {}) is x
        constant = torch.tensor(3)
        run(ATEN.add.Tensor, (constant, constant), {})
        assert not answers._ANSWERS


def test_a_fake_tensor_is_made_as_pytorch_makes_it():
    mode, meta = fake_mode(), torch.empty_strided((2, 3), (1, 2), device="meta")
    expected = FakeTensor(mode, meta, torch.device("cpu"))
    faked(mode, meta, torch.device("cpu"))
    made = faked(mode, meta, torch.device("cpu"))
    assert vars(made) == vars(expected)
    assert form(made) == form(expected)
    assert made.fake_mode is mode


def test_walks_are_those_of_pytorch():
    shared = nn.BatchNorm1d(3)
    model = nn.Sequential(shared, nn.Sequential(nn.Linear(3, 3), shared), nn.MultiheadAttention(4, 2))
    model.register_module("none", None)
    assert walk_modules(model) == list(model.named_modules())
    expected = [("parameter", *pair) for pair in model.named_parameters(remove_duplicate=False)]
    expected += [("buffer", *pair) for pair in model.named_buffers(remove_duplicate=False)]
    found = list(walk_tensors(model))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    assert all(one[2] is two[2] for one, two in zip(found, expected, strict=True))


class OwnWalk(nn.Module):
    """Hides what is inside it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def named_modules(self, *args, **options):
        return iter([("", self)])


def test_a_class_that_walks_in_its_own_way_is_asked():
    model = nn.Sequential(OwnWalk(), nn.ReLU())
    assert [name for name, _ in walk_modules(model)] == [name for name, _ in model.named_modules()]


class Branching(nn.Module):
    """Decides by the size of its batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.cat([self.layer(x), x], 1)
        return x.relu().split(4, 1)[0] if len(x) > 2 else x.chunk(2, 1)[1]


@pytest.mark.parametrize("substrate", ["fake", "real"])
@pytest.mark.parametrize("batch", [2, 3])
def test_a_path_is_that_of_the_record(substrate, batch):
    model, inputs = Branching(), torch.zeros(batch, 4)
    graph, _ = record(model, inputs, substrate, state=())
    path, failure = record_path(model, inputs, substrate, training=False, state=(), moment=Moment())
    assert failure is None
    assert path == path_of(graph)
    assert [name for name, _ in path][-1] == ("aten.split" if batch > 2 else "aten.chunk")
