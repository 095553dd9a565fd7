"""Networks that hide a wrong cut from whoever looks at the outputs alone.

Whatever `prune` returns is compared here, before the part that hides, with a reference that uses nothing of
the proof: the original in which the removed channels are silent.
"""

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from hidden_nets import NETWORKS, WIDTH, Attending, Averaged, Held, Powered, Scaled, beside_a_billion
from masked import kept_positions, run, spread, zeroed
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.errors import SecateurError


def made(name):
    torch.manual_seed(0)
    kind, tail = NETWORKS[name]
    return kind(tail).eval(), torch.randn(16, 6)


def error_inside(model, cut):
    """How far the cut model's logits are from those of the original whose removed channels are silent.

    A removed channel is silent where it is zero: its relu, tanh or product; a sigmoid less one half, too.
    """
    full, cut = copy.deepcopy(model).double(), copy.deepcopy(cut).double()
    rows = {tuple(row.tolist()) for row in cut.a.weight}
    gone = [at for at, row in enumerate(full.a.weight) if tuple(row.tolist()) not in rows]
    with torch.no_grad():
        full.a.weight[gone] = 0
        full.a.bias[gone] = 0
        x = torch.randn(16, 6, dtype=torch.float64)
        expected, got = full.logits(x), cut.logits(x)
    return float((expected - got).abs().max() / expected.abs().max())


def tried(model, inputs, **request):
    """What `prune` returns, or why it refuses."""
    try:
        return sc.prune(model, inputs, **request), ""
    except SecateurError as refusal:
        return None, str(refusal)


def require_right_or_refused(model, x):
    """The cut is right, or the channels were left whole with a reason that names an operator."""
    result, refusal = tried(model, x, channels={"a": 0.5})
    if result is None:
        assert "aten." in refusal
    else:
        assert error_inside(model, result.model) < 1e-6, str(result.verdict)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_wrong_cut_hides_behind_the_end_of_a_network(name):
    model, x = made(name)
    require_right_or_refused(model, x)


@pytest.mark.parametrize("kind", [Scaled, Averaged, Powered, Attending])
def test_the_reference_sees_what_a_width_read_at_run_time_does(kind):
    model = kind(lambda x, y: y).eval()
    wrong = copy.deepcopy(model)
    wrong.a.weight, wrong.a.bias = nn.Parameter(model.a.weight[::2]), nn.Parameter(model.a.bias[::2])
    wrong.b.weight = nn.Parameter(model.b.weight[:, ::2])
    assert error_inside(model, wrong) > 1e-3
    assert error_inside(model, model) == 0


# Outputs that a key or a field names like an optional parameter, which are no state of any recurrence.

Answer = namedtuple("Answer", ["shown", "hidden"])


@dataclass
class Reply:
    shown: torch.Tensor
    state: torch.Tensor


