"""`corrections=False`: what would need corrected code stays whole, and all classes stay what they were."""

import pickle

import pytest
import torch
from torch import nn

import secateur as sc


class Squeezed(nn.Module):
    """Computes an inner width from that of its input, as an attention does."""

    def __init__(self, width=8, inner=8):
        super().__init__()
        self.before, self.inside, self.after = (
            nn.Linear(width, width),
            nn.Linear(width, inner),
            nn.Linear(inner, width),
        )

    def forward(self, x):
        batch, width = x.shape
        x = self.before(x)
        return self.after(self.inside(x).relu().view(batch, width))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.free, self.head = (
            nn.Linear(4, 8),
            Squeezed(),
            nn.Linear(8, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        return self.head(self.free(self.block(self.stem(x).relu()).relu()).relu())


ASKED = {"ratio": 0.5, "scope": "local", "protect": "stem"}


def corrected(model):
    return [name for name, one in model.named_modules() if "_pruned_from" in vars(type(one))]


@pytest.mark.parametrize("check", [True, False])
def test_only_what_needs_no_correction_is_cut(check):
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 4)
    free = sc.prune(net, x, **ASKED, check=check)
    plain = sc.prune(net, x, **ASKED, check=check, corrections=False)
    assert corrected(free.model) == ["block"]
    assert free.plan.corrections
    assert corrected(plain.model) == []
    assert not plain.plan.corrections
    assert plain.model.block.inside.out_features == 8
    assert plain.model.free.out_features == 8
    assert free.after.params < plain.after.params < plain.before.params
    reasons = [group.reason for group in plain.groups if group.reason]
    assert any("code does not follow a cut" in reason for reason in reasons)
    assert torch.equal(pickle.loads(pickle.dumps(plain.model))(x), plain.model(x))


def test_a_plan_remembers_the_request():
    net, x = Net().eval(), torch.randn(2, 4)
    plan = sc.plan(net, x, **ASKED, corrections=False)
    assert plan.requested.options["corrections"] is False
    assert corrected(plan.apply(net)) == []
