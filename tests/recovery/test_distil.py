"""A cut network learns what the dense one puts out: nearer, twice the same, and all else stays."""

import importlib

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.recovery import learning

distil = importlib.import_module("secateur.recovery.steps.distil")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A third of the steps, for the time of the tests."""
    monkeypatch.setattr(learning, "STEPS", 64)


class Net(nn.Module):
    """Convolutions with batch norms and a counter; several outputs, one of them integers."""

    def __init__(self, width=16):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.body, self.drop = nn.Conv2d(width, width, 3, padding=1), nn.Dropout(0.5)
        self.head = nn.Linear(width, 5)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x):
        self.runs += 1
        x = self.norm(self.stem(x)).relu()
        x = self.drop(self.body(x).relu()).mean((2, 3))
        logits = self.head(x)
        return {"logits": logits, "best": logits.argmax(-1), "features": x}


class Sentences(nn.Module):
    """Reads integers and a mask by keyword."""

    def __init__(self, width=16):
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.up, self.down = nn.Linear(width, 48), nn.Linear(48, width)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens, weights=None):
        x = self.table(tokens)
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x) * weights[..., None]


def seeded(make, *args):
    torch.manual_seed(0)
    model = make(*args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def images(count=9, batch=8):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 6, 6, generator=draw) for _ in range(count)]


def sentences(count=9):
    draw = torch.Generator().manual_seed(1)
    return [
        {"tokens": torch.randint(0, 11, (6, 7), generator=draw), "weights": torch.rand(6, 7, generator=draw)}
        for _ in range(count)
    ]


def rows(count=9):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(32, 6, generator=draw) for _ in range(count)]


def perceptron():
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


def refitted(make, data, **words):
    words = {"macs": 0.4, "criterion": "l2", "recover": [], **words}
    return sc.recover(sc.prune(seeded(make), data[0], **words), data, ["refit"])


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def told(result):
    return [str(one) for one in result.recovered if one.step == "distil"]


CASES = {"images": (Net, images), "sentences": (Sentences, sentences), "rows": (perceptron, rows)}


@pytest.mark.parametrize("case", CASES)
def test_outputs_come_nearer_and_nothing_else_changes(case):
    make, data = CASES[case][0], CASES[case][1]()
    start = refitted(make, data)
    before, held = state(start.model), state(start.original)
    wants = [one.requires_grad for one in start.model.parameters()]
    draws = torch.get_rng_state()
    better = sc.recover(start, data, ["distil"])
    assert better.errors[-1].step == "distil"
    assert better.errors[-1].after < 0.99 * better.errors[-1].before
    assert torch.equal(torch.get_rng_state(), draws)
    assert same(state(start.model), before)
    assert same(state(start.original), held)
    assert wants == [one.requires_grad for one in better.model.parameters()]
    assert all(one.grad is None for one in better.model.parameters())
    assert all(torch.equal(before[name], held) for name, held in better.model.named_buffers())
    assert [module.training for module in better.model.modules()] == [
        module.training for module in start.model.modules()
    ]
    (line,) = told(better)
    assert "error of the outputs" in line
    assert line.endswith("on the last batch, not learned from")
    again = sc.recover(start, data, ["distil"])
    assert same(state(again.model), state(better.model))


def test_mixtures_are_of_single_real_tensors_alone():
    draw = torch.Generator().manual_seed(0)
    one, two = images(2)
    mixed = distil._mixed((one,), (two,), draw)[0]
    assert mixed.shape == one.shape
    low = torch.minimum(one.amin(), two.amin())
    assert bool((mixed >= low).all())
    assert not torch.equal(mixed, one)
    shares = (mixed - one).flatten(1).norm(dim=1)
    assert shares.unique().numel() == len(one)  # each sample has its own
    for single in (sentences(1)[0], torch.ones(3, dtype=torch.long), [one, two]):
        assert distil._mixed(single, single, draw) is single
    assert distil._mixed(one, two[:3], draw) is one


def test_steps_that_only_do_harm_change_nothing(monkeypatch):
    start = refitted(Net, images())
    monkeypatch.setattr(learning, "RATE", 30.0)
    monkeypatch.setattr(distil, "_SHARE", 100.0)
    unchanged = sc.recover(start, images(), ["distil"])
    assert same(state(unchanged.model), state(start.model))
    (line,) = told(unchanged)
    assert "left alone: no step brought the outputs nearer" in line


def test_the_batch_that_a_refit_did_not_see_decides():
    """A refit fits what it saw better than any weights do that fit other samples, too."""
    start = refitted(Net, images())
    asked = []
    whole = distil._Run._run

    def run(self, model, at, inputs=None):
        asked.append((model is self.cut, at, torch.is_grad_enabled()))
        return whole(self, model, at, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil._Run, "_run", run)
        sc.recover(start, images(), ["distil"])
    assert {at for is_cut, at, learns in asked if is_cut and learns} == set(range(8))
    assert [at for is_cut, at, learns in asked if is_cut and not learns] == [8] * 3  # sizes, before, behind


class Cornered(nn.Module):
    """What it puts out has no gradients."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second = nn.Linear(6, 32), nn.Linear(32, 4)
        self.how = how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.second(self.first(x).relu())
        return (self.second(self.first(x).relu()) > 0).float()


