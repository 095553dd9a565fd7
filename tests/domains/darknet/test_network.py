import pytest
import torch
import torch.nn.functional as F
from darknet_nets import conv, net, randomise
from torch import nn

import secateur as sc
from secateur.domains.darknet import Darknet, bundled_cfgs, read_cfg
from secateur.domains.darknet.cfg import NET
from secateur.errors import RequestError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def seen(model, index, images=IMAGES):
    """What layer `index` puts out."""
    found = []
    hook = model.layers[index].register_forward_hook(lambda module, given, output: found.append(output))
    with torch.no_grad():
        model(images)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("name", bundled_cfgs())
def test_bundled_networks_give_raw_maps_in_training_too(name):
    model = Darknet(name)
    images = torch.rand(2, 3, 64, 96)
    for mode in (True, False):
        with torch.no_grad():
            maps = model.train(mode)(images)
        for raw, head in zip(maps, model.heads, strict=True):
            assert raw.shape == (2, head.channels, 64 // head.stride, 96 // head.stride)
            assert head.channels == len(head.anchors) * (5 + head.classes)


def test_names_carry_darknets_numbers():
    model = Darknet("yolov3")
    names = dict(model.named_parameters())
    for index, section in enumerate(model.config.sections):
        kernel = names.get(f"layers.{index}.conv.weight")
        assert (kernel is not None) == (section.name == "convolutional")
        if kernel is not None:
            assert kernel.shape[0] == int(section["filters"])
            assert (f"layers.{index}.norm.weight" in names) == ("batch_normalize" in section.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_949_149


def test_heads_say_what_the_cfg_says():
    first, second, third = Darknet("yolov4").heads
    assert [head.stride for head in (first, second, third)] == [8, 16, 32]
    assert second.anchors == ((36, 75), (76, 55), (72, 146))
    assert second.mask == (3, 4, 5)
    assert second.all_anchors[0] == (12, 16)
    assert (second.scale_x_y, second.iou_loss, second.ignore_thresh, second.iou_thresh) == (
        1.1,
        "ciou",
        0.7,
        0.213,
    )
    assert (second.truth_thresh, second.classes, second.iou_normalizer) == (1, 80, 0.07)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("linear", lambda x: x),
        ("leaky", lambda x: torch.where(x > 0, x, 0.1 * x)),
        ("relu", lambda x: x.clamp(min=0)),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("mish", lambda x: x * torch.tanh(F.softplus(x))),
        ("swish", lambda x: x * torch.sigmoid(x)),
        ("logistic", torch.sigmoid),
        ("tanh", torch.tanh),
        ("elu", lambda x: torch.where(x > 0, x, x.exp() - 1)),
    ],
)
def test_activations(name, function):
    model = randomise(Darknet(net(conv(4, activation=name))))
    layer = model.layers[0]
    with torch.no_grad():
        expected = function(layer.norm(layer.conv(IMAGES)))
    torch.testing.assert_close(seen(model, 0), expected)


def test_an_activation_that_is_not_named_is_logistic():
    model = Darknet(net("[convolutional]\nfilters=2\n"))
    assert isinstance(model.layers[0].act, nn.Sigmoid)


def test_padding_by_number_and_by_kernel():
    model = Darknet(
        net("[convolutional]\nfilters=2\nsize=5\npadding=1\n", "[convolutional]\nfilters=2\nsize=5\npad=1\n")
    )
    assert seen(model, 0).shape == (2, 2, 30, 30)
    assert seen(model, 1).shape == (2, 2, 30, 30)


@pytest.mark.parametrize(
    ("size", "stride"), [(2, 2), (2, 1), (3, 2), (5, 1), (9, 1), (13, 1), (3, 1), (4, 2)]
)
@pytest.mark.parametrize("side", [32, 31])
def test_maxpool_pads_as_darknet_does(size, stride, side):
    """The loop of `forward_maxpool_layer`, written with slices."""
    model = Darknet(net(f"[maxpool]\nsize={size}\nstride={stride}\n", side=side))
    images = IMAGES[..., :side, :side] - 2
    out, offset = (side + size - 1 - size) // stride + 1, -((size - 1) // 2)
    expected = torch.empty(2, 3, out, out)
    for row in range(out):
        for column in range(out):
            top, left = offset + row * stride, offset + column * stride
            window = images[..., max(0, top) : top + size, max(0, left) : left + size]
            expected[..., row, column] = window.amax((2, 3))
    assert torch.equal(model.layers[0](images), expected)


