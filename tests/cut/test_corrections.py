"""Code that computes a width is corrected in its own source: whatever runs it sees ordinary Python."""

import copy
import inspect
import io
import json
import pickle
import threading
import warnings

import nets_folding as networks
import pytest
import torch
from nets_folding import FOLDED, FOLDING, WIDTH, Checkpointed, InHelper, InLoop, InMethod
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

import secateur as sc
from secateur.capture import tracer
from secateur.capture.places import locate
from secateur.cut.corrections import correct
from secateur.errors import CutError, RequestError

KEPT = (0, 2, 3, 7)
"""Of the channels that are not folded; those that are stay. The code computes 8 // 4 = 2, 4 is right."""


def model_of(kind):
    torch.manual_seed(0)
    return kind().double().eval()


def cut_of(model, x):
    return sc.prune(model, x, keep={"a": tuple(range(FOLDED)), "a#2": KEPT})


def masked(model):
    result = copy.deepcopy(model)
    gone = set(range(FOLDED, WIDTH)) - {FOLDED + at for at in KEPT}
    with torch.no_grad():
        result.b.weight[:, sorted(gone)] = 0
    return result


def inputs(rows=3):
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)).double()


def require_equal(one, two):
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=FOLDING, ids=lambda kind: kind.__name__)
def case(request):
    model = model_of(request.param)
    return model, cut_of(model, inputs())


def test_the_cut_model_computes_what_the_masked_one_does(case):
    model, result = case
    assert result.verdict.exact
    assert result.plan.corrections
    assert result.model.a.out_features == 8
    for rows in (3, 5):
        require_equal(result.model(inputs(rows)), masked(model)(inputs(rows)))


def test_it_is_a_model_of_the_same_class_in_copies_pickles_and_plans(case):
    model, result = case
    assert isinstance(result.model, type(model))
    assert (type(result.model).__name__, type(result.model).__module__) == (
        type(model).__name__,
        type(model).__module__,
    )
    assert type(model) in FOLDING, "the user's own class is as it was"
    again = sc.Plan.from_json(result.plan.to_json()).apply(model)
    others = [copy.deepcopy(result.model), copy.copy(result.model), again]
    if "fold" not in vars(model):  # a lambda cannot be pickled, before the cut as after it
        others.append(pickle.loads(pickle.dumps(result.model)))
        whole = io.BytesIO()
        torch.save(result.model, whole)
        others.append(torch.load(io.BytesIO(whole.getvalue()), weights_only=False))
    for other in others:
        require_equal(other(inputs()), result.model(inputs()))
        assert other.state_dict().keys() == model.state_dict().keys()
    changed = copy.deepcopy(result.model)
    with torch.no_grad():
        changed.a.weight.zero_()
    assert result.model.a.weight.any()


