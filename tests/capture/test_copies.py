"""A copy of a module runs its own tensors, whatever way the original's `forward` came to them."""

import copy
import functools
import types

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.capture.copies import copy_module
from secateur.errors import CaptureError


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


def by_lambda() -> nn.Module:
    model = Plain()
    model.forward = lambda x: model.b(model.norm(model.a(x)).relu())
    return model


def by_layer() -> nn.Module:
    model = Plain()
    layer = model.b
    layer.forward = lambda x: F.conv2d(x, layer.weight, layer.bias)
    return model


def by_tensor() -> nn.Module:
    model = Plain()
    weight, bias = model.b.weight, model.b.bias
    model.b.forward = lambda x: F.conv2d(x, weight, bias)
    return model


def by_wrapper() -> nn.Module:
    model = Plain()
    before = model.forward

    @functools.wraps(before)
    def forward(*args, **kwargs):
        return before(*args, **kwargs)

    model.forward = forward
    return model


def by_bound_closure() -> nn.Module:
    model = Plain()
    before = model.forward

    def forward(self, x):
        return before(x)

    model.forward = types.MethodType(forward, model)
    return model


def by_default() -> nn.Module:
    model = Plain()

    def forward(x, layers=(model.a, model.norm), *, last=model.b):
        return last(layers[1](layers[0](x)).relu())

    model.forward = forward
    return model


def by_nested_functions() -> nn.Module:
    model = Plain()

    def body(x):
        return model.norm(model.a(x)).relu()

    model.forward = lambda x: model.b(body(x))
    return model


def by_partial() -> nn.Module:
    model = Plain()
    model.forward = functools.partial(
        lambda layers, x: layers["b"](model.norm(layers["a"](x)).relu()), {"a": model.a, "b": model.b}
    )
    return model


def by_hook() -> nn.Module:
    model = Plain()
    model.norm.register_forward_hook(lambda module, args, output: output * model.norm.weight[:, None, None])
    return model


def by_global() -> nn.Module:
    names = {"model": Plain()}
    exec(
        "def body(x): return model.norm(model.a(x)).relu()\nmodel.forward = lambda x: model.b(body(x))", names
    )
    return names["model"]


MAKERS = (
    by_lambda,
    by_layer,
    by_tensor,
    by_wrapper,
    by_bound_closure,
    by_default,
    by_nested_functions,
    by_partial,
    by_hook,
    by_global,
)


def drawn(make) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_runs_its_own_tensors(make) -> None:
    model, x = drawn(make), torch.randn(2, 3, 4, 4)
    before = model(x)
    copied = copy_module(model)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for tensor in copied.parameters():
            tensor.zero_()
    assert not copied(x).any()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("make", MAKERS)
def test_a_forward_over_the_model_is_cut(make) -> None:
    model, x = drawn(make), torch.randn(2, 3, 4, 4)
    result = sc.prune(model, x, ratio=0.5)
    assert result.model.a.out_channels == 8
    assert result.verdict.exact
    with torch.no_grad():
        for tensor in result.model.parameters():
            tensor.zero_()
    assert not result.model(x).any()


def test_functions_that_share_a_variable_still_do_in_a_copy() -> None:
    def counted() -> nn.Module:
        model, count = Plain(), 0

        def add(*_):
            nonlocal count
            count += 1
            model.a.eval()

        def read(*_):
            return count if model.a else None

        model.a.register_forward_pre_hook(add)
        model.read = read
        return model

    model, x = counted(), torch.zeros(1, 3, 2, 2)
    model(x)
    copied = copy_module(model)
    copied(x)
    copied(x)
    assert (model.read(), copied.read()) == (1, 3)


def test_a_function_that_does_not_reach_the_model_stays_as_it_is() -> None:
    model = Plain()
    factor = object()
    model.act = lambda x: (x, factor)
    assert copy_module(model).act is model.act


class Keeper:
    """Keeps what a hook saw, as fastai's hooks do."""

    def __init__(self) -> None:
        self.stored: list[Tensor] = []

    def see(self, module, args, output) -> None:
        self.stored = [output, {"again": output}]