def test_upsample_repeats():
    model = Darknet(net(conv(4, stride=4), "[upsample]\nstride=2\n"))
    before, after = seen(model, 0), seen(model, 1)
    assert torch.equal(after, before.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("groups", "group"), [(1, 0), (2, 0), (2, 1), (4, 2)])
def test_route_takes_a_part_of_each(groups, group):
    model = Darknet(net(conv(8), conv(4), f"[route]\nlayers=-1, 0\ngroups={groups}\ngroup_id={group}\n"))
    parts = [part.chunk(groups, 1)[group] for part in (seen(model, 1), seen(model, 0))]
    assert torch.equal(seen(model, 2), torch.cat(parts, 1))


def test_shortcut_adds_several_and_activates():
    model = Darknet(net(conv(4), conv(4), conv(4), "[shortcut]\nfrom=-2, 0\nactivation=relu\n"))
    expected = (seen(model, 2) + seen(model, 1) + seen(model, 0)).clamp(min=0)
    assert torch.equal(seen(model, 3), expected)


@pytest.mark.parametrize(("first", "second"), [(4, 6), (6, 4)])
def test_shortcut_of_other_widths_adds_the_shared_channels(first, second):
    model = Darknet(net(conv(first), conv(second), "[shortcut]\nfrom=-2\nactivation=linear\n"))
    expected = seen(model, 1).clone()
    shared = min(first, second)
    expected[:, :shared] += seen(model, 0)[:, :shared]
    assert torch.equal(seen(model, 2), expected)


def test_dropout_is_for_training():
    model = Darknet(net(conv(4), "[dropout]\nprobability=.5\n")).eval()
    assert torch.equal(seen(model, 0), seen(model, 1))
    model.train()
    assert not torch.equal(seen(model, 0), seen(model, 1))


def test_images_that_do_not_divide_are_refused():
    with pytest.raises(RequestError, match="multiples of 32"):
        Darknet("yolov3-tiny")(torch.zeros(1, 3, 96, 100))


@pytest.mark.parametrize(
    ("layers", "message", "line"),
    [
        (["[reorg]\nstride=2\n"], "unknown section \\[reorg\\]", 5),
        (["[route]\nlayers=-2\n"], "layers=-2 is layer -2", 6),
        ([conv(4), "[route]\nlayers=7\n"], "layers=7 is layer 7, which does not stand before layer 1", 12),
        ([conv(4), "[shortcut]\nfrom=1\n"], "from=1 is layer 1", 12),
        ([conv(4), "[route]\nlayers=x\n"], "layers holds 'x', which is no number", 12),
        ([conv(4), "[route]\nlayers=\n"], "layers names no layer", 12),
        ([conv(4), "[route]\n"], "layers is missing", 11),
        ([conv(4), conv(4, stride=2), "[route]\nlayers=-1,0\n"], "rows or columns differ", 19),
        ([conv(4), conv(4, stride=2), "[shortcut]\nfrom=-2\n"], "rows or columns differ", 19),
        (
            [conv(6), "[route]\nlayers=-1\ngroups=4\ngroup_id=1\n"],
            "groups=4 does not divide the 6 channels",
            13,
        ),
        ([conv(6), "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n"], "group_id=2 is not below groups=2", 14),
        ([conv(4, groups=2)], "groups=2 does not divide 3 input channels", 11),
        ([conv("four")], "filters=four is no integer", 7),
        ([conv(0)], "filters=0 is below 1", 7),
        ([conv(4, activation="loggy")], "activation=loggy is unknown", 10),
        ([conv(4, xnor=1)], "xnor=1 is not supported", 11),
        ([conv(4, stride_x=2)], "stride_x=2 is not supported", 11),
        (["[convolutional]\nsize=40\n"], "leaves nothing", 6),
        ([conv(4), "[shortcut]\nfrom=-1\nweights_type=per_channel\n"], "weights_type=per_channel", 13),
        (["[dropout]\nprobability=2\n"], "probability=2.0 is no share", 6),
        (["[yolo]\nanchors=1,1\nnum=1\nclasses=1\n"], "need 6 channels, got 3", 8),
    ],
)
def test_bad_sections_name_file_and_line(layers, message, line):
    with pytest.raises(RequestError, match=message) as caught:
        Darknet(net(*layers))
    assert str(caught.value).startswith(f"net.cfg:{line}: ")


