"""What a cut or dropped model keeps of the original: everything but the shapes."""

import copy

import nets
import nets_deep
import pytest
import torch
from torch import nn

import secateur as sc

X = torch.randn(2, 3, 6, 6)
IMAGE = torch.randn(2, 3, 8, 8)

MAKERS = {
    "cut": (nets.Residual, X, lambda model, x: sc.prune(model, x, ratio=0.5)),
    "dropped": (nets_deep.SmallResNet, IMAGE, lambda model, x: sc.drop_blocks(model, x, count=1)),
    "both": (
        nets_deep.SmallResNet,
        IMAGE,
        lambda model, x: sc.prune(sc.drop_blocks(model, x, count=1).model, x, ratio=0.5),
    ),
}


@pytest.fixture(params=MAKERS)
def case(request):
    make, x, shrink = MAKERS[request.param]
    return nets.randomise(make()), x, shrink


def shared_names(model, result):
    """The modules that are left, by name."""
    left = dict(result.named_modules())
    return [name for name, module in model.named_modules() if type(left.get(name)) is type(module)]


def test_training_flags_stay_module_by_module(case):
    model, x, shrink = case
    for at, module in enumerate(model.modules()):
        module.training = at % 3 == 0
    result = shrink(model, x).model
    for name in shared_names(model, result):
        assert result.get_submodule(name).training == model.get_submodule(name).training, name


def test_requires_grad_stays_parameter_by_parameter(case):
    model, x, shrink = case
    for at, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(at % 2 == 0)
    result = shrink(model, x).model
    before = dict(model.named_parameters())
    grads = {name: held.requires_grad for name, held in result.named_parameters()}
    assert grads == {name: before[name].requires_grad for name in grads}
    assert set(grads.values()) == {True, False}
    assert all(held.is_leaf and held.grad is None for held in result.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_element_type_stays_and_the_proof_is_in_float64(case, dtype):
    model, x, shrink = case
    result = shrink(model.to(dtype), x.to(dtype))
    assert {held.dtype for held in result.model.parameters()} == {dtype}
    assert result.verdict.exact
    assert result.verdict.relative_error < 1e-10
    assert result.verdict.tolerance == 1e-9


def test_layers_may_have_element_types_of_their_own():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = (
                nn.Linear(4, 8, dtype=torch.float16),
                nn.Linear(8, 3, dtype=torch.bfloat16),
            )
            self.register_buffer("shift", torch.ones(8, dtype=torch.float64))

        def forward(self, x):
            x = self.first(x.to(self.first.weight.dtype)) + self.shift.to(self.first.weight.dtype)
            return self.last(x.to(self.last.weight.dtype))

    result = sc.prune(Mixed(), torch.randn(2, 4), ratio=0.5).model
    assert (result.first.weight.dtype, result.last.weight.dtype) == (torch.float16, torch.bfloat16)
    assert result.shift.dtype == torch.float64


def test_the_order_of_the_state_dict_stays(case):
    model, x, shrink = case
    result = shrink(model, x).model
    left = list(result.state_dict())
    assert left == [key for key in model.state_dict() if key in set(left)]
    assert [name for name, _ in result.named_children()] == [name for name, _ in model.named_children()]


def test_buffers_stay_persistent_or_not():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("saved", torch.rand(8))
            self.register_buffer("unsaved", torch.rand(8), persistent=False)
            self.register_buffer("empty", None)

        def forward(self, x):
            return self.last(self.first(x) * self.saved + self.unsaved)

    model = Buffered()
    result = sc.prune(model, torch.randn(2, 4), ratio=0.5)
    keep = list(result.plan.keep["first"])
    assert torch.equal(result.model.saved, model.saved[keep])
    assert torch.equal(result.model.unsaved, model.unsaved[keep])
    assert "saved" in result.model.state_dict()
    assert "unsaved" not in result.model.state_dict()
    assert result.model.empty is None
    assert result.model._non_persistent_buffers_set == {"unsaved"}


def test_ties_and_shared_modules_stay():
    class Sharing(nets.Tied):
        def __init__(self):
            super().__init__()
            self.again = self.first
            self.scale = nn.Parameter(torch.ones(8))
            self.also = self.scale

        def forward(self, x):
            x = torch.tanh(self.again(x)) * self.scale
            return self.last(torch.tanh(self.two(torch.tanh(self.one(x) * self.also))))

    result = sc.prune(Sharing(), torch.randn(2, 4), ratio=0.5).model
    assert result.again is result.first
    assert result.one.weight is result.two.weight
    assert result.scale is result.also
    assert result.scale.shape == (4,)


def test_hooks_of_every_kind_stay_and_run_on_the_copy():
    model, calls = nets.Residual(), []

    def note(word):
        return lambda module, *_: calls.append((word, id(module)))

    model.inner.register_forward_pre_hook(note("before"))
    model.inner.register_forward_hook(note("after"))
    model.inner.register_full_backward_pre_hook(note("back before"))
    model.inner.register_full_backward_hook(note("back"))
    model.outer.register_forward_hook(lambda module, args, kwargs, out: out * 2, with_kwargs=True)
    model.register_state_dict_post_hook(note("saved"))
    model.register_load_state_dict_pre_hook(note("loading"))
    model.register_load_state_dict_post_hook(note("loaded"))
    before = copy.deepcopy(model.state_dict())
    result = sc.prune(model, X, ratio=0.5)
    assert result.verdict.exact
    calls.clear()
    result.model(X).sum().backward()
    cut = result.model
    assert calls == [(word, id(cut.inner)) for word in ("before", "after", "back before", "back")]
    calls.clear()
    cut.load_state_dict(cut.state_dict())
    assert [word for word, _ in calls] == ["saved", "loading", "loaded"]
    plain = copy.deepcopy(cut)
    plain.outer._forward_hooks.clear()
    assert not torch.allclose(plain(X), cut(X))  # the hook that doubles is at work
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())


