import pytest
import torch
from darknet_nets import conv, net, randomise
from torch import nn

import secateur as sc
from secateur.domains.darknet import (
    Darknet,
    bundled_cfgs,
    load_darknet,
    prunable_scales,
    prune_darknet,
    save_darknet,
)
from secateur.domains.darknet.blocks import residual_blocks
from secateur.domains.darknet.strategy import strategies
from secateur.errors import NoEffectWarning, RequestError

SLOW = ("yolov3", "yolov3-spp", "yolov4")
BLOCKLESS = ("yolov3-tiny", "yolov4-tiny")
PAIRS = [
    pytest.param(name, strategy, marks=[pytest.mark.slow] * (name in SLOW), id=f"{name}-{strategy}")
    for name in bundled_cfgs()
    for strategy in strategies
    if not (name in BLOCKLESS and strategies[strategy].takes_blocks)
]


def sparse(name, strategy, share=0.6, seed=0):
    """A network as ideal sparse training leaves it: what the strategy takes has channels of gamma = beta = 0.

    Returns it with the percent that takes exactly those.
    """
    model = randomise(Darknet(name))
    generator = torch.Generator().manual_seed(seed)
    rule, zeros, pool = strategies[strategy], 0, 0
    with torch.no_grad():
        if rule.takes_blocks:
            for block in residual_blocks(model)[::2]:
                norm = model.layers[block.last].norm
                norm.weight.zero_()
                norm.bias.zero_()
        if rule.channels is None:
            return model, len(residual_blocks(model)[::2])
        groups = sc.couple(model, torch.zeros(1, 3, 64, 64))
        blocks = {layer for block in residual_blocks(model)[::2] for layer in block.layers}
        for group in rule.channels.taken(model, groups):
            gone = torch.randperm(group.size, generator=generator)[: int(share * group.size)]
            for member in groups[group.name].members:
                if member.op == "aten.batch_norm" and member.arg in ("weight", "bias"):
                    axis = groups[group.name].axis
                    rows = sc.score.view.DimPlaces(member.expr).of(axis)[gone].reshape(-1)
                    model.get_parameter(member.tensor)[torch.from_numpy(rows)] = 0
                    if member.arg == "weight" and not (
                        rule.takes_blocks and int(member.tensor.split(".")[1]) in blocks
                    ):
                        zeros += len(rows)
                        pool += len(model.get_parameter(member.tensor))
    return model, zeros / pool


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_what_says_nothing_goes_and_nothing_changes(name, strategy, tmp_path):
    """Channels of gamma = beta = 0 and blocks that end in them: equal to 1e-9 in float64, read back equal."""
    model, amount = sparse(name, strategy)
    blocks = len(residual_blocks(model)[::2]) if strategies[strategy].takes_blocks else None
    percent = amount if strategies[strategy].channels else 0.5
    check = name == "digits"  # the outputs are compared below in any case
    pruned = prune_darknet(model, strategy, percent=percent, blocks=blocks, image_size=64, check=check)
    assert not check or pruned.verdict.exact
    assert pruned.after.params < 0.98 * pruned.before.params
    images = torch.rand(1, 3, 96, 64, dtype=torch.float64)
    smaller = pruned.model.double()
    with torch.no_grad():
        for ours, theirs in zip(smaller(images), model.double()(images), strict=True):
            assert float((ours - theirs).abs().max()) < 1e-9 * max(1.0, float(theirs.abs().max()))
    assert all(one.exact and one.largest_scale == 0 for one in pruned.absorbed)
    if blocks:
        assert len(pruned.removed) == sum(len(block.layers) for block in residual_blocks(model)[::2])
    smaller = smaller.float()
    again = load_darknet(*save_darknet(smaller, tmp_path / "cut"))
    assert again.config.text == pruned.config.text
    with torch.no_grad():
        for ours, theirs in zip(again(images.float()), smaller(images.float()), strict=True):
            assert torch.equal(ours, theirs)


def scaled(model, **scales):
    """The network with given scales: `l3=[...]` are those of layer 3."""
    with torch.no_grad():
        for name, values in scales.items():
            model.layers[int(name[1:])].norm.weight.copy_(torch.tensor(values))
    return model


def joined():
    """Three layers that two shortcuts join, and one of its own between."""
    block = (conv(4), conv(4), "[shortcut]\nfrom=-3\nactivation=linear\n")
    return Darknet(net(conv(4), *block, conv(4), conv(4), "[shortcut]\nfrom=-3\nactivation=linear\n")).eval()


