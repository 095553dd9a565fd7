"""Dropping blocks, against references that are written by hand and use none of the library."""

import copy
import dataclasses

import nets
import nets_deep
import pytest
import torch
import torchvision
from torch import nn

import secateur as sc
from secateur.depth import drop, path
from secateur.errors import CheckError, CheckpointError, CutError, NoEffectWarning, RequestError

IMAGE = torch.randn(2, 3, 8, 8)
TOKENS, MASK = torch.randn(2, 5, 8), torch.rand(5, 5)


def run(model, *inputs):
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(*(x.double() for x in inputs))


def require_equal(one, two, *inputs):
    expected, got = run(one, *inputs), run(two, *inputs)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def silence_resnet(model, name):
    """The last batch norm of the branch gives zero."""
    block = model.get_submodule(name)
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)


def silence_layer(model, name):
    for layer in (model.get_submodule(name).attention.out, model.get_submodule(name).down):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def silence_joint(model, name):
    for layer in model.get_submodule(name).children():
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


STREAMS = torch.randn(2, 5, 4), torch.randn(2, 3, 5)
CASES = {
    "resnet": (nets_deep.SmallResNet, (IMAGE,), silence_resnet, nn.Identity),
    "vit": (nets_deep.SmallViT, (IMAGE,), silence_layer, None),
    "tuples": (nets_deep.TupleEncoder, (TOKENS, MASK), silence_layer, None),
    "two streams": (nets_deep.TwoStreams, STREAMS, silence_joint, None),
    "pairs": (nets_deep.Reversed, STREAMS[:1], silence_joint, nn.Identity),
}


@pytest.fixture(params=CASES)
def case(request):
    make, inputs, silence, kind = CASES[request.param]
    return nets.randomise(make()).train(), inputs, silence, kind


def test_the_dropped_model_equals_the_original_with_silent_branches(case):
    model, inputs, silence, kind = case
    result = sc.drop_blocks(model, inputs, count=2)
    assert len(result.plan.dropped) == 2
    masked = copy.deepcopy(model)
    for name in result.plan.dropped:
        silence(masked, name)
        assert kind is None or type(result.model.get_submodule(name)) is kind
    require_equal(masked, result.model, *inputs)
    assert result.verdict.exact
    assert result.verdict.relative_error < 1e-12


def test_the_original_stays_and_the_others_move_up(case):
    model, inputs, _, _ = case
    before, kept = copy.deepcopy(model.state_dict()), [id(tensor) for tensor in model.parameters()]
    result = sc.drop_blocks(model, inputs, count=1)
    assert [id(tensor) for tensor in model.parameters()] == kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    (name,) = result.plan.dropped
    parent = model.get_submodule(name.rpartition(".")[0])
    left = [key for key in model.state_dict() if not key.startswith(f"{name}.")]
    after = {key: result.plan.renamed(key) for key in left}
    assert list(result.model.state_dict()) == list(after.values())
    assert (list(after.values()) == left) is not (isinstance(parent, nn.ModuleList) and name[-1] != "2")
    assert all(torch.equal(result.model.state_dict()[here], before[key]) for key, here in after.items())
    assert all(module.training for module in result.model.modules())
    assert not {id(held) for held in result.model.parameters()} & set(kept)
    assert (
        result.after.params == sum(held.numel() for held in result.model.parameters()) < result.before.params
    )
    assert result.after == sc.measure(result.model, inputs)


def test_a_plan_applies_again_and_survives_saving(case, tmp_path):
    model, inputs, silence, _ = case
    result = sc.drop_blocks(model, inputs, count=2)
    plan = sc.Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    other = nets.randomise(copy.deepcopy(model), seed=7)
    masked = copy.deepcopy(other)
    for name in plan.dropped:
        silence(masked, name)
    require_equal(masked, plan.apply(other), *inputs)
    folder = sc.save(result, tmp_path / "dropped")
    loaded = sc.load(folder, nets.randomise(copy.deepcopy(model), seed=9))
    assert list(loaded.state_dict()) == list(result.model.state_dict())
    require_equal(result.model, loaded, *inputs)
    with pytest.raises(CheckpointError, match="the plan was made for"):
        plan.apply(plan.apply(model))


