"""An operator without a rule is a barrier, with the reason, whatever it does."""

import pytest
import torch
from replay import Recording
from torch import nn

from secateur.capture import capture
from secateur.couple import couple_graph
from secateur.couple.rule import rules
from secateur.graph.axes import leaves

UNKNOWN = {
    "aten.addbmm": "torch.addbmm(T(3, 5), T(2, 3, 4), T(2, 4, 5))",
    "aten.bilinear": "F.bilinear(T(2, 3), T(2, 4), T(5, 3, 4))",
    "aten.cdist": "torch.cdist(T(2, 3), T(4, 3))",
    "aten.cross": "torch.cross(T(2, 3), T(2, 3), dim=1)",
    "aten.cummax": "T(2, 3).cummax(1)",
    "aten.diff": "T(2, 3).diff(dim=1)",
    "aten.fft_fft": "torch.fft.fft(T(2, 4))",
    "aten.kron": "torch.kron(T(2), T(3))",
    "aten.randn_like": "torch.randn_like(T(2, 3))",
    "aten.bernoulli": "torch.bernoulli(T(2, 3).sigmoid())",
    "aten.trace": "T(3, 3).trace()",
    "aten.tril": "torch.tril(T(3, 3))",
    "aten.unfold": "T(2, 4).unfold(1, 2, 1)",
    "aten.as_strided": "T(4, 6).as_strided((2, 3), (6, 1))",
}


@pytest.mark.parametrize("op", list(UNKNOWN))
def test_an_operator_without_a_rule_protects_everything_it_touches(op):
    recording = Recording.of(UNKNOWN[op])
    (node,) = (node for node in recording.graph.nodes if node.op == op)
    assert recording.findings.barriers[node.index] == f"no rule covers {op}"
    touched = [dim for value in recording.findings.dims.values() for dim in value if dim.size > 1]
    assert touched
    for dim in touched:
        for leaf in leaves(dim):
            assert leaf.reason.startswith(f"no rule covers {op}: {op} (node {node.index})")


@pytest.mark.parametrize(
    "sample",
    [
        "F.dropout(T(2, 3), training=True)",
        "F.dropout2d(T(2, 3, 4, 4), training=True)",
        "F.rrelu(T(2, 3), training=True)",
        "T(2, 3).repeat_interleave(2)",
        "torch.where(T(2, 3) > 0)",
        "F.linear(T(2, 3), T(3))",
        "T(2, 4).view(torch.float32)",
    ],
)
def test_a_call_that_a_rule_was_not_written_for_is_a_barrier(sample):
    recording = Recording.of(sample)
    assert recording.findings.barriers
    assert not recording.free


def test_a_rule_that_fails_is_a_barrier_and_no_crash(monkeypatch):
    def fail(call):
        raise ZeroDivisionError("in the rule")

    rules.load()
    monkeypatch.setitem(rules._entries, "aten.relu", type(rules["aten.glu"])("aten.relu", "law", fail, ()))
    recording = Recording.of("F.relu(T(2, 3))")
    assert recording.findings.barriers == {0: "the rule of aten.relu does not fit this call: in the rule"}


def test_a_rule_that_predicts_another_shape_is_a_barrier(monkeypatch):
    entry = type(rules["aten.glu"])("aten.relu", "law", lambda call: [call["self"][:1]], ())
    monkeypatch.setitem(rules._entries, "aten.relu", entry)
    recording = Recording.of("F.relu(T(2, 3))")
    assert "it predicts [(2,)], the call made [(2, 3)]" in recording.findings.barriers[0]


def test_a_barrier_inside_a_network_names_the_node_and_the_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(torch.logcumsumexp(self.first(x), 1))

    groups = couple_graph(capture(Net(), torch.zeros(1, 4)))
    assert "no rule covers aten.logcumsumexp: aten.logcumsumexp (node 1) at" in groups["first"].reason
    assert "test_unknown.py:" in groups["first"].reason