def test_a_computed_tensor_that_a_plain_object_keeps_is_copied() -> None:
    model, x, keeper = drawn(Plain), torch.randn(1, 3, 4, 4), Keeper()
    model.a.register_forward_hook(keeper.see)
    model(x)
    copied = copy_module(model)
    ((hook,),) = [held._forward_hooks.values() for held in copied.modules() if held._forward_hooks]
    kept = hook.__self__.stored
    assert torch.equal(kept[0], keeper.stored[0])
    assert kept[0] is kept[1]["again"]
    assert kept[0].grad_fn is None
    assert keeper.stored[0].grad_fn is not None
    assert sc.prune(model, x, ratio=0.5).verdict.exact


def test_what_cannot_be_copied_is_named() -> None:
    model = Plain()
    model.seen = (value for value in ())
    with pytest.raises(CaptureError, match=r"cannot be copied[\s\S]*model\.seen"):
        copy_module(model)


class Entangled(nn.Module):
    """Holds its tensors in all the ways in which they may hang together."""

    def __init__(self) -> None:
        super().__init__()
        memory = torch.arange(12.0)
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.MultiheadAttention(4, 2), nn.ReLU()]
        )
        self.layers.append(self.layers[0])
        self.register_buffer("whole", memory)
        self.register_buffer("row", memory[4:8])
        self.register_buffer("same", self.whole)
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("none", None)
        self.register_buffer("noted", torch.ones(2))
        self.noted.note = ["kept"]
        self.tied = self.layers[0].weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.table = self._buffers
        self.pair = (1, (2, self.whole))
        del self.layers[0].padding_mode


def test_a_copy_holds_together_as_a_deep_copy_does() -> None:
    model = Entangled()
    for copied in (copy_module(model), copy.deepcopy(model)):
        first, second = copied.layers[0], copied.layers[4]
        assert first is second
        assert first is not model.layers[0]
        assert copied.tied is first.weight
        assert copied.same is copied.whole
        assert copied.pair[1][1] is copied.whole
        assert copied.table is copied._buffers
        assert copied.row.untyped_storage().data_ptr() == copied.whole.untyped_storage().data_ptr()
        assert (copied.row.storage_offset(), copied.turned.stride()) == (4, (1, 3))
        assert copied.noted.note == ["kept"]
        assert copied.noted.note is not model.noted.note
        assert not copied.frozen.requires_grad
        assert first.padding_mode == "zeros"  # what an old file lacks
        for (name, one), two in zip(model.state_dict().items(), copied.state_dict().values(), strict=True):
            assert torch.equal(one, two), name
            assert one.data_ptr() != two.data_ptr(), name


class Saved(Plain):
    """A class that says how it is copied."""

    def __getstate__(self):
        return self.__dict__.copy()


def test_a_bound_forward_is_bound_to_the_copy_of_a_class_with_a_state_of_its_own():
    model, x = Saved().eval(), torch.randn(2, 3, 4, 4)
    before = model.forward
    model.forward = types.MethodType(lambda self, x: before(x), model)
    wanted = model(x)
    copied = copy_module(nn.Sequential(model))[0]
    with torch.no_grad():
        for tensor in copied.parameters():
            tensor.zero_()
    assert not copied(x).any()
    assert torch.equal(model(x), wanted)


class Shared(Plain):
    """A class whose copies are itself."""

    def __deepcopy__(self, memo):
        return self


class Private(nn.Module):
    """A class that copies its child without a word to `copy.deepcopy`."""

    def __init__(self, child):
        super().__init__()
        self.child = child

    def forward(self, x):
        return self.child(x)

    def __deepcopy__(self, memo):
        return Private(copy.deepcopy(self.child))


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Shared()), lambda: Private(Plain())])
def test_a_copy_never_rebinds_a_forward_of_the_original(make):
    model = make().eval()
    child = next(model.children())
    before = child.forward
    child.forward = mine = types.MethodType(lambda self, x: before(x), child)
    copy_module(model)
    assert child.forward is mine