def test_channels_can_be_pruned_after_blocks_and_blocks_after_channels(case, tmp_path):
    model, inputs, _, _ = case
    dropped = sc.drop_blocks(model, inputs, count=1)
    both = sc.prune(dropped.model, inputs, ratio=0.3)
    assert both.verdict.passed
    plan = both.plan.after(dropped.plan)
    require_equal(both.model, sc.Plan.from_json(plan.to_json()).apply(model), *inputs)
    again = sc.drop_blocks(both.model, inputs, count=1)
    assert again.verdict.exact
    chain = again.plan.after(plan)
    require_equal(again.model, chain.apply(model), *inputs)
    (name,) = dropped.plan.dropped
    assert chain.drops(f"{name}.whatever")
    assert not chain.drops("head.weight")


def test_the_smallest_blocks_go_first_by_any_criterion(case):
    model, inputs, _, _ = case
    names = [block.name for block in sc.drop_blocks(model, inputs, count=1).blocks]
    with torch.no_grad():
        for tensor in model.get_submodule(names[1]).parameters():
            tensor.mul_(0.1)
    for criterion in ("l1", "l2"):
        result = sc.drop_blocks(model, inputs, count=1, criterion=criterion)
        assert result.plan.dropped == (names[1],)
        assert min(result.scores, key=result.scores.__getitem__) == names[1]

    def favourite(view):
        return torch.full((view.size,), float(view.members[0].tensor.startswith(f"{names[2]}.")))

    assert sc.drop_blocks(model, inputs, count=2, criterion=favourite).plan.dropped == tuple(names[:2])


def test_batch_norm_scales_rank_the_blocks_of_a_resnet():
    model = nets.randomise(nets_deep.SmallResNet())
    scales = {}
    for name in ("layer1.0", "layer1.1", "layer2.1"):
        block = model.get_submodule(name)
        scales[name] = (block.bn1.weight.abs().mean() + block.bn2.weight.abs().mean()).item() / 2
    result = sc.drop_blocks(model, IMAGE, count=1, criterion="bn-scale")
    assert result.scores == pytest.approx(scales)
    with pytest.raises(RequestError, match=r"bn-scale cannot score block layers\.0"):
        sc.drop_blocks(nets_deep.SmallViT(), IMAGE, count=1, criterion="bn-scale")


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_fresh_blocks_of_all_widths_score_alike(criterion):
    """Else the narrow or the wide ones would always go first."""
    blocks = [nets_deep.Stack(nets_deep.Branch(lambda x, y: x + y, width)) for width in (8, 512)]
    for model, width in zip(blocks, (8, 512), strict=True):
        block = model.blocks[0]
        block.inner, block.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        model.stem, model.head = nn.Linear(4, width), nn.Linear(width, 3)
        for layer in (block.inner, block.outer):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    scores = [
        sc.drop_blocks(model, torch.zeros(1, 4), count=1, criterion=criterion).scores["blocks.0"]
        for model in blocks
    ]
    assert scores == pytest.approx([1, 1], rel=0.15)


def test_a_seed_decides_what_chance_drops():
    model = nets_deep.SmallViT(depth=6)
    picks = [
        sc.drop_blocks(model, IMAGE, count=2, criterion="random", seed=seed, check=False).plan.dropped
        for seed in (1, 1, 2, 3)
    ]
    assert picks[0] == picks[1]
    assert len(set(picks)) > 1


def test_a_share_of_the_blocks_can_be_asked_for():
    model = nets_deep.SmallViT(depth=4)
    assert len(sc.drop_blocks(model, IMAGE, ratio=0.5).plan.dropped) == 2
    assert len(sc.drop_blocks(model, IMAGE, ratio=1).plan.dropped) == 4
    with pytest.raises(RequestError, match=r"ratio=0.1 of 4 blocks drops none\n  pass 0.25 or more"):
        sc.drop_blocks(model, IMAGE, ratio=0.1)


