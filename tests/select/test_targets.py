"""Targets: what is cut of a model has the widths that the kernels of a runtime are made for."""

from dataclasses import replace
from math import lcm

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import secateur as sc
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.select.targets import Runtime, aimed, targets
from secateur.zoo import models

X = torch.zeros(1, 3, 16, 16)
IDS = {"input_ids": torch.zeros(1, 6, dtype=torch.long)}


class Mixed(nn.Module):
    """A trunk, a bottleneck with groups, a depthwise convolution, a concatenation and two linear layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 72, 3, padding=1), nn.Conv2d(3, 40, 3, padding=1)
        self.grouped = nn.Conv2d(112, 96, 3, groups=2)
        self.depthwise = nn.Conv2d(96, 96, 3, groups=96)
        self.up, self.head = nn.Linear(96, 600), nn.Linear(600, 10)

    def forward(self, x):
        x = self.grouped(torch.cat([self.stem(x), self.side(x)], 1).relu())
        return self.head(self.up(self.depthwise(x).relu().mean((2, 3))).relu())


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=600, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=50,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def mixed():
    torch.manual_seed(0)
    return Mixed().eval()


def resnet():
    torch.manual_seed(0)
    return models["resnet18"](width=0.75).eval()


def odd(model: nn.Module, cut: nn.Module, target: Runtime) -> list[str]:
    """The dims of weights that shrank to something that the target does not want."""
    found = []
    for (name, layer), before in zip(cut.named_modules(), model.modules(), strict=True):
        is_conv = isinstance(layer, nn.Conv2d)
        if not is_conv and not isinstance(layer, nn.Linear):
            continue
        wanted = (target.conv_out, target.conv_in) if is_conv else (target.linear_out, target.linear_in)
        shapes = zip(layer.weight.shape[:2], before.weight.shape[:2], wanted, strict=True)
        found += [f"{name}: {now} of {old}" for now, old, each in shapes if now != old and now % each]
    return found


@pytest.mark.parametrize("name", targets)
@pytest.mark.parametrize("make", [mixed, llama, resnet])
def test_every_weight_that_shrinks_has_the_multiples_of_its_role(name, make):
    model = make()
    example = IDS if make is llama else X
    cut = sc.prune(model, example, ratio=0.3, target=name, check=False)
    assert odd(model, cut.model, targets[name]) == []
    assert cut.after.params < cut.before.params


def test_without_a_target_the_widths_are_odd():
    model = mixed()
    assert odd(model, sc.prune(model, X, ratio=0.3, check=False).model, targets["trt-fp16"])


def test_a_cut_for_a_target_is_proven_and_meets_its_budget():
    result = sc.prune(mixed(), X, macs=0.5, target="ncnn")
    assert result.verdict.exact
    assert result.after.macs <= result.before.macs / 2


def multiples(groups: Groups) -> dict[str, int]:
    return {group.name: group.multiple for group in groups.prunable}


def test_an_axis_of_several_roles_takes_the_least_common_multiple():
    wants = Runtime("", "", conv_out=6, conv_in=4, linear_out=10, linear_in=14)
    targets.add("several", wants)
    try:
        model = nn.Sequential(
            nn.Conv2d(3, 99, 1), nn.Conv2d(99, 99, 1), nn.Flatten(), nn.Linear(99, 99)
        ).append(nn.Linear(99, 4))
        groups = sc.couple(model, torch.zeros(1, 3, 1, 1))
        found = aimed(groups, "several")
        assert {group.name: group.multiple for group in found if group.size == 99} == {
            "0": lcm(6, 4),
            "1": lcm(6, 14),
            "3": lcm(10, 14),
        }
    finally:
        del targets._entries["several"]


@pytest.mark.parametrize(("name", "heads"), [("trt-fp16", 1), ("rknn", 2), ("marlin", 8), ("gguf-k", 16)])
def test_heads_follow_from_their_width(name, heads):
    groups = sc.couple(llama(), IDS)
    assert {group.multiple for group in aimed(groups, name) if group.name.endswith("q_proj")} == {heads}


def test_the_width_of_a_head_is_a_role_of_its_own():
    groups = sc.couple(llama(), IDS, axes="widths")
    found = multiples(aimed(groups, "xnnpack"))
    assert found["model.layers.0.self_attn.v_proj"] == targets["xnnpack"].head_width == 8
    assert found["model.layers.0.self_attn.q_proj#2"] == 4, (
        "both halves that a rotary embedding turns lose alike"
    )
    assert found["model.layers.0.mlp.gate_proj"] == 8


def test_a_group_that_has_no_smaller_multiple_stays_whole_and_says_why():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 24), nn.Linear(24, 2))
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.5, target="trt-fp16")
    assert sc.explain(result)["0"].reason == "trt-fp16 wants multiples of 8, it has 6"
    even = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(24, 2))
    result = sc.prune(even, torch.zeros(1, 4), ratio=0.5, target="trt-fp16")
    assert sc.explain(result)["0"].reason == "trt-fp16 wants multiples of 8, it has 8"
    with pytest.raises(RequestError, match="nothing can be pruned") as raised:
        sc.prune(model, torch.zeros(1, 4), ratio=0.5, target="gguf-k")
    assert "1: gguf-k wants multiples of 256, it has 24" in str(raised.value)


def test_rounding_that_is_asked_for_holds_as_well():
    model = nn.Sequential(nn.Linear(4, 96), nn.Linear(96, 2))
    result = sc.prune(model, torch.zeros(1, 4), ratio=0.6, target="trt-fp16", round_to=12)
    assert len(result.plan.keep["0"]) == 48


def test_exact_positions_that_are_no_multiple_are_refused():
    model = nn.Sequential(nn.Linear(4, 24), nn.Linear(24, 2))
    with pytest.raises(RequestError, match="keep leaves 12 positions of group 0\n  keep a multiple of 8"):
        sc.prune(model, torch.zeros(1, 4), keep={"0": range(12)}, target="ncnn")


def test_a_plan_says_for_what_it_was_made():
    plan = sc.Plan.from_json(sc.prune(mixed(), X, ratio=0.3, target="cpu", check=False).plan.to_json())
    assert plan.requested.options["target"] == "cpu"
    assert "ratio=0.3 for cpu" in str(plan)


def test_an_unknown_target_gets_a_suggestion():
    with pytest.raises(RequestError, match=r"unknown target 'trt-fp1'\n.*\n  did you mean 'trt-fp16'"):
        sc.Ask.of(ratio=0.5, target="trt-fp1")


def test_without_a_target_groups_are_as_they_were():
    groups = sc.couple(mixed(), X)
    assert aimed(groups, None) is groups
    assert multiples(groups) == dict.fromkeys(multiples(groups), 1)
    assert replace(groups, all=aimed(groups, "cpu").all).ties == groups.ties
