"""Every operator in a network of its own: cut and right by numbers, or left whole with the reason.

The library's own proof runs too, but what is asserted here is a reference that uses none of it: `masked`.
"""

import copy
import re
from collections import Counter

import pytest
import torch
from cases import CASES
from masked import doubled, kept_positions, require_equal, run, runs, spread, ties, zeroed

import secateur as sc

WITHOUT_A_LINE = (
    "model input",
    "model output",
    "a constant tensor",
    "cut by whole blocks",
    "the cut model computes other numbers",
)
"""Reasons that no operator gives; all others name the operator, the module and the source line."""


def prune(case):
    torch.manual_seed(0)
    model, inputs = spread(case.make()).eval(), case.draw()
    return model, inputs, sc.prune(model, inputs, ratio=0.5, scope="local", seed=0)


def reasons_of(result, tensor):
    """Why the channels that a tensor makes, its first dim, were left whole."""
    groups = [group for group in result.groups if any(str(held) == f"{tensor}[0]" for held in group.members)]
    return "; ".join(group.reason for group in groups if group.reason)


def differ(one, two):
    return one.shape != two.shape or not torch.allclose(one, two)


def require_outcome(case, result):
    """The verdict, the sizes and the reasons are those of the table."""
    tensors = {
        **dict(result.model.named_parameters(remove_duplicate=False)),
        **dict(result.model.named_buffers()),
    }
    got = {name: tuple(tensors[name].shape) for name in case.kept}
    assert got == dict(case.kept), result.plan.reasons
    for tensor, fragment in case.reason.items():
        assert fragment in reasons_of(result, tensor), f"{tensor} is free, or left whole for another reason"
    for reason in result.plan.reasons.values():
        assert re.search(r"\.py:\d+", reason) or reason.startswith(WITHOUT_A_LINE), reason
    expected = ("exact", "renormalised") if case.outcome == "protected" else (case.outcome,)
    assert result.verdict.status in expected, str(result.verdict)


def require_right(case, model, inputs, result):
    """The cut network computes what the masked one does, and not what the original did.

    Also on more rows than it was cut with, if the original takes them. What was tied is tied.
    """
    kept = kept_positions(model, result.model)
    reference = zeroed(model, kept)
    if case.masked is not None:
        with torch.no_grad():
            case.masked(reference, kept)
    expected = run(reference, inputs)
    require_equal(expected, run(result.model, inputs))
    more = doubled(inputs)
    if runs(model, more):
        require_equal(run(reference, more), run(result.model, more))
    assert ties(result.model) == ties(model)
    assert any(differ(one, two) for one, two in zip(expected, run(model, inputs), strict=True))


@pytest.mark.parametrize("name", list(CASES))
def test_it_is_cut_and_right_or_left_whole_with_the_reason(name, request):
    case = CASES[name]
    if case.bug:
        request.applymarker(pytest.mark.xfail(reason=case.bug, strict=True))
    model, inputs, result = prune(case)
    require_right(case, model, inputs, result)
    require_outcome(case, result)


def test_the_table_is_whole():
    outcomes = Counter(case.outcome for case in CASES.values())
    assert set(outcomes) == {"exact", "renormalised", "protected"}
    assert len(CASES) >= 110
    assert all(case.kept for case in CASES.values())
    assert all(case.reason for case in CASES.values() if case.outcome == "protected")


@pytest.mark.parametrize("name", ["conv1d", "batch-norm", "softmax-over-channels", "flatten-of-maps"])
def test_the_reference_sees_a_cut_that_kept_other_channels(name):
    case = CASES[name]
    model, inputs, result = prune(case)
    wrong = copy.copy(result)
    object.__setattr__(wrong, "model", copy.deepcopy(result.model))
    with torch.no_grad():
        weight = wrong.model.b.weight
        weight.copy_(model.b.weight[: weight.shape[0], -weight.shape[1] :])
    with pytest.raises(AssertionError):
        require_right(case, model, inputs, wrong)