@pytest.mark.parametrize(
    ("merge", "kept"),
    [("union", (1, 2, 3)), ("mean", (2, 3)), ("first", (1,)), (None, (1, 2, 3))],
)
def test_joined_layers_get_one_mask(merge, kept):
    ones = [1.0, 1.0, 1.0, 1.0]
    model = scaled(
        joined(),
        l0=[0.1, 0.6, 0.4, 0.3],
        l2=[-0.2, 0.1, -0.9, 0.4],
        l5=[0.3, 0.2, 0.8, 0.9],
        l1=ones,
        l4=ones,
    )
    # 7 of 20 scales lie at or below 0.35: 0.1 0.1 0.2 0.2 0.3 0.3, and 0.4 twice makes 8.
    pruned = prune_darknet(model, "extreme", percent=8 / 20, merge=merge)
    assert pruned.threshold == pytest.approx(0.4)
    assert [pruned.plan.keep[name] for name in pruned.plan.keep if name == "layers.0.conv"] == [kept]
    assert {row.after for row in pruned.rows if row.layer in (0, 2, 5)} == {len(kept)}
    assert pruned.verdict.exact


def test_normal_leaves_what_feeds_shortcuts_and_upsampling():
    pruned = prune_darknet(randomise(Darknet("digits")), "normal", percent=0.6, absorb=False, check=False)
    changed = [row.layer for row in pruned.rows if row.after < row.before]
    assert changed == [0, 2, 6, 9, 13, 16, 19, 20, 27, 28]
    tiny = prune_darknet(randomise(Darknet("yolov3-tiny")), "tiny", percent=0.6, absorb=False, check=False)
    assert {row.layer for row in tiny.rows if row.after == row.before} == {15, 18, 22}
    extreme = prune_darknet(
        randomise(Darknet("yolov3-tiny")), "extreme", percent=0.6, absorb=False, check=False
    )
    assert {row.layer for row in extreme.rows if row.after == row.before} == {15, 22}


def test_ceiling_and_limit_are_those_of_the_scales():
    model = scaled(
        Darknet(net(conv(4), conv(4), conv(4))).eval(),
        l0=[0.1, 0.2, 0.3, 0.4],
        l1=[0.5, 0.6, 0.7, 0.8],
        l2=[0.9, 1.0, 1.1, 1.2],
    )
    below = prune_darknet(model, percent=0.25)
    assert (below.ceiling.threshold, below.ceiling.percent) == (pytest.approx(0.4), 0.25)
    assert [row.after for row in below.rows] == [1, 4, 4, 6]
    assert "percent limit 25.0 %" in str(below)
    assert "the floor held" not in str(below)
    beyond = prune_darknet(model, percent=0.5)
    assert [(row.after, row.note) for row in beyond.rows] == [(1, "floor"), (2, ""), (4, ""), (6, "")]
    assert "the floor held layers 0" in str(beyond)


def test_equal_scales_go_from_all_layers_evenly():
    pruned = prune_darknet(Darknet(net(conv(8), conv(16), conv(8))), percent=0.5)
    assert [row.after for row in pruned.rows] == [4, 8, 4, 6]
    assert pruned.ceiling.percent == 0


@pytest.mark.parametrize(
    ("strategy", "options", "kept"),
    [
        ("slim", {"floor": 0.5}, [16, 20, 24]),
        ("slim", {}, [1, 20, 24]),
        ("regular", {}, [8, 32, 24]),
        ("regular", {"round_to": 3}, [3, 21, 24]),
        ("normal", {"round_to": 8}, [8, 24, 24]),
    ],
)
def test_floors_and_rounding(strategy, options, kept):
    model = Darknet(net(conv(32), conv(32), conv(24))).eval()
    small, large = [0.1] * 32, [2.0] * 24
    scaled(model, l0=small, l1=[0.2] * 12 + [3.0] * 20, l2=large)
    pruned = prune_darknet(model, strategy, percent=0.5, **options)
    assert [row.after for row in pruned.rows[:3]] == kept


