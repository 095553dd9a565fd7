"""Nothing silent: what was asked, what stays, and why, for every group."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import NoEffectWarning, RequestError


def _mlp(*widths):
    torch.manual_seed(0)
    layers = [nn.Linear(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1])


class Tied(nn.Module):
    """Two halves of one layer, of which batch-norm scales can score one only."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 16), nn.BatchNorm1d(8)
        self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 2)
        self.second, self.other, self.head = nn.Linear(3, 12), nn.BatchNorm1d(12), nn.Linear(12, 2)

    def forward(self, x):
        left, right = self.first(x).chunk(2, -1)
        return self.left(self.norm(left)), self.right(right), self.head(self.other(self.second(x)))


def test_the_partner_of_a_group_without_scores_is_named():
    net, x = Tied(), torch.randn(4, 3)
    result = sc.prune(net, x, ratio=0.5, criterion="bn-scale")
    named = {group.name for group in result.plan.groups} | set(result.plan.reasons)
    assert named == {group.name for group in sc.couple(net, x)}
    assert any("must keep as many channels as" in reason for reason in result.plan.reasons.values())


@pytest.mark.parametrize(
    ("options", "wanted", "reached"),
    [
        ({"channels": {"0": 0.5}, "round_to": 8}, 18, 20),
        ({"channels": {"0": 0.95}, "min_keep": 0.5}, 13, 18),
        ({"channels": {"0": 0.25}}, 21, 21),
    ],
)
def test_the_account_holds_what_was_asked_not_what_was_done(options, wanted, reached):
    result = sc.prune(_mlp(3, 12, 12, 2), torch.randn(2, 3), **options)
    account = result.plan.account
    assert (account.wanted, account.reached) == (wanted, reached)
    assert bool(account.notes) == (wanted != reached)
    assert all(note in str(result) for note in account.notes)


def test_a_pattern_that_fits_protected_groups_only_is_refused():
    with pytest.raises(RequestError, match=r"pattern '2' fits no group that can be cut"):
        sc.prune(_mlp(3, 12, 12, 2), torch.randn(2, 3), channels={"2": 0.5}, protect=["2.bias"])


@pytest.mark.parametrize(("min_keep", "kept"), [(0.55, 55), (0.07, 7), (0.29, 29)])
def test_a_floor_is_not_raised_by_rounding_errors(min_keep, kept):
    net = _mlp(3, 100, 2)
    result = sc.prune(net, torch.randn(2, 3), channels={"0": 0.99}, min_keep=min_keep)
    assert result.model[0].out_features == kept


def test_a_budget_that_is_not_used_up_is_told():
    net = _mlp(8, 48, 64, 96, 4)
    result = sc.prune(net, torch.randn(2, 8), macs=0.3, round_to=32, scope="local")
    assert result.plan.account.reached < 0.99 * result.plan.account.wanted
    assert "widths come in steps" in str(result)
    floored = sc.prune(net, torch.randn(2, 8), ratio=0.9, min_keep=0.3)
    assert "floors and rounding keep the rest" in str(floored)


def test_asking_for_all_that_there_is_only_warns():
    net, x = _mlp(3, 12, 2), torch.randn(2, 3)
    for nothing in ({"params": sum(p.numel() for p in net.parameters())}, {"channels": {"0": 0.0}}):
        with pytest.warns(NoEffectWarning, match="asks for nothing"):
            sc.prune(net, x, **nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5, "round_to": 2.5}, "round_to is 2.5"),
        ({"ratio": 0.5, "round_to": "8"}, "round_to is '8'"),
        ({"channels": ["0"]}, "channels is"),
        ({"keep": [0]}, "keep is"),
        ({"size_bytes": "1B"}, "allows 1, the smallest reachable"),
        ({"size_bytes": "0.0009k"}, "allows 1, the smallest reachable"),
    ],
)
def test_arguments_of_another_kind_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        sc.prune(_mlp(3, 12, 2), torch.randn(2, 3), **options)


def test_weights_that_are_not_finite_are_named_before_anything_else():
    net = _mlp(3, 12, 12, 2)
    with torch.no_grad():
        net[2].weight[0, 0] = float("nan")
    with pytest.raises(RequestError, match=r"(?s)hold NaN or infinity.*the first of 1: 2\.weight"):
        sc.prune(net, torch.randn(2, 3), ratio=0.5, criterion="random")


def test_a_criterion_that_gives_nan_is_the_culprit():
    with pytest.raises(RequestError, match=r"(?s)not finite for group 0.*mend the criterion"):
        sc.prune(
            _mlp(3, 12, 2),
            torch.randn(2, 3),
            ratio=0.5,
            criterion=lambda view: torch.full((12,), float("nan")),
        )


def test_kinds_of_numbers_that_are_no_plain_ones_are_taken():
    class Eighths(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
            held = torch.eye(16).to(torch.float8_e4m3fn)
            self.held = nn.Parameter(held, requires_grad=False)

        def forward(self, x):
            return self.last(self.first(x).relu() @ self.held.float())

    assert sc.prune(Eighths(), torch.randn(2, 3), ratio=0.5).verdict.exact
    net, x = _mlp(3, 12, 2), torch.randn(2, 3)
    one, other = (sc.prune(net, x, ratio=0.5, round_to=step).plan for step in (4, np.int64(4)))
    assert one.keep == other.keep


def test_lazy_layers_are_asked_to_run_first():
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(RequestError, match=r"(?s)have no shape yet.*run the model once"):
        sc.prune(net, torch.randn(2, 3), ratio=0.5)
