"""Reference points: Wanda-sp, FLAP and a rotation as of SliceGPT, on a model like Llama.

Short versions, made of what the papers say. They remove by zeros, so what is counted as gone is what a cut
would take: all weights of a removed unit. A unit is a neuron of the feed-forward part (a row of `gate_proj`
and `up_proj`, a column of `down_proj`) or a key-value head with the query heads that read it.

References:
    An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI 2024, section
    3, and its baseline Wanda-sp. https://arxiv.org/abs/2312.11983
    Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", ICLR 2024.
    https://arxiv.org/abs/2401.15024
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Reader:
    """A layer that reads units: `down_proj` of neurons, `o_proj` of key-value heads.

    Attributes:
        layer: The layer.
        width: How many of its inputs go with a unit.
        cost: The parameters that go with a unit.
        mean: The mean of each input over the data.
        square: The mean square of each.
    """

    layer: nn.Linear
    width: int
    cost: int
    mean: Tensor
    square: Tensor

    @property
    def variance(self) -> Tensor:
        """The variance of each input."""
        return (self.square - self.mean**2).clamp_min(0)


def readers(model: nn.Module, data: Tensor) -> list[Reader]:
    """The layers that read units, with the moments of their inputs."""
    config: Any = model.config
    hidden = config.hidden_size
    head = config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads // config.num_key_value_heads
    kinds = {"down_proj": (1, 3 * hidden), "o_proj": (queries * head, (2 * queries + 2) * head * hidden)}
    found = [
        Reader(layer, *kinds[name.rpartition(".")[2]], torch.zeros(()), torch.zeros(()))
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in kinds and isinstance(layer, nn.Linear)
    ]

    def watch(reader: Reader) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().flatten(0, -2).double()
            reader.mean = reader.mean + rows.mean(0) / len(data)
            reader.square = reader.square + rows.square().mean(0) / len(data)

        return note

    hooks = [reader.layer.register_forward_pre_hook(watch(reader)) for reader in found]
    with torch.no_grad():
        for row in data:
            model(input_ids=row[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def wanda_sp(model: nn.Module, data: Tensor, remove: int) -> nn.Module:
    """Wanda-sp: |weight| times the norm of its input, summed over a unit; the same share of each layer."""
    model = copy.deepcopy(model)
    found = readers(model, data)
    share = remove / sum(one.cost * (one.layer.in_features // one.width) for one in found)
    for one in found:
        each = one.layer.weight.detach().double().abs().sum(0) * one.square.sqrt()
        scores = each.view(-1, one.width).sum(1)
        gone = scores.argsort()[: round(share * len(scores))]
        _zero(one, gone, with_bias=False)
    return model


def flap(model: nn.Module, data: Tensor, remove: int) -> nn.Module:
    """FLAP: variance times squared weight, in standard units of each layer; the mean goes into a bias."""
    model = copy.deepcopy(model)
    found = readers(model, data)
    order: list[tuple[float, int, int]] = []
    for at, one in enumerate(found):
        each = one.layer.weight.detach().double().square().sum(0) * one.variance
        scores = each.view(-1, one.width).mean(1)
        scores = (scores - scores.mean()) / scores.std()
        order += [(float(score), at, unit) for unit, score in enumerate(scores)]
    gone: dict[int, list[int]] = {}
    left = remove
    for _, at, unit in sorted(order):
        if left <= 0:
            break
        if found[at].layer.in_features // found[at].width - len(gone.get(at, ())) == 1:
            continue  # a layer keeps one
        gone.setdefault(at, []).append(unit)
        left -= found[at].cost
    for at, units in gone.items():
        _zero(found[at], torch.tensor(units), with_bias=True)
    return model


@torch.no_grad()
def _zero(reader: Reader, units: Tensor, with_bias: bool) -> None:
    inputs = (units[:, None] * reader.width + torch.arange(reader.width)).flatten()
    weight = reader.layer.weight
    if with_bias:
        lost = weight[:, inputs].double() @ reader.mean[inputs]
        reader.layer.bias = nn.Parameter(lost.to(weight.dtype))
    weight[:, inputs] = 0


@torch.no_grad()
def sliced(model: nn.Module, data: Tensor, remove: int) -> nn.Module:
    """The stream's principal components: what all layers write to it is projected onto the first ones.

    One rotation for all layers, where SliceGPT has one for each and adapters between them: those, and an
    output layer that is no longer the embedding, cost more than they save in a model of this size.
    """
    model = copy.deepcopy(model)
    inner: Any = model.model
    second = torch.zeros((model.config.hidden_size,) * 2, dtype=torch.float64)
    for row in data:
        for state in inner(input_ids=row[None], use_cache=False, output_hidden_states=True).hidden_states[
            :-1
        ]:
            one = state[0].double()
            one = one / one.square().mean(1, keepdim=True).sqrt()
            second += one.T @ one
    width = model.config.hidden_size
    writers = [getattr(getattr(layer, part), name) for layer in inner.layers for part, name in _WRITERS]
    reading = sum(p.numel() for p in model.parameters()) / width  # nearly all weights have this width once
    kept = width - round(remove / reading)
    basis = torch.linalg.eigh(second).eigenvectors[:, -kept:]
    onto = basis @ basis.T
    inner.embed_tokens.weight.copy_((inner.embed_tokens.weight.double() @ onto).float())
    for layer in writers:
        layer.weight.copy_((onto @ layer.weight.double()).float())
    return model


_WRITERS = (("self_attn", "o_proj"), ("mlp", "down_proj"))

PEERS = {"FLAP": flap, "Wanda-sp": wanda_sp, "one rotation, as of SliceGPT": sliced}
