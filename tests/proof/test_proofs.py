"""The proofs catch what is wrong on purpose: wrong rules, wrong plans, wrong cuts; right ones pass."""

import copy
from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture import capture
from secateur.capture.recording import Moment, record
from secateur.coupling import couple_graph
from secateur.coupling.rule import rules
from secateur.errors import CutError, RequestError
from secateur.graph.axes import product, resolve
from secateur.graph.keep import Kept
from secateur.graph.unify import factor
from secateur.plans.making import make_plan
from secateur.plans.plan import PlanGroup
from secateur.proof import Verdict, compare_records, kept_by, verify
from secateur.proof.drawing import randomised


@pytest.fixture
def break_rule(monkeypatch):
    """Replace what the rule of an operator says."""

    def replace_apply(op, apply):
        monkeypatch.setitem(rules._entries, op, replace(rules[op], apply=apply))

    return replace_apply


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 4, 2)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


class Gate(nn.Module):
    """A softmax over the channels."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.softmax(self.first(x), 1))


class Shuffle(nn.Module):
    """Groups of channels are interleaved by view and transpose."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.last(x.reshape(batch, channels, height, width))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x):
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


IMAGE, ROW = torch.randn(2, 3, 4, 4), torch.randn(2, 4)
RIGHT = [
    (Flat, IMAGE),
    (Gate, ROW),
    (Shuffle, IMAGE),
    (Joined, ROW),
    (nets.Residual, torch.randn(2, 3, 6, 6)),
]


@pytest.mark.parametrize(("make", "x"), RIGHT)
def test_right_rules_pass(make, x):
    result = sc.prune(nets.randomise(make()), x, ratio=0.4, scope="local")
    assert result.verdict.passed
    assert result.verdict.relative_error < 1e-12
    assert result.verdict.nodes == len(result.groups.graph.nodes)


def channel_last(call):
    """Wrong: the pixels run slower than the channels."""
    batch, channels, height, width = call["self"]
    return [[batch, product(height, width, channels)]]


def test_a_flatten_taken_for_channel_last_is_caught(break_rule):
    break_rule("aten.flatten", channel_last)
    with pytest.raises(RequestError, match=r"conv: .* other numbers .* first at aten.flatten"):
        sc.prune(nets.randomise(Flat()), IMAGE, ratio=0.5)


def test_a_softmax_taken_for_element_wise_is_caught(break_rule):
    break_rule("aten.softmax", lambda call: [call["self"]])
    with pytest.raises(RequestError, match=r"first: .* other numbers .* first at aten.softmax"):
        sc.prune(nets.randomise(Gate()), ROW, ratio=0.5)


def test_a_concatenation_in_the_wrong_order_is_caught(break_rule):
    right = rules["aten.cat"].apply

    def swapped(call):
        ((batch, joined),) = right(call)
        return [[batch, type(resolve(joined))(resolve(joined).terms[::-1])]]

    break_rule("aten.cat", swapped)
    with pytest.raises(RequestError, match=r"left: .* other numbers .* first at aten.cat"):
        sc.prune(nets.randomise(Joined()), ROW, channels={"left": 0.5})


class Heads(nn.Module):
    """Four heads and their width."""

    def __init__(self, width=12):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x):
        heads = self.first(x).view(x.shape[0], 4, -1)
        return self.last((heads * 2).flatten(1))


def test_a_product_in_the_wrong_order_is_caught_though_all_shapes_fit(break_rule):
    def swapped(call):
        batch, width = call["self"]
        outer, inner = factor(width, 4)
        return [[batch, inner, outer]]

    right = sc.prune(nets.randomise(Heads()), ROW, ratio=0.5)
    assert right.verdict.exact
    break_rule("aten.view", swapped)
    with pytest.raises(RequestError, match=r"first: .* other numbers"):
        sc.prune(nets.randomise(Heads()), ROW, ratio=0.5)


def test_an_unchecked_cut_is_not_proven(break_rule):
    break_rule("aten.flatten", channel_last)
    assert sc.prune(nets.randomise(Flat()), IMAGE, ratio=0.5, check=False).verdict is None


