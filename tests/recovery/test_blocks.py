"""Blocks learn what the dense ones put out: nearer or as they were, twice the same, and all else stays."""

import importlib

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.capture.recording import capture
from secateur.errors import NoEffectWarning, RequestError
from secateur.recovery import learning
from secateur.recovery.stretches import name_of, stretches

blocks = importlib.import_module("secateur.recovery.steps.blocks")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A third of the steps, for the time of the tests."""
    monkeypatch.setattr(learning, "STEPS", 64)


class Residual(nn.Module):
    """Two residual blocks with batch norms; `inplace` writes wherever autograd lets it."""

    def __init__(self, inplace=False, width=8):
        super().__init__()
        self.inplace = inplace
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.first = nn.ModuleList(nn.Conv2d(width, 2 * width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * width) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(2))
        self.relu, self.head = nn.ReLU(inplace=inplace), nn.Linear(width, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        for at, (one, norm, two) in enumerate(zip(self.first, self.norms, self.second, strict=True)):
            y = two(self.relu(norm(one(x * 2))))
            if self.inplace and at:
                x += y  # into what comes in
            else:
                x = x + y
            x = self.relu(x)
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """A transformer of two layers, with a mask that all of them read."""

    def __init__(self, width=16):
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.query, self.key, self.value, self.out = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in range(4)
        )
        self.up = nn.ModuleList(nn.Linear(width, 48) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(48, width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11)

    def forward(self, tokens, mask):
        hidden = torch.where(mask, 0.0, -1e9)[:, None]
        x = self.table(tokens)
        for at in range(2):
            y = self.norm(x)
            weights = (self.query[at](y) @ self.key[at](y).mT / 4 + hidden).softmax(-1)
            x = x + self.out[at](weights @ self.value[at](y))
            x = x + self.down[at](nn.functional.gelu(self.up[at](self.norm(x))))
        return self.head(x)


class Shared(nn.Module):
    """A layer that runs in three blocks, among layers of their own."""

    def __init__(self, own=True):
        super().__init__()
        self.first, self.shared, self.back = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 6)
        self.own = nn.ModuleList(nn.Linear(16, 16) for _ in range(3)) if own else None

    def forward(self, x):
        x = self.first(x)
        for at in range(3):
            x = self.shared(x).tanh()
            x = self.own[at](x).tanh() if self.own is not None else self.shared(x).tanh()
        return self.back(x)


def seeded(make, *args):
    torch.manual_seed(0)
    model = make(*args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return model.eval()


def images(count=9, batch=8):
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(6, 3, 6, 6, generator=generator)
    return [
        torch.einsum("nk,kchw->nchw", torch.randn(batch, 6, generator=generator), basis) for _ in range(count)
    ]


def rows(count=9):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 6, generator=generator) for _ in range(count)]


def sentences(count=9):
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 11, (6, 7), generator=generator) for _ in range(count)]
    return [(one, (torch.arange(7) < 6).expand(6, 1, 7)) for one in tokens]


def refitted(make, data, *args, **words):
    words = {"macs": 0.5, "criterion": "l2", **words}
    plain = sc.prune(seeded(make, *args), data[0], recover=[], **words)
    return sc.recover(plain, data, ["refit"])


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def told(result):
    return [str(one) for one in result.recovered if one.step == "blocks"]


CASES = {"convolutions": (Residual, images), "transformer": (Tokens, sentences), "shared": (Shared, rows)}


@pytest.mark.parametrize("case", CASES)
def test_blocks_come_nearer_to_the_dense_ones_and_nothing_else_changes(case):
    make, data = CASES[case][0], CASES[case][1]()
    start = refitted(make, data)
    before, held = state(start.model), state(start.original)
    wants = [one.requires_grad for one in start.model.parameters()]
    draws = torch.get_rng_state()
    better = sc.recover(start, data, ["blocks"])
    assert better.errors[-1].step == "blocks"
    assert better.errors[-1].after < 0.95 * better.errors[-1].before
    assert torch.equal(torch.get_rng_state(), draws)
    assert same(state(start.model), before)
    assert same(state(start.original), held)
    assert wants == [one.requires_grad for one in better.model.parameters()]
    assert all(one.grad is None for one in better.model.parameters())
    buffers = dict(better.model.named_buffers())
    assert all(torch.equal(before[name], tensor) for name, tensor in buffers.items())
    assert any("error of its output" in line and "not learned from" in line for line in told(better))
    again = sc.recover(start, data, ["blocks"])
    assert same(state(again.model), state(better.model))
    assert told(again) == told(better)


def test_a_tensor_that_several_blocks_read_stays():
    data = rows()
    start = refitted(Shared, data)
    better = sc.recover(start, data, ["blocks"])
    assert torch.equal(better.model.shared.weight, start.model.shared.weight)
    assert not torch.equal(better.model.own[1].weight, start.model.own[1].weight)
    assert any("without shared.weight, which other blocks share" in line for line in told(better))


def test_blocks_of_shared_layers_alone_say_why_they_are_left_alone():
    """`first` and `back` lie in the outer blocks; the one between has nothing of its own."""
    better = sc.recover(refitted(Shared, rows(), False), rows(), ["blocks"])
    assert any("left alone: other blocks share its shared.weight" in line for line in told(better))


def test_a_cut_that_no_block_feels_says_so():
    with pytest.warns(NoEffectWarning):
        plain = sc.prune(seeded(Shared), rows()[0], ratio=0.0)
    unchanged = sc.recover(plain, rows(), ["blocks"])
    assert told(unchanged) == [
        "blocks outputs: approximate, left alone: no block lost anything that it reads"
    ]
    assert same(state(unchanged.model), state(plain.model))


class Steps(nn.Module):
    """Its first block ends in a comparison."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        x = (self.layers[1](self.layers[0](x).relu()) > 0).float()
        return self.layers[3](self.layers[2](x).relu())


