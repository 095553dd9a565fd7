"""Modules that hold more than parameters and buffers: computed tensors, and what nobody can copy."""

import threading
import warnings

import nets
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import secateur as sc
from secateur.capture.copies import copy_module
from secateur.errors import CaptureError

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


def test_what_cannot_be_copied_is_named():
    model = nets.Residual()
    model.inner.lock = threading.Lock()
    with pytest.raises(CaptureError, match=r"cannot be copied: cannot pickle '_thread\.lock'") as caught:
        sc.prune(model, X, ratio=0.5)
    assert "\n  inner.lock: cannot pickle" in str(caught.value)
