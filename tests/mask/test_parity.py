"""The same seeds give the same masks as `torch.nn.utils.prune`, for every method, shape and amount."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from secateur import errors, mask

SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=4)
AMOUNTS = st.one_of(st.floats(0, 1), st.integers(0, 6))


class Holder(nn.Module):
    """A parameter of any shape."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))


def holders(shape, seed):
    torch.manual_seed(seed)
    ours = Holder(shape)
    return ours, copy.deepcopy(ours)


def apply_both(seed, ours, theirs):
    """Run both from one seed; either both refuse or none does."""
    results = []
    for run in (ours, theirs):
        torch.manual_seed(seed)
        try:
            run()
            results.append(None)
        except (ValueError, RuntimeError, errors.RequestError) as error:
            results.append(error)
    assert (results[0] is None) == (results[1] is None), results
    return results[0] is None


def assert_same(ours, theirs):
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert torch.equal(ours.weight, theirs.weight)


METHODS = {
    "random": ({"method": "random"}, lambda m, a: torch_prune.random_unstructured(m, "weight", a)),
    "l1": ({"method": "l1"}, lambda m, a: torch_prune.l1_unstructured(m, "weight", a)),
    "random channels": (
        {"method": "random", "structure": "structured", "dim": 1},
        lambda m, a: torch_prune.random_structured(m, "weight", a, dim=1),
    ),
    "l1 channels": (
        {"method": "l1", "structure": "structured", "dim": 0},
        lambda m, a: torch_prune.ln_structured(m, "weight", a, n=1, dim=0),
    ),
    "l2 channels": (
        {"method": "l2", "structure": "structured", "dim": -1},
        lambda m, a: torch_prune.ln_structured(m, "weight", a, n=2, dim=-1),
    ),
    "inf channels": (
        {"method": "ln", "n": float("-inf"), "structure": "structured", "dim": 1},
        lambda m, a: torch_prune.ln_structured(m, "weight", a, n=float("-inf"), dim=1),
    ),
}


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=40)
@given(shape=SHAPES, first=AMOUNTS, second=AMOUNTS, seed=st.integers(0, 99))
def test_iterated_calls_give_the_same_masks(name, shape, first, second, seed):
    words, theirs_does = METHODS[name]
    ours, theirs = holders(shape, seed)
    for amount in (first, second):
        done = apply_both(
            seed,
            lambda amount=amount: mask.prune(ours, amount=amount, **words),
            lambda amount=amount: theirs_does(theirs, amount),
        )
        if not done:
            return
        assert_same(ours, theirs)


@settings(max_examples=30)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=3), amount=AMOUNTS, seed=st.integers(0, 99))
@pytest.mark.parametrize("kind", [torch_prune.L1Unstructured, torch_prune.RandomUnstructured])
def test_global_calls_give_the_same_masks(kind, shapes, amount, seed):
    torch.manual_seed(seed)
    ours = nn.ModuleList(map(Holder, shapes))
    theirs = copy.deepcopy(ours)
    word = "l1" if kind is torch_prune.L1Unstructured else "random"
    for _ in range(2):
        done = apply_both(
            seed,
            lambda: mask.prune(ours, word, scope="global", amount=amount),
            lambda: torch_prune.global_unstructured([(m, "weight") for m in theirs], kind, amount=amount),
        )
        if not done:
            return
        for one, two in zip(ours, theirs, strict=True):
            assert_same(one, two)


@settings(max_examples=30)
@given(shape=SHAPES, amount=st.floats(0, 1), seed=st.integers(0, 99))
def test_importance_scores_and_given_masks_count_alike(shape, amount, seed):
    ours, theirs = holders(shape, seed)
    scores, given_mask = torch.randn(shape), (torch.rand(shape) > 0.3).float()
    mask.prune(ours, "custom", masks=given_mask)
    torch_prune.custom_from_mask(theirs, "weight", given_mask)
    assert_same(ours, theirs)
    mask.prune(ours, "l1", amount=amount, importance_scores={"weight": scores})
    torch_prune.l1_unstructured(theirs, "weight", amount, importance_scores=scores)
    assert_same(ours, theirs)
    mask.prune(ours, "identity")
    torch_prune.identity(theirs, "weight")
    assert_same(ours, theirs)


def test_importance_scores_of_global_calls_are_keyed_by_module_and_name():
    ours = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    theirs = copy.deepcopy(ours)
    scores = torch.randn(5, 4)
    mask.prune(ours, "l1", scope="global", amount=7, importance_scores={(ours[0], "weight"): scores})
    torch_prune.global_unstructured(
        [(module, "weight") for module in theirs],
        torch_prune.L1Unstructured,
        importance_scores={(theirs[0], "weight"): scores},
        amount=7,
    )
    for one, two in zip(ours, theirs, strict=True):
        assert_same(one, two)


class EveryOther(torch_prune.BasePruningMethod):
    """The tutorial's method of a user."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        result = default_mask.clone()
        result.view(-1)[::2] = 0
        return result


def test_methods_of_users_work():
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    mask.prune(ours, EveryOther, parameters=["bias"], select="bias")
    EveryOther.apply(theirs, "bias")
    assert torch.equal(ours.bias_mask, theirs.bias_mask)
    for _ in range(2):
        mask.prune(ours, EveryOther)
        EveryOther.apply(theirs, "weight")
        assert_same(ours, theirs)


def test_biases_are_masked_like_weights():
    ours = nn.Linear(6, 4)
    theirs = copy.deepcopy(ours)
    mask.prune(ours, "l1", amount=3, select="bias")
    torch_prune.l1_unstructured(theirs, "bias", amount=3)
    assert_same(ours, theirs)


def test_their_functions_work_on_our_masks_and_ours_on_theirs():
    torch.manual_seed(1)
    ours, theirs, mixed = (nn.Linear(8, 6) for _ in range(3))
    for other in (theirs, mixed):
        other.load_state_dict(ours.state_dict())
    mask.prune(ours, "l1", amount=0.3)
    torch_prune.ln_structured(ours, "weight", amount=0.5, n=2, dim=0)
    torch_prune.l1_unstructured(theirs, "weight", 0.3)
    torch_prune.ln_structured(theirs, "weight", amount=0.5, n=2, dim=0)
    torch_prune.l1_unstructured(mixed, "weight", 0.3)
    mask.prune(mixed, "l2", amount=0.5, structure="structured", with_bias=False)
    for one in (ours, mixed):
        assert_same(one, theirs)
        assert torch_prune.is_pruned(one)
        torch_prune.remove(one, "weight")
        assert not torch_prune.is_pruned(one)
        assert isinstance(one.weight, nn.Parameter)
    assert [type(method).__name__ for method in theirs._forward_pre_hooks.popitem()[1]] == [
        "L1Unstructured",
        "LnStructured",
    ]
