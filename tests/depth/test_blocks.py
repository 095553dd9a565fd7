"""Which modules are blocks, and why others are not."""

import nets_deep
import pytest
import torch
from torch import nn

from secateur.capture.calls import record_calls
from secateur.coupling import couple_graph
from secateur.depth import find_blocks
from secateur.errors import RequestError

X = torch.zeros(2, 4)


def find(model, x):
    graph, calls, failure = record_calls(model, x, "fake")
    assert failure is None
    return find_blocks(graph, calls, couple_graph(graph)), graph


def names(found):
    return [block.name for block in found.blocks]


def test_the_blocks_of_a_resnet_are_those_without_a_downsampling():
    found, _ = find(nets_deep.SmallResNet(), torch.zeros(1, 3, 8, 8))
    assert names(found) == ["layer1.0", "layer1.1", "layer2.1"]
    assert found.reasons == {"layer2.0": "it takes [1, 4, 4, 4] and returns [1, 8, 2, 2]"}
    assert all(not block.changes for block in found.blocks)  # the relu behind the addition changes nothing
    assert "layer1" in found.droppable


def test_the_blocks_of_an_encoder_are_its_layers():
    found, _ = find(nets_deep.SmallViT(), torch.zeros(1, 3, 8, 8))
    assert names(found) == ["layers.0", "layers.1", "layers.2"]
    model = nets_deep.SmallViT()
    assert found.blocks[0].params == sum(p.numel() for p in model.layers[0].parameters())
    assert [len(block.adds) for block in found.blocks] == [2, 2, 2]


def test_a_call_by_keyword_and_a_returned_tuple_are_remembered():
    x, mask = torch.zeros(2, 5, 8), torch.ones(5, 5)
    found, _ = find(nets_deep.TupleEncoder(), {"x": x, "mask": mask})
    assert names(found) == ["layers.0", "layers.1", "layers.2"]
    form = found.blocks[1].form
    assert (form.takes, form.returns, form.is_alone) == ("hidden", ("hidden", None, "mask", "cache"), False)


def test_what_the_model_returns_of_a_layer_keeps_the_layer():
    x, mask = torch.zeros(2, 5, 8), torch.ones(5, 5)
    found, _ = find(nets_deep.TupleEncoder(keeps_weights=True), (x, mask))
    assert not found.blocks
    assert "the model returns what it computes: aten.mul" in found.reasons["layers.1"]


def test_a_normalisation_behind_the_addition_is_named():
    model = nn.Sequential(nn.Linear(4, 8), nets_deep.PostNormLayer(), nets_deep.PostNormLayer())
    found, graph = find(model, torch.zeros(1, 5, 4))
    assert names(found) == ["1", "2"]
    assert [graph.nodes[index].op for index in found.blocks[0].changes] == ["aten.layer_norm"] * 2


HALVES = {
    "a plain addition": lambda x, y: x + y,
    "the branch first": lambda x, y: y + x,
    "in place into the branch": lambda x, y: y.add_(x),
    "in place into the stream": lambda x, y: x.add_(y),
    "a difference": lambda x, y: x - y,
    "a scaled branch": lambda x, y: torch.add(x, y, alpha=0.5),
    "addcmul": lambda x, y: torch.addcmul(x, y, y),
    "views on the way": lambda x, y: (x.unsqueeze(1) + y.unsqueeze(1)).flatten(1),
    "swapaxes and back": lambda x, y: (x.swapaxes(0, 1) + y.swapaxes(0, 1)).swapaxes(0, 1),
    "swapdims and back": lambda x, y: (x.swapdims(0, 1) + y.swapdims(0, 1)).swapdims(0, 1),
    "moveaxis and back": lambda x, y: (x.moveaxis(0, 1) + y.moveaxis(0, 1)).moveaxis(1, 0),
    "mT and back": lambda x, y: (x.mT + y.mT).mT,
    "ravel and back": lambda x, y: (x.ravel() + y.ravel()).view_as(x),
    "dropout on the way": lambda x, y: nn.functional.dropout(x + y, training=False),
}


@pytest.mark.parametrize("add", HALVES.values(), ids=HALVES)
def test_additions_make_a_block(add):
    found, _ = find(nets_deep.Stack(nets_deep.Branch(add)), X)
    assert names(found) == ["blocks.0"]
    assert len(found.blocks[0].adds) == 1