@pytest.mark.parametrize("how", ["no_grad", "rounded"])
def test_networks_without_gradients_are_left_alone(how):
    start = sc.prune(Cornered(how).eval(), rows()[0], ratio=0.5, recover=[])
    unchanged = sc.recover(start, rows(), ["distil"])
    (line,) = told(unchanged)
    assert "left alone: it cannot be differentiated" in line
    assert same(state(unchanged.model), state(start.model))


class Varying(nn.Module):
    """Puts out as many rows as there are positive sums, and for one kind of input nothing finite."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 32), nn.Linear(32, 4)

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return y, y[x.sum(-1) > 0], y / (x[0, 0] < 2)


def test_outputs_of_varying_size_and_batches_that_say_nothing_are_passed_over():
    data = rows()
    plain = sc.prune(Varying().eval(), data[0], ratio=0.5, criterion="l2", recover=[], check=False)
    data[1][0, 0] = 3.0
    better = sc.recover(plain, data, ["distil"])
    assert "error of the outputs" in told(better)[0]
    assert all(one.isfinite().all() for one in better.model.state_dict().values())


def test_parameters_of_half_precision_learn_in_float32():
    data = [one.bfloat16() for one in rows()]
    model = seeded(perceptron).bfloat16()
    start = sc.recover(sc.prune(model, data[0], ratio=0.5, check=False), data, ["refit"])
    better = sc.recover(start, data, ["distil"])
    assert {one.dtype for one in better.model.parameters()} == {torch.bfloat16}
    assert better.errors[-1].after < better.errors[-1].before


def test_tied_and_frozen_parameters_learn_and_stay_so():
    model = seeded(perceptron)
    model[0].weight.requires_grad_(False)
    start = sc.recover(sc.prune(model, rows()[0], ratio=0.5, criterion="l2", recover=[]), rows(), ["refit"])
    better = sc.recover(start, rows(), ["distil"])
    assert not better.model[0].weight.requires_grad
    assert not torch.equal(better.model[0].weight, start.model[0].weight)

    class Tied(Sentences):
        def __init__(self):
            super().__init__()
            self.head.weight = self.table.weight

    start = refitted(Tied, sentences())
    better = sc.recover(start, sentences(), ["distil"])
    assert better.model.head.weight is better.model.table.weight
    assert better.errors[-1].after < better.errors[-1].before


def test_few_batches_are_judged_by_their_last_samples_and_single_samples_by_nothing():
    start, whole = refitted(Net, images()), images(1, batch=32)
    better = sc.recover(start, whole, ["distil"])
    assert told(better)[0].endswith("on the last quarter of 1 batch, not learned from")
    assert better.errors[-1].after < better.errors[-1].before
    single = sc.recover(start, [whole[0][:1]], ["distil"])
    assert "left alone: pass 4 batches or more" in told(single)[0]
    assert same(state(single.model), state(start.model))


def test_it_learns_under_inference_mode():
    start = refitted(perceptron, rows())
    usual = sc.recover(start, rows(), ["distil"])
    with torch.inference_mode():
        better = sc.recover(start, rows(), ["distil"])
    assert same(state(better.model), state(usual.model))


def test_the_time_is_told_before_and_kept(monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 200)
    start, said = refitted(perceptron, rows()), []
    sc.recover(start, rows(), ["distil"], say=said.append)
    (line,) = said
    assert line.startswith("distil: 200 steps, about ")
    assert line.endswith(" s, at most 300")
    monkeypatch.setattr(distil._Run, "_seconds", lambda _: 1.0)
    fewer = sc.recover(start, rows(), ["distil"], seconds=120, say=said.append)
    assert said[1] == "distil: 100 steps, about 102 s, at most 120"
    line = "distil time: approximate, 100 steps, 200 would take longer than 120 s (seconds)"
    assert told(fewer)[0] == line
    none = sc.recover(start, rows(), ["distil"], seconds=10, say=said.append)
    assert len(said) == 2
    assert "left alone: there is no time for it" in told(none)[0]
    assert same(state(none.model), state(start.model))


def test_it_needs_data():
    with pytest.raises(RequestError, match="recovery step 'distil' needs data"):
        sc.recover(refitted(perceptron, rows()), None, ["distil"])