def test_a_block_without_gradients_is_left_alone_and_the_others_learn():
    start = refitted(Steps, rows(), macs=0.7)
    first, second = told(sc.recover(start, rows(), ["blocks"]))
    assert "left alone: it cannot be differentiated" in first
    assert "layers.2 to layers.3" in second
    assert "error of its output" in second


@pytest.mark.parametrize("case", CASES)
def test_steps_that_only_do_harm_change_nothing(case, monkeypatch):
    make, data = CASES[case][0], CASES[case][1]()
    start = refitted(make, data)
    monkeypatch.setattr(learning, "RATE", 30.0)
    unchanged = sc.recover(start, data, ["blocks"])
    assert same(state(unchanged.model), state(start.model))
    assert all("left alone" in line for line in told(unchanged))
    assert any("no step brought its output nearer" in line for line in told(unchanged))


@pytest.mark.parametrize(("count", "on"), [(9, "on the batch that no step saw"), (6, "not learned from")])
def test_blocks_that_harm_the_outputs_are_given_up_together(count, on, monkeypatch):
    """Errors that fall whatever happens are planted: each block takes what it learned."""
    start = refitted(Residual, images(count))
    falling = iter(range(10_000, 0, -1))
    monkeypatch.setattr(learning, "RATE", 30.0)
    monkeypatch.setattr(blocks._Run, "_error", lambda *_: float(next(falling)))
    unchanged = sc.recover(start, images(count), ["blocks"])
    assert same(state(unchanged.model), state(start.model))
    (line,) = told(unchanged)
    assert "blocks outputs: approximate, left alone: together the blocks bring them no nearer" in line
    assert line.endswith(on)


def test_writing_in_place_gives_the_same_weights():
    """The steps of a block start from copies of what it writes into."""
    starts = [refitted(Residual, images(), inplace) for inplace in (False, True)]
    found = [state(sc.recover(start, images(), ["blocks"]).model) for start in starts]
    assert same(*found)
    assert not same(found[0], state(starts[0].model))


def test_protected_layers_keep_their_widths_and_learn():
    start = refitted(Residual, images(), protect=["first.0"], macs=0.7)
    better = sc.recover(start, images(), ["blocks"])
    assert better.model.first[0].weight.shape == start.original.first[0].weight.shape
    assert better.model.first[1].weight.shape < start.original.first[1].weight.shape
    assert better.errors[-1].after < better.errors[-1].before


