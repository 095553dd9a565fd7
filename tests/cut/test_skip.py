"""What stands where a block was."""

import copy
import io

import nets_deep
import pytest
import torch
from torch import nn

from secateur.cut.skip import PLAIN, CallForm, Skip, drop

X = torch.randn(2, 5, 8)


@pytest.mark.parametrize(
    ("form", "args", "kwargs", "expected"),
    [
        (CallForm(0), ("x",), {}, "x"),
        (CallForm(0), (), {"hidden": "x"}, "x"),
        (CallForm("hidden"), ("x", "mask"), {}, "x"),
        (CallForm(1), ("mask", "x"), {}, "x"),
        (CallForm(0, (0,)), ("x",), {"mask": "m"}, ("x",)),
        (CallForm(0, (0, None, "mask", 2)), ("x",), {"mask": "m", "cache": "c"}, ("x", None, "m", "c")),
        (CallForm(0, (0, None, "mask", 2)), ("x", "m", "c"), {}, ("x", None, "m", "c")),
    ],
)
def test_a_skip_takes_what_the_block_took_and_returns_what_it_returned(form, args, kwargs, expected):
    assert Skip(nets_deep.EncoderLayer(), form)(*args, **kwargs) == expected


class Talkative(nn.Module):
    """Holds all sorts of things."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.type = "sparse"
        self.config = {"heads": 4}
        self.extra = [nn.Linear(2, 2)]
        self.table = {"scale": torch.ones(2)}
        self.activation = torch.relu
        self.own = self.shout
        self.forward = self.shout

    def shout(self, x):
        return self.layer(x)


def test_a_skip_keeps_plain_attributes_and_nothing_that_holds_tensors():
    net = nn.Module()
    net.blocks = nn.ModuleList([Talkative(), Talkative()])
    net.config = net.blocks[0].config
    net.blocks[0].eval()
    net.blocks[0].register_forward_hook(lambda *_: None)
    result = drop(net, ["blocks.0"], {})
    skip = result.blocks[0]
    assert (skip.type, skip.config, skip.activation) == ("sparse", {"heads": 4}, torch.relu)
    assert skip.config is result.config
    assert skip.config is not net.config
    assert not hasattr(skip, "extra")
    assert not hasattr(skip, "table")
    assert not hasattr(skip, "layer")
    assert not skip._forward_hooks
    assert skip.own.__self__ is skip  # no reference leads back to the block
    assert (skip.training, result.blocks[1].training) == (False, True)
    assert skip(3) == 3
    assert net.blocks[0].layer is not None


def test_a_sequential_gets_an_identity_where_that_suffices():
    stack = nets_deep.Stack(nets_deep.EncoderLayer(), nets_deep.EncoderLayer())
    assert type(drop(stack, ["blocks.0"], {}).blocks[0]) is nn.Identity
    assert type(drop(stack, ["blocks.0"], {"blocks.0": CallForm(0, (0, None))}).blocks[0]) is Skip
    assert type(drop(nets_deep.SmallViT(), ["layers.0"], {}).layers[0]) is Skip


@pytest.mark.parametrize("form", [PLAIN, CallForm("x")])
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_for_a_block_is_in_its_mode(training, form):
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout())).train(training)
    dropped = drop(net, ["1"], {"1": form})
    assert [module.training for module in dropped.modules()] == [training] * 3


def test_ties_between_what_stays_and_what_goes_are_kept():
    stack = nets_deep.Stack(*(nets_deep.Branch(lambda x, y: x + y) for _ in range(3)))
    stack.blocks[2].inner.weight = stack.blocks[1].inner.weight = stack.blocks[0].inner.weight
    result = drop(stack, ["blocks.0"], {})
    assert result.blocks[1].inner.weight is result.blocks[2].inner.weight
    assert result.blocks[1].inner.weight is not stack.blocks[1].inner.weight


def test_a_module_under_two_names_is_replaced_under_both():
    stack = nets_deep.Stack(nets_deep.Branch(lambda x, y: x + y))
    stack.also = stack.blocks[0]
    result = drop(stack, ["blocks.0"], {})
    assert result.also is result.blocks[0]
    assert not any(name.startswith(("also", "blocks")) for name in result.state_dict())


def test_skips_can_be_copied_saved_and_dropped_again():
    model = nets_deep.TupleEncoder()
    form = CallForm("hidden", ("hidden", None, "mask", "cache"), False)
    once = drop(model, ["layers.0"], {"layers.0": form})
    twice = drop(copy.deepcopy(once), ["layers.0", "layers.1"], {"layers.0": form, "layers.1": form})
    assert repr(twice.layers[0]) == repr(twice.layers[1]) == "Skip(EncoderLayer)"
    mask = torch.ones(5, 5)
    assert torch.equal(twice(X, mask), model.head(model.layers[2](X, mask)[0]))
    file = io.BytesIO()
    torch.save(twice.state_dict(), file)
    assert "layers.2.up.weight" in twice.state_dict()
    assert CallForm() == PLAIN


def test_a_missing_block_is_an_error():
    with pytest.raises(AttributeError):
        drop(nets_deep.SmallViT(), ["layers.9"], {})
