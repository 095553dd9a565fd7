"""Units: what loses channels together, which go first, and what is given back."""

import numpy as np
import pytest
import torch

import secateur as sc
from secateur.costs.meter import CostMeter, Term
from secateur.coupling.call import Findings
from secateur.coupling.groups import Group, Groups
from secateur.errors import RequestError
from secateur.graph.axes import Axis
from secateur.graph.node import Graph
from secateur.score import Scores
from secateur.select import Floors, select_exactly
from secateur.select.meet import meet
from secateur.select.scope import scopes
from secateur.select.units import Unit, units_of
from secateur.select.widths import Widths


def groups_of(*sizes, multiples=None, ties=()):
    """Groups without a network: of these sizes, and multiples that kernels want."""
    made = tuple(
        Group(str(at), Axis(size), (), None, None, multiple)
        for at, (size, multiple) in enumerate(zip(sizes, multiples or (1,) * len(sizes), strict=True))
    )
    return Groups(Graph((), (), {}, (), ()), Findings(), made, ties)


def scores_of(*rows):
    return Scores("drawn", {str(at): torch.tensor(row).double() for at, row in enumerate(rows)}, {})


def test_of_equal_scores_the_first_channel_goes_first():
    (unit,) = units_of(groups_of(6), scores_of([2, 1, 2, 1, 1, 0]), Floors(0.0))
    assert unit.orders[0].tolist() == [5, 1, 3, 4, 0, 2]
    assert Widths(groups_of(6), [unit], 1, None).indices([4]) == {"0": (0, 2, 3, 4)}


def test_tied_groups_go_by_the_mean_of_their_scores_each_in_its_own_order():
    groups = groups_of(3, 3, ties=((("0", "1"), "a chunk"),))
    (unit,) = units_of(groups, scores_of([5, 1, 3], [2, 8, 4]), Floors(0.0))
    assert unit.names == ("0", "1")
    assert unit.scores.tolist() == [(1 + 2) / 2, (3 + 4) / 2, (5 + 8) / 2]
    assert [order.tolist() for order in unit.orders] == [[1, 2, 0], [0, 2, 1]]


def test_tied_groups_keep_what_the_kernels_of_all_of_them_want():
    groups = groups_of(24, 24, multiples=(4, 6), ties=((("0", "1"), "a chunk"),))
    (unit,) = units_of(groups, scores_of(range(24), range(24)), Floors(0.0))
    assert unit.multiple == 12
    assert Widths(groups, [unit], 1, None).kept([1]) == [24]
    assert Widths(groups, [unit], 8, None).steps == [24]


def test_exact_indices_are_refused_where_a_kernel_wants_a_multiple():
    groups = groups_of(12, multiples=(4,))
    with pytest.raises(RequestError, match=r"keep leaves 6 positions of group 0\n  keep a multiple of 4"):
        select_exactly(groups, {"0": range(6)})
    for count in (4, 8, 12):
        assert select_exactly(groups, {"0": range(count)}).keep == {"0": tuple(range(count))}


def test_a_real_kernel_that_wants_multiples_is_one_such():
    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.Parameter(torch.randn(2, 8, 16))
            self.down = torch.nn.Parameter(torch.randn(2, 16, 8))

        def forward(self, x):
            ends = torch.tensor([2, 6], dtype=torch.int32)
            inner = torch._grouped_mm(x, self.up, offs=ends)
            return torch._grouped_mm(inner.relu(), self.down, offs=ends)

    groups = sc.couple(Experts(), torch.randn(6, 8))
    (group,) = groups.prunable
    assert (group.size, group.multiple) == (16, 4)


@pytest.mark.parametrize(("scope", "expected"), [("global", [0, 5]), ("local", [4, 5])])
def test_under_local_a_unit_is_given_back_one_step_at_most(scope, expected):
    """The first unit costs nothing, so all of it would fit; its share shall stay like that of the other."""
    groups = groups_of(10, 10)
    dear = groups["1"].axis
    units = units_of(groups, scores_of(range(10), range(10)), Floors(0.0))
    meter = CostMeter([Term(lambda kept: 10.0 * kept.get(dear, 10), frozenset({dear}))])
    widths = Widths(groups, units, 1, meter)
    assert meet(widths, 50.0, [0, 1] * 9, is_even=scopes[scope].is_even, gives_back=True) == expected


def test_the_next_widths_are_the_neighbours_that_rounding_allows():
    unit = Unit(("0",), (np.arange(10),), np.arange(10.0), 1, (), 1)
    widths = Widths(groups_of(10), [unit], 4, None)
    assert [widths.smaller(0, count) for count in (10, 8, 4)] == [8, 4, None]
    assert [widths.larger(0, count) for count in (4, 5, 8, 10)] == [8, 8, 10, None]