def test_named_blocks_are_dropped_and_protected_ones_stay():
    model = nets_deep.SmallResNet()
    assert sc.drop_blocks(model, IMAGE, blocks=["layer1.*"]).plan.dropped == ("layer1.0", "layer1.1")
    assert sc.drop_blocks(model, IMAGE, blocks="layer2.1").plan.dropped == ("layer2.1",)
    result = sc.drop_blocks(model, IMAGE, count=1, protect=["layer1"])
    assert result.plan.dropped == ("layer2.1",)
    with pytest.raises(RequestError, match="protect pattern 'layer9' fits no block"):
        sc.drop_blocks(model, IMAGE, count=1, protect=["layer9"])


def test_where_the_norm_goes_too_the_verdict_names_it():
    model = nets.randomise(nn.Sequential(nn.Linear(4, 8), *(nets_deep.PostNormLayer() for _ in range(3))))
    result = sc.drop_blocks(model, torch.randn(2, 5, 4), count=1)
    assert result.verdict.passed
    assert not result.verdict.exact
    (name,) = result.plan.dropped
    assert result.verdict.renormalised_by[0].startswith(
        f"{name} goes with what acts on its stream: aten.layer_norm"
    )
    expected = copy.deepcopy(model)
    expected[int(name)] = nn.Identity()
    require_equal(expected, result.model, torch.randn(2, 5, 4))


def test_an_activation_that_would_change_the_stream_is_named():
    """A relu behind the addition goes with the block: after a tanh that matters, after a relu it does not."""
    relu = lambda x, y: torch.relu(x + y)  # noqa: E731
    for before, is_exact in ((nn.Tanh(), False), (nn.ReLU(), True)):
        model = nn.Sequential(nn.Linear(4, 8), before, nets_deep.Branch(relu), nn.Linear(8, 3))
        result = sc.drop_blocks(nets.randomise(model), torch.randn(2, 4), count=1)
        assert result.verdict.exact is is_exact
        assert result.verdict.passed


@pytest.mark.parametrize(
    ("end", "is_found"),
    [
        (lambda x: x / 1.0, True),
        (lambda x: 1 * x - 0, True),
        (lambda x: x.add_(0.0), True),
        (lambda x: x / 2.0, False),
        (lambda x: x + 1, False),
    ],
)
def test_a_number_that_changes_nothing_is_on_the_path(end, is_found):
    """Blocks of diffusers end with `/ self.output_scale_factor`, which is 1."""
    model = nets.randomise(nets_deep.Stack(*(nets_deep.Branch(lambda x, y: end(x + y)) for _ in range(2))))
    if not is_found:
        with pytest.raises(RequestError, match="no block can be dropped"):
            sc.drop_blocks(model, torch.randn(2, 4), count=1)
        return
    result = sc.drop_blocks(model, torch.randn(2, 4), count=1)
    expected = copy.deepcopy(model)
    expected.blocks[int(result.plan.dropped[0][-1])] = nn.Identity()
    require_equal(expected, result.model, torch.randn(2, 4))
    assert result.verdict.exact


class Mapped(nn.Module):
    """A map as a sequence and back; each block takes or leaves the numbers in a row."""

    def __init__(self, depth=2):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.blocks = nn.ModuleList(nets_deep.Branch(lambda x, y: x.contiguous() + y) for _ in range(depth))

    def forward(self, x):
        x = self.stem(x)
        batch, width, height, length = x.shape
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        x = x.contiguous().view(batch, height, length, width)
        return self.head(x.permute(0, 3, 1, 2).contiguous())


@pytest.mark.parametrize("count", [1, 2])
def test_where_the_numbers_lie_in_memory_is_no_deviation(count):
    """Without all blocks PyTorch must bring the map into a row, which with one of them it need not."""
    model = nets.randomise(Mapped())
    result = sc.drop_blocks(model, IMAGE, count=count)
    assert result.verdict.exact
    masked = copy.deepcopy(model)
    for name in result.plan.dropped:
        nn.init.zeros_(masked.get_submodule(name).outer.weight)
        nn.init.zeros_(masked.get_submodule(name).outer.bias)
    require_equal(masked, result.model, IMAGE)