def _solved(model, x, keep):
    groups = couple_graph(capture(model, x))
    return groups, make_plan(model, groups, keep)


def test_a_plan_with_other_indices_fails_the_verdict():
    model = nets.randomise(nets.Residual())
    x = torch.randn(2, 3, 6, 6)
    groups, plan = _solved(model, x, {"inner": (0, 1, 2), "stem": tuple(range(8))})
    assert verify(model, plan.apply(model), x, groups, plan).exact
    wrong = plan.model_copy(
        update={
            "groups": tuple(
                PlanGroup(name=group.name, size=group.size, keep=(3, 4, 5))
                if group.name == "inner"
                else group
                for group in plan.groups
            )
        }
    )
    verdict = verify(model, wrong.apply(model), x, groups, plan)
    assert verdict.status == "failed"
    assert verdict.relative_error > 1e-3
    assert "differ by" in verdict.error


@pytest.mark.parametrize(
    "tensor", ["stem.weight", "norm.running_mean", "inner.bias", "outer.weight", "head.bias"]
)
def test_one_wrong_number_in_the_cut_model_fails_the_verdict(tensor):
    model = nets.randomise(nets.Residual())
    x = torch.randn(2, 3, 6, 6)
    groups, plan = _solved(model, x, {"inner": (0, 2, 5), "stem": (1, 2, 3, 7)})
    cut = plan.apply(model)
    with torch.no_grad():
        {**dict(cut.named_parameters()), **dict(cut.named_buffers())}[tensor].view(-1)[0].add_(1e-3)
    assert not verify(model, cut, x, groups, plan).passed


def test_wrong_shapes_fail_the_verdict():
    model = nets.randomise(nets.Residual())
    x = torch.randn(2, 3, 6, 6)
    groups, plan = _solved(model, x, {"inner": (0, 2, 5)})

    class Wider(type(plan)):
        def apply(self, model):
            cut = super().apply(model)
            cut.head = nn.Linear(cut.head.in_features, 4).to(cut.head.weight)
            return cut

    verdict = verify(model, plan.apply(model), x, groups, Wider(**dict(plan)))
    assert verdict.status == "failed"
    assert "aten.linear" in verdict.error


def test_nan_fails_the_verdict():
    model = nets.randomise(nets.Residual())
    x = torch.randn(2, 3, 6, 6)
    groups, plan = _solved(model, x, {"inner": (0, 2, 5)})
    broken = plan.apply(model)
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    assert not verify(model, broken, x, groups, plan).passed


def test_random_values_show_what_the_real_ones_hide():
    """All weights zero: any cut equals any other, until the parameters are drawn."""
    model = Flat()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    groups, plan = _solved(model, IMAGE, {"conv": (0, 1)})
    other = make_plan(model, groups, {"conv": (2, 3)})

    class Wrong(type(plan)):
        def apply(self, model):
            return other.apply(model)

    assert verify(model, plan.apply(model), IMAGE, groups, plan).exact
    assert verify(model, other.apply(model), IMAGE, groups, Wrong(**dict(plan))).relative_error > 1e-3


