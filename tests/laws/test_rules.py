"""The law of every operator rule: slicing first and computing then, or the other way round, is the same."""

from functools import cache

import numpy as np
import pytest
import torch
from corner_calls import CALLS
from corner_calls_more import MORE_CALLS
from replay import Recording, fewest
from torch.utils.flop_counter import FlopCounterMode

from secateur.coupling.rule import rules
from secateur.graph.axes import leaves
from secateur.graph.equation import letters, parse
from secateur.graph.node import refs_in

OPS = list(rules)
SAMPLES = [
    (op, sample) for op in rules for sample in rules[op].samples if not rules[op].law.startswith("barrier: ")
]
BARRIERS = [op for op in rules if rules[op].law.startswith("barrier: ")]

# Everything is protected: positions have numbers, or there is nothing but one axis of such positions.
NOTHING_FREE = {
    "aten.arange",
    "aten.bartlett_window",
    "aten.blackman_window",
    "aten.eye",
    "aten.fft_fftfreq",
    "aten.fft_rfftfreq",
    "aten.hamming_window",
    "aten.hann_window",
    "aten.kaiser_window",
    "aten.linspace",
    "aten.logspace",
    "aten.rand",
    "aten.randint",
    "aten.randn",
    "aten.randperm",
    "aten.range",
    "aten.scalar_tensor",
    "aten.tril_indices",
    "aten.triu_indices",
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
    "torch._grouped_mm(T(6, 8).float(), T(2, 8, 12).float(), offs=torch.tensor([2, 6]).int())": 6 * 8 * 12,
    "torchvision.ops.deform_conv2d(T(2, 3, 5, 5), T(2, 18, 3, 3), T(4, 3, 3, 3), T(4), mask=T(2, 9, 3, 3))": 2
    * 4
    * 3
    * 9
    * 9,
    "torchvision.ops.deform_conv2d(T(2, 6, 5, 5), T(2, 36, 3, 3), T(4, 3, 3, 3))": 2 * 4 * 3 * 9 * 9,
    "torch.ger(T(2), T(3))": 6,
    "torch.addr(T(2, 3), T(2), T(3))": 6,
    "torch.vdot(T(3), T(3))": 3,
    "torch.inner(T(3), T(3))": 3,
    "torch.linalg.vecdot(T(2, 3), T(3))": 6,
    "torch.linalg.vecdot(T(2, 3), T(2, 3), dim=0)": 6,
    "torch.addbmm(T(3, 5), T(2, 3, 4), T(2, 4, 5))": 2 * 3 * 4 * 5,
    "F.bilinear(T(2, 3), T(2, 4), T(5, 3, 4), T(5))": 2 * 5 * 3 * 4,
    "F.bilinear(T(3), T(4), T(5, 3, 4))": 5 * 3 * 4,
    "torch._trilinear(T(2, 3), T(2, 4), T(5, 3, 4), [1, 3], [1, 2], [0], [2, 3])": 2 * 5 * 3 * 4,
    "torch.conv_tbc(T(5, 2, 3), T(3, 3, 4), T(4), 1)": 3 * 3 * 5 * 2 * 4,
    "F.scaled_dot_product_attention(T(2, 4, 5), T(2, 4, 5), T(2, 4, 5), is_causal=True, scale=0.3)": (
        2 * 4 * 4 * 5 + 2 * 4 * 4 * 5
    ),
}

# The kernel wants rows of whole 16 bytes: four float32.
GRAIN = {"aten._grouped_mm": 4}

# A statistic that does not see zeros among these numbers, though it may see them among others.
BLIND_TO_ZEROS = {"aten.amin", "aten.amax", "aten.all", "aten.max", "aten.min"}


@cache
def recorded(sample):
    """A record of a sample; replaying it changes nothing in it."""
    return Recording.of(sample)


def _choices(recording, times=5, grain=1):
    rng = np.random.default_rng(0)
    kept = [
        keep
        for keep in recording.choices(rng, times)
        if recording.is_balanced(keep) and all(mask.sum() % grain == 0 for mask in keep.values())
    ]
    assert kept or not any(fewest(leaf) < leaf.size for leaf in recording.free)
    return kept


def _require_commutes(recording, grain=1):
    for keep in _choices(recording, grain=grain):
        sliced = recording.run(keep, sliced=True)
        expected = recording.sliced_outputs(recording.run(keep, sliced=False), keep)
        for got, wanted in zip(sliced, expected, strict=True):
            assert got.shape == wanted.shape, keep
            if not any(leaf.renormalised for leaf in keep):
                exact = {"rtol": 1e-9, "atol": 1e-12} if got.dtype != torch.float32 else {}
                torch.testing.assert_close(got, wanted, **exact, equal_nan=True)


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_free_axes_commute_with_the_operator(op, sample):
    recording = recorded(sample)
    assert not recording.findings.barriers
    assert bool(recording.free) == (op not in NOTHING_FREE)
    _require_commutes(recording, GRAIN.get(op, 1))


@pytest.mark.parametrize("op", BARRIERS)
def test_a_barrier_says_why_and_leaves_nothing_free(op):
    for sample in rules[op].samples:
        recording = recorded(sample)
        reasons = {recording.graph.nodes[at].op: why for at, why in recording.findings.barriers.items()}
        found = reasons.get(op) or reasons[f"{op}_"]
        assert found == rules[op].law.removeprefix("barrier: ")
        (node,) = (node for node in recording.graph.nodes if node.op in (op, f"{op}_"))
        touched = [ref.value for arg in node.args.values() for ref in refs_in(arg)]
        touched += [ref.value for ref in node.outputs if ref is not None]
        assert touched
        for value in touched:
            for dim in recording.findings.dims[value]:
                assert all(leaf.reason for leaf in leaves(dim))


@pytest.mark.parametrize("sample", CALLS + MORE_CALLS)
def test_free_axes_commute_at_the_corners_of_the_operators(sample):
    recording = recorded(sample)
    assert not recording.findings.barriers
    _require_commutes(recording)


def test_every_rule_is_reached_by_one_of_its_samples():
    unreached = []
    for op in OPS:
        ops = {node.op for sample in rules[op].samples for node in recorded(sample).graph.nodes}
        if op not in ops | {name.removesuffix("_") for name in ops}:
            unreached.append((op, sorted(ops)))
    assert not unreached


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_a_renormalised_axis_would_not_be_exact(op, sample):
    recording = recorded(sample)
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


MULTIPLYING = [(op, sample) for op, sample in SAMPLES if recorded(sample).findings.macs]


def test_macs_are_counted_where_an_axis_is_contracted():
    contracting = {op for op, sample in SAMPLES if recorded(sample).findings.contracted}
    assert contracting <= {op for op, _ in MULTIPLYING}


@pytest.mark.parametrize("sample", [sample for _, sample in MULTIPLYING])
def test_macs_are_half_the_flops_that_pytorch_counts(sample):
    recording = recorded(sample)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        recording.model(None)
    terms = [term for terms in recording.findings.macs.values() for term in terms]
    macs = sum(np.prod([dim.size for dim in term]) for term in terms)
    assert macs > 0
    flops = counter.get_total_flops()
    assert 2 * macs == flops or (flops == 0 and macs == UNCOUNTED[sample])