def test_blocks_go_by_their_mean_scale():
    model = randomise(Darknet("digits"))
    with torch.no_grad():
        for layer, size in ((3, 0.5), (7, 0.1), (10, 0.4), (14, 0.2), (17, 0.3)):
            model.layers[layer].norm.weight.fill_(-size)
    assert prune_darknet(model, "layers", blocks=1).removed == (6, 7, 8)
    assert prune_darknet(model, "layers", blocks=3).removed == (6, 7, 8, 13, 14, 15, 16, 17, 18)
    assert prune_darknet(model, "layers", percent=0.4).removed == (6, 7, 8, 13, 14, 15)
    both = prune_darknet(model, "layers+channels", percent=0.5, image_size=64)
    assert both.removed == (6, 7, 8, 13, 14, 15)
    assert both.verdict.exact
    assert {row.layer for row in both.rows if row.after == 0} == {6, 7, 13, 14}
    assert all(0 < row.after < row.before for row in both.rows if row.layer in (9, 16, 19, 20))
    assert {one.layer for one in both.absorbed} <= {row.layer for row in both.rows if row.after}


@pytest.mark.parametrize(
    "layers",
    [
        (conv(8), conv(8), conv(8), "[shortcut]\nfrom=-3\nactivation=leaky\n"),
        (conv(8), conv(8), conv(4), "[shortcut]\nfrom=-3\nactivation=linear\n"),
        (conv(8), conv(8), conv(8), "[shortcut]\nfrom=-3\nactivation=linear\n", "[route]\nlayers=-3,-1\n"),
        (conv(8), conv(8), "[route]\nlayers=0\n", conv(8), "[shortcut]\nfrom=-3\nactivation=linear\n"),
    ],
)
def test_what_would_not_leave_its_input_is_no_block(layers):
    model = Darknet(net(*layers))
    assert [block.layers for block in residual_blocks(model)] == []
    with pytest.raises(RequestError, match=r"net\.cfg has no residual block"):
        prune_darknet(model, "layers")


