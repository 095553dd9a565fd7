"""Options of criteria: how members are joined and groups compared."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.errors import RequestError
from secateur.score import GroupView, MemberView, score
from secateur.score.aggregate import aggregates
from secateur.score.normalise import normalisers


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def _scores(net, **options):
    return score(net, couple_graph(capture(net, torch.zeros(1, 3))), sc.criterion("l2", **options)).by_group


JOINED = {
    "mean": lambda one, two: (one + two) / 2,
    "sum": lambda one, two: one + two,
    "max": torch.maximum,
    "prod": lambda one, two: (one * two).sqrt(),
}


@pytest.mark.parametrize("name", list(aggregates))
def test_members_are_joined(name, net):
    made, read = net[0].weight.double().norm(dim=1), net[2].weight.double().norm(dim=0)
    found = _scores(net, aggregate=name, normalise="none")["0"]
    torch.testing.assert_close(found, JOINED[name](made, read).detach())


COMPARED = {
    "none": lambda scores: scores,
    "mean": lambda scores: scores / scores.mean(),
    "max": lambda scores: scores / scores.max(),
    "gaussian": lambda scores: (scores - scores.mean()) / scores.std(correction=0),
    "size": lambda scores: scores / (3 + 1 + 4),
}


@pytest.mark.parametrize("name", list(normalisers))
def test_groups_are_made_comparable(name, net):
    plain = _scores(net, normalise="none")["0"]
    torch.testing.assert_close(_scores(net, normalise=name)["0"], COMPARED[name](plain))


@pytest.mark.parametrize("name", list(normalisers))
def test_normalising_keeps_the_order_and_stays_finite(name):
    member = MemberView("w", lambda: torch.zeros(4, 3), "aten.linear", "weight", False, 2)
    view = GroupView("fc", 4, (member,))
    for scores in (
        torch.tensor([3.0, 1.0, -2.0, 5.0]).double(),
        torch.zeros(4).double(),
        torch.ones(4).double(),
    ):
        found = normalisers[name](scores, view)
        assert torch.isfinite(found).all()
        assert torch.equal(found.argsort(stable=True), scores.argsort(stable=True))


def test_the_l2_norm_is_an_ln_norm(net):
    options = {"normalise": "none"}
    groups = couple_graph(capture(net, torch.zeros(1, 3)))
    two = score(net, groups, sc.criterion("ln", n=2, **options)).by_group
    one = score(net, groups, sc.criterion("ln", n=1.0, **options)).by_group
    for group in two:
        torch.testing.assert_close(
            two[group], score(net, groups, sc.criterion("l2", **options)).by_group[group]
        )
        torch.testing.assert_close(
            one[group], score(net, groups, sc.criterion("l1", **options)).by_group[group]
        )


def test_lamp_of_channels_without_ties_is_the_papers():
    rows = torch.randn(7, 3, dtype=torch.float64)
    squares = rows.square().sum(1)
    expected = [float(one / squares[squares >= one].sum()) for one in squares]
    lamp = sc.criterion("lamp").formula.formula
    assert lamp(rows).tolist() == pytest.approx(expected)


def test_a_channel_between_all_others_has_the_lowest_fpgm_score():
    rows = torch.cat([torch.randn(6, 2), torch.zeros(1, 2)])
    rows[:6] *= 5 / rows[:6].norm(dim=1, keepdim=True)
    rows[:6] = torch.cat([rows[:3], -rows[:3]]) + 10  # far from zero: not the smallest norm
    rows[6] = 10
    fpgm = sc.criterion("fpgm").formula.formula
    assert fpgm(rows.double()).argmin() == 6


def test_prune_takes_a_criterion_with_options(net):
    chosen = sc.criterion("ln", n=0.5, aggregate="max", normalise="max")
    result = sc.prune(net, torch.zeros(1, 3), ratio=0.5, criterion=chosen)
    assert result.verdict.exact


def test_a_callable_takes_a_normaliser(net):
    by_size = sc.criterion(lambda view: torch.ones(view.size), normalise="size")
    found = score(net, couple_graph(capture(net, torch.zeros(1, 3))), by_size).by_group
    assert found["0"].tolist() == pytest.approx([1 / 8] * 6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("l2", {"aggregate": "maximum"}, "unknown aggregate 'maximum'"),
        ("l2", {"normalise": "means"}, "unknown normaliser 'means'(.|\n)*did you mean 'mean'"),
        ("l2", {"n": 3}, "criterion l2 takes no option 'n'"),
        ("l2", {"loss": print}, "criterion l2 takes no loss"),
        ("jacobian", {"aggregate": "max"}, "criterion jacobian takes no aggregate, got 'max'"),
        ("jacobean", {}, "did you mean 'jacobian'"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(RequestError, match=message):
        sc.criterion(name, **options)


def test_an_order_below_zero_is_refused(net):
    with pytest.raises(RequestError, match="n of criterion ln is -1"):
        sc.prune(net, torch.zeros(1, 3), ratio=0.5, criterion=sc.criterion("ln", n=-1))


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_equal_scores_are_average_whatever_their_sum_rounds_to(count):
    equal = torch.full((count,), 0.1, dtype=torch.float64)
    assert normalisers["gaussian"](equal, None).tolist() == [0.0] * count


def test_both_parts_of_complex_weights_count():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                nn.Linear(*size, bias=False, dtype=torch.complex64) for size in ((3, 6), (6, 2))
            )

        def forward(self, x):
            return self.b(self.a(x)).abs()

    torch.manual_seed(0)
    net = Waves()
    found = score(
        net,
        couple_graph(capture(net, torch.zeros(1, 3, dtype=torch.complex64))),
        sc.criterion("l1", normalise="none", aggregate="sum"),
    ).by_group["a"]
    rows = [
        torch.view_as_real(net.a.weight).abs().sum((1, 2)),
        torch.view_as_real(net.b.weight).abs().sum((0, 2)),
    ]
    torch.testing.assert_close(found.float(), sum(rows).detach())
