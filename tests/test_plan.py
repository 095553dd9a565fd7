"""The plan as a file: complete, strict, and bound to its architecture."""

import json
import sys

import nets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import secateur as sc
from secateur.architecture import tensor_shapes
from secateur.asking import Ask
from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.cut import Followed
from secateur.errors import CheckpointError, RequestError
from secateur.graph.origin import Field
from secateur.plans.making import identity_plan, make_plan
from secateur.plans.plan import Request

X = torch.randn(2, 3, 6, 6)


@pytest.fixture(scope="module")
def solved():
    model = nets.randomise(nets.Residual())
    return model, couple_graph(capture(model, X))


keeps = st.fixed_dictionaries(
    {
        "stem": st.sets(st.integers(0, 7), min_size=1).map(lambda kept: tuple(sorted(kept))),
        "inner": st.sets(st.integers(0, 5), min_size=1).map(lambda kept: tuple(sorted(kept))),
    }
)


@given(keeps)
def test_a_plan_survives_json_and_cuts_what_it_says(solved, keep):
    model, groups = solved
    plan = make_plan(model, groups, keep, requested=Request(kind="by hand"))
    again = sc.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.keep == keep
    cut = again.apply(model)
    stem, inner = list(keep["stem"]), list(keep["inner"])
    assert torch.equal(cut.inner.weight, model.inner.weight[inner][:, stem])
    assert torch.equal(cut.head.weight, model.head.weight.view(5, 8, 4)[:, stem].reshape(5, -1))
    assert cut(X).shape == (2, 5)
    assert plan.achieved == pytest.approx(1 - (len(stem) + len(inner)) / 14)


def test_a_plan_needs_neither_groups_nor_a_record(solved):
    model, groups = solved
    text = make_plan(model, groups, {"inner": (1, 2)}).to_json()
    cut = sc.Plan.from_json(text).apply(nets.Residual())
    assert cut.inner.out_channels == 2


def test_a_plan_says_how_it_was_made_and_what_was_left_alone(solved):
    model, groups = solved
    plan = make_plan(
        model,
        groups,
        {"inner": (1, 2)},
        requested=Request(kind="ratio", value=0.7),
        reasons={"head": "model output"},
    )
    assert plan.model == "Residual"
    assert plan.params == 903
    assert plan.reasons == {"head": "model output"}
    assert str(plan).splitlines() == [
        "plan for Residual: ratio=0.7, 66.7% of the channels removed",
        "  inner: 6 -> 2",
    ]
    assert json.loads(plan.to_json())["tensors"]["outer.weight"] == [8, "inner", 1, 1]


def test_products_and_sums_are_written_as_such():
    groups = couple_graph(capture(nets.Residual(), X))
    plan = make_plan(nets.Residual(), groups, {"stem": (0,)})
    assert json.loads(plan.to_json())["tensors"]["head.weight"] == [5, {"product": ["stem", 2, 2]}]
    assert json.loads(plan.to_json())["attributes"]["head"] == {"in_features": {"product": ["stem", 2, 2]}}


def test_a_group_that_stays_whole_cuts_nothing(solved):
    model, groups = solved
    plan = make_plan(model, groups, {"inner": tuple(range(6))})
    assert not plan.tensors
    assert plan.achieved == 0
    states = zip(plan.apply(model).state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in states)


def test_a_changed_copy_of_a_plan_cuts_by_its_own_indices(solved):
    """What a plan computed from its groups once is not carried over to a copy with other groups."""
    model, groups = solved
    plan = make_plan(model, groups, {"inner": (0, 1, 2)})
    assert torch.equal(plan.apply(model).inner.bias, model.inner.bias[:3])
    other = make_plan(model, groups, {"inner": (3, 4, 5)})
    changed = plan.model_copy(update={"groups": other.groups})
    assert torch.equal(changed.apply(model).inner.bias, model.inner.bias[3:])


def test_a_plan_is_frozen(solved):
    plan = make_plan(*solved, {"inner": (0,)})
    with pytest.raises(ValueError, match="frozen"):
        plan.model = "other"


def test_another_architecture_is_refused_with_the_first_difference(solved):
    plan = make_plan(*solved, {"inner": (0,)})
    other = nets.Residual()
    other.inner = torch.nn.Conv2d(8, 7, 3)
    with pytest.raises(CheckpointError) as caught:
        plan.apply(other)
    message = str(caught.value)
    assert message.startswith("the plan was made for Residual (903 parameters), got Residual (")
    assert "inner.weight is [7, 8, 3, 3], the plan expects [6, 8, 3, 3]" in message