def test_the_dropped_model_trains(case):
    model, inputs, _, _ = case
    result = sc.drop_blocks(model, inputs, count=1)
    result.model(*inputs).sum().backward()
    assert all(held.grad is not None for held in result.model.parameters())


class Counting(nets_deep.SmallViT):
    """Needs as many layers as it was built with."""

    def forward(self, x):
        assert [layer.attention_type for layer in self.layers] == ["full"] * 3
        return super().forward(x)


def test_plain_attributes_of_a_dropped_block_stay_readable():
    """Where the code needs a place in a list something stands there, and what that is says so."""
    result = sc.drop_blocks(Counting(), IMAGE, blocks=["layers.1"])
    skip = result.model.layers[1]
    assert skip.attention_type == "full"
    assert not list(skip.parameters())
    assert repr(skip) == "Skip(EncoderLayer)"
    assert result.verdict.exact
    assert "note: what was dropped from layers leaves a place behind: " in str(result)


# What cannot be done.


def test_a_model_without_blocks_is_refused_with_the_reasons():
    with pytest.raises(RequestError, match="no block can be dropped") as caught:
        sc.drop_blocks(nets.Residual(), torch.zeros(2, 3, 6, 6), count=1)
    assert "a block returns its input plus something" in str(caught.value)


def test_too_many_are_refused_with_the_reasons():
    with pytest.raises(RequestError, match="4 blocks were to be dropped, 3 can be") as caught:
        sc.drop_blocks(nets_deep.SmallResNet(), IMAGE, count=4)
    assert "layer2.0: it takes [2, 4, 4, 4] and returns [2, 8, 2, 2]" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "neither count nor ratio nor blocks was given"),
        ({"count": 1, "ratio": 0.5}, "count is 1 and ratio is 0.5"),
        ({"count": -1}, "count is -1"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"count": 1, "criterion": "bn-scal"}, "did you mean 'bn-scale'?"),
    ],
)
def test_requests_that_make_no_sense_are_refused(asked, why):
    with pytest.raises(RequestError, match=why.replace("?", r"\?")):
        sc.drop_blocks(nets_deep.SmallResNet(), IMAGE, **asked)


def test_nothing_asked_is_nothing_done_with_a_warning():
    model = nets_deep.SmallResNet()
    with pytest.warns(NoEffectWarning, match="0 blocks were asked for"):
        result = sc.drop_blocks(model, IMAGE, count=0)
    assert result.after == result.before


class Measuring(nn.Module):
    """Has a number of blocks, and asks one of them for a module of it, which a dropped one has not."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nets_deep.Branch(lambda x, y: x + y) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        assert len(self.blocks) == 3
        for at, block in enumerate(self.blocks):
            if at == 1:
                assert block.inner.out_features == 6
            x = block(x)
        return self.head(x)


def test_a_block_that_the_code_needs_is_left_alone_and_another_goes():
    model = Measuring()
    with torch.no_grad():
        model.blocks[1].outer.weight.zero_()
        model.blocks[2].outer.weight.mul_(0.1)
    result = sc.drop_blocks(model, torch.zeros(2, 4), count=1)
    assert result.plan.dropped == ("blocks.2",)
    assert "does not run without it" in result.reasons["blocks.1"]
    assert "AssertionError" in result.reasons["blocks.1"]
    assert "has no attribute 'inner'" in result.reasons["blocks.1"]
    assert "blocks.1: left alone" in str(result)
    with pytest.raises(RequestError, match="3 blocks were to be dropped, 2 can be"):
        sc.drop_blocks(model, torch.zeros(2, 4), count=3)


class Training(Measuring):
    """The same, in training only, for a head that does not run in eval mode."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return (self.head(x), self.auxiliary(self.blocks[0].inner(x))) if self.training else self.head(x)


