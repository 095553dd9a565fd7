"""The papers' ordering on a small trained transformer: magnitude < Wanda <= SparseGPT, at 50 % and 2:4."""

import copy
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from secateur import mask


class Block(nn.Module):
    """Causal self-attention and an MLP, before each a layer norm."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class PixelModel(nn.Module):
    """Predicts the next of 64 pixels with 17 grey levels."""

    def __init__(self, width=64, heads=4, depth=2):
        super().__init__()
        self.token, self.place = nn.Embedding(17, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 17)

    def forward(self, tokens):
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train_model(tokens, steps=200):
    """Train with outlier features: large models grow a few inputs of large norm, which tiny ones do not.

    Here the gains of the layer norms are drawn once from exp(N(0, 1)) and stay (Dettmers et al.,
    "LLM.int8()", 2022, describe the phenomenon; Sun et al. name it as what Wanda owes its advantage to).
    """
    torch.manual_seed(0)
    model = PixelModel(width=48)
    for module in model.blocks.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.requires_grad_(False).copy_(torch.exp(torch.randn(module.weight.shape)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for step in range(steps):
        batch = tokens[torch.randint(len(tokens), (32,), generator=torch.Generator().manual_seed(step))]
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def perplexities(model, calibration, test):
    """The perplexity on held-out images, dense and masked by each method at 50 % and 2:4."""

    def measured(one):
        with torch.no_grad():
            return math.exp(loss_of(one, test).item())

    found = {("dense", ""): measured(model)}
    for structure in ("50%", "2:4"):
        how = {"structure": "2:4"} if structure == "2:4" else {"amount": 0.5}
        for method in ("random", "l1", "wanda", "sparsegpt"):
            one = copy.deepcopy(model)
            data = calibration.split(64) if method in ("wanda", "sparsegpt") else None
            mask.prune(
                one,
                method,
                select="blocks.*",
                data=data,
                loss=lambda m, batch: m(batch[:, :-1]),
                seed=0,
                **how,
            )
            assert abs(mask.report(one, "blocks.*", ["weight"]).sparsity - 0.5) < 0.001
            found[method, structure] = measured(one)
    return found


@pytest.mark.slow
def test_data_beats_magnitude_and_updates_beat_data():
    tokens = torch.tensor(load_digits().data, dtype=torch.long)
    train, test = tokens[:1500], tokens[1500:]
    found = perplexities(train_model(train), train[:256], test)
    for structure in ("50%", "2:4"):
        magnitude, wanda, sparsegpt = (found[name, structure] for name in ("l1", "wanda", "sparsegpt"))
        assert found["random", structure] > magnitude > wanda >= sparsegpt > found["dense", ""], found


def trained_linear(rows=6, columns=12, samples=200):
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, columns, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x


def test_the_sweep_makes_up_for_the_first_column_as_least_squares_does():
    """With one entry masked the updated row is the best that the later columns can do: an exact update."""
    from secateur.mask.sparsegpt import sweep
    from secateur.mask.structure import read_structure

    weight, x = trained_linear()
    alive = torch.ones_like(weight).bool()
    weight[:, 0] *= 1e-3  # so that the first column is chosen
    structure = read_structure("unstructured")
    new, kept = sweep(weight, x.T @ x, alive, 1 / 12, structure=structure, damp=1e-12, block=12)
    assert bool((~kept).sum() == 6)
    assert not bool(kept[:, 0].any())
    best = torch.linalg.lstsq(x[:, 1:], x @ weight.T).solution.T
    assert torch.allclose(new[:, 1:], best, atol=1e-6)


@pytest.mark.parametrize("word", ["unstructured", "2:4"])
def test_the_sweep_leaves_less_error_than_masks_alone(word):
    weight, x = trained_linear(20, 32, 400)
    errors = {}
    for method in ("l1", "wanda", "sparsegpt"):
        layer = nn.Linear(32, 20, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(weight)
        how = {} if word == "2:4" else {"amount": 0.5}
        data = None if method == "l1" else [x]
        mask.prune(layer, method, structure=word, data=data, **how)
        assert mask.report(layer).sparsity == 0.5
        errors[method] = float((layer(x).detach() - x @ weight.T).square().mean())
    assert errors["sparsegpt"] < min(errors["wanda"], errors["l1"])


def test_wanda_and_sparsegpt_understand_convolutions():
    """A convolution is a linear layer on its patches: both give the same masks and weights."""
    conv, x = nn.Conv2d(3, 4, 3, padding=1, stride=2), torch.randn(5, 3, 9, 9)
    patches = functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    for method in ("wanda", "sparsegpt"):
        one, linear = copy.deepcopy(conv), nn.Linear(27, 4)
        linear.load_state_dict({"weight": conv.weight.detach().flatten(1), "bias": conv.bias.detach()})
        mask.prune(one, method, amount=0.4, data=[x])
        mask.prune(linear, method, amount=0.4, data=[patches])
        assert torch.equal(one.weight_mask.flatten(1), linear.weight_mask)
        assert torch.allclose(one.weight_orig.flatten(1), linear.weight_orig, atol=1e-5)


def test_wanda_sees_the_groups_of_a_convolution():
    conv = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    x = torch.tensor([1.0, 2.0, 4.0, 3.0]).view(1, 4, 1, 1)
    mask.prune(conv, "wanda", amount=0.5, data=[x])
    assert conv.weight_mask.flatten(1).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_movement_keeps_what_grows_and_taylor_what_the_loss_needs():
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, 0.1]]))
    push = torch.tensor([[1.0, -1.0, -5.0]])  # the gradient: the first weight shrinks, the others grow

    def loss(model, batch):
        return (model.weight * push).sum()

    one = copy.deepcopy(layer)
    mask.prune(one, "movement", amount=1, data=[0], loss=loss)
    assert one.weight_mask.tolist() == [[0, 1, 1]]
    one = copy.deepcopy(layer)
    mask.prune(one, "taylor", amount=1, data=[0], loss=loss)
    assert one.weight_mask.tolist() == [[1, 1, 0]]
    gathering = mask.Gathering("movement", layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss(layer, None).backward()
        gathering.step()
        optimizer.step()
    mask.prune(layer, lambda name, value: gathering.scores[name], amount=1)
    assert layer.weight_mask.tolist() == [[0, 1, 1]]
