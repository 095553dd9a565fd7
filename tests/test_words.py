"""What people write, and what they are told where it makes no sense."""

import importlib.metadata

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

import secateur as sc
from secateur.errors import CaptureError, CheckpointError, RequestError, UnwrapWarning
from secateur.iterative.recipe import Recipe
from secateur.select import Budget
from secateur.train import FitConfig

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.body = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.norm(self.stem(x)).relu()).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def kept(**words) -> dict[str, int]:
    return {name: len(held) for name, held in sc.prune(net(), X, **words).plan.keep.items()}


# Shares and caps.


@pytest.mark.parametrize("word", ["50%", "0.5", " 50 % ", np.float32(0.5)])
def test_a_ratio_may_be_written_as_people_write_it(word) -> None:
    assert kept(ratio=word, scope="local") == kept(ratio=0.5, scope="local")


@pytest.mark.parametrize("wrong", ["50", "100%", "-5%", "half", "", "5 0%", True, [0.5], "1.5.2%"])
def test_a_ratio_that_is_no_share_is_refused(wrong) -> None:
    with pytest.raises(RequestError, match=r"^ratio is .*\n.*allowed: 0 <= ratio < 1"):
        Budget.of(ratio=wrong)


def test_ratios_by_group_are_channels() -> None:
    assert kept(ratio={"stem": "25%", "body.*": 0.5}) == kept(channels={"stem": 0.25, "body.*": 0.5})
    assert kept(ratio={"stem": 0.25}) == {"stem": 12, "body.0": 16, "body.2": 8}


@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"params": 0.6}, {"memory": 0.9}, {"ratio": 0.3}])
@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
def test_channels_beside_a_budget_cap_what_a_group_may_lose(budget, scope) -> None:
    found = kept(**budget, scope=scope, channels={"stem": 0.25, "body.2": 0.0})
    assert found["stem"] >= 12
    assert found["body.2"] == 8
    assert found["body.0"] < 16


def test_a_budget_is_met_over_all_groups_within_the_caps() -> None:
    result = sc.prune(net(), X, params=0.6, channels={"stem": 0.25})
    assert 0.55 < result.after.params / result.before.params <= 0.6
    assert str(result.plan.requested) == "params=0.6, at most {'stem': 0.25}"
    assert sc.Plan.from_json(result.plan.to_json()) == result.plan


def test_of_several_caps_the_strictest_counts() -> None:
    assert kept(ratio=0.6, channels={"*": 0.75, "stem": 0.125})["stem"] == 14


def test_caps_out_of_reach_of_the_budget_are_told() -> None:
    with pytest.raises(RequestError, match=r"at most .* allows .* the smallest reachable"):
        sc.prune(net(), X, macs=0.2, channels={"*": 0.1})


def test_a_cap_that_fits_no_group_is_refused() -> None:
    with pytest.raises(RequestError, match=r"'module\.stem' fits no group\n  names start with 'module\.'"):
        sc.prune(net(), X, macs=0.5, channels={"module.stem": 0.5})


def test_no_two_other_budgets_are_taken() -> None:
    with pytest.raises(RequestError, match="2 budgets were given"):
        Budget.of(macs=0.5, params=0.5)
    with pytest.raises(RequestError, match="2 budgets were given"):
        Budget.of(keep={"stem": [0]}, channels={"stem": 0.5})


def test_a_recipe_takes_one_ratio_for_all() -> None:
    assert Recipe(FitConfig(epochs=1), ratio="50%").budget.value == 0.5
    with pytest.raises(RequestError, match="a share for each group"):
        Recipe(FitConfig(epochs=1), ratio={"stem": 0.5})


# Positions.


@pytest.mark.parametrize(
    "positions",
    [[1, 2], (2, 1), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), [np.int64(1), torch.tensor(2)]],
)
def test_positions_are_whole_numbers_of_any_kind(positions) -> None:
    assert sc.prune(net(), X, keep={"stem": positions}).plan.keep["stem"] == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [[1.5], "01", b"01", 5, {"1": 2}, [True, False], np.ones(16, bool), torch.ones(16).bool(), [None], ["1"],
     torch.tensor([1.0, 2.0]), [[1, 2]]],
)  # fmt: skip
def test_what_is_no_list_of_positions_is_refused(wrong) -> None:
    with pytest.raises(RequestError, match=r"^keep\['stem'\] (is|holds) "):
        sc.prune(net(), X, keep={"stem": wrong})


# Parts of the model.


def test_modules_and_parameters_are_protected_as_their_names_are() -> None:
    model = net()
    for parts, names in (
        ([model.stem, model.body[2].bias], ["stem", "body.2.bias"]),
        ([model.norm.running_mean, "body.2"], ["norm.running_mean", "body.2"]),
        (model.fc, ["fc"]),
    ):
        by_part, by_name = (sc.couple(model, X, protect=wanted) for wanted in (parts, names))
        assert str(by_part) == str(by_name)
        assert "asked for" in str(by_part)