def test_parameters_of_half_precision_learn_in_float32():
    data = [one.bfloat16() for one in rows()]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
    ).bfloat16()
    start = sc.recover(sc.prune(model, data[0], ratio=0.5, check=False), data, ["refit"])
    better = sc.recover(start, data, ["blocks"])
    assert {one.dtype for one in better.model.parameters()} == {torch.bfloat16}
    assert better.errors[-1].after < better.errors[-1].before


def test_few_batches_are_judged_by_their_last_samples_and_single_samples_by_nothing():
    start = refitted(Shared, rows())
    (whole,) = [rows(1)]
    better = sc.recover(start, whole, ["blocks"])
    assert any("on the last quarter of 1 batch, not learned from" in line for line in told(better))
    assert better.errors[-1].after < better.errors[-1].before
    single = sc.recover(start, [whole[0][:1]], ["blocks"])
    assert all("left alone: pass 4 batches or more" in line for line in told(single))
    assert same(state(single.model), state(start.model))


def test_it_learns_under_inference_mode():
    start = refitted(Shared, rows())
    usual = sc.recover(start, rows(), ["blocks"])
    with torch.inference_mode():
        better = sc.recover(start, rows(), ["blocks"])
    assert same(state(better.model), state(usual.model))


def test_the_time_is_told_before_and_kept(monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 200)
    start, said = refitted(Shared, rows()), []
    sc.recover(start, rows(), ["blocks"], say=said.append)
    assert len(said) == 1
    assert said[0].startswith("blocks: 4 blocks, 200 steps each, about ")
    assert said[0].endswith(" s, at most 300")

    def one_second(run):
        for block in run.blocks:
            block.seconds = 1.0

    monkeypatch.setattr(blocks._Run, "time", one_second)
    fewer = sc.recover(start, rows(), ["blocks"], seconds=300, say=said.append)
    assert said[1] == "blocks: 4 blocks, 50 steps each, about 213 s, at most 300"
    line = "blocks time: approximate, 50 steps of each block, 200 would take longer than 300 s (seconds)"
    assert told(fewer)[0] == line
    none = sc.recover(start, rows(), ["blocks"], seconds=20, say=said.append)
    assert len(said) == 2
    assert all("left alone: there is no time for it" in line for line in told(none))
    assert same(state(none.model), state(start.model))


def test_blocks_need_data():
    with pytest.raises(RequestError, match="recovery step 'blocks' needs data"):
        sc.recover(refitted(Shared, rows()), None, ["blocks"])


def parts(model, *inputs):
    graph = capture(model.eval(), inputs)
    found = stretches(graph)
    assert [at for part in found for at in part] == list(range(len(graph.nodes)))
    return [name_of(graph, part) for part in found]


def test_stretches_end_at_residual_sums():
    assert parts(Residual(), torch.zeros(1, 3, 6, 6)) == ["stem to second.0", "first.1 to head"]


def test_tensors_without_parameters_are_no_hindrance():
    """The mask crosses all borders, and does not count."""
    names = parts(Tokens(), torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 1, 7, dtype=torch.bool))
    assert names == ["query.0 to out.0", "up.0 to down.0", "query.1 to out.1", "up.1 to head"]


class Waiting(nn.Module):
    """Tensors that wait for the way back, as in a U-Net."""

    def __init__(self, depth=7):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(8, 4) for _ in range(depth))

    def forward(self, x):
        waiting = []
        for layer in self.down:
            x = layer(x).relu()
            waiting.append(x)
        for layer in self.up:
            x = layer(torch.cat((x, waiting.pop()), -1)).relu()
        return x


def test_what_has_no_seams_is_divided_where_few_tensors_cross():
    names = parts(Waiting(), torch.zeros(1, 4))
    assert len(names) >= 2
    better = sc.recover(
        refitted(Waiting, [one[:, :4] for one in rows()], macs=0.6),
        [one[:, :4] for one in rows()],
        ["blocks"],
    )
    assert better.errors[-1].after < better.errors[-1].before
