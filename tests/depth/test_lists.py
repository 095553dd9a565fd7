"""Layers that leave their list: what counts and numbers them follows, or they leave a place behind."""

import copy

import nets
import nets_layers
import pytest
import snapshot
import torch
from torch import nn

import secateur as sc
from secateur.depth import drop
from secateur.depth.numbering import Numbering
from secateur.errors import RequestError

X = torch.randn(2, 4)
IDS = torch.arange(12).view(2, 6) % 11


def silenced(model, names):
    """The original in which the layers add nothing, without the library."""
    masked = copy.deepcopy(model)
    for name in names:
        layer = masked.get_submodule(name)
        for held in (layer.outer if hasattr(layer, "outer") else layer.out).parameters():
            nn.init.zeros_(held)
    return masked


def run(model, *inputs, **named):
    with torch.no_grad():
        output = (
            copy.deepcopy(model)
            .double()
            .eval()(*(x.double() if x.is_floating_point() else x for x in inputs), **named)
        )
    return output["logits"] if isinstance(output, dict) else output


def require_equal(one, two):
    one, two = (held if isinstance(held, tuple) else (held,) for held in (one, two))
    for expected, got in zip(one, two, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("which", [(0,), (2,), (3,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("make", [nets_layers.Layers, nets_layers.Sliced])
def test_layers_leave_their_list_and_all_that_counts_them_follows(make, which):
    model = nets.randomise(make())
    names = [f"layers.{at}" for at in which]
    result = sc.drop_blocks(model, X, blocks=names)
    kept = [at for at in range(4) if at not in which]
    assert result.plan.lists == {"layers": tuple(kept)}
    assert result.verdict.exact
    assert not result.notes
    require_equal(run(silenced(model, names), X), run(result.model, X))
    layers = result.model.layers
    assert [layer.layer_idx for layer in layers] == list(range(len(kept)))
    assert [layer.number for layer in layers] == [at + 1 for at in range(len(kept))]
    assert result.model.n_layers == result.model.config["num_layers"] == len(kept)
    assert result.model.config["layer_types"] == [["even", "odd"][at % 2] for at in kept]
    assert result.model.config["heads"] == 4  # as many as there were layers, and no count of them
    assert all(layer.config is result.model.config for layer in layers)
    assert [layer.layer_idx for layer in model.layers] == [0, 1, 2, 3]
    assert model.config["num_layers"] == 4


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "make", [nets_layers.Chosen, nets_layers.Reversing, nets_layers.Scaled, nets_layers.Paired]
)
def test_where_a_number_counts_in_what_is_computed_a_place_is_left(make, check):
    """With or without numbers to compare: other layers, tables and results would be read."""
    model = nets.randomise(make())
    result = sc.drop_blocks(model, X, blocks=["layers.0"], check=check)
    assert not result.plan.lists
    assert result.model.layers[1].layer_idx == 1
    require_equal(run(silenced(model, ["layers.0"]), X), run(result.model, X))
    assert result.notes[0].startswith("what was dropped from layers leaves a place behind: ")


def test_what_only_training_reads_by_number_is_compared():
    model = nets.randomise(nets_layers.Supervised())
    result = sc.drop_blocks(model, X, blocks=["layers.1"])
    assert not result.plan.lists
    assert "does not train without it (it reads heads.1.bias" in result.notes[0]
    masked = silenced(model, ["layers.1"]).train()
    require_equal(masked(X), result.model.train()(X))
    last = sc.drop_blocks(model, X, blocks=["layers.3"])
    assert "it returns 4 tensors, the original 5" in last.notes[0]


@pytest.mark.parametrize("which", [(0,), (1,), (0, 2), (1, 3)])
def test_calls_may_come_in_another_order_and_fewer_of_them(which):
    """Without the first layer the kinds come the other way round; without both of a kind there is one."""
    model = nets.randomise(nets_layers.Kinds())
    names = [f"layers.{at}" for at in which]
    result = sc.drop_blocks(model, X, blocks=names)
    assert result.plan.lists == {"layers": tuple(at for at in range(4) if at not in which)}
    assert result.verdict.exact
    require_equal(run(silenced(model, names), X), run(result.model, X))


def stepped(model):
    """The last three words of the example, in steps."""
    past, found = None, []
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 6)):
            output = model(IDS[:, start:end], past)
            past, found = output["past"], [*found, output["logits"][:, -1]]
    return torch.stack(found, 1)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 2), (3,)])
def test_a_cache_has_no_gap(which):
    model = nets.randomise(nets_layers.Remembering()).double()
    names = [f"layers.{at}" for at in which]
    result = sc.drop_blocks(model, (IDS,), blocks=names)
    assert result.verdict.exact
    assert not result.verdict.limits
    expected = run(silenced(model, names), IDS)
    require_equal(expected, run(result.model, IDS))
    require_equal(expected[:, -3:], stepped(result.model.eval()))


def test_a_gap_in_a_cache_is_refused_with_the_reason():
    """The code needs four layers; something in the place of the first leaves the cache without its length."""
    model = nets.randomise(nets_layers.Remembering(needs_all=True))
    with pytest.raises(RequestError, match="with a cache its numbers differ by") as caught:
        sc.drop_blocks(model, (IDS,), blocks=["layers.0"])
    assert "AssertionError" in str(caught.value)
    assert sc.drop_blocks(model, (IDS,), blocks=["layers.2"]).verdict.exact  # no one asks for its place


