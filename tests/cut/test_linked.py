"""Objects that modules share, where one needs another number: switches stay those of the shared one."""

import copy
import pickle
from types import SimpleNamespace

import torch
from torch import nn

from secateur.cut.linked import linked
from secateur.cut.slicing import slice_model


class Config:
    """One that saves itself, as those of transformers do."""

    def __init__(self, **values):
        self.__dict__.update(values)

    def to_dict(self):
        return dict(self.__dict__)


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, x):
        return x * self.config.heads if self.config.flag else x


def test_a_switch_that_was_set_later_is_saved_by_every_linked_object():
    shared = Config(heads=8, flag=True)
    one = linked(shared, {"heads": 4})
    two = linked(one, {"heads": 2})
    two.flag = False
    assert [held.to_dict() for held in (one, two, shared)] == [
        {"heads": heads, "flag": False} for heads in (4, 2, 8)
    ]


def test_copies_are_linked_among_themselves():
    shared = Config(heads=8, flag=True)
    held = (shared, linked(shared, {"heads": 4}))
    for copied in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        copied[0].flag = False
        assert copied[1].to_dict() == {"heads": 4, "flag": False}
        assert isinstance(copied[1], Config)
    assert shared.flag


def test_compilers_follow_a_switch():
    model = Net(linked(Config(heads=8, flag=True), {"heads": 4}))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 4.0))
    exported = torch.export.export(model, (torch.ones(2),), strict=True)
    assert torch.equal(exported.module()(torch.ones(2)), torch.full((2,), 4.0))


def test_numbers_that_the_shared_object_says_already_leave_it_shared():
    config = SimpleNamespace(heads=8, sizes=(3, 4))
    model = nn.ModuleList([Net(config), Net(config)])
    for name, values in (("0", {"config.heads": 4, "config.sizes.1": 4}), ("1", {"config.heads": 8})):
        cut = slice_model(model, {}, {name: values})
        assert (cut[0].config is cut[1].config) == (name == "1")
    cut = slice_model(model, {}, {"1": {"config.heads": 4}}, numbers={"0": {"config.heads": 4}})
    assert cut[0].config is cut[1].config
    assert config.heads == 8
