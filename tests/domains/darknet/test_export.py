import pytest
import torch
from darknet_nets import conv, net, randomise

import secateur as sc
from secateur.domains.darknet import (
    Darknet,
    Header,
    bundled_cfgs,
    export,
    load_darknet,
    parse_cfg,
    read_cfg,
    remove_layers,
    save_darknet,
)
from secateur.errors import RequestError

SLOW = ("yolov3", "yolov3-spp", "yolov4")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in bundled_cfgs()]


def changed_lines(before, after):
    lines = zip(before.text.splitlines(), after.text.splitlines(), strict=True)
    return [(old, new) for old, new in lines if old != new]


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_is_read_back_exactly(name, tmp_path):
    model = randomise(Darknet(name))
    images = torch.rand(2, 3, 64, 64)
    result = sc.prune(model, images[:1], ratio=0.5)
    assert result.verdict.exact
    cut = result.model
    cut.header = Header(0, 2, 5, seen=123)
    files = save_darknet(cut, tmp_path / "cut")
    again = load_darknet(*files)
    with torch.no_grad():
        for ours, theirs in zip(cut(images), again(images), strict=True):
            assert torch.equal(ours, theirs)
    assert again.header == cut.header
    assert [head.anchors for head in again.heads] == [head.anchors for head in model.heads]
    for old, new in changed_lines(model.config, again.config):
        assert old.startswith("filters=")
        assert new.startswith("filters=")
    widths = [module.conv.out_channels for module in cut.layers if hasattr(module, "conv")]
    assert sum(widths) < sum(int(section.get("filters") or 0) for section in model.config.sections)


def test_nothing_cut_is_the_same_cfg():
    model = Darknet("yolov4-tiny")
    assert export(model) == model.config


@pytest.mark.parametrize(
    "layers",
    [
        (conv(8), conv(8, groups=8), conv(12, 1)),
        (conv(8), conv(12, groups=2), conv(8, 1)),
        (conv(8), conv(8), "[shortcut]\nfrom=-2\n", conv(8), "[route]\nlayers=-1,-3\ngroups=2\ngroup_id=1\n"),
        (conv(8), conv(12), "[shortcut]\nfrom=-2\n", conv(8)),
        (conv(12), conv(8), "[shortcut]\nfrom=-2\n", conv(8)),
        (conv(8), conv(8), conv(8), "[shortcut]\nfrom=-2,-3\n"),
        (conv(8), "[maxpool]\nsize=2\nstride=1\n", "[upsample]\nstride=2\n", conv(8, stride=2)),
        (conv(8, activation="mish"), conv(8, activation="swish"), conv(8, activation="logistic")),
    ],
    ids=["depthwise", "grouped", "halves", "wider", "narrower", "three", "pools", "activations"],
)
def test_every_section_survives_a_cut(layers, tmp_path):
    model = randomise(Darknet(net(*layers)))
    images = torch.rand(2, 3, 32, 32)
    result = sc.prune(model, images, ratio=0.5, scope="local")
    assert result.verdict.exact
    again = load_darknet(*save_darknet(result.model, tmp_path / "cut"))
    with torch.no_grad():
        assert torch.equal(again(images)[0], result.model(images)[0])
    assert result.after.params < 0.8 * result.before.params


def test_depthwise_groups_are_written():
    model = Darknet(net(conv(8), conv(8, groups=8), conv(12, 1)))
    cut = sc.prune(model, torch.rand(1, 3, 32, 32), ratio=0.5, scope="local").model
    assert (export(cut).layer(1)["filters"], export(cut).layer(1)["groups"]) == ("4", "4")


def test_a_folder_gets_files_named_as_the_cfg(tmp_path):
    cfg, weights = save_darknet(Darknet("digits"), f"{tmp_path}/new/")
    assert (cfg, weights) == (tmp_path / "new/digits.cfg", tmp_path / "new/digits.weights")
    assert cfg.read_text() == read_cfg("digits").text
    assert save_darknet(Darknet("digits"), tmp_path)[0] == tmp_path / "digits.cfg"
    assert save_darknet(Darknet("digits"), tmp_path / "v1.5")[0] == tmp_path / "v1.5.cfg"


def test_no_channel_left_is_refused():
    model = Darknet("digits")
    model.layers[2].conv.weight = torch.nn.Parameter(torch.empty(0, 32, 1, 1))
    with pytest.raises(RequestError, match=r"digits\.cfg:\d+: no channel is left"):
        export(model)


def test_another_cfg_is_refused():
    model = Darknet("digits")
    with pytest.raises(RequestError, match="24 layers, the network 31"):
        export(model, read_cfg("yolov3-tiny"))
    swapped = parse_cfg(model.config.text.replace("size=1", "size=3", 1))
    with pytest.raises(RequestError, match="1 tensors of the network have other shapes"):
        export(model, swapped)


def test_removed_residual_blocks_are_the_identity():
    model = randomise(Darknet("digits"))
    removed = {9, 10, 11, 16, 17, 18}
    images = torch.rand(2, 3, 64, 64)
    smaller = remove_layers(model, removed)
    with torch.no_grad():
        for last in (10, 17):
            model.layers[last].norm.weight.zero_()
            model.layers[last].norm.bias.zero_()
        for ours, theirs in zip(smaller(images), model(images), strict=True):
            assert torch.equal(ours, theirs)
    assert len(smaller.layers) == len(model.layers) - 6
    assert smaller.config.layer(20)["layers"] == "-1, 8"
    assert smaller.header == model.header
    assert all(line in smaller.config.text for line in model.config.text.splitlines() if line.startswith("#"))


def test_removed_blocks_of_a_cut_network_are_read_back(tmp_path):
    cut = sc.prune(randomise(Darknet("yolov4-tiny")), torch.rand(1, 3, 64, 64), ratio=0.3).model
    smaller = remove_layers(cut, {9})
    again = load_darknet(*save_darknet(smaller, tmp_path / "cut"))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images)[0], smaller(images)[0])


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({99}, "layer 99, digits.cfg has 31"),
        ({22}, r"digits\.cfg:\d+: a head cannot be removed"),
        ({5}, r"digits\.cfg:\d+: the layer no longer fits"),
    ],
)
def test_what_cannot_be_removed_is_refused(removed, message):
    with pytest.raises(RequestError, match=message):
        remove_layers(Darknet("digits"), removed)


def test_a_route_cannot_name_the_input():
    model = Darknet(net(conv(3), conv(3), "[shortcut]\nfrom=-2\n"))
    with pytest.raises(RequestError, match="would name the network's input"):
        remove_layers(model, {0})
