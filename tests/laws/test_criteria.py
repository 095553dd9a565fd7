"""Laws that every criterion of the registry keeps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.errors import RequestError
from secateur.score import GroupView, MemberView, score, view_group
from secateur.score import criterion as criterion_module
from secateur.score.criterion import criteria

# `random` draws by position and does not look at the weights: that is its purpose.
READS_NOTHING = {"random"}
WEIGHTS = [name for name in criteria if criteria[name].needs == "weights"]
READING = [name for name in WEIGHTS if name not in READS_NOTHING]
# These compare a channel with the others of its group.
COMPARING = {"fpgm", "lamp"}
ALONE = [name for name in READING if name not in COMPARING]


def _member(tensor, rows, op="aten.conv2d", arg="weight", *, is_contracted=False, rank=4):
    return MemberView(tensor, lambda: rows, op, arg, is_contracted, rank)


def _view(channels, seed=0, change=lambda rows: rows):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(channels, rest, generator=generator) for rest in (9, 1, 1, 4)]
    made, scale, shift, read = (change(tensor) for tensor in rows)
    members = (
        _member("conv.weight", made),
        _member("norm.weight", scale, "aten.batch_norm", rank=1),
        _member("norm.bias", shift, "aten.batch_norm", "bias", rank=1),
        _member("head.weight", read, "aten.linear", is_contracted=True, rank=2),
    )
    return GroupView("conv", channels, members)


@pytest.mark.parametrize("name", READING)
@given(channels=st.integers(1, 12), seed=st.integers(0, 99))
def test_permuting_channels_permutes_scores(name, channels, seed):
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    plain = criteria[name].score(_view(channels, seed))
    permuted = criteria[name].score(_view(channels, seed, lambda rows: rows[order]))
    torch.testing.assert_close(permuted, plain[order])


@pytest.mark.parametrize("name", WEIGHTS)
@given(channels=st.integers(1, 12), seed=st.integers(0, 99))
def test_there_is_one_finite_score_for_each_channel(name, channels, seed):
    scores = criteria[name].score(_view(channels, seed))
    assert scores.shape == (channels,)
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_scores_are_repeatable(name):
    assert torch.equal(criteria[name].score(_view(6)), criteria[name].score(_view(6)))


@pytest.mark.parametrize("name", ALONE)
@given(channel=st.integers(0, 4), factor=st.floats(1.5, 100.0), seed=st.integers(0, 99))
def test_larger_weights_have_larger_scores(name, channel, factor, seed):
    def enlarge(rows):
        return torch.cat([rows[:channel], rows[channel : channel + 1] * factor, rows[channel + 1 :]])

    before = criteria[name].score(_view(5, seed))
    after = criteria[name].score(_view(5, seed, enlarge))
    others = torch.arange(5) != channel
    assert after[channel] > before[channel]
    torch.testing.assert_close(after[others], before[others])


@pytest.mark.parametrize("name", READING)
def test_the_sign_of_a_weight_does_not_matter(name):
    torch.testing.assert_close(
        criteria[name].score(_view(5)), criteria[name].score(_view(5, change=lambda rows: -rows))
    )


@pytest.mark.parametrize("name", READING)
def test_zero_weights_score_zero(name):
    assert not criteria[name].score(_view(5, change=torch.zeros_like)).any()


@pytest.mark.parametrize("name", WEIGHTS)
def test_scores_in_pieces_are_those_of_the_whole(name, monkeypatch):
    """A formula that says it takes every row by itself does."""
    whole = criteria[name].score(_view(7))
    monkeypatch.setattr(criterion_module, "_CHUNK", 20)
    torch.testing.assert_close(criteria[name].score(_view(7)), whole)


def test_random_scores_depend_on_the_seed_and_the_group():
    draw = criteria["random"].score
    views = [GroupView("a", 8, (), 0), GroupView("a", 8, (), 1), GroupView("b", 8, (), 0)]
    assert len({tuple(draw(view).tolist()) for view in views}) == 3


class Branches(nn.Module):
    """A concatenation, a flatten and a batch norm: dims that are sums and products of the channels."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(9)
        self.join = nn.Conv2d(9, 6, 3)
        self.head = nn.Linear(6 * 2 * 2, 2)

    def forward(self, x):
        joined = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(self.join(joined).flatten(1))


@pytest.fixture(scope="module")
def branches():
    torch.manual_seed(0)
    model = Branches()
    nn.init.normal_(model.norm.weight)
    return model, couple_graph(capture(model, torch.zeros(1, 3, 4, 4)))


def test_a_channel_behind_a_flatten_is_scored_with_all_its_pixels(branches):
    model, groups = branches
    members = {member.tensor: member.rows for member in view_group(groups["join"], model).members}
    assert torch.equal(members["join.weight"], model.join.weight.reshape(6, -1))
    expected = model.head.weight.reshape(2, 6, 4).permute(1, 0, 2).reshape(6, -1)
    assert torch.equal(members["head.weight"].sort(1).values, expected.sort(1).values)


def test_a_channel_of_a_concatenation_is_scored_with_its_own_slice(branches):
    model, groups = branches
    members = {member.tensor: member.rows for member in view_group(groups["right"], model).members}
    assert torch.equal(members["norm.weight"], model.norm.weight[4:, None])
    expected = model.join.weight[:, 4:].transpose(0, 1).reshape(5, -1)
    assert torch.equal(members["join.weight"], expected)


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_criterion_scores_sums_and_products(name, branches):
    model, groups = branches
    scores = score(model, groups, name)
    assert {group: len(values) for group, values in scores.by_group.items()} == (
        {"left": 4, "right": 5} if name == "bn-scale" else {"left": 4, "right": 5, "join": 6}
    )
    assert set(scores.skipped) == ({"join"} if name == "bn-scale" else set())
    assert name in str(scores)


def test_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    model.again = model[0]
    groups = couple_graph(capture(model[:3], torch.zeros(1, 4)))
    assert [member.tensor for member in view_group(groups["0"], model).members] == ["0.weight", "2.weight"]


def test_a_skipped_group_has_the_reason(branches):
    model, groups = branches
    assert score(model, groups, "bn-scale").skipped == {
        "join": "criterion bn-scale needs a batch-norm scale, this group has none"
    }


def test_a_callable_is_a_criterion(branches):
    model, groups = branches
    scores = score(model, groups, lambda view: view.weights[0].abs().amax(1))
    expected = model.left.weight.abs().amax((1, 2, 3)).double()
    torch.testing.assert_close(scores.by_group["left"], expected)


def test_scores_of_the_wrong_shape_are_refused(branches):
    with pytest.raises(RequestError, match=r"returned shape \[1\] for group \w+ of \d channels"):
        score(*branches, lambda view: torch.zeros(1))


def test_numbers_that_are_not_finite_are_refused_with_the_tensor():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight[0, 1] = float("nan")
    groups = couple_graph(capture(model, torch.zeros(1, 4)))
    with pytest.raises(RequestError, match=r"not finite for group 0\n  tensors with such values: 1.weight"):
        score(model, groups, "l2")


def test_an_unknown_criterion_gets_a_suggestion(branches):
    with pytest.raises(RequestError, match=r"unknown criterion 'bn-scales'(.|\n)*did you mean 'bn-scale'\?"):
        score(*branches, "bn-scales")
