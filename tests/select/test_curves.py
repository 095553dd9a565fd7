"""The scope of equal slopes beside every choice of widths there is."""

from itertools import product

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.score import Scores
from secateur.select import select
from secateur.select.budget import Budget

X = torch.zeros(1, 6)


def _network(*widths):
    layers = [nn.Linear(one, two) for one, two in zip((6, *widths), (*widths, 3), strict=True)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("left", [0.3, 0.5, 0.7])
def test_no_other_widths_lose_much_less_at_the_cost(seed, left):
    groups = sc.couple(_network(12, 20, 8), X)
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(3, generator=generator, dtype=torch.float64) * 4 + 0.2
    errors = {
        group.name: one * torch.rand(group.size, generator=generator, dtype=torch.float64).sort().values ** 3
        for group, one in zip(groups.prunable, scale, strict=True)
    }
    selection = select(
        groups, Scores("by-hand", errors, {}), Budget.of(macs=left), scope="curves", min_keep=0.01
    )

    def lost(kept):
        return sum(
            float(one[: len(one) - count].sum()) for one, count in zip(errors.values(), kept, strict=True)
        )

    def macs(one, two, three):
        return 6 * one + one * two + two * three + 3 * three

    chosen = [len(selection.keep[name]) for name in errors]
    whole = macs(12, 20, 8)
    assert macs(*chosen) <= left * whole
    best = min(
        lost(kept) for kept in product(range(1, 13), range(1, 21), range(1, 9)) if macs(*kept) <= left * whole
    )
    assert lost(chosen) <= 1.15 * best + 0.02 * sum(float(one.sum()) for one in errors.values())