@pytest.mark.parametrize(
    ("key", "value", "message", "at"),
    [
        ("classes", 20, "need 75 channels, got 255", 15),
        ("mask", "3,4", "need 170 channels, got 255", 15),
        ("mask", "3,4,6", "mask=6 of 6 anchors", 16),
        ("anchors", "1,2", "anchors holds 2 numbers, num=6 needs 12", 16),
        ("mask", "1.5", "mask holds a fraction", 16),
        ("anchors", "1,b", "anchors holds 'b', which is no number", 16),
        ("new_coords", 1, "new_coords=1 is not supported", 16),
    ],
)
def test_bad_heads_name_file_and_line(key, value, message, at):
    config = read_cfg("yolov3-tiny").replaced(16, **{key: value})
    with pytest.raises(RequestError, match=message) as caught:
        Darknet(config)
    line = config.line(at, "filters" if at == 15 else key)
    assert str(caught.value).startswith(f"yolov3-tiny.cfg:{line}: ")


def test_a_cfg_without_heads_is_refused():
    config = read_cfg("digits")
    with pytest.raises(RequestError, match="no \\[yolo\\] section"):
        Darknet(type(config)(config.net, config.sections[:3], "cut.cfg"))


def test_options_that_change_nothing_are_no_error():
    spelt_out = Darknet(net(conv(4, xnor="0", groups=1, dilation=1, stride_x=1)))
    assert str(spelt_out.layers) == str(Darknet(net(conv(4))).layers)


def test_halves_of_a_route_keep_equal_counts():
    groups = sc.couple(Darknet("yolov4-tiny"), torch.zeros(1, 3, 32, 32))
    halves = [group for group in groups if group.reason is None and group.name.startswith("layers.2.")]
    assert [group.size for group in halves] == [32]


def test_images_are_those_of_the_cfg_unless_a_side_is_asked_for():
    config = read_cfg("digits").replaced(NET, height=64, width=96, channels=1)
    model = Darknet(config).half()
    assert model.image_size() == (64, 96)
    assert model.image_size(32) == (32, 32)
    black = model.black((32, 64), batch=2)
    assert (black.shape, black.dtype, black.requires_grad) == ((2, 1, 32, 64), torch.float16, False)
    assert not black.any()
    for side in (0, 40, -16):
        with pytest.raises(RequestError, match=rf"image_size is {side}, digits\.cfg divides images by 16"):
            model.image_size(side)
    odd = Darknet(net(conv(8, stride=2)).replaced(NET, width=33))
    with pytest.raises(RequestError, match="image_size is 32 x 33"):
        odd.image_size()


def test_a_head_takes_what_its_section_says_and_the_defaults_for_the_rest():
    config = net(conv(8)).replaced(2, ignore_thresh=0.7, iou_normalizer=0.07, iou_loss="ciou")
    (head,) = Darknet(config).heads
    assert (head.ignore_thresh, head.iou_normalizer, head.iou_loss) == (0.7, 0.07, "ciou")
    assert (head.truth_thresh, head.scale_x_y, head.iou_thresh) == (1, 1, 1)
    with pytest.raises(RequestError, match="obj_normalizer holds 'much', which is no number"):
        Darknet(config.replaced(2, obj_normalizer="much"))
