"""A cut model remembers its plan: cuts of cuts, and what is saved of them."""

import copy
import io
import pickle

import pytest
import torch
from nets import randomise
from torch import nn

import secateur as sc
from secateur.errors import CheckpointError, RequestError
from secateur.plans.making import identity_plan

X = torch.zeros(2, 3, 8, 8)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.outer = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        return x + self.outer(self.norm(self.inner(x)).relu())


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        batch, width = x.shape[:2]
        return self.fc(x.mean((2, 3)).view(batch, width))


def net():
    return randomise(Net())


def halved(model):
    return sc.prune(model, X, ratio=0.3)


def shallower(model):
    return sc.drop_blocks(model, X, count=1)


def narrower_code(model):
    """A cut for which the code is corrected, where it computes a width from its input."""
    return sc.prune(model, X, ratio=0.4, scope="local")


def same(one, two):
    torch.manual_seed(3)
    x = torch.randn(2, 3, 8, 8)
    assert type(one) is type(two)
    assert list(one.state_dict()) == list(two.state_dict())
    for mine, other in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(one.eval()(x), two.eval()(x))


def unpickled(model):
    return pickle.loads(pickle.dumps(model))


def stored(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return model


def converted(model):
    return nn.DataParallel(model.double().float())


@pytest.mark.parametrize(
    "between", [lambda model: model, copy.deepcopy, unpickled, stored, trained, converted]
)
@pytest.mark.parametrize(
    "cuts", [(halved, halved), (halved, narrower_code, halved), (shallower, halved), (halved, shallower)]
)
@pytest.mark.filterwarnings("ignore::secateur.errors.UnwrapWarning")
def test_a_cut_of_a_cut_is_saved_from_its_uncut_architecture(tmp_path, cuts, between):
    model, original = net(), Net()
    for cut in cuts:
        result = cut(model)
        model = between(result.model)
    saved = sc.load(sc.save(model, tmp_path / "model"), original)
    last = result.model
    same(saved, last)
    same(sc.load(sc.save(result, tmp_path / "result"), original), last)
    assert len(sc.Plan.of(saved).chain) == len(cuts)
    assert sc.Plan.of(saved) == result.plan
    assert sc.Plan.from_json(result.plan.to_json()) == result.plan


def test_a_chained_plan_goes_on_from_wherever_a_model_is():
    original = net()
    first = halved(original)
    second = halved(first.model)
    same(second.plan.apply(original), second.model)
    same(second.plan.apply(first.model), second.model)
    with pytest.raises(CheckpointError, match="first difference"):
        second.plan.apply(second.model)
    assert sc.check(original, second.plan, X).exact
    assert sc.check(first.model, second.plan, X).exact


def test_a_chain_that_keeps_every_shape_is_told_by_what_the_model_remembers():
    """A dropped block without tensors leaves no trace in the shapes."""

    class Quiet(nn.Module):
        def forward(self, x):
            return x + x.relu()

    model = nn.Sequential(nn.Linear(3, 4), Quiet(), Quiet(), nn.Linear(4, 2))
    first = identity_plan(model, "", {}).model_copy(update={"dropped": ("1",)})
    second = identity_plan(model, "", {}).model_copy(update={"dropped": ("2",)}).after(first)
    for start in (model, first.apply(model)):
        made = second.apply(start)
        assert [type(part) for part in made] == [nn.Linear, nn.Identity, nn.Identity, nn.Linear]


def test_two_plans_after_each_other_are_what_the_model_remembers():
    first = halved(net())
    second = halved(first.model)
    alone = second.plan.model_copy(update={"previous": None})
    assert alone.after(first.plan) == second.plan
    assert second.plan.after(first.plan) == second.plan


def test_nothing_hangs_on_the_uncut_model_and_no_state_dict_holds_the_plan():
    model = net()
    keys = set(vars(model))
    result = halved(model)
    assert set(vars(model)) == keys
    assert sc.Plan.of(model) is None
    assert result.model.state_dict().keys() == model.state_dict().keys()
    assert not any("plan" in name for name, _ in result.model.named_buffers())


def test_a_pickle_of_a_cut_model_names_nothing_of_secateur():
    assert b"secateur." not in pickle.dumps(
        halved(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))).model
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_remembers_its_plan_is_scripted_traced_exported_and_compiled():
    model = sc.prune(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4), ratio=0.5
    ).model
    x = torch.randn(2, 4)
    expected = model(x)
    for made in (
        torch.jit.script(model),
        torch.jit.trace(model, x),
        torch.fx.symbolic_trace(model),
        torch.export.export(model, (x,)).module(),
        torch.compile(model, backend="eager"),
    ):
        torch.testing.assert_close(made(x), expected)


