"""Models as they are served: padded batches and the other attention, which no example shows."""

from types import SimpleNamespace

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.capture.variants import variants_of
from secateur.settle import Settler

IDS = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


class MultiQuery(nn.Module):
    """Many query heads and one head of keys: one path repeats it in the kernel, the other by a number."""

    def __init__(self, config):
        super().__init__()
        self.config, self.groups, self.width = config, 4, 8
        self.query, self.key, self.value = nn.Linear(16, 32), nn.Linear(16, 8), nn.Linear(16, 8)
        self.out = nn.Linear(32, 16)

    def repeat(self, x):
        batch, heads, length, width = x.shape
        return (
            x[:, :, None].expand(batch, heads, self.groups, length, width).reshape(batch, -1, length, width)
        )

    def forward(self, x, mask):
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        if self.config._attn_implementation == "sdpa" and mask is None:
            made = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            made = self.by_hand(q, self.repeat(k), self.repeat(v), mask)
        return self.out(made.transpose(1, 2).flatten(2))

    def heads(self, x):
        return x.unflatten(2, (-1, self.width)).transpose(1, 2)

    def by_hand(self, q, k, v, mask):
        scores = q @ k.transpose(2, 3) * self.width**-0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
        return scores.softmax(3) @ v


class Written(MultiQuery):
    """The number of the other path stands in the code."""

    def repeat(self, x):
        return x.expand(x.shape[0], 4, x.shape[2], x.shape[3])


class Scaled(MultiQuery):
    """The other path computes with the number, too: following it would change what it says."""

    def by_hand(self, q, k, v, mask):
        return super().by_hand(q, k, v, mask) / self.groups


class Model(nn.Module):
    def __init__(self, attention=MultiQuery):
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        self.table, self.attention, self.head = nn.Embedding(11, 16), attention(self.config), nn.Linear(16, 3)

    def set_attn_implementation(self, name):
        self.config._attn_implementation = name

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids)
        return self.head(x + self.attention(x, attention_mask))


class Bare(Model):
    """Takes no mask; only its attention can be set."""

    def forward(self, input_ids):
        return super().forward(input_ids)


class Fixed(Model):
    """Takes a mask; its attention cannot be set."""

    set_attn_implementation = None


def served(model):
    """What a model computes where the example does not show it."""
    with torch.no_grad():
        found = [model(IDS, MASK)[1]] if not isinstance(model, Bare) else []
        if model.set_attn_implementation is not None:
            model.set_attn_implementation("eager")
            found.append(model(IDS)[1])
            model.set_attn_implementation("sdpa")
        return found


@pytest.mark.parametrize("kind", [Model, Bare, Fixed])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("inputs", [(IDS,), {"input_ids": IDS}], ids=["positional", "by name"])
def test_a_number_that_only_the_other_paths_read_follows_the_cut(kind, check, inputs):
    model = nets.randomise(kind())
    cut = sc.prune(model, inputs, ratio=0.5, scope="local", protect="table", check=check).model
    assert cut.attention.query.out_features == 16
    assert (cut.attention.groups, model.attention.groups) == (2, 4)
    with torch.no_grad():
        expected = cut(IDS)[1]
    for made in served(cut):
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("attention", [Written, Scaled])
@pytest.mark.parametrize("check", [True, False])
def test_a_number_that_cannot_follow_on_the_other_paths_holds_the_heads(attention, check):
    model = nets.randomise(Model(attention))
    result = sc.prune(model, (IDS,), keep={"attention.value": [0, 1, 2]}, axes="both", check=check)
    assert result.model.attention.query.out_features == 32
    with pytest.raises(
        sc.errors.SecateurError, match=r"attention\.query: the model's code does not follow a cut"
    ):
        sc.prune(model, (IDS,), ratio=0.5, protect=["table", "attention.key", "attention.value"], check=check)


def test_the_proof_by_number_finds_it_too(monkeypatch):
    monkeypatch.setattr(Settler, "_served", ())
    model = nets.randomise(Model())
    with pytest.raises(sc.errors.SecateurError, match="with a padded batch and attention 'eager'"):
        sc.prune(model, (IDS,), ratio=0.5, protect=["table", "attention.key", "attention.value"])


def test_an_example_that_is_padded_is_served_without_padding():
    found = variants_of(Model(), {"input_ids": IDS, "attention_mask": MASK})
    assert [(one.name, bool(one.inputs["attention_mask"].all())) for one in found] == [
        ("a batch without padding", True),
        ("a batch without padding and attention 'eager'", True),
    ]


@pytest.mark.parametrize("kind", ["Llama", "Phi3"])
def test_multi_query_models_of_transformers_are_served_padded_and_eager(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=17, num_key_value_heads=1, pad_token_id=0, **sizes
    )
    model = nets.randomise(getattr(transformers, f"{kind}ForCausalLM")(settings))
    cut = sc.prune(model, {"input_ids": IDS}, ratio=0.5, scope="local").model
    assert cut.model.layers[0].self_attn.num_key_value_groups == 2
    with torch.no_grad():
        expected = cut(IDS).logits[1]
        torch.testing.assert_close(cut(IDS, attention_mask=MASK).logits[1], expected)
        cut.set_attn_implementation("eager")
        torch.testing.assert_close(cut(IDS).logits[1], expected)
    found = {part.config._attn_implementation for part in cut.modules() if hasattr(part, "config")}
    assert (found, model.config._attn_implementation) == ({"eager"}, "sdpa")


def test_what_a_class_keeps_of_being_asked_is_put_back():
    class Asked(Model):
        answer = None

        @classmethod
        def _can_set_attn_implementation(cls):
            cls.answer = cls.other = True
            return True

    model = Asked().eval()
    assert [one.name for one in variants_of(model, IDS)][-1].endswith("attention 'eager'")
    assert Asked.answer is None
    assert "other" not in vars(Asked)