def test_a_block_that_training_needs_is_left_alone():
    model = Training()
    with torch.no_grad():
        model.blocks[0].outer.weight.zero_()
    result = sc.drop_blocks(model, torch.zeros(2, 4), count=2)
    assert result.plan.dropped == ("blocks.1", "blocks.2")
    assert "does not train without it (it reads blocks.0.inner.weight" in result.reasons["blocks.0"]
    assert "('Skip' object has no attribute 'inner')" in result.reasons["blocks.0"]


class OneOfTwo(Measuring):
    """Needs one of its blocks, no matter which."""

    def forward(self, x):
        assert any(hasattr(block, "inner") for block in self.blocks)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_blocks_that_cannot_all_go_are_named():
    with pytest.raises(CutError, match=r"can be dropped, but not all of them: blocks\.0, blocks\.1, "):
        sc.drop_blocks(OneOfTwo(), torch.zeros(2, 4), ratio=1)


def test_the_check_sees_a_wrong_skip(monkeypatch):
    """A skip that returns something else than the stream: by number nothing else would tell."""
    monkeypatch.setattr(
        "secateur.cut.skip.Skip._given",
        lambda self, key, args, kwargs: 1.01 * (args or (kwargs["hidden"],))[0],
    )
    with pytest.raises(RequestError, match="1 blocks were to be dropped, 0 can be") as caught:
        sc.drop_blocks(nets.randomise(Counting()), IMAGE, count=1)
    assert "layers.2: " in str(caught.value)
    compare = drop.compare_dropped
    monkeypatch.setattr(drop, "compare_dropped", lambda *given: (compare(*given)[0], None))
    with pytest.raises(RequestError, match=r"the cut model takes another path than the original: aten\.mul"):
        sc.drop_blocks(nets.randomise(Counting()), IMAGE, count=1)


def test_the_check_sees_a_wrong_path(monkeypatch):
    """Were the branch taken for the stream, the reference would drop the stream."""
    monkeypatch.setattr(path, "_addends", lambda node: ["other"] if node.op == "aten.add" else [])
    with pytest.raises((RequestError, CheckError)):
        sc.drop_blocks(nets.randomise(nets_deep.SmallViT()), IMAGE, count=1)


# torchvision.


@pytest.mark.parametrize(
    ("name", "blocks", "size"),
    [
        ("resnet18", 5, 64),
        pytest.param("resnet50", 12, 64, marks=pytest.mark.slow),
        pytest.param("vit_b_16", 12, 224, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 18, 64, marks=pytest.mark.slow),
        pytest.param("swin_t", 12, 64, marks=pytest.mark.slow),
    ],
)
def test_torchvision_networks_are_exact(name, blocks, size):
    model = getattr(torchvision.models, name)()
    result = sc.drop_blocks(model, torch.randn(1, 3, size, size), ratio=0.5)
    assert len(result.blocks) == blocks
    assert len(result.plan.dropped) == blocks // 2
    assert result.verdict.exact, str(result.verdict)
    assert result.model.eval()(torch.randn(2, 3, size, size)).shape == (2, 1000)
    assert result.after.macs < 0.8 * result.before.macs


def test_a_dropped_result_can_be_recovered_and_printed():
    result = sc.drop_blocks(nets_deep.SmallResNet(), IMAGE, count=1)
    better = sc.recover(result, [IMAGE])
    assert better.recovered == ()
    require_equal(better.model, result.model, IMAGE)
    for text in (
        "dropped 1 of 3 blocks of SmallResNet",
        "layer1.0: ",
        "layer2.0: left alone, it takes",
        "exact:",
    ):
        assert text in str(better)
    assert "layer" in str(result.plan)


def test_brackets_in_reasons_are_printed():
    result = sc.drop_blocks(nets_deep.SmallResNet(), IMAGE, count=1)
    told = dataclasses.replace(result, reasons={"layer9": "blocks[red] is taken"})
    assert "layer9: left alone, blocks[red] is taken" in str(told)