OTHERS = {
    "no addition": lambda x, y: y,
    "a gate": lambda x, y: x * torch.sigmoid(y),
    "a scaled stream": lambda x, y: torch.add(y, x, alpha=0.5),
    "a halved sum": lambda x, y: (x + y) * 0.5,
    "a negated stream": lambda x, y: y - x,
    "a constant": lambda x, y: x + 1.0,
    "a concatenation": lambda x, y: torch.cat([x[:, :4], y[:, 4:]], 1),
    "noise": lambda x, y: nn.functional.dropout(x + y, training=True),
    "turned around": lambda x, y: (x + y).flip(1),
}


@pytest.mark.parametrize("combine", OTHERS.values(), ids=OTHERS)
def test_other_ways_to_combine_make_none(combine):
    found, _ = find(nets_deep.Stack(nets_deep.Branch(combine)), X)
    assert not found.blocks
    assert found.reasons["blocks.0"] == "what it returns is not its input plus something"


class Moved(nn.Module):
    """Adds to its input and returns it with two axes exchanged that happen to have one size."""

    def __init__(self):
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.block = MovedBlock()

    def forward(self, x):
        x = self.first(x)
        pair = x.unsqueeze(2) * self.mix(x).unsqueeze(1)
        return self.last(self.block(pair).sum(2))


class MovedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, pair):
        return (pair + self.inner(pair)).transpose(1, 2)


def test_equal_sizes_are_not_equal_axes():
    found, _ = find(Moved(), X)
    assert not found.blocks
    assert found.reasons["block"] == "dim 1 of what it returns has other axes than its input"


class Peeking(nn.Module):
    """Reads inside a block from outside: a value, or a weight."""

    def __init__(self, reads):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 8), Remembering(), nn.Linear(8, 3)
        self.reads = reads

    def forward(self, x):
        x = self.block(self.first(x))
        seen = self.block.seen if self.reads == "a value" else self.block.branch.inner.weight.sum()
        return self.last(x) + seen.sum()


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nets_deep.Branch(lambda x, y: y)
        self.seen = None

    def forward(self, x):
        self.seen = self.branch(x)
        return x + self.seen


@pytest.mark.parametrize(
    ("reads", "why"), [("a value", "computes is used outside"), ("a weight", "inner.weight is read outside")]
)
def test_what_is_read_outside_keeps_the_block(reads, why):
    found, _ = find(Peeking(reads), X)
    assert not found.blocks
    assert why in found.reasons["block"]


class Shared(nn.Module):
    """One block that runs twice, in one form or in two."""

    def __init__(self, keyword):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 8), nets_deep.EncoderLayer(), nn.Linear(8, 3)
        self.keyword = keyword

    def forward(self, x):
        x = self.block(self.first(x))
        x = self.block(hidden=x) if self.keyword else self.block(x)
        return self.last(x)


def test_a_block_that_runs_twice_is_dropped_from_both_places_or_not_at_all():
    found, _ = find(Shared(keyword=False), torch.zeros(1, 3, 4))
    assert names(found) == ["block"]
    assert len(found.blocks[0].adds) == 4
    found, _ = find(Shared(keyword=True), torch.zeros(1, 3, 4))
    assert found.reasons["block"] == "it is called in several forms"


class Nested(nn.Module):
    """A stage with blocks in it, and blocks with a part that adds, too."""

    def __init__(self):
        super().__init__()
        stage = nets_deep.Stack(Deep(), Deep())
        stage.stem, stage.head = nn.Identity(), nn.Identity()
        self.first, self.stages = nn.Linear(4, 8), nn.ModuleList([stage])

    def forward(self, x):
        x = self.first(x)
        for stage in self.stages:
            x = x + stage(x)
        return x.sum(1)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nets_deep.Branch(lambda x, y: x + y)
        self.own = nn.Linear(8, 8)

    def forward(self, x):
        x = self.part(x)
        return x + self.own(x)


def test_of_nested_modules_the_smallest_with_all_its_additions_is_the_block():
    found, _ = find(Nested(), X)
    assert names(found) == ["stages.0.blocks.0", "stages.0.blocks.1"]
    assert set(found.droppable) >= {"stages.0", "stages.0.blocks.0.part"}


def test_patterns_choose_the_outermost_of_what_they_fit():
    found, _ = find(Nested(), X)
    assert [block.name for block in found.matching(["stages.*"])] == ["stages.0"]
    assert [block.name for block in found.matching(["*.part"])] == [
        "stages.0.blocks.0.part",
        "stages.0.blocks.1.part",
    ]
    with pytest.raises(RequestError, match="fits no module that can be dropped"):
        found.matching(["first"])
    resnet, _ = find(nets_deep.SmallResNet(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(RequestError, match=r"layer2.0: it takes \[1, 4, 4, 4\] and returns"):
        resnet.matching(["layer2.0"])
