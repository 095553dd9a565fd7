"""Modules that hold more than parameters and buffers: computed tensors, and what nobody can copy."""

import functools
import threading
import types
import warnings
import weakref
from typing import ClassVar

import nets
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import secateur as sc
from secateur.capture.copies import copy_module
from secateur.errors import CaptureError, ForeignTensorError, RequestError

X = torch.randn(2, 3, 6, 6)


def masked(model):
    torch_prune.l1_unstructured(model.inner, "weight", amount=0.3)


def normed(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model.inner)


def remembering(model):
    model.head.seen = [model.stem(X)]


@pytest.mark.parametrize("prepare", [masked, normed, remembering])
def test_models_that_hold_computed_tensors_are_pruned(prepare):
    model = nets.randomise(nets.Residual())
    prepare(model)
    weight = model.inner.weight
    result = sc.prune(model, X, ratio=0.5)
    assert result.verdict.exact
    assert model.inner.weight is weight
    assert list(result.model.state_dict()) == list(model.state_dict())
    result.model(X).sum().backward()
    assert all(held.grad is not None for held in result.model.parameters())
    assert result.model.inner.weight.shape[0] == len(result.plan.keep["inner"])


def test_a_copy_shares_nothing_and_keeps_what_was_copied_before():
    layer = nn.Linear(2, 2)
    layer.seen = {"out": layer(torch.ones(1, 2))}
    weight = nn.Parameter(torch.zeros(3, 2))
    copied = copy_module(layer, {id(layer.weight): weight})
    assert copied.weight is weight
    assert torch.equal(copied.seen["out"], layer.seen["out"])
    assert copied.seen["out"] is not layer.seen["out"]
    assert not copied.seen["out"].requires_grad


class Handing(nn.Module):
    """A hook puts what a layer makes into a dict, still empty, which another part holds, too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)
        self.head = nn.Linear(16, 2)
        self.handed = self.a.handed = {}
        self.handle = self.a.register_forward_hook(lambda layer, _, output: layer.handed.update(a=output))

    def forward(self, x):
        y = self.b(self.a(x).relu()).relu()
        return self.head(torch.cat([y, self.handed["a"]], 1))


def test_what_is_shared_and_still_empty_stays_shared():
    model = Handing().eval()
    result = sc.prune(model, torch.randn(3, 4), ratio=0.5)
    assert result.verdict.exact
    cut = copy_module(result.model)  # a copy of a copy: handles are copied with what they refer to
    assert cut.handed is cut.a.handed is not model.handed
    assert cut(torch.randn(3, 4)).shape == (3, 2)
    assert not model.handed
    cut.handle.remove()
    assert not cut.a._forward_hooks
    assert model.a._forward_hooks


def test_what_cannot_be_copied_is_named():
    model = nets.Residual()
    model.inner.lock = threading.Lock()
    with pytest.raises(CaptureError, match=r"cannot be copied: cannot pickle '_thread\.lock'") as caught:
        sc.prune(model, X, ratio=0.5)
    assert "\n  inner.lock: cannot pickle" in str(caught.value)


def parametrized():
    layers = [nn.Conv1d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv1d(12, 4, 3, padding=1)]
    wrap = nn.utils.parametrizations
    return nn.Sequential(wrap.weight_norm(layers[0]), layers[1], wrap.spectral_norm(layers[2])).eval()


@pytest.mark.parametrize("first", ["the cut model", "the original"])
def test_parametrizations_are_removed_from_the_one_model_and_stay_on_the_other(first):
    model, x = parametrized(), torch.randn(2, 3, 8)
    result = sc.prune(model, x, ratio=0.5)
    sides = [result.model, model] if first == "the cut model" else [model, result.model]
    with torch.no_grad():
        before = [side(x) for side in sides]
        for layer in (sides[0][0], sides[0][2]):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")
        assert type(sides[0][0]) is nn.Conv1d
        for side, expected in zip(sides, before, strict=True):
            torch.testing.assert_close(side(x), expected)
    assert nn.utils.parametrize.is_parametrized(sides[1][0], "weight")
    nn.utils.parametrize.remove_parametrizations(sides[1][0], "weight")


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Outer(nn.Module):
    def __init__(self, inner=Inner):
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(4, 8), inner(), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.inner(x))


class Table:
    """What code finds by the name of a class: no copy of a model can follow."""

    layers: ClassVar = {}


def wrapped(model):
    old = model.inner.forward
    model.inner.forward = functools.wraps(old)(lambda x: old(x))


def rebound(model):
    model.inner.forward = types.MethodType(Inner.forward, model.inner)


def partially(model):
    model.inner.forward = functools.partial(Inner.forward, model.inner)


def hooked(model):
    bias = model.stem.bias
    model.inner.register_forward_hook(lambda module, args, made: made + bias)


def cached(model):
    old = model.inner.forward
    model.inner.forward = functools.lru_cache(maxsize=1)(lambda x: old(x))


def in_a_table(model):
    Table.layers["up"] = model.inner.up
    model.inner.forward = types.MethodType(
        lambda self, x: self.down(Table.layers["up"](x).relu()), model.inner
    )


def weakly(model):
    model.inner.seen = weakref.ref(model.stem)
    inner = Inner.forward
    model.inner.forward = types.MethodType(lambda self, x: inner(self, x) + self.seen().bias, model.inner)


def of_the_class(model):
    class Held(Inner):
        layers = (model.inner.up,)

        def forward(self, x):
            return self.down(type(self).layers[0](x).relu())

    model.inner.__class__ = Held


class Only(Inner):
    def __deepcopy__(self, memo):
        return self


def uncopied(model):
    model.inner = Only()


checked = pytest.mark.parametrize("check", [True, False])


@checked
@pytest.mark.parametrize("change", [wrapped, rebound, partially, hooked], ids=lambda change: change.__name__)
def test_a_cut_model_computes_with_its_own_tensors(change, check):
    model, x = Outer().eval(), torch.randn(5, 4)
    change(model)
    before = model(x).detach()
    cut = sc.prune(model, x, ratio=0.5, protect="head", check=check).model
    cut(x).sum().backward()
    assert all(held.grad is not None for held in cut.parameters())
    assert all(held.grad is None for held in model.parameters())
    with torch.no_grad():
        for held in cut.parameters():
            held.zero_()
    assert not cut(x).any()
    assert torch.equal(model(x), before)


@checked
@pytest.mark.parametrize(
    "change", [cached, in_a_table, weakly, of_the_class, uncopied], ids=lambda change: change.__name__
)
def test_a_cut_model_that_would_compute_with_tensors_of_the_original_is_refused(change, check):
    model, x = Outer().eval(), torch.randn(5, 4)
    change(model)
    before = model(x).detach()
    held = r"(inner\.up\.weight|stem\.bias) of the original|stem: a constant tensor"
    with pytest.raises((ForeignTensorError, RequestError), match=held):
        sc.prune(model, x, ratio=0.5, protect="head", check=check)
    assert torch.equal(model(x), before)


class Late(Outer):
    """Reaches a table of the original only where it trains, which no record of the eval mode sees."""

    def forward(self, x):
        made = super().forward(nn.functional.dropout(x, 0.1, self.training))
        return made + Table.layers["stem"].bias.sum() if self.training else made


def test_a_tensor_of_the_original_that_only_training_reads_is_found_by_the_proof():
    model = Late().eval()
    Table.layers["stem"] = model.stem
    with pytest.raises(ForeignTensorError, match=r"the new model computes with stem\.bias of the original"):
        sc.prune(model, torch.randn(5, 4), ratio=0.5)