class Maybe(nn.Module):
    """A mask may be given; else it is predicted."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(16, 3)

    def forward(self, x, mask=None):
        h = self.a(x).relu()
        return {"logits": self.c(h), "mask": self.b(h) if mask is None else mask}


class MaybeField(Maybe):
    """The same with a field of a dataclass."""

    def forward(self, x, state=None):
        h = self.a(x).relu()
        return Reply(self.c(h), self.b(h) if state is None else state)


class MaybeNamed(Maybe):
    """The same with a field of a named tuple."""

    def forward(self, x, hidden=None):
        h = self.a(x).relu()
        return Answer(self.c(h), self.b(h) if hidden is None else hidden)


@pytest.mark.parametrize("kind", [Maybe, MaybeField, MaybeNamed])
def test_an_output_named_like_an_optional_input_keeps_its_width(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, 6)
    result = sc.prune(model, x, ratio=0.5)
    assert result.model.a.out_features == 8
    assert result.model.b.out_features == 8, "the second output lost channels"
    assert result.verdict.exact


class HiddenMask(Scaled):
    def forward(self, x, mask=None):
        return {"logits": x * 2, "mask": self.logits(x) if mask is None else mask}


class HiddenCache(Attending):
    def forward(self, x, cache=None):
        return {"shown": x.sin(), "cache": self.logits(x) if cache is None else cache}


@pytest.mark.parametrize("kind", [HiddenMask, HiddenCache])
def test_an_output_named_like_an_optional_input_is_compared(kind):
    torch.manual_seed(0)
    require_right_or_refused(kind(None).eval(), torch.randn(16, 6))


# The path: on the example another one than on random inputs.


class OnZeros(Scaled):
    """Zeros, such as an example often is, go another way than all other inputs."""

    def forward(self, x):
        y = self.logits(x)
        if bool((x == 0).all()):
            return y
        return y.tanh().sin() if bool(y.sum() > 0) else y.cos()


class OnCounts(Averaged):
    """As many rounds as there are large numbers."""

    def forward(self, x):
        y = self.logits(x)
        for _ in range(int((x > 1).sum())):
            y = y.sin()
        return y


@pytest.mark.parametrize("kind", [OnZeros, OnCounts])
def test_a_path_that_only_the_example_takes_hides_nothing(kind):
    torch.manual_seed(0)
    require_right_or_refused(kind(None).eval(), torch.zeros(16, 6))


# Attention inside its heads, the scale from the size of the queries.


class Disentangled(nn.Module):
    """DeBERTa's attention in short: three parts of a score, the scale from a size at run time."""

    def __init__(self, heads=2, head_dim=8, length=6):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        self.query, self.key, self.value = (nn.Linear(8, inner) for _ in range(3))
        self.place = nn.Parameter(torch.randn(length, 8))
        self.out, self.pool, self.classify = nn.Linear(inner, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(self, x):
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        at = self.split(self.key(self.place[: x.size(1)]))
        scale = 1 / torch.sqrt(torch.tensor(q.size(-1) * 2, dtype=torch.float))
        scores = (q * scale) @ k.transpose(-1, -2) + (q * scale) @ at.transpose(-1, -2)
        mixed = (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)
        return self.classify(F.gelu(self.pool((x + self.out(mixed))[:, 0])))


def error_outside(model, cut, inputs):
    """The relative error of the outputs against the original with removed entries set to zero."""
    expected = run(zeroed(model, kept_positions(model, cut)), inputs)
    got = run(cut, inputs)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, got, strict=True))


def require_right_inside_heads(model, example, others, protect=()):
    """The cut is right on other inputs than the example, too, or refused."""
    result, refusal = tried(model, example, ratio=0.5, axes="widths", protect=protect)
    if result is None:
        assert "aten." in refusal
        return
    assert error_outside(model, result.model, others) < 1e-6, str(result.verdict)


def tokens(example, length=6):
    """Examples of attention that hide its scale: one token, or tokens that are all the same."""
    if example == "different tokens":
        return torch.randn(3, length, 8)
    return torch.randn(3, 1, 8) if example == "one token" else torch.ones(3, length, 8)


@pytest.mark.parametrize("example", ["different tokens", "one token", "the same tokens"])
def test_a_scale_from_the_width_of_a_head_is_held_or_the_width_stays(example):
    torch.manual_seed(0)
    model = spread(Disentangled()).eval()
    require_right_inside_heads(model, tokens(example), torch.randn(3, 6, 8))


@pytest.mark.slow
@pytest.mark.parametrize("example", [[[5], [6]], [[1] * 9] * 2, [[3, 1, 4, 1, 5, 9, 2, 6, 5]]])
@pytest.mark.parametrize("kind", ["Deberta", "DebertaV2"])
def test_deberta_that_classifies_sequences_is_right_inside_its_heads(kind, example):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
    )
    model = spread(getattr(transformers, f"{kind}ForSequenceClassification")(config)).eval()
    example, others = torch.tensor(example), torch.randint(1, 64, (2, 9))
    inputs, others = {"input_ids": example}, {"input_ids": others}
    require_right_inside_heads(model, inputs, others, ["*LayerNorm*"])


# Such a network can be cut rightly, so the tests above are no refusal of everything.


def test_a_scale_held_by_the_module_is_cut_exactly_behind_any_tail():
    model, x = Held(beside_a_billion).eval(), torch.randn(16, 6)
    result = sc.prune(model, x, ratio=0.5)
    assert result.model.a.out_features == WIDTH // 2
    assert error_inside(model, result.model) < 1e-12