def test_nothing_given_is_changed():
    model = randomise(Darknet("digits")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = model.config.text
    for strategy in ("extreme", "layers+channels"):
        pruned = prune_darknet(model, strategy, percent=0.5, image_size=64)
        assert pruned.model.training
    assert model.config.text == text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("act", ["leaky", "mish", "swish", "logistic", "linear"])
@pytest.mark.parametrize(
    ("layers", "exact"),
    [
        ((conv(8), conv(8, 1), conv(8, 1)), [True, True, True]),
        ((conv(8), conv(8).replace("pad=1", "pad=0"), conv(8)), [True, False, True]),
        (
            (conv(8, stride=2), "[upsample]\nstride=2\n", "[maxpool]\nsize=2\nstride=1\n", conv(8, 1)),
            [True, True],
        ),
        ((conv(8), conv(8, 1), "[route]\nlayers=-1,-2\n", conv(8, 1)), [True, True, True]),
    ],
    ids=["1x1", "padded", "moved", "route"],
)
def test_constants_of_removed_channels_are_absorbed(layers, exact, act):
    """gamma = 0 and beta not: where nothing is padded the output stays; elsewhere the bound holds."""
    texts = [text.replace("leaky", act) for text in layers]
    model = randomise(Darknet(net(*texts)))
    with torch.no_grad():
        for layer in model.layers:
            if getattr(layer, "norm", None) is not None:
                layer.norm.weight[:3] = 0
    pruned = prune_darknet(model, "extreme", percent=3 / 8)
    assert [one.exact for one in pruned.absorbed] == exact
    assert all(one.largest_scale == 0 for one in pruned.absorbed)
    images = torch.rand(2, 3, 32, 32)
    bare = prune_darknet(model, "extreme", percent=3 / 8, absorb=False).model
    with torch.no_grad():
        expected, got, without = (one(images)[0] for one in (model, pruned.model, bare))
    assert float((expected - without).abs().max()) > 1e-3
    if all(exact):
        assert torch.allclose(expected, got, atol=2e-5)
    else:
        assert float((expected - got).abs().mean()) < float((expected - without).abs().mean())


@pytest.mark.parametrize(
    "layers",
    [
        ("[maxpool]\nsize=2\nstride=2\n", conv(8), conv(8, 1)),
        (conv(8), "[dropout]\nprobability=1\n", conv(8, 1)),
    ],
    ids=["image-first", "dropout"],
)
def test_constants_are_followed_from_the_image_on_and_as_in_eval_mode(layers):
    model = randomise(Darknet(net(*layers))).train()
    scaled(model, **{f"l{layers.index(conv(8))}": [0.0] * 3 + [1.0] * 5})
    pruned = prune_darknet(model, "extreme", percent=3 / 16)
    assert pruned.rows[0].after == 5
    assert pruned.absorbed[0].inputs == 3
    assert pruned.absorbed[0].exact


def test_the_bound_is_what_the_border_loses():
    """One removed constant in front of a padded kernel: the largest error of the normalised output."""
    model = randomise(Darknet(net(conv(4, 1), conv(4))))
    with torch.no_grad():
        model.layers[0].norm.weight[0] = 0
        model.layers[0].norm.bias[0] = 2.0
    pruned = prune_darknet(model, "normal", percent=1 / 8)
    (absorbed,) = pruned.absorbed
    assert not absorbed.exact
    assert "within" in str(absorbed)
    seen, images = [], torch.rand(1, 3, 32, 32)
    for network in (model, pruned.model):
        hook = network.layers[1].norm.register_forward_hook(
            lambda _, __, output: seen.append(output.detach())
        )
        with torch.no_grad():
            network(images)
        hook.remove()
    dense, cut = (one[0] for one in seen)
    deviations = ((dense - cut) / model.layers[1].norm.weight.detach()[:, None, None]).abs().max()
    assert float(deviations) == pytest.approx(absorbed.bound, rel=1e-4)


def test_data_and_further_steps_reach_the_core():
    model = randomise(Darknet("digits"))
    batches = [torch.rand(2, 3, 64, 64) for _ in range(3)]
    pruned = prune_darknet(model, "slim", percent=0.5, recover=["refit"], data=batches)
    assert [one.step for one in pruned.errors] == ["absorb", "refit"]
    assert pruned.errors[-1].after < pruned.errors[0].before
    assert pruned.absorbed == ()
    again = sc.recover(pruned.result, batches, ["batch-norm"])
    assert again.model.config.text == pruned.config.text


def test_what_is_pruned_is_what_sparse_training_may_penalise():
    model = randomise(Darknet("digits"))
    for strategy in strategies:
        scales = prunable_scales(model, strategy)
        assert len({id(scale) for scale in scales}) == len(scales)
        assert all(isinstance(scale, nn.Parameter) for scale in scales)
        if strategies[strategy].takes_blocks:
            continue
        pruned = prune_darknet(model, strategy, percent=0.7, absorb=False, check=False)
        changed = {row.layer for row in pruned.rows if row.after < row.before}
        held = {id(model.layers[layer].norm.weight) for layer in changed}
        assert held <= {id(scale) for scale in scales}


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("norml", {}, "did you mean 'normal'"),
        ("normal", {"percent": 1.0}, "allowed: 0 <= percent < 1"),
        ("normal", {"percent": -0.1}, "percent is -0.1"),
        ("normal", {"floor": 2}, "floor is 2"),
        ("normal", {"round_to": 0}, "round_to is 0"),
        ("extreme", {"merge": "median"}, "unknown merge 'median'"),
        ("normal", {"blocks": 2}, "strategy normal has no use for blocks=2"),
        ("layers", {"merge": "mean"}, "strategy layers has no use for merge=mean"),
        ("layers", {"blocks": 6}, "6 blocks are asked to go, digits.cfg has 5"),
        ("layers", {"blocks": 0}, "blocks is 0"),
        ("normal", {"image_size": 100}, "image_size is 100, digits.cfg divides images by 16"),
        ("normal", {"recover": ["refit"]}, "needs data"),
    ],
)
def test_requests_that_make_no_sense_are_refused(strategy, options, message):
    with pytest.raises(RequestError, match=message):
        prune_darknet(Darknet("digits"), strategy, **options)


def test_a_network_without_scales_is_refused():
    plain = conv(4).replace("batch_normalize=1", "batch_normalize=0")
    with pytest.raises(RequestError, match=r"the strategy takes no layer of net\.cfg"):
        prune_darknet(Darknet(net(plain, plain)), "extreme")


def test_percent_of_zero_keeps_everything():
    pruned = prune_darknet(Darknet("digits"), percent=0.0)
    assert pruned.plan is None
    assert pruned.after == pruned.before
    assert pruned.config.text == Darknet("digits").config.text


def test_a_request_without_effect_is_warned_of():
    with pytest.warns(NoEffectWarning, match="nothing goes"):
        prune_darknet(Darknet("digits"), "regular", percent=0.1)