def test_attributes_and_subclasses_stay():
    class Noted(nets.Residual):
        def __init__(self):
            super().__init__()
            self.note, self.settings = "mine", {"depth": [1, 2]}
            self.inner.comment = "keep me"

    model = Noted()
    result = sc.prune(model, X, ratio=0.5).model
    assert type(result) is Noted
    assert (result.note, result.settings, result.inner.comment) == ("mine", {"depth": [1, 2]}, "keep me")
    assert result.settings is not model.settings


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_the_memory_format_stays(kind):
    conv, norm = getattr(nn, f"Conv{kind}"), getattr(nn, f"BatchNorm{kind}")
    sizes = (6,) * int(kind[0])
    memory_format = torch.channels_last if kind == "2d" else torch.channels_last_3d
    model = nn.Sequential(conv(3, 8, 3), norm(8), nn.ReLU(), conv(8, 6, 3), nn.ReLU(), conv(6, 4, 1))
    model = model.to(memory_format=memory_format)
    x = torch.randn(2, 3, *sizes).to(memory_format=memory_format)
    result = sc.prune(model, x, ratio=0.5, scope="local")
    assert result.model[3].weight.shape[:2] == (3, 4)
    for at in (0, 3):
        assert result.model[at].weight.is_contiguous(memory_format=memory_format)
    assert result.verdict.exact
    formats = [held(x).is_contiguous(memory_format=memory_format) for held in (model, result.model)]
    assert formats[0] == formats[1]


def test_parametrised_weights_stay_parametrised():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    result = sc.prune(model, torch.randn(2, 4), ratio=0.5)
    assert result.verdict.exact
    assert nn.utils.parametrize.is_parametrized(result.model[0], "weight")
    assert result.model[0].weight.shape == (4, 4)
    assert list(result.model.state_dict()) == list(model.state_dict())