def test_the_proof_in_steps_sees_a_number_that_was_left(monkeypatch):
    """Nothing in a single pass tells that the layers kept their numbers."""
    monkeypatch.setattr(drop, "number", lambda *_: Numbering())
    model = nets.randomise(nets_layers.Remembering())
    with pytest.raises(RequestError, match="with a cache its numbers differ by"):
        sc.drop_blocks(model, (IDS,), blocks=["layers.0"])
    stale = sc.drop_blocks(model, (IDS,), blocks=["layers.0"], check=False).plan
    assert "with a cache" in sc.check(model, stale, (IDS,)).failure


def test_plans_of_places_apply_as_they_did():
    """A plan that was saved before layers left their lists."""
    model = nets.randomise(nets_layers.Layers())
    plan = sc.drop_blocks(model, X, blocks=["layers.1"]).plan
    old = plan.model_copy(update={"lists": {}, "numbers": {}})
    text = old.to_json().replace(' "lists": {},\n', "").replace(' "numbers": {},\n', "")
    assert "lists" not in text
    made = sc.Plan.from_json(text).apply(model)
    assert list(made.state_dict()) == [key for key in model.state_dict() if not key.startswith("layers.1.")]
    assert (made.n_layers, len(made.layers), made.layers[2].layer_idx) == (4, 4, 2)
    require_equal(run(silenced(model, ["layers.1"]), X), run(made, X))
    assert sc.check(model, sc.Plan.from_json(text), X).exact


def test_plans_in_a_row_rename_and_mask(tmp_path):
    model = nets.randomise(nets_layers.Layers())
    first = sc.drop_blocks(model, X, blocks=["layers.1"])
    second = sc.prune(first.model, X, ratio=0.3)
    third = sc.drop_blocks(second.model, X, blocks=["layers.0"])
    plan = sc.Plan.from_json(third.plan.after(second.plan.after(first.plan)).to_json())
    assert [plan.renamed(f"layers.{at}.inner.weight") for at in range(4)] == [
        None,
        None,
        "layers.0.inner.weight",
        "layers.1.inner.weight",
    ]
    made = plan.apply(model)
    require_equal(run(third.model, X), run(made, X))
    sizes = [int(mask.sum()) for mask in plan.masks("layers.3.inner.weight")]
    assert sizes == list(made.layers[1].inner.weight.shape)
    assert made.layers[1].layer_idx == 1
    assert sc.check(model, plan, X).passed
    sc.save(sc.drop_blocks(model, X, blocks=["layers.0"]), tmp_path / "less")
    loaded = sc.load(tmp_path / "less", nets.randomise(nets_layers.Layers(), seed=5))
    require_equal(run(silenced(model, ["layers.0"]), X), run(loaded, X))
    assert loaded.config["num_layers"] == 3


def test_a_list_under_two_names_and_a_layer_elsewhere():
    model = nets.randomise(nets_layers.Layers())
    model.also = model.layers
    result = sc.drop_blocks(model, X, blocks=["layers.1"])
    assert result.plan.lists == {"layers": (0, 2, 3), "also": (0, 2, 3)}
    assert result.model.also is result.model.layers
    assert result.plan.renamed("also.3.inner.weight") == "also.2.inner.weight"
    model.first = model.layers[0]
    result = sc.drop_blocks(model, X, blocks=["layers.0"])
    assert not result.plan.lists
    assert result.model.first is result.model.layers[0]


class Stage(nn.Module):
    """A list of blocks that know their number."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nets_layers.branch() for _ in range(3))
        for at, block in enumerate(self.blocks):
            block.block_id = at

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.stages = nn.ModuleList(Stage() for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


def test_layers_of_lists_in_layers_move_with_them():
    model = nets.randomise(Staged())
    result = sc.drop_blocks(model, X, blocks=["stages.0", "stages.2.blocks.1"])
    assert result.plan.lists == {"stages": (1, 2), "stages.2.blocks": (0, 2)}
    assert [block.block_id for block in result.model.stages[1].blocks] == [0, 1]
    assert result.plan.renamed("stages.2.blocks.2.inner.bias") == "stages.1.blocks.1.inner.bias"
    names = [*(f"stages.0.blocks.{at}" for at in range(3)), "stages.2.blocks.1"]
    require_equal(run(silenced(model, names), X), run(result.model, X))


class Shared(nets_layers.Layers):
    """All models of the class have one norm, and the class counts and lists what is made."""

    norm = nn.BatchNorm1d(4)
    made = 0
    sizes = []  # noqa: RUF012 - many people's code has such a list

    def __init__(self, config=None):
        super().__init__(4 if config is None else config["num_layers"])
        Shared.made += 1
        self.sizes.append(len(self.layers))
        self.scale = Shared.norm
        nn.init.constant_(self.scale.weight, 3.0)
        self.train()

    def forward(self, x):
        return super().forward(self.scale(x))


def test_building_a_model_for_its_numbers_leaves_what_its_class_shares():
    model = nets.randomise(Shared().eval())
    before = snapshot.of_model(model), snapshot.of_code(Shared), snapshot.of_process()
    result = sc.drop_blocks(model, X, blocks=["layers.1"])
    assert result.model.n_layers == 3
    assert (snapshot.of_model(model), snapshot.of_code(Shared), snapshot.of_process()) == before
    assert not model.scale.training
