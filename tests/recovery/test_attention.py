"""Heads that lost a part of their width: exact where it can be, judged where not, refused with the reason."""

import copy
import re

import attending_nets
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError

DATA = list(torch.randn(9, 4, 7, 12, generator=torch.Generator().manual_seed(1)).double())


def cut(model, data=DATA, share=0.25, but=()):
    """All widths of heads lose a quarter."""
    groups = sc.couple(model, data[0], axes="widths")
    names = {one.name: share for one in groups.prunable if "attention" in one.name and one.size <= 8}
    names = {name: share for name in names if name not in but}
    return sc.prune(model, data[0], axes="widths", channels=names, criterion="l2")


def recovered(model, steps="attention", data=DATA, **words):
    return sc.recover(cut(model, data, **words), data, steps)


def told(result):
    return {one.layer: one for one in result.recovered}


@torch.no_grad()
def missing(result, dense, x):
    wanted = dense(x)
    return float((result.model(x) - wanted).norm() / wanted.norm())


LAYOUTS = {
    "plain": {},
    "no bias": {"bias": False},
    "grouped": {"grouped": True},
    "one layer": {"together": True},
    "one layer, grouped": {"together": True, "grouped": True, "bias": False},
}


@pytest.mark.parametrize("how", ["fused", "matmul", "bmm"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_has_the_rank_is_restored(how, layout):
    model = attending_nets.attending(how, **LAYOUTS[layout])
    part = model.attention
    if hasattr(part, "make"):
        attending_nets.of_rank(part.make, 8, 6)
    else:
        for layer in (part.query, part.key, part.value):
            attending_nets.of_rank(layer, 8, 6)
    before = copy.deepcopy(model.state_dict())
    bare = cut(model)
    result = sc.recover(bare, DATA, "attention")
    assert [one.status for one in result.recovered] == ["exact", "exact"]
    x = torch.randn(3, 7, 12).double()
    assert missing(bare, model, x) > 0.05
    assert missing(result, model, x) < 1e-5
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def twin_pairs(model):
    """The second pair of each head turns as the first does, with the same keys."""
    part = model.attention
    with torch.no_grad():
        for layer, (a, b) in ((part.query, (0.3, -0.2)), (part.key, (1.0, 0.0))):
            for at in range(0, layer.out_features, 8):
                for held in (layer.weight, layer.bias):
                    one, two = held[at].clone(), held[at + 4].clone()
                    held[at + 1], held[at + 5] = a * one - b * two, a * two + b * one
    return model


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("how", ["fused", "matmul"])
def test_rotary_pairs_are_turned_and_scaled(how, grouped):
    model = twin_pairs(attending_nets.attending(how, grouped=grouped, between="rotary"))
    groups = sc.couple(model, DATA[0], axes="widths")
    pairs = next(one for one in groups.prunable if one.size == 4)
    bare = sc.prune(model, DATA[0], axes="widths", channels={pairs.name: 0.25}, criterion="random", seed=0)
    kept = bare.plan.keep[pairs.name]
    for seed in range(1, 40):  # until it is one of the two that goes
        if sum(at in kept for at in (0, 1)) == 1:
            break
        bare = sc.prune(
            model, DATA[0], axes="widths", channels={pairs.name: 0.25}, criterion="random", seed=seed
        )
        kept = bare.plan.keep[pairs.name]
    result = sc.recover(bare, DATA, "attention")
    assert told(result)["attention.query"].status == "exact"
    assert "pairs turned and scaled" in told(result)["attention.query"].detail
    x = torch.randn(3, 7, 12).double()
    assert missing(bare, model, x) > 1e-3
    assert missing(result, model, x) < 1e-5


def test_what_is_not_rotary_mixes_freely_beside_what_is():
    model = attending_nets.attending("matmul", between="partly")
    part = model.attention
    with torch.no_grad():  # of four free positions three say all
        for layer in (part.query, part.key):
            for at in range(4, 32, 8):
                for held in (layer.weight, layer.bias):
                    held[at + 3] = held[at] + held[at + 1] - 2 * held[at + 2]
    groups = sc.couple(model, DATA[0], axes="widths")
    sizes = {one.size: one.name for one in groups.prunable if "query" in one.name}
    assert sorted(sizes) == [2, 4]
    bare = sc.prune(model, DATA[0], axes="widths", channels={sizes[4]: 0.25}, criterion="l2")
    result = sc.recover(bare, DATA, "attention")
    assert told(result)["attention.query"].status == "exact"
    assert "pairs turned and scaled" in told(result)["attention.query"].detail
    x = torch.randn(3, 7, 12).double()
    assert missing(result, model, x) < 1e-5 < 1e-3 < missing(bare, model, x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("words", [{}, {"grouped": True}, {"between": "rotary"}])
def test_it_never_harms_what_it_is_judged_by(seed, words):
    model = attending_nets.attending(seed=seed, **words)
    changed = [one for one in recovered(model).recovered if one.status != "left alone"]
    figures = [re.search(r"([\d.e-]+) % -> ([\d.e-]+) %", one.detail).groups() for one in changed]
    assert figures
    assert all(float(after) < float(before) for before, after in figures)


def test_queries_of_nothing_stay_as_they_are():
    model = attending_nets.attending()
    with torch.no_grad():
        for layer in (model.attention.query, model.attention.key):
            for held in (layer.weight, layer.bias):
                held.view(4, 8, -1)[:, 6:] = 0
    bare = cut(model, but=("attention.value",))
    result = sc.recover(bare, DATA, "attention")
    assert "no matrix brings its logits nearer" in told(result)["attention.query"].detail
    state = bare.model.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in result.model.state_dict().items())


def test_norms_and_shifts_and_other_products_are_left_alone():
    reasons = {
        "norm": "more than moves, scales and rotary positions",
        "shift": "something is added to it behind",
    }
    for between, reason in reasons.items():
        model = attending_nets.attending(between=between)
        notes = told(recovered(model))
        assert notes["attention.query"].status == "left alone", between
        assert reason in notes["attention.query"].detail
    notes = recovered(attending_nets.attending("einsum")).recovered
    assert any("einsum is no product of queries with keys" in one.detail for one in notes)


def test_it_needs_data_and_something_to_judge_by():
    bare = cut(attending_nets.attending())
    with pytest.raises(RequestError, match="needs data"):
        sc.recover(bare, steps="attention")
    notes = told(sc.recover(bare, [DATA[0][:1, :2]], "attention"))
    assert notes["attention.query"].detail == "pass four samples or more: one judges what is learned"


def test_nothing_to_do_is_said_by_nothing_being_done():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    data = [torch.randn(8, 4) for _ in range(3)]
    result = sc.recover(sc.prune(model, data[0], ratio=0.5), data, "attention")
    assert result.recovered == ()
    assert result.errors[0].before == result.errors[0].after


def test_values_whose_layer_lost_inputs_are_left_alone():
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.rest = nn.Linear(5, 12), attending_nets.Attention()

        def forward(self, x):
            return self.rest(self.stem(x).relu())

    torch.manual_seed(0)
    model = Behind().double().eval()
    data = [torch.randn(4, 7, 5).double() for _ in range(9)]
    names = {"stem": 0.25, "rest.query#2": 0.25, "rest.value": 0.25}
    bare = sc.prune(model, data[0], axes="widths", channels=names, criterion="l2")
    result = sc.recover(bare, data, "attention")
    assert told(result)["rest.value"].detail == "its input lost positions, too"
    assert told(result)["rest.query"].status == "approximate"


def test_torchs_own_attention_offers_no_widths():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    groups = sc.couple(Own().eval(), torch.randn(2, 5, 16), axes="widths")
    why = [one.reason for one in groups if one.name.startswith("attention") and "scale" in (one.reason or "")]
    assert why == ["the attention scale is computed from the width of a head"] or "width of a head" in why[0]


def test_the_result_is_saved_and_loaded(tmp_path):
    model = attending_nets.attending(grouped=True)
    result = recovered(model, ["attention", "refit"])
    sc.save(result, tmp_path / "cut")
    loaded = sc.load(tmp_path / "cut", attending_nets.attending(grouped=True, seed=5))
    assert torch.equal(loaded(DATA[0]), result.model(DATA[0]))
    assert [one.step for one in result.errors] == ["attention", "refit"]
    assert result.errors[-1].after < result.errors[0].before


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bert_and_llama(implementation):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "attn_implementation": implementation}
    bert = transformers.BertModel(transformers.BertConfig(**sizes))
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2))
    for model in (bert, llama):
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        data = [{"input_ids": torch.randint(0, 50, (4, 12))} for _ in range(9)]
        groups = sc.couple(model.eval(), data[0], axes="widths")
        names = {one.name: 0.25 for one in groups.prunable if one.size in (4, 8)}
        bare = sc.prune(model, data[0], axes="widths", channels=names, criterion="l2")
        result = sc.recover(bare, data, "attention")
        assert [one.status for one in result.recovered] == ["approximate"] * 4
        assert result.errors[0].after < 0.9 * result.errors[0].before


@pytest.mark.parametrize("how", ["fused", "matmul"])
def test_constants_that_were_absorbed_before_do_not_count_twice(how):
    model = attending_nets.attending(how)
    part = model.attention
    for layer in (part.query, part.key, part.value):
        attending_nets.of_rank(layer, 8, 6)
    result = recovered(model, ["absorb", "attention"])
    assert not torch.equal(cut(model).model.attention.out.bias, result.model.attention.out.bias)
    assert told(result)["attention.value"].status == "exact"
    assert missing(result, model, torch.randn(3, 7, 12).double()) < 1e-5
