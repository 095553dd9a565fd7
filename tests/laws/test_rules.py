"""The law of every operator rule: slicing first and computing then, or the other way round, is the same."""

import numpy as np
import pytest
import torch
from corner_calls import CALLS
from replay import Recording, fewest
from torch.utils.flop_counter import FlopCounterMode

from secateur.couple.rule import rules
from secateur.graph.equation import letters, parse

SAMPLES = [(op, sample) for op in rules for sample in rules[op].samples]

# Everything is protected: positions have numbers, or there is nothing but one axis of such positions.
NOTHING_FREE = {
    "aten.arange",
    "aten.eye",
    "aten.linspace",
    "aten.rand",
    "aten.randn",
    "aten.scalar_tensor",
}

# PyTorch does not count products with vectors, nor attention on the CPU; these are counted by hand.
UNCOUNTED = {
    "torch.addmv(T(2), T(2, 3), T(3))": 6,
    "torch.dot(T(3), T(3))": 3,
    "torch.matmul(T(2, 3), T(3))": 6,
    "torch.matmul(T(3), T(2, 3, 4))": 24,
    "torch.matmul(T(3), T(3))": 3,
    "torch.mv(T(2, 3), T(3))": 6,
    "torch.outer(T(2), T(3))": 6,
    "F.scaled_dot_product_attention(T(2, 4, 5), T(2, 4, 5), T(2, 4, 5), is_causal=True, scale=0.3)": (
        2 * 4 * 4 * 5 + 2 * 4 * 4 * 5
    ),
}

# A statistic that does not see zeros among these numbers, though it may see them among others.
BLIND_TO_ZEROS = {"aten.amin", "aten.amax", "aten.all"}


def _choices(recording, times=5):
    rng = np.random.default_rng(0)
    kept = [keep for keep in recording.choices(rng, times) if recording.is_balanced(keep)]
    assert kept or not any(fewest(leaf) < leaf.size for leaf in recording.free)
    return kept


def _require_commutes(recording):
    for keep in _choices(recording):
        sliced = recording.run(keep, sliced=True)
        expected = recording.sliced_outputs(recording.run(keep, sliced=False), keep)
        for got, wanted in zip(sliced, expected, strict=True):
            assert got.shape == wanted.shape, keep
            if not any(leaf.renormalised for leaf in keep):
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_free_axes_commute_with_the_operator(op, sample):
    recording = Recording.of(sample)
    assert not recording.findings.barriers
    assert bool(recording.free) == (op not in NOTHING_FREE)
    _require_commutes(recording)


@pytest.mark.parametrize("sample", CALLS)
def test_free_axes_commute_at_the_corners_of_the_operators(sample):
    recording = Recording.of(sample)
    assert not recording.findings.barriers
    _require_commutes(recording)


def test_every_rule_is_reached_by_one_of_its_samples():
    unreached = []
    for op in rules:
        ops = {node.op for sample in rules[op].samples for node in Recording.of(sample).graph.nodes}
        if op not in ops | {name.removesuffix("_") for name in ops}:
            unreached.append((op, sorted(ops)))
    assert not unreached


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_a_renormalised_axis_would_not_be_exact(op, sample):
    recording = Recording.of(sample)
    differs = []
    for leaf in (leaf for leaf in recording.free if leaf.renormalised and fewest(leaf) < leaf.size):
        keep = {leaf: np.arange(leaf.size) > 0}
        sliced = recording.run(keep, sliced=True)
        expected = recording.sliced_outputs(recording.run(keep, sliced=False), keep)
        differs.append(any(not torch.equal(*pair) for pair in zip(sliced, expected, strict=True)))
    assert all(differs) or op in BLIND_TO_ZEROS


@pytest.mark.parametrize("op", list(rules))
def test_every_rule_states_its_law_and_can_be_tested(op):
    assert rules[op].op == op
    assert rules[op].law.strip()
    assert rules[op].samples


@pytest.mark.parametrize("op", [op for op in rules if rules[op].macs])
def test_macs_are_sums_of_products_of_letters(op):
    terms = [term.split() for term in rules[op].macs.split("+")]
    assert all(terms)
    assert all(name == "..." or name.isidentifier() for term in terms for name in term)


@pytest.mark.parametrize("op", [op for op in rules if rules[op].macs and ") -> (" in rules[op].law])
def test_macs_are_written_in_the_letters_of_the_equation(op):
    equation = parse(rules[op].law.partition(";")[0])
    dims = [dim for pattern in [*equation.operands.values(), *equation.outputs] for dim in pattern]
    known = {name for dim in dims for name in letters(dim)} | {"..."}
    assert set(rules[op].macs.replace("+", " ").split()) <= known


MULTIPLYING = [(op, sample) for op, sample in SAMPLES if Recording.of(sample).findings.macs]


def test_macs_are_counted_where_an_axis_is_contracted():
    contracting = {op for op, sample in SAMPLES if Recording.of(sample).findings.contracted}
    assert contracting <= {op for op, _ in MULTIPLYING}


@pytest.mark.parametrize("sample", [sample for _, sample in MULTIPLYING])
def test_macs_are_half_the_flops_that_pytorch_counts(sample):
    recording = Recording.of(sample)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        recording.model(None)
    terms = [term for terms in recording.findings.macs.values() for term in terms]
    macs = sum(np.prod([dim.size for dim in term]) for term in terms)
    assert macs > 0
    flops = counter.get_total_flops()
    assert 2 * macs == flops or (flops == 0 and macs == UNCOUNTED[sample])
