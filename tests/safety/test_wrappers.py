"""Models in wrappers: what is inside is pruned, with a message; what cannot be reached is refused."""

import nets
import nets_deep
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError, UnwrapWarning

X = torch.randn(2, 3, 6, 6)


@pytest.fixture
def one_process(tmp_path):
    """A process group of one."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_is_taken_out_with_a_message(name):
    model = nets.randomise(nets.Residual())
    wrapped = WRAPPERS[name](model)
    with pytest.warns(UnwrapWarning, match=f"{name} was unwrapped: the result is a plain Residual") as caught:
        result = sc.prune(wrapped, X, ratio=0.5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert type(result.model) is nets.Residual
    assert type(result.original) is nets.Residual
    expected = sc.prune(model, X, ratio=0.5)
    assert result.plan == expected.plan
    assert torch.equal(result.model.stem.weight, expected.model.stem.weight)


CALLS = {
    "couple": lambda model: sc.couple(model, X),
    "measure": lambda model: sc.measure(model, X),
    "prune": lambda model: sc.prune(model, X, ratio=0.5),
    "plan": lambda model: sc.plan(model, X, ratio=0.5),
    "apply": lambda model: sc.prune(nets.Residual(), X, ratio=0.5).plan.apply(model),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_entry_unwraps(name):
    with pytest.warns(UnwrapWarning, match="DataParallel was unwrapped"):
        assert CALLS[name](nn.DataParallel(nets.Residual())) is not None


def test_dropping_unwraps():
    with pytest.warns(
        UnwrapWarning, match=r"torch\.compile was unwrapped: the result is a plain SmallResNet"
    ):
        result = sc.drop_blocks(torch.compile(nets_deep.SmallResNet()), torch.randn(2, 3, 8, 8), count=1)
    assert type(result.model) is nets_deep.SmallResNet


def test_wrappers_in_wrappers_are_taken_off_one_by_one():
    with pytest.warns(UnwrapWarning) as caught:
        groups = sc.couple(torch.compile(nn.DataParallel(nets.Residual())), X)
    assert [str(warning.message).partition(" ")[0] for warning in caught] == ["torch.compile", "DataParallel"]
    assert groups["stem"].is_prunable


def test_a_distributed_model_is_taken_out_and_its_optimizer_carried(one_process):
    model = nets.randomise(nets.Residual())
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    wrapped(X).sum().backward()
    optimizer.step()
    with pytest.warns(UnwrapWarning, match="DistributedDataParallel was unwrapped"):
        result = sc.prune(wrapped, X, ratio=0.5)
    assert result.original is model
    assert result.verdict.exact
    assert not any(name.startswith("module.") for name in result.model.state_dict())
    carried = sc.carry(optimizer, result)
    again = nn.parallel.DistributedDataParallel(result.model)
    again(X).sum().backward()
    carried.step()


def test_sharded_models_are_refused(one_process):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = nets.Residual()
    torch.distributed.fsdp.fully_shard(model, mesh=mesh)
    with pytest.raises(RequestError, match=r"its parameters are spread over processes\n  prune first"):
        sc.prune(model, X, ratio=0.5)
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    torch.distributed.fsdp.fully_shard(inner[1], mesh=mesh)
    with pytest.raises(RequestError, match="1 is a FSDPConv2d"):
        sc.couple(inner, X)


def test_a_model_compiled_in_place_gives_an_uncompiled_one_with_a_message():
    model = nets.Residual()
    model.compile()
    with pytest.warns(UnwrapWarning, match="Residual was compiled in place, the result is not") as caught:
        result = sc.prune(model, X, ratio=0.5)
    assert len(caught) == 1
    assert result.model._compiled_call_impl is None
    assert model._compiled_call_impl is not None
    sc.measure(nets.Residual(), X)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_scripts_are_refused_with_what_to_do():
    script, trace = torch.jit.script(nets.Tied()), torch.jit.trace(nets.Residual().eval(), X)
    partly = nets.Residual()
    # no convolution: torch.jit knows builtins by the id of objects that may be gone, and takes a list for one
    partly.inner = torch.jit.script(nn.PReLU())
    for model, x, what in (
        (script, torch.randn(2, 4), "model is a RecursiveScriptModule: its Python is gone"),
        (trace, X, "model is a TopLevelTracedModule: its Python is gone"),
        (partly, X, "inner is a RecursiveScriptModule: its Python is gone"),
    ):
        with pytest.raises(RequestError, match=what) as caught:
            sc.prune(model, x, ratio=0.5)
        assert str(caught.value).endswith(
            "pass the module that was scripted or traced, and script the result"
        )


def test_what_is_no_module_is_refused():
    with pytest.raises(RequestError, match=r"model is function, not a torch\.nn\.Module"):
        sc.prune(nets.randomise, X, ratio=0.5)


def test_a_model_that_only_looks_like_a_wrapper_is_left_as_it_is():
    class Holder(nn.Module):
        """Has an only child called `module`, and does more than to call it."""

        def __init__(self):
            super().__init__()
            self.module = nets.Residual()

        def forward(self, x):
            return torch.tanh(self.module(x))

    result = sc.prune(Holder(), X, ratio=0.5)
    assert type(result.model) is Holder


@pytest.mark.parametrize("wrap", [nn.DataParallel, pytest.param(torch.compile, marks=pytest.mark.slow)])
def test_a_wrapped_part_inside_a_model_is_pruned_in_place(wrap):
    model = nets.randomise(nets.Residual())
    model.inner = wrap(model.inner)
    result = sc.prune(model, X, ratio=0.5)
    assert result.verdict.exact
    assert type(result.model.inner) is type(model.inner)
    assert list(result.model.state_dict()) == list(model.state_dict())