def test_randomised_models_are_new_and_sound():
    model = nets.Residual()
    before = copy.deepcopy(model.state_dict())
    drawn = randomised(model, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert drawn.norm.num_batches_tracked.dtype == torch.int64
    assert (drawn.norm.running_var > 0).all()
    assert drawn.head.weight.dtype == torch.float64
    assert not torch.equal(drawn.stem.weight, model.stem.weight.double())
    assert torch.equal(drawn.stem.weight, randomised(model, 3).stem.weight)


def test_ties_stay_tied_in_a_randomised_model():
    drawn = randomised(nets.Tied(), 0)
    assert drawn.one.weight is drawn.two.weight


# By shape.


def _deviation(model, x, keep):
    groups, plan = _solved(model, x, keep)
    cut_graph, failure = record(plan.apply(model), x, groups.graph.substrate)
    masks = {groups[name].axis: np.isin(np.arange(groups[name].size), kept) for name, kept in keep.items()}
    return compare_records(groups, Kept(masks), cut_graph, failure), groups


def test_a_constant_view_deviates_at_its_node_module_and_line():
    deviation, groups = _deviation(Heads(12), ROW, {"first": (0, 1)})
    assert deviation.node.op == "aten.view"
    assert (
        deviation.what
        == "the cut model stops: RuntimeError: shape '[2, 4, -1]' is invalid for input of size 12"
    )
    assert "aten.view (node 1) at proof/test_proofs.py:" in str(deviation)
    assert deviation.suspects == (groups["first"].axis,)


def test_a_constant_view_that_runs_deviates_by_its_literal():
    deviation, groups = _deviation(Heads(16), ROW, {"first": (0, 1)})
    assert deviation.what == "argument size.1 is 4 where 2 is predicted"
    assert deviation.suspects == (groups["first"].axis,)


@pytest.mark.parametrize("width", [12, 16])
def test_a_constant_view_keeps_its_heads_and_loses_width(width):
    result = sc.prune(nets.randomise(Heads(width)), ROW, ratio=0.5)
    assert result.verdict.exact
    assert result.model.first.out_features % 4 == 0
    assert result.model.first.out_features < width
    assert "the model's code does not follow a cut" in result.plan.reasons["first"]


def test_a_scale_from_a_runtime_size_deviates_though_the_model_runs():
    deviation, _ = _deviation(nets.RuntimeScale(), ROW, {"first": (0, 1)})
    assert deviation.node.op == "aten.div"
    assert "argument other is" in deviation.what
    assert "nets.py:" in str(deviation)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"core": Heads()})

    def forward(self, x):
        return self.inner["core"](x)


def test_a_deviation_names_the_innermost_module():
    deviation, _ = _deviation(Deep(), ROW, {"inner.core.first": (0, 1)})
    assert "in inner.core at" in str(deviation)


class Looping(nn.Module):
    """Makes as many calls as there are channels."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        for _ in range(x.shape[1]):
            x = x.tanh()
        return self.last(x)


def test_another_number_of_calls_is_a_deviation():
    deviation, _ = _deviation(Looping(), ROW, {"first": (0, 1)})
    assert deviation.what == "the cut model calls aten.linear"


def test_no_deviation_where_the_model_follows():
    deviation, _ = _deviation(nets.Residual(), torch.randn(2, 3, 6, 6), {"inner": (0, 3), "stem": (1, 2)})
    assert deviation is None


class Product(nn.Module):
    """Two branches are multiplied: if one is cut to a single channel, it is broadcast and all runs on."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.first(x) * self.second(x))


@pytest.mark.parametrize("left", [1, 2])
def test_a_cut_that_broadcasts_deviates_by_the_shape_of_its_result(left):
    model = Product()
    groups, plan = _solved(model, ROW, {"first": (0, 3)})
    cut = plan.apply(model)
    with torch.no_grad():
        cut.second.weight, cut.second.bias = (
            nn.Parameter(tensor[:left].clone()) for tensor in (cut.second.weight, cut.second.bias)
        )
    cut_graph, failure = record(cut, ROW, groups.graph.substrate)
    assert failure is None
    deviation = compare_records(groups, kept_by(plan, groups), cut_graph)
    if left == 2:
        assert deviation is None
    else:
        assert deviation.what == "shape is [2, 1] where [2, 2] is predicted"
        assert deviation.node.op == "aten.linear"
        assert deviation.suspects == (groups["first"].axis,)


def test_a_model_that_cannot_follow_at_all_is_refused_with_reasons():
    with pytest.raises((RequestError, CutError), match=r"the cut model calls aten\.linear"):
        sc.prune(Looping(), ROW, ratio=0.5)


# Data-dependent control flow.


def test_control_flow_on_numbers_is_recorded_on_real_tensors_and_proven():
    result = sc.prune(nets.randomise(nets.Branching()), ROW, ratio=0.5)
    assert result.verdict.exact
    assert result.groups.graph.substrate == "real"


