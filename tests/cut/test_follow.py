"""Integers follow their axis: by attributes where code holds them, by corrections elsewhere."""

import copy
import pickle
import types

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.cut.follow import _Follower
from secateur.cut.slicing import set_field
from secateur.graph.origin import Field

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Self-attention; `sizes` tells how its code comes by the numbers."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.num_heads = HEADS
        self.config = types.SimpleNamespace(heads=HEADS, width=WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.config.heads if self.sizes == "config" else self.num_heads
        each = -1 if self.sizes in ("attribute", "config") else width // heads
        q, k, v = self.qkv(x).reshape(batch, length, 3, heads, each).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        x = (((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2)
        x = x.flatten(2) if self.sizes in ("attribute", "config") else x.reshape(batch, length, width)
        return self.out(x)


def model_of(sizes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, WIDTH), Attention(sizes), nn.Linear(WIDTH, 2)).double()


def masked(model, plan):
    """The original whose removed channels are zero, written by hand from the kept indices."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("0", "1.qkv#2"):
            size = {"0": WIDTH, "1.qkv#2": HEADS}[name]
            gone = sorted(set(range(size)) - set(plan.keep.get(name, range(size))))
            if name == "0":
                result[1].qkv.weight[:, gone] = 0
            else:
                result[1].out.weight.view(WIDTH, HEADS, -1)[:, gone] = 0
    return result


@pytest.mark.parametrize("sizes", ["attribute", "config", "derived"])
def test_heads_and_widths_are_cut_however_the_code_knows_them(sizes):
    model, x = model_of(sizes), torch.randn(4, 7, 5).double()
    result = sc.prune(model, x[:1], channels={"0": 0.5, "1.qkv*": 0.34})
    assert result.verdict.exact
    assert result.model[1].qkv.weight.shape == (24, 6)
    torch.testing.assert_close(result.model(x), masked(model, result.plan)(x), rtol=1e-12, atol=1e-12)
    if sizes == "attribute":
        assert (result.model[1].num_heads, model[1].num_heads) == (2, HEADS)
        assert not result.plan.corrections
    if sizes == "config":
        assert (result.model[1].config.heads, model[1].config.heads) == (2, HEADS)
    if sizes == "derived":
        assert result.plan.corrections
        assert isinstance(result.model[1], Attention)


def test_corrections_survive_copies_plans_and_training():
    model, x = model_of("derived"), torch.randn(2, 7, 5).double()
    result = sc.prune(model, x, channels={"1.qkv*": 0.34})
    again = sc.Plan.from_json(result.plan.to_json()).apply(model)
    for other in (copy.deepcopy(result.model), pickle.loads(pickle.dumps(result.model)), again):
        torch.testing.assert_close(other(x), result.model(x))
    result.model.train()(x).sum().backward()
    assert result.model[1].qkv.weight.grad.shape == (24, WIDTH)
    twice = sc.prune(result.model.eval(), x, channels={"0": 0.5})
    assert twice.verdict.exact
    assert twice.model[0].out_features == 6


@pytest.mark.parametrize("ratio", [0.2, 0.5])
@pytest.mark.parametrize("grad", [True, False])
def test_multi_head_attention_of_torch_loses_whole_heads(ratio, grad):
    """Without gradients PyTorch takes a fused path for an even number of heads; the cut model must not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(15, 5, 8, batch_first=True, activation="gelu")
    model, x = nn.Sequential(layer, nn.Linear(15, 2)).double().eval(), torch.randn(2, 5, 15).double()
    result = sc.prune(model, x[:1], channels={"0.self_attn*": ratio})
    (heads,) = (keep for name, keep in result.plan.keep.items() if result.groups[name].size == 5)
    assert len(heads) == 5 - round(5 * ratio)
    hand = copy.deepcopy(model)
    with torch.no_grad():
        hand[0].self_attn.out_proj.weight.view(15, 5, 3)[:, sorted({*range(5)} - {*heads})] = 0
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(result.model(x), hand(x), rtol=1e-12, atol=1e-12)


def test_a_field_of_a_shared_object_is_set_for_one_module_only():
    config = types.SimpleNamespace(heads=4, inner=types.SimpleNamespace(width=3))
    one, two = nn.Identity(), nn.Identity()
    one.config = two.config = config
    set_field(one, ["config", "inner", "width"], 2)
    assert (one.config.inner.width, one.config.heads) == (2, 4)
    assert (two.config.inner.width, config.inner.width) == (3, 3)


def test_a_field_takes_the_number_that_most_calls_want():
    """The others are corrected, call by call; so the fewer, the better."""
    heads, width = Field("a", ("heads",)), Field("a", ("width",))
    follower = object.__new__(_Follower)
    follower.decided = {}
    assert follower._decide([(heads, 2), (heads, 2), (heads, 3), (width, 8), (width, 16)])
    assert follower.decided == {heads: 2, width: 16}
    assert not follower._decide([(heads, 3), (heads, 3)]), "what is decided stays so"
