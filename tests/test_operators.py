"""The public way to declare a rule."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import operators
from secateur.coupling.rule import rules


@torch.library.custom_op("secateur_tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    return x / 2


halve.register_fake(torch.empty_like)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Declared rules are gone after a test."""
    monkeypatch.setattr(rules, "_entries", dict(rules._entries))


def test_every_public_name_is_there():
    assert all(hasattr(operators, name) for name in operators.__all__)
    assert sc.operators is operators


@pytest.mark.parametrize("name", ["secateur_tests::halve", "secateur_tests.halve"])
def test_a_declared_operator_is_no_barrier_any_more(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(halve(self.first(x)))

    model, x = Net(), torch.randn(3, 4)
    reason = sc.couple(model, x)["first"].reason
    assert reason.startswith("no rule covers secateur_tests.halve (secateur.operators.rule declares one)")
    operators.rule(name, law="element-wise", traits=operators.Trait.POINTWISE)(operators.pointwise)
    result = sc.prune(model, x, ratio=0.5)
    assert (result.verdict.status, result.model.last.in_features) == ("exact", 4)
    (node,) = (node for node in result.groups.graph.nodes if node.op == "secateur_tests.halve")
    assert operators.traits_of(node) == operators.Trait.POINTWISE


def test_a_name_that_has_a_rule_is_refused_where_it_is_declared():
    with pytest.raises(ValueError, match=r"two plug-ins are called operator rule 'aten.relu'"):
        operators.rule("aten::relu", law="mine")(operators.pointwise)
