import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import NoEffectWarning, RequestError
from secateur.select import select_exactly

NET = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 4, 1))
IMAGES = torch.zeros(1, 3, 8, 8)


def test_what_is_asked_to_stay_stays_and_nothing_else_goes():
    result = sc.prune(NET, IMAGES, keep={"0": [6, 1, 3]})
    assert result.plan.keep == {"0": (1, 3, 6)}
    assert torch.equal(result.model[0].weight, NET[0].weight[[1, 3, 6]])
    assert torch.equal(result.model[3].weight, NET[3].weight[:, [1, 3, 6]])
    assert result.verdict.exact
    assert str(result.plan.requested) == "keep={0: 3}"


def test_a_plan_takes_exact_indices_too():
    assert sc.plan(NET, IMAGES, keep={"0": (0, 7)}).keep == {"0": (0, 7)}


def test_keeping_everything_is_warned_of():
    with pytest.warns(NoEffectWarning, match="asks for nothing to be pruned"):
        sc.prune(NET, IMAGES, keep={"0": range(8)})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"nine": [0]}, "no group is called 'nine'"),
        ({"0": []}, "names 0 positions of group 0, which has 8"),
        ({"0": [1, 1]}, "names 2 positions of group 0"),
        ({"0": [-1, 2]}, "got: -1, 2 up to 2"),
        ({"0": [8]}, "from 0 to 7"),
        ({"3": [0]}, "which may not be cut\n  model output"),
    ],
)
def test_indices_that_make_no_sense_are_refused(keep, message):
    with pytest.raises(RequestError, match=message):
        sc.prune(NET, IMAGES, keep=keep)


def test_a_budget_beside_exact_indices_is_refused():
    with pytest.raises(RequestError, match="2 budgets were given: ratio, keep"):
        sc.prune(NET, IMAGES, ratio=0.5, keep={"0": [0]})


class Ties(nn.Module):
    """The two pieces of a chunk must keep equal counts."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        left, right = self.first(x).chunk(2, -1)
        return self.left(left), self.right(right)


def test_tied_groups_keep_equal_counts():
    groups = sc.couple(Ties(), torch.zeros(1, 3))
    ((names, _),) = groups.ties
    one, other = names
    with pytest.raises(RequestError, match="they must stay equal"):
        select_exactly(groups, {one: [0]})
    assert select_exactly(groups, {one: [0], other: [3]}).keep == {one: (0,), other: (3,)}
    assert sc.prune(Ties(), torch.zeros(1, 3), keep={one: [0], other: [3]}).verdict.exact