class Fragile(nn.Module):
    """Takes another path as soon as the numbers change."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.calls = 0

    def forward(self, x):
        hidden = self.first(x)
        return self.last(hidden.relu() if float(x.sum()) == 7.0 else hidden.tanh())


def test_a_model_whose_path_depends_on_numbers_is_proven_on_the_path_that_it_takes():
    x = torch.zeros(2, 4)
    x[0, 0] = 7
    result = sc.prune(nets.randomise(Fragile()), x, ratio=0.5)
    assert result.verdict.exact
    assert result.verdict.limits == (
        "its path is another one on inputs of the other sign, which is proven, too",
    )


# Verdict.


def test_a_verdict_is_exact_renormalised_or_failed():
    exact = Verdict(1e-16, 1e-9, nodes=3)
    renormalised = Verdict(1e-16, 1e-9, ("softmax", "norm"), 3)
    failed = Verdict(1.0, 1e-9, failure="outputs differ")
    assert (exact.status, renormalised.status, failed.status) == ("exact", "renormalised", "failed")
    assert [(v.exact, v.renormalised, v.passed) for v in (exact, renormalised, failed)] == [
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ]
    assert failed.error == "outputs differ"
    assert exact.error is None
    assert str(failed) == "failed: outputs differ"
    assert "softmax and 1 more" in str(renormalised)


class Packed(nn.Module):
    """Attention that packs its heads, and an image that is packed into a row: no call where one is left."""

    def __init__(self, heads):
        super().__init__()
        self.stem, self.qkv, self.out = (
            nn.Linear(5, 24),
            nn.Linear(24, 3 * 8 * heads),
            nn.Linear(8 * heads, 3),
        )

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.stem(x)).view(batch, length, 3, -1, 8).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        made = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(made.transpose(1, 2).contiguous().view(batch, length, -1))


@pytest.mark.parametrize("heads", [2, 4])
def test_a_cut_to_one_head_leaves_out_what_pytorch_then_need_not_pack(heads):
    model, x = nets.randomise(Packed(heads)), torch.randn(1, 7, 5)
    result = sc.prune(model, x, ratio=0.99, scope="local", min_keep=0.01)
    assert result.model.out.in_features == 8
    assert result.verdict.passed
    nodes = [
        sum(node.op == "aten.contiguous" for node in capture(one, x).nodes) for one in (model, result.model)
    ]
    assert nodes[0] > nodes[1]


class Asking(nn.Module):
    """Looks at the type of its numbers, and knows float32 only, or does something else in it."""

    def __init__(self, way):
        super().__init__()
        self.way, self.inner, self.head = way, nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.inner(x)
        if self.way == "refuses":
            assert x.dtype == torch.float32, "float32, please"
        scale = {torch.float32: 2.0}[x.dtype] if self.way == "looks up" else 1.0
        if self.way == "calls more" and x.dtype == torch.float32:
            x = x.clamp(-100, 100)
        return self.head(x.relu() * scale)


@pytest.mark.parametrize("way", ["refuses", "looks up", "calls more"])
def test_a_model_that_is_another_one_in_float64_is_proven_in_float32(way):
    result = sc.prune(Asking(way).eval(), torch.randn(2, 5), ratio=0.5)
    assert result.verdict.exact
    assert result.verdict.relative_error < 1e-4
    assert result.verdict.limits[0].startswith("proven in float32, as in float64: ")


class Speaking(nn.Module):
    """As a voice that draws how long it speaks, in several ways."""

    def forward(self, x):
        long = torch.randn(9).abs().sum() * 9 + torch.empty(3).uniform_().sum() * 9 + torch.randint(99, (1,))
        return x[torch.arange(int(long)) % x.shape[0]]


def test_records_draw_the_same_and_touch_nobody_elses_numbers():
    def length(seed):
        graph, failure = record(Speaking(), torch.randn(5, 4), "real", moment=Moment(seed=seed))
        assert failure is None
        return next(node.args["end"] for node in graph.nodes if node.op == "aten.arange")

    assert len({length(seed) for seed in range(6)}) > 1
    assert len({length(0) for _ in range(4)}) == 1
    x, state = torch.randn(5, 4), torch.get_rng_state()
    record(Speaking(), x, "real")
    assert torch.equal(state, torch.get_rng_state())