CHOICES = {
    "module": lambda model: model.body[2],
    "parameter": lambda model: model.body[2].bias,
    "slice": lambda model: model.body[1:],
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_one_part_is_protected_without_a_list(choose) -> None:
    model = net()
    found = {group.name for group in sc.couple(model, X, protect=choose(model)).prunable}
    assert found == ({"stem", "body.0"} if isinstance(choose(model), Tensor) else {"stem"})


def test_a_part_of_a_wrapped_model_is_known() -> None:
    model = net()
    with pytest.warns(UnwrapWarning):
        groups = sc.couple(nn.DataParallel(model), X, protect=[model.stem])
    assert groups["stem"].reason == "asked for by protect='stem'"


@pytest.mark.parametrize("foreign", [nn.Linear(2, 2), nn.Parameter(torch.ones(2)), nn.Sequential(nn.ReLU())])
def test_what_is_no_part_of_the_model_cannot_be_protected(foreign) -> None:
    with pytest.raises(RequestError, match="that is no part of Net"):
        sc.couple(net(), X, protect=[foreign])


# Names behind a prefix.


def test_names_with_the_prefix_of_a_wrapper_get_a_hint(tmp_path) -> None:
    model = net()
    result = sc.prune(model, X, ratio=0.5)
    file = tmp_path / "wrapped.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, file)
    hint = r"names start with 'module\.', which those of .* do not \(DataParallel adds it\): strip it"
    with pytest.raises(RequestError, match=hint):
        sc.plan(net(), X, weights=file, ratio=0.5)
    with pytest.raises(CheckpointError, match=hint):
        sc.stream(result.plan, file, tmp_path / "out")
    with pytest.raises(RequestError, match=hint):
        sc.couple(model, X, protect=["module.stem"])
    with pytest.raises(RequestError, match=hint):
        sc.prune(model, X, keep={"module.stem": [0]})
    with pytest.raises(
        CheckpointError, match=hint.replace("module", "inner").replace(r" \(DataParallel adds it\)", "")
    ):
        result.plan.apply(nn.ModuleDict({"inner": net()}))


def test_names_that_differ_otherwise_get_no_hint() -> None:
    with pytest.raises(RequestError) as caught:
        sc.couple(net(), X, protect=["head"])
    assert "names start with" not in str(caught.value)


# Wrappers, plans, groups, version.


def test_a_wrapped_model_is_saved_as_the_one_inside(tmp_path) -> None:
    result = sc.prune(net(), X, ratio=0.5)
    with pytest.warns(UnwrapWarning, match="DataParallel"):
        sc.save(nn.DataParallel(result.model), tmp_path / "half")
    loaded = sc.load(tmp_path / "half", net()).eval()
    assert torch.equal(loaded(X), result.model(X))


def test_a_plan_of_keep_alone_says_how_plans_are_made() -> None:
    with pytest.raises(RequestError, match=r"a plan cannot be made of keep alone[\s\S]*sc\.plan\(model"):
        sc.Plan(keep={"stem": [0]})
    with pytest.raises(RequestError, match="made of nothing alone"):
        sc.Plan()
    with pytest.raises(CheckpointError, match="cannot read the plan"):
        sc.Plan.from_json('{"keep": {"stem": [0]}}')
    plan = sc.prune(net(), X, ratio=0.5).plan
    with pytest.raises(ValidationError):
        sc.Plan(**{**dict(plan), "params": "many"})


def test_a_group_prints_in_words() -> None:
    groups = sc.couple(net(), X)
    assert str(groups["stem"]).splitlines() == [
        "stem: 16 channels, free",
        "  stem.weight[0], stem.bias[0], norm.weight[0], norm.bias[0], body.0.weight[1], "
        "norm.running_mean[0], norm.running_var[0]",
    ]
    assert str(groups["fc"]).splitlines()[0] == "fc: 4 channels, protected: model output"


def test_the_version_is_that_of_the_package() -> None:
    assert sc.__version__ == importlib.metadata.version("secateur")


# Runs that cannot be.


def test_inputs_without_a_sample_are_refused_by_every_verb() -> None:
    empty, model = torch.zeros(0, 3, 6, 6), net()
    plan = sc.prune(model, X, ratio=0.5).plan
    for run in (
        lambda: sc.prune(model, empty, ratio=0.5),
        lambda: sc.prune(model, empty, ratio=0.5, check=False),
        lambda: sc.check(model, plan, empty),
        lambda: sc.couple(model, {"x": empty}),
        lambda: sc.drop_blocks(model, (empty,), count=1),
    ):
        with pytest.raises(RequestError, match=r"no sample: \[0, 3, 6, 6\]\n.*nothing could be compared"):
            run()


def test_a_cache_may_be_empty_beside_inputs() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, past: Tensor) -> Tensor:
            return self.b(self.a(torch.cat([past, x], 1)))

    assert sc.prune(Cached(), (torch.randn(2, 3, 4), torch.zeros(2, 0, 4)), ratio=0.5).verdict.exact


