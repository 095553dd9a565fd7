"""One width for layers that are alike: by the config of a model, else by the names of its layers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.configs.fields import Described, stale_fields
from secateur.configs.uniform import uniform
from secateur.errors import RequestError


class Block(nn.Module):
    """Attention over whole heads, and a feed-forward part."""

    def __init__(self, config):
        super().__init__()
        if config.width % config.heads:
            raise ValueError("the width is no multiple of the heads")
        self.config = config
        self.q, self.k, self.v = (nn.Linear(config.width, config.heads * config.head_width) for _ in range(3))
        self.o = nn.Linear(config.heads * config.head_width, config.width)
        self.up, self.down = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)

    def forward(self, x):
        q, k, v = (
            one(x).unflatten(-1, (-1, self.config.head_width)).transpose(1, 2)
            for one in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(x)))


class Net(nn.Module):
    """A stack of them, built from a config."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(5, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.head = nn.Linear(config.width, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def net(**changes):
    return Net(
        SimpleNamespace(**{"width": 24, "heads": 6, "head_width": 8, "mlp": 40, "depth": 3, **changes})
    )


X = torch.randn(2, 4, 5)


def widths(result):
    return {group.name: len(group.keep) for group in result.plan.groups}


def test_fields_say_the_factors_of_dims():
    model = net()
    fields = {said.name: said for said in Described.of(model).fields}
    assert set(fields) == {"width", "heads", "head_width", "mlp"}
    assert fields["heads"].dims["blocks.1.q.weight", 0] == 8
    assert ("head.weight", 1) in fields["width"].dims


def test_a_uniform_cut_is_built_from_its_config():
    result = sc.prune(net(), X, ratio=0.5, scope="local", uniform=True)
    assert result.verdict.passed
    config = result.model.config
    assert (config.heads, config.head_width, config.mlp) == (3, 8, 20)
    assert config.width % config.heads == 0
    assert config.width < 24
    again = Net(config)
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(X), result.model(X))
    assert all(block.config is config for block in result.model.blocks)
    assert result.unchanged_integers == ()


def test_each_layer_keeps_channels_of_its_own_of_one_number():
    result = sc.prune(net(), X, ratio=0.5, uniform=True)
    kept = [group.keep for group in result.plan.groups if group.name.endswith(".up")]
    assert len({len(one) for one in kept}) == 1 < len(set(kept))


def test_without_the_word_widths_differ_and_stale_fields_are_told():
    result = sc.prune(net(), X, ratio=0.5)
    assert len({len(group.keep) for group in result.plan.groups if group.name.endswith(".up")}) > 1
    assert result.model.config.mlp == 40
    told = result.unchanged_integers
    assert any(line.startswith("config.mlp = 40, but") and "format='hf'" in line for line in told)
    assert stale_fields(net(), net()) == []


def test_an_equal_cut_says_its_config_without_the_word():
    result = sc.prune(net(), X, channels={"blocks.*.up": 0.5})
    assert result.plan.numbers == {"": {"config.mlp": 20}}
    assert sc.Plan.from_json(result.plan.to_json()).apply(net()).config.mlp == 20


def test_the_users_config_stays():
    model = net()
    sc.prune(model, X, ratio=0.5, uniform=True)
    assert vars(model.config) == vars(net().config)


def test_counts_that_the_config_refuses_are_not_offered():
    model = net(width=20, heads=5)  # of 1 to 5 heads, 3 do not divide 20
    groups = sc.couple(model, X)
    offered = uniform(groups, Described.of(model)).groups.offered
    assert offered["blocks.0.q"] == (1, 2, 4, 5)
    result = sc.prune(model, X, channels={"blocks.*.q": 0.4}, uniform=True)
    assert widths(result)["blocks.1.q"] == 4
    why = next(group.why for group in result.plan.groups if group.name == "blocks.1.q")
    assert why.rounding == "3 rounded up to what one number can say"


class Joint(Net):
    """The heads share the width, as in BERT: no field says fewer heads."""

    def __init__(self, config):
        super().__init__(SimpleNamespace(**{**vars(config), "head_width": config.width // config.heads}))
        self.config = config


def test_what_no_field_says_stays_whole_with_the_reason():
    model = Joint(SimpleNamespace(width=24, heads=3, mlp=40, depth=2))
    result = sc.prune(model, X, ratio=0.5, uniform=True)
    assert set(widths(result)) == {"blocks.0.up", "blocks.1.up"}
    reasons = [why for why in result.plan.reasons.values() if why.startswith("uniform")]
    assert any("no config says a smaller width" in why for why in reasons)
    with pytest.raises(RequestError, match="fits no group that can be cut"):
        sc.prune(model, X, channels={"blocks.*.q": 0.5}, uniform=True)


def test_models_without_a_config_share_counts_by_name():
    layers = [nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 6)) for _ in range(3)]
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    result = sc.prune(model, torch.randn(3, 6), params=0.6, uniform=True)
    kept = {(group.size, len(group.keep)) for group in result.plan.groups}
    assert sorted(size for size, _ in kept) == [6, 10]
    assert result.verdict.passed


def test_a_layer_that_must_stay_holds_the_others():
    with pytest.raises(RequestError, match=r"must keep as many channels as blocks\.0\.up|fits no group"):
        sc.prune(net(), X, channels={"blocks.*.up": 0.5}, uniform=True, protect=["blocks.0.up"])


def test_a_constant_that_the_config_changes_is_no_description():
    class Scaled(Net):
        def __init__(self, config):
            super().__init__(config)
            self.scale = config.width**-0.5

        def forward(self, x):
            return super().forward(x) * self.scale

    config = SimpleNamespace(width=24, heads=6, head_width=8, mlp=40, depth=2)
    result = sc.prune(Scaled(config), X, ratio=0.5, uniform=True)
    assert result.model.config.width == 24
    assert result.model.config.mlp < 40


def test_keep_of_unequal_counts_is_refused():
    keep = {"blocks.0.up": range(10), "blocks.1.up": range(10), "blocks.2.up": range(12)}
    with pytest.raises(RequestError, match=r"they must stay equal: config\.mlp is one number"):
        sc.prune(net(), X, keep=keep, uniform=True)