def test_iterated_cuts_chain_from_what_was_cut_before(tmp_path):
    from secateur.domains.classification import load
    from secateur.iterative import Recipe, iterate
    from secateur.train import FitConfig
    from secateur.zoo import models

    digits, vgg = load("digits"), models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
    cut = sc.prune(vgg, torch.zeros(1, 1, 8, 8), ratio=0.3).model
    recipe = Recipe(FitConfig(epochs=1, quiet=True), steps=2, ratio=0.3, recover=None)
    done = iterate(cut, torch.zeros(1, 1, 8, 8), digits, recipe)
    assert len(done.plan.chain) == 3
    fresh = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
    found = sc.load(done.save(tmp_path), fresh)
    for mine, other in zip(found.state_dict().values(), done.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_a_recovered_model_is_still_one_of_its_plan(tmp_path):
    first = halved(net())
    second = halved(first.model)
    better = sc.recover(second, [torch.randn(8, 3, 8, 8) for _ in range(3)], ["refit"])
    same(sc.load(sc.save(better.model, tmp_path), Net()), better.model)


def test_a_model_saved_over_another_one_is_refused(tmp_path):
    first, dense = halved(net()), net()
    sc.save(first, tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    for other in (halved(first.model), sc.prune(dense, X, ratio=0.5), dense):
        with pytest.raises(
            RequestError, match=r"holds another model: Net after ratio=0.3(.|\n)*overwrite=True"
        ):
            sc.save(other, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    sc.save(dense, tmp_path, overwrite=True)
    same(sc.load(tmp_path, Net()), dense)


def test_the_same_model_is_saved_again_in_a_loop(tmp_path):
    result = halved(net())
    for _ in range(2):
        trained(result.model)
        sc.save(result, tmp_path)
        same(sc.load(tmp_path, Net()), result.model)
    dense = net()
    for _ in range(2):
        sc.save(trained(dense), tmp_path / "dense")


def test_what_nobody_can_read_is_not_overwritten(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RequestError, match="holds a model whose plan cannot be read"):
        sc.save(net(), tmp_path)
    sc.save(net(), tmp_path, overwrite=True)


@pytest.mark.parametrize("cuts", [(halved,), (halved, halved), (halved, shallower)])
def test_a_new_head_leads_from_the_architecture_that_has_it(tmp_path, cuts):
    model = net()
    for cut in cuts:
        model = cut(model).model
        model.fc = nn.Linear(model.fc.in_features, model.fc.out_features + 6)
    sc.save(trained(model), tmp_path)
    same(sc.load(tmp_path, Net(classes=model.fc.out_features)), model)
    with pytest.raises(CheckpointError, match=r"fc.weight is \[5, 8\], the plan expects \[(11|17), 8\]"):
        sc.load(tmp_path, Net())


def _more(model):
    model.more = nn.Linear(2, 2)


def _less(model):
    del model.fc


def _wider(model):
    model.fc = nn.Linear(8, 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_more, "it holds a tensor more.weight that its plan does not know"),
        (_less, "it holds no tensor fc.weight any more"),
        (_wider, r"its fc.weight is \[5, 8\], the plan leaves \[5, 7\]"),
    ],
)
def test_a_model_that_no_plan_makes_is_not_saved_as_if_one_did(tmp_path, change, told):
    model = halved(net()).model
    change(model)
    with pytest.raises(RequestError, match=told):
        sc.save(model, tmp_path)
    assert not any(tmp_path.iterdir())