def test_a_cut_model_is_not_cut_again_by_the_same_plan(solved):
    model, groups = solved
    plan = make_plan(model, groups, {"inner": (0, 1)})
    with pytest.raises(CheckpointError, match=r"first difference: inner\.weight"):
        plan.apply(plan.apply(model))


@pytest.mark.parametrize(
    ("given", "kind", "value", "is_share"),
    [
        ({"ratio": 0.3}, "ratio", 0.3, False),
        ({"ratio": 0}, "ratio", 0, False),
        ({"macs": 0.5}, "macs", 0.5, True),
        ({"macs": 1}, "macs", 1, True),
        ({"params": 1_234_567}, "params", 1_234_567, False),
        ({"params": 2e10}, "params", 2e10, False),
        ({"memory": "2MiB"}, "memory", 2097152, False),
        ({"size_bytes": "1e-05"}, "size_bytes", 1e-5, True),
        ({"latency_ms": 0.6}, "latency_ms", 0.6, False),
        ({"latency_ms": "60%"}, "latency_ms", 0.6, True),
    ],
)
def test_a_plan_holds_its_budget_as_data_and_reads_older_ones_from_their_text(
    solved, given, kind, value, is_share
):
    ask = Ask.of(**given)
    plan = make_plan(*solved, {"inner": (0,)}, requested=ask.request)
    written = json.loads(plan.to_json())["requested"]
    assert (written["kind"], written["value"], written["is_share"]) == (kind, value, is_share)
    assert str(plan.requested) == str(ask.budget)
    older = sc.Plan.from_json(_edited(plan, requested=str(ask.budget)))
    assert older == sc.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"channels": {"layer4.*": 0.5, "stem": 0.25}}, "channels={'layer4.*': 0.5, 'stem': 0.25}"),
        ({"keep": {"features.0": (1, 2), "head": (0,)}}, "keep={features.0: 2, head: 1}"),
    ],
)
def test_budgets_by_group_are_data_too(solved, given, text):
    plan = make_plan(*solved, {"inner": (0,)}, requested=Ask.of(**given).request)
    assert str(plan.requested) == text
    older = sc.Plan.from_json(_edited(plan, requested=text))
    assert older == plan
    assert set(older.requested.parts) == set(*given.values())


@pytest.mark.parametrize("text", ["", "nothing", "the channels that masks make superfluous", "by hand: a=b"])
def test_words_stay_words(solved, text):
    plan = sc.Plan.from_json(_edited(make_plan(*solved, {"inner": (0,)}), requested=text))
    assert (str(plan.requested), plan.requested.value) == (text, None)


def _edited(plan, **changes):
    return json.dumps(json.loads(plan.to_json()) | changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: "",
        lambda plan: "{",
        lambda plan: "[]",
        lambda plan: '{"weights": 1}',
        lambda plan: plan.to_json()[:-40],
        lambda plan: _edited(plan, schema_version=99),
        lambda plan: _edited(plan, surprise=1),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 6, "keep": []}]),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 6, "keep": [2, 1]}]),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 6, "keep": [1, 1]}]),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 6, "keep": [5, 6]}]),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 6, "keep": [-1, 2]}]),
        lambda plan: _edited(plan, groups=[{"name": "inner", "size": 0, "keep": [0]}]),
    ],
)
def test_a_damaged_plan_is_refused(solved, damage):
    plan = make_plan(*solved, {"inner": (0, 1)})
    with pytest.raises(CheckpointError, match=r"cannot read half/plan\.json"):
        sc.Plan.from_json(damage(plan), origin="half/plan.json")


def test_integers_that_follow_add_to_the_sizes_that_a_plan_knows_and_replace_none(solved):
    """A size that the plan writes as an expression holds whatever is kept; a number is of one choice."""
    plan = make_plan(*solved, {"inner": (0, 1)})
    known = plan.attributes["inner"]["out_channels"]
    fields = {Field("inner", ("out_channels",)): 5, Field("", ("config", "width")): 3, Field("", ("n", 1)): 2}
    found = plan.following(Followed(fields, {}))
    assert found.attributes["inner"]["out_channels"] == known == "inner"
    assert found.attributes[""] == {"config.width": 3, "n.1": 2}
    assert plan.following(Followed({}, {})) == plan


def test_shapes_name_ties_and_buffers_that_are_not_saved():
    model = nets.Tied()
    model.register_buffer("table", torch.zeros(2, 3), persistent=False)
    shapes = tensor_shapes(model)
    assert shapes["two.weight"] == shapes["one.weight"] == (8, 8)
    assert shapes["table"] == (2, 3)


