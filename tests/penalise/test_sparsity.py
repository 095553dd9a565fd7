import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.penalise import penalties
from secateur.penalise.sparsity import (
    GAMMA_EDGES,
    Outlook,
    batch_norm_scales,
    gamma_histogram,
    near_zero_share,
    reachable_shift,
)


def test_near_zero_share_counts_over_all_scales():
    scales = [torch.tensor([0.0, 0.009]), torch.tensor([-0.009, 0.011, 1.0, -1.0])]
    assert near_zero_share(scales) == 0.5
    assert near_zero_share(scales, threshold=0.02) == pytest.approx(4 / 6)
    assert near_zero_share([]) == 0


@given(st.lists(st.floats(-3, 3, width=32), max_size=30))
def test_histogram_counts_every_scale_once_in_its_bin(values):
    counts = gamma_histogram([torch.tensor(values)])
    assert len(counts) == len(GAMMA_EDGES) - 1
    assert sum(counts) == len(values)
    for bin_, count in enumerate(counts[:-1]):
        assert count == sum(GAMMA_EDGES[bin_] <= abs(value) < GAMMA_EDGES[bin_ + 1] for value in values)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_reachable_shift_is_what_sgd_does_without_a_task(momentum, weight_decay):
    scale = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    penalty = penalties["bn-l1"]([scale], strength=1e-3)
    optimizer = torch.optim.SGD([scale], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    rates = [0.02] * 400 + [0.002] * 400
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        penalty.step()
        optimizer.step()
    moved = 0.5 - scale.item()
    assert scale.item() > 0  # the law holds until the scale arrives
    shift = reachable_shift(rates, 1e-3, momentum=momentum, weight_decay=weight_decay)
    assert shift == pytest.approx(moved, rel=0.03)  # momentum takes ten steps to build up


@given(st.floats(0, 10), st.floats(0, 10))
def test_more_shift_never_promises_less_and_easy_tasks_give_more(one, other):
    low, high = (Outlook(1e-3, shift).expected_shares for shift in sorted([one, other]))
    for demanding, easy in (low, high):
        assert 0 <= demanding <= easy <= 1
    assert low[0] <= high[0]
    assert low[1] <= high[1]


def test_a_short_run_at_the_papers_strength_is_warned_of():
    rates = [0.1] * 1407 + [0.01] * 703 + [0.001] * 703  # 3 epochs of 60,000 images at batch 64
    weak, strong = (Outlook(s, reachable_shift(rates, s)) for s in (1e-4, 5e-3))
    assert weak.expected_shares == (0, 0)
    assert "pruning 70 % lies beyond s=0.0001" in weak.warning(0.7)
    assert strong.warning(0.7) is None
    assert weak.warning(0.0) is None
    assert "s=0.0001" in str(weak)


def test_batch_norm_scales_lists_shared_ones_once_and_skips_those_without():
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(shared, nn.BatchNorm2d(4, affine=False), nn.LayerNorm(4), shared, nn.BatchNorm1d(2))
    assert [len(scale) for scale in batch_norm_scales(model)] == [4, 2]
