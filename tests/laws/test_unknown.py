"""An operator without a rule is a barrier, with the reason, whatever it does."""

import pytest
import torch
from replay import Recording
from torch import nn

from secateur.capture import capture
from secateur.coupling import couple_graph
from secateur.coupling.rule import Rule, rules
from secateur.graph.axes import leaves

UNKNOWN = {
    "aten.corrcoef": "torch.corrcoef(T(2, 3))",
    "aten.cov": "torch.cov(T(2, 3))",
    "aten.geqrf": "torch.geqrf(T(3, 3))",
    "aten.gradient": "torch.gradient(T(2, 4), dim=1)[0]",
    "aten.histogram": "torch.histogram(T(4), 3)",
    "aten.linalg_lu": "torch.linalg.lu(T(3, 3))",
    "aten.linalg_tensorinv": "torch.linalg.tensorinv(T(4, 2, 2), ind=1)",
    "aten.unfold_copy": "torch.ops.aten.unfold_copy(T(2, 4), 1, 2, 1)",
    "aten.vander": "torch.vander(T(3))",
}


def unknown(op):
    return f"no rule covers {op} (secateur.operators.rule declares one)"


@pytest.mark.parametrize("op", list(UNKNOWN))
def test_an_operator_without_a_rule_protects_everything_it_touches(op):
    recording = Recording.of(UNKNOWN[op])
    (node,) = (node for node in recording.graph.nodes if node.op == op)
    assert recording.findings.barriers[node.index] == unknown(op)
    touched = [dim for value in recording.findings.dims.values() for dim in value if dim.size > 1]
    assert touched
    for dim in touched:
        for leaf in leaves(dim):
            assert leaf.reason.startswith(f"{unknown(op)}: {op} (node {node.index})")


@pytest.mark.parametrize(
    "sample",
    [
        "F.dropout(T(2, 3), training=True)",
        "F.dropout2d(T(2, 3, 4, 4), training=True)",
        "F.rrelu(T(2, 3), training=True)",
        "torch.trapezoid(T(2, 4), T(4))",
        "T(2, 3)[torch.tensor([True, False]), torch.tensor([True, False, False])]",
        "torch._grouped_mm(T(4, 4).float(), T(4, 4).float(), offs=torch.tensor([4]).int())",
        "torch.where(T(2, 3) > 0)",
        "F.linear(T(2, 3), T(3))",
        "T(2, 4).float().view(torch.float64)",
    ],
)
def test_a_call_that_a_rule_was_not_written_for_is_a_barrier(sample):
    recording = Recording.of(sample)
    assert recording.findings.barriers
    assert not recording.free


def _replace_relu(monkeypatch, apply):
    rules.load()
    monkeypatch.setitem(rules._entries, "aten.relu", Rule("aten.relu", "law", apply, ()))


def test_a_call_that_a_rule_refuses_is_a_barrier_with_its_reason(monkeypatch):
    def refuse(call):
        raise ValueError("not on Sundays")

    _replace_relu(monkeypatch, refuse)
    recording = Recording.of("F.relu(T(2, 3))")
    assert recording.findings.barriers == {0: "the rule of aten.relu does not fit this call: not on Sundays"}


@pytest.mark.parametrize(
    "bug",
    [
        lambda call: call["self"].nothing,
        lambda call: call["self"] + 1,
        lambda call: [call["self"][7]],
        lambda call: {}["key"],
        lambda call: 1 / 0,
    ],
)
def test_a_bug_in_a_rule_is_an_error_in_tests_and_a_barrier_that_says_so_elsewhere(monkeypatch, bug):
    _replace_relu(monkeypatch, bug)
    with pytest.raises((AttributeError, TypeError, LookupError, ZeroDivisionError)) as caught:
        Recording.of("F.relu(T(2, 3))")
    assert caught.value.__notes__[0].startswith("in the rule of aten.relu (node 0)")
    monkeypatch.setenv("SECATEUR_STRICT", "0")
    recording = Recording.of("F.relu(T(2, 3))")
    kind = type(caught.value).__name__
    assert recording.findings.barriers == {0: f"a bug in the rule of aten.relu, {kind}: {caught.value}"}
    assert not recording.free


def test_a_rule_that_predicts_another_shape_is_a_barrier(monkeypatch):
    _replace_relu(monkeypatch, lambda call: [call["self"][:1]])
    recording = Recording.of("F.relu(T(2, 3))")
    assert "it predicts [(2,)], the call made [(2, 3)]" in recording.findings.barriers[0]


def test_a_barrier_inside_a_network_names_the_node_and_the_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(torch.gradient(self.first(x), dim=1)[0])

    groups = couple_graph(capture(Net(), torch.zeros(1, 4)))
    assert f"{unknown('aten.gradient')}: aten.gradient (node 1) at" in groups["first"].reason
    assert "test_unknown.py:" in groups["first"].reason