def test_what_traces_and_exports_a_model_sees_ordinary_code(case):
    _, result = case
    expected = result.model(inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(result.model, inputs(), check_trace=False)
    require_equal(traced(inputs()), expected)
    exported = torch.export.export(result.model, (inputs(),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    require_equal(exported.module()(inputs(5)), result.model(inputs(5)))


@pytest.mark.parametrize("kind", [InMethod, InHelper, networks.ByTuple, networks.OfParent])
def test_compiled_and_symbolically_traced_models_compute_the_same(kind):
    result = cut_of(model_of(kind), inputs())
    torch._dynamo.reset()
    compiled = torch.compile(result.model, backend="aot_eager", fullgraph=True)
    require_equal(compiled(inputs()), result.model(inputs()))
    graph = torch.fx.symbolic_trace(copy.deepcopy(result.model))
    require_equal(graph(inputs(5)), result.model(inputs(5)))


def test_what_torch_fx_wraps_stays_a_leaf_after_a_second_cut():
    result = cut_of(model_of(networks.InLeafOfFx), inputs())
    for model in (result.model, sc.prune(result.model, inputs(), ratio=0.25).model):
        graph = torch.fx.symbolic_trace(copy.deepcopy(model))
        assert [node.op for node in graph.graph.nodes].count("call_function") == 1
        require_equal(graph(inputs(5)), model(inputs(5)))


@pytest.mark.parametrize("kind", [InMethod, InHelper, networks.InLeafOfFx])
def test_a_scripted_model_computes_the_same(kind):
    result = cut_of(model_of(kind), inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(result.model)
    require_equal(scripted(inputs(5)), result.model(inputs(5)))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_scripted_vision_transformer_computes_the_same(scope):
    model = VisionTransformer(32, 8, 1, 2, 32, 48, num_classes=5)
    nn.init.normal_(model.heads[0].weight)
    x = torch.randn(2, 3, 32, 32)
    result = sc.prune(model.eval(), x, ratio=0.5, scope=scope)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(result.model)
    require_equal(scripted(x), result.model(x))


@pytest.mark.parametrize("times", [1, 2])
def test_encoder_layers_stay_off_the_fused_attention(times):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 16), layer, nn.Linear(16, 2)).eval()
    x = torch.randn(2, 5, 3)
    for _ in range(times):
        model = sc.prune(model, x, channels={"1.self_attn#2": 0.5}).model
    assert len(model[1].self_attn._forward_hooks) == 1
    with torch.no_grad():
        fast = model(x)
    require_equal(fast, model(x.clone().requires_grad_()))


def test_the_source_shows_what_was_replaced():
    result = cut_of(model_of(InMethod), inputs())
    text = inspect.getsource(type(result.model).fold)
    assert "y[:, :self._pruned_0]" in text
    assert result.model._pruned_0 == FOLDED
    (said, _) = map(str, result.plan.corrections[""])
    assert said == "`folded` in InMethod.fold: 2 -> 4"


def test_a_loop_of_another_length_stays_right():
    model = model_of(InLoop)
    result = cut_of(model, inputs())
    result.model.times = 3
    again = masked(model)
    again.times = 3
    require_equal(result.model(inputs()), again(inputs()))


def test_checkpointed_activations_give_the_same_gradients():
    result = cut_of(model_of(Checkpointed), inputs())
    found = []
    for is_on in (True, False):
        part = copy.deepcopy(result.model)
        part.is_on = is_on
        part.train()(inputs()).square().sum().backward()
        found.append([parameter.grad for parameter in part.parameters()])
    require_equal(*found)


def test_hooks_that_index_change_nothing():
    result = cut_of(model_of(InMethod), inputs())
    expected = result.model(inputs())
    seen = []
    result.model.a.register_forward_hook(
        lambda module, args, output: seen.append(output[:, :1].narrow(1, 0, 1))
    )
    require_equal(result.model(inputs()), expected)
    assert seen


def test_threads_and_replicas_run_it():
    result = cut_of(model_of(InMethod), inputs())
    expected, found = result.model(inputs()), []
    threads = [threading.Thread(target=lambda: found.append(result.model(inputs()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replica = result.model._replicate_for_data_parallel()
    replica._parameters = {}
    for one in found:
        require_equal(one, expected)
    assert type(replica) is type(result.model)


def test_a_corrected_model_is_cut_again_and_its_number_follows(case):
    model, result = case
    twice = sc.prune(result.model, inputs(), keep={"a": (0, 1, 2), "a#2": (0, 2)})
    assert twice.verdict.exact
    assert twice.model.a.out_features == 5
    require_equal(twice.model(inputs(5)), twice.plan.after(result.plan).apply(model)(inputs(5)))
    hand = copy.deepcopy(result.model)
    with torch.no_grad():
        hand.b.weight[:, [3, 5, 7]] = 0
    require_equal(twice.model(inputs(5)), hand(inputs(5)))


class Blocks(nn.Module):
    """Four blocks of four channels; rows and blocks are one number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x):
        y = self.a(x)
        rows, width = y.shape
        y = y.reshape(rows * (width // 4), -1).relu()
        return self.b(y.reshape(rows, width))


class Joined(nn.Module):
    """Channels and the tokens of the input are one number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, WIDTH), nn.Linear(1, 2)

    def forward(self, x):
        y = self.a(x.mean(1))
        z = torch.cat([y[:, : y.shape[1] // 4] * 2, y[:, y.shape[1] // 4 :].relu(), x[:, :, 0]], 1)
        first = z[:, : 2 * (y.shape[1] // 4) - y.shape[1] // 4 + 0 * x.shape[1]]
        z = z.view(x.shape[0], y.shape[1] // 4 * 4 + x.shape[1])
        return self.b(z.sum(1, keepdim=True)) + first.sum(1, keepdim=True)


def test_the_batch_in_a_number_stays_what_it_is():
    model = model_of(Blocks)
    result = sc.prune(model, inputs(), ratio=0.25, axes="widths")
    (one,) = result.plan.corrections[""]
    assert (one.form, one.was, one.now) == ("factor", 3, 4)
    gone = sorted({*range(WIDTH)} - {*_kept(model.a.weight, result.model.a.weight)})
    hand = copy.deepcopy(model)
    with torch.no_grad():
        hand.b.weight[:, gone] = 0
    for rows in (1, 3, 7):
        require_equal(result.model(inputs(rows)), hand(inputs(rows)))
    twice = sc.prune(result.model, inputs(), ratio=0.34, axes="widths")
    assert twice.model.a.out_features == 8
    hand = copy.deepcopy(result.model)
    with torch.no_grad():
        hand.b.weight[:, sorted({*range(12)} - {*_kept(result.model.a.weight, twice.model.a.weight)})] = 0
    for rows in (1, 3, 7):
        require_equal(twice.model(inputs(rows)), hand(inputs(rows)))


def _kept(whole, part):
    return [next(at for at, row in enumerate(whole) if torch.equal(row, one)) for one in part]


def test_what_is_added_to_a_number_may_differ_from_run_to_run():
    model, x = model_of(Joined), torch.randn(2, 5, 3).double()
    result = sc.prune(model, x, keep={"a": range(FOLDED), "a#2": KEPT[:3]})
    forms = {one.form for one in result.plan.corrections[""]}
    assert forms == {"number", "offset"}
    gone = sorted({*range(WIDTH)} - {*_kept(model.a.weight, result.model.a.weight)})
    hand = copy.deepcopy(model)
    with torch.no_grad():
        hand.a.weight[gone], hand.a.bias[gone] = 0, 0
    for tokens in (5, 6):
        more = torch.randn(2, tokens, 3).double()
        require_equal(result.model(more), hand(more))


class Stages(nn.Module):
    """One view for stages of different widths."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, WIDTH, 1) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(WIDTH, 2, 1) for _ in range(2))
        self.mixed = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        found = []
        for stage, mixed, head in zip(self.stages, self.mixed, self.heads, strict=True):
            y = stage(x)
            y = mixed(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape)
            found.append(head(y.relu()))
        return found


def test_a_view_in_a_loop_over_stages_infers_their_widths():
    model, x = model_of(Stages), torch.randn(1, 3, 4, 4).double()
    result = sc.prune(model, x, keep={"mixed.0": range(6), "mixed.1": range(9)})
    assert [str(one)[-2:] for one in result.plan.corrections[""]] == ["-1"]
    hand = copy.deepcopy(model)
    with torch.no_grad():
        hand.heads[0].weight[:, 6:], hand.heads[1].weight[:, 9:] = 0, 0
    other = torch.randn(3, 3, 5, 4).double()
    for one, two in zip(result.model(other), hand(other), strict=True):
        require_equal(one, two)


class Twice(InMethod):
    """One line that needs two numbers, which no caller tells apart."""

    def __init__(self):
        super().__init__()
        self.c = nn.Linear(3, WIDTH)

    def forward(self, x):
        found = [self.fold(layer(x)) for layer in (self.a, self.c)]
        return self.b(found[0]) + found[1].sum(1, keepdim=True)


def test_a_line_that_needs_two_numbers_is_protected_with_the_reason():
    keep = {"a": range(FOLDED), "a#2": KEPT, "c": (0, 1), "c#2": (0, 1, 2, 3, 5)}
    with pytest.raises(RequestError, match="serves runs that need different numbers"):
        sc.prune(model_of(Twice), inputs(), keep=keep)


class TwoCalls(Twice):
    """The same with a call for each."""

    def forward(self, x):
        return self.b(self.fold(self.a(x))) + self.fold(self.c(x)).sum(1, keepdim=True)


def test_a_method_that_two_calls_use_gets_a_number_for_each():
    model = model_of(TwoCalls)
    result = sc.prune(
        model, inputs(), keep={"a": range(FOLDED), "a#2": KEPT, "c": (0, 1), "c#2": (0, 1, 2, 3, 5)}
    )
    assert (result.model.a.out_features, result.model.c.out_features) == (8, 7)
    gone = sorted(set(range(WIDTH)) - {0, 1, 4, 5, 6, 7, 9})
    hand = masked(model)
    with torch.no_grad():
        hand.c.weight[gone], hand.c.bias[gone] = 0, 0
    require_equal(result.model(inputs(5)), hand(inputs(5)))


def test_code_without_a_source_is_protected_with_the_reason():
    names = {"nn": nn, "torch": torch}
    exec(
        "class Net(nn.Module):\n"
        " def __init__(self):\n"
        "  super().__init__()\n"
        f"  self.a, self.b = nn.Linear(3, {WIDTH}), nn.Linear({WIDTH}, 2)\n"
        " def forward(self, x):\n"
        "  y = self.a(x)\n"
        "  f = y.shape[1] // 4\n"
        "  return self.b(torch.cat([-y[:, :f], y[:, f:]], 1).relu())\n",
        names,
    )
    with pytest.raises(RequestError, match=r"the source of Net\.forward cannot be had"):
        cut_of(model_of(names["Net"]), inputs())


def test_a_plan_for_other_code_is_refused():
    result = cut_of(model_of(InMethod), inputs())

    class Other(nn.Module):
        def fold(self, y):
            return y * 2

    for digest in ("0" * 16, None):
        data = json.loads(result.plan.to_json())
        (first, *_) = data["corrections"][""]
        first["place"]["expression"]["digest" if digest else "node"] = digest or 3
        plan = sc.Plan.from_json(json.dumps(data))
        with pytest.raises(CutError, match="not written as it was"):
            plan.apply(model_of(InMethod))
    with pytest.raises(CutError, match=r"Other\.fold is not written as it was"):
        correct(Other(), result.plan.corrections[""])


def test_a_long_loop_is_located_once_for_each_line(monkeypatch):
    calls = []
    monkeypatch.setattr(tracer, "locate", lambda *args: calls.append(args) or locate(*args))
    model = model_of(InLoop)
    model.times = 50
    result = cut_of(model, inputs())
    assert len(result.plan.corrections[""]) == len(calls) == 2