def test_the_masks_of_a_tensor_are_those_of_all_plans_in_a_row(solved):
    model, groups = solved
    one = make_plan(model, groups, {"stem": (0, 2, 3, 7), "inner": (1, 2, 5)})
    cut = one.apply(model)
    two = make_plan(cut, couple_graph(capture(cut, X)), {"stem": (1, 3), "inner": (0, 2)}).after(one)
    assert [mask.nonzero()[0].tolist() for mask in two.masks("inner.weight")[:2]] == [[1, 5], [2, 7]]
    assert two.masks("head.weight")[1].sum() == 8
    assert all(mask.all() for mask in one.masks("head.bias"))
    for name, tensor in two.apply(model).state_dict().items():
        assert tuple(int(mask.sum()) for mask in two.masks(name)) == tensor.shape
    assert [mask.sum() for mask in one.masks("inner.weight")][:2] == [3, 4], "a question changed the plan"


def test_masks_of_an_unknown_tensor_are_refused(solved):
    plan = make_plan(*solved, {"inner": (0,)})
    with pytest.raises(RequestError, match=r"knows no tensor 'inner\.wait'\n  it has: stem\.weight"):
        plan.masks("inner.wait")


def test_a_plan_knows_ties_and_buffers_that_are_not_saved():
    model = nets.Tied()
    model.register_buffer("table", torch.zeros(2, 3), persistent=False)
    plan = identity_plan(model, "", {})
    assert (plan.ties, plan.unsaved) == ({"two.weight": "one.weight"}, ("table",))


def _first_group(**changes):
    return lambda plan: plan["groups"][0].update(changes)


def _set(path, value):
    def change(plan):
        *parents, last = path
        for key in parents:
            plan = plan[key]
        plan[last] = value

    return change


CONTRADICTIONS = {
    "a group of a million million": (_first_group(size=10**12), r"group stem has 1000000000000 channels"),
    "a dim of a million million": (
        _set(["shapes", "stem.weight"], [10**12, 3, 3, 3]),
        "dim of 1000000000000",
    ),
    "a negative dim": (_set(["shapes", "stem.bias"], [-8]), "dim of -8"),
    "another size of a group": (_first_group(size=9), "its expressions make"),
    "a group that is not there": (_first_group(name="other"), "speaks of group 'stem'"),
    "two groups of one name": (lambda plan: plan["groups"].append(plan["groups"][0]), "two groups have one"),
    "a tensor that is not there": (_set(["tensors", "other"], ["stem"]), "other is"),
    "fewer dims": (lambda plan: plan["tensors"]["stem.weight"].pop(), "its expressions make"),
    "a factor of a million million": (
        _set(["attributes", "stem"], {"out_channels": {"product": ["stem", 10**12, 10**12]}}),
        "stem.out_channels is",
    ),
    "nesting without end": (
        lambda plan: plan["tensors"].update(deep=[_nested(5000)]),
        "recursion|nest|depth",
    ),
}


def _nested(depth):
    spec = "stem"
    for _ in range(depth):
        spec = {"sum": [spec]}
    return spec


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_plan_that_contradicts_itself_is_named_before_anything_is_made_of_it(solved, name):
    model, groups = solved
    told = json.loads(make_plan(model, groups, {"stem": (0, 2), "inner": (1, 2)}).to_json())
    change, message = CONTRADICTIONS[name]
    change(told)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        text = json.dumps(told)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(CheckpointError, match=rf"(?i)cannot read the plan(.|\n)*({message})"):
        sc.Plan.from_json(text)


def test_plans_in_a_row_must_fit_each_other():
    model = nets.randomise(nets.Residual())
    first = sc.prune(model, X, keep={"inner": (0, 1, 2)}, check=False)
    second = sc.prune(first.model, X, keep={"inner": (0, 1)}, check=False)
    told = json.loads(second.plan.after(first.plan).to_json())
    assert sc.Plan.from_json(json.dumps(told)).apply(model).inner.out_channels == 2
    told["previous"]["groups"][0]["keep"] = [0, 1, 2, 3]
    with pytest.raises(CheckpointError, match=r"the plan before leaves \[4"):
        sc.Plan.from_json(json.dumps(told))


def test_a_request_that_was_printed_is_read_and_a_long_one_at_once():
    wanted = {"layer4.*": 0.8, "stem": 0.5}
    assert Request.model_validate("channels={'layer4.*': 0.8, 'stem': 0.5}").parts == wanted
    assert Request.model_validate("keep={layer4.*: 8, stem: 5}").parts == {"layer4.*": 8, "stem": 5}
    with pytest.raises(ValueError, match="could not convert"):
        Request.model_validate("channels={" + "a" * 500_000)  # a pattern that backtracks takes hours