@pytest.fixture
def on_meta():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("criterion", ["random", "l2", "activation-mean", "taylor", "hessian", "obs"])
def test_a_default_device_without_numbers_does_not_matter(on_meta, criterion) -> None:
    with torch.device("cpu"):
        model = net()
    result = sc.prune(model, X, ratio=0.5, criterion=criterion, data=[X, X])
    assert result.verdict.exact
    better = sc.recover(result, [X, X], ["absorb", "refit"])
    assert better.errors[-1].after < better.errors[0].before
    assert sc.plan(Net(), torch.zeros(2, 3, 6, 6), ratio=0.5, criterion="random").keep["stem"]


def test_a_forward_that_makes_tensors_without_numbers_is_told_why_it_fails(on_meta) -> None:
    class Shifted(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.ones(6))

    with torch.device("cpu"):
        model = Shifted().eval()
    with pytest.raises(CaptureError, match="the default device is meta: what forward makes"):
        sc.prune(model, X, ratio=0.5)


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "jacobian", "hessian"])
def test_a_label_out_of_range_is_the_labels_fault(criterion) -> None:
    data = [(X, torch.tensor([0, 1])), (X, torch.tensor([1, 255]))]
    if criterion == "jacobian":
        data[0] = (X, torch.tensor([255, 0]))
    with pytest.raises(RequestError, match=r"the loss cannot be taken of batch \d.* 255 [\s\S]*to 255"):
        sc.prune(net(), X, ratio=0.5, criterion=criterion, data=data)


def test_a_loss_that_fails_is_named_with_its_batch() -> None:
    def loss(output, target):
        raise KeyError("aux")

    with pytest.raises(RequestError, match="loss cannot be taken of batch 0 of the data: KeyError: 'aux'"):
        sc.prune(net(), X, ratio=0.5, criterion=sc.criterion("taylor", loss=loss), data=[X])


class Decodes(Net):
    """Writes into what the derivative needs, as detection heads do."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).sigmoid()
        y[:, :2] *= 2
        return self.fc(self.body(y).mean((2, 3)))


class Doubles(Net):
    """As before, behind layers whose channels may go."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.body[0](self.norm(self.stem(x)).relu()).sigmoid()
        y[:, :2] *= 2
        return self.fc(self.body[2](y).mean((2, 3)))


@pytest.mark.parametrize(
    ("criterion", "made"), [("taylor", Decodes), ("taylor", Doubles), ("fisher", Doubles)]
)
def test_a_forward_without_a_derivative_is_not_the_inputs_fault(criterion, made) -> None:
    with pytest.raises(CaptureError, match=r"runs on batch 0 of the data, but no gradients can be taken"):
        sc.prune(made().eval(), X, ratio=0.5, criterion=criterion, data=[X])


def test_a_derivative_that_no_score_needs_need_not_exist() -> None:
    groups = sc.couple(Decodes().eval(), X)
    assert all("stem.weight" not in [held.tensor for held in group.members] for group in groups.prunable)
    assert sc.prune(Decodes().eval(), X, ratio=0.5, criterion="fisher", data=[X]).verdict.exact


class NeedsGradients(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(y.square().sum(), y)
        return self.fc(self.body(y - slope).mean((2, 3)))


def test_a_model_that_runs_but_not_without_gradients_is_told_so() -> None:
    with pytest.raises(
        CaptureError, match="the model runs on the example inputs, but not while it is recorded"
    ):
        sc.couple(NeedsGradients().eval(), X)


def test_inputs_of_the_wrong_shape_are_the_inputs_fault() -> None:
    with pytest.raises(CaptureError, match="the model does not run on the example inputs"):
        sc.couple(net(), torch.zeros(2, 4, 6, 6))


def test_stepwise_pruning_asks_for_calibration_by_its_name() -> None:
    with pytest.raises(RequestError, match="pass calibration=, or choose"):
        sc.iterate(net(), X, None, Recipe(FitConfig(epochs=1), ratio=0.5, criterion="taylor"))
    with pytest.raises(RequestError, match="pass calibration=, batches"):
        sc.iterate(net(), X, None, Recipe(FitConfig(epochs=1), ratio=0.5, recover=("refit",)))
