"""Networks that ask for their layers by number, which a dropped layer changes."""

import nets_deep
import torch
from torch import nn


def branch():
    return nets_deep.Branch(lambda x, y: x + y)


class Layers(nn.Module):
    """A stem, layers in a list, a head; layers know their number, the network how many there are."""

    def __init__(self, depth=4):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(branch() for _ in range(depth))
        self.n_layers = depth
        self.config = {"num_layers": depth, "layer_types": ["even", "odd"] * (depth // 2), "heads": depth}
        for at, layer in enumerate(self.layers):
            layer.layer_idx, layer.number, layer.config = at, at + 1, self.config

    def forward(self, x):
        return self.head(self.run(self.stem(x)))

    def run(self, x):
        for at in range(self.n_layers):
            x = self.layers[at](x)
        return x


class Sliced(Layers):
    """As models of Hugging Face do: the config says how many layers run."""

    def run(self, x):
        for layer in self.layers[: self.config["num_layers"]]:
            x = layer(x)
        return x


class Chosen(Layers):
    """Returns what some layers give, by their numbers."""

    def forward(self, x):
        x, chosen = self.stem(x), []
        for at, layer in enumerate(self.layers):
            x = layer(x)
            if at in (1, 3):
                chosen.append(x)
        return torch.cat(chosen, 1)


class Reversing(Layers):
    """Every second layer sees its input reversed."""

    def run(self, x):
        for layer in self.layers:
            x = layer(x.flip(1) if layer.layer_idx % 2 else x)
        return x


class Scaled(Layers):
    """A learned number for each layer, of one size for all."""

    def __init__(self, depth=4):
        super().__init__(depth)
        self.table = nn.Parameter(torch.rand(depth, 8) + 0.5)

    def run(self, x):
        for scale, layer in zip(self.table.unbind()[: len(self.layers)], self.layers, strict=True):
            x = layer(x * scale)
        return x


class Paired(Layers):
    """A second list beside the first."""

    def __init__(self, depth=4):
        super().__init__(depth)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(depth))

    def run(self, x):
        for at, layer in enumerate(self.layers):
            x = layer(self.norms[at](x))
        return x


class Supervised(Layers):
    """In training every layer has a head of its own."""

    def __init__(self, depth=4):
        super().__init__(depth)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(depth))

    def forward(self, x):
        x, found = self.stem(x), []
        for at, layer in enumerate(self.layers):
            x = layer(x)
            if self.training:
                found.append(self.heads[at](x))
        return (self.head(x), *found)


class Attending(nn.Module):
    """Sees the mean of all words so far, those of earlier calls from its place in a cache."""

    def __init__(self, at):
        super().__init__()
        self.layer_idx = at
        self.out = nn.Linear(8, 8)

    def forward(self, x, past):
        at = self.layer_idx
        past[at] = seen = torch.cat([past[at], x], 1) if at in past else x
        steps = torch.arange(1, seen.shape[1] + 1, device=x.device).to(x.dtype)
        mean = (seen.cumsum(1) / steps[:, None])[:, -x.shape[1] :]
        return x + torch.tanh(self.out(mean))


class Remembering(nn.Module):
    """Words in steps; how many there were, the first layer's place in the cache tells."""

    def __init__(self, depth=4, needs_all=False):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(32, 8))
        self.layers = nn.ModuleList(Attending(at) for at in range(depth))
        self.head = nn.Linear(8, 3)
        self.needs = depth if needs_all else 0

    def forward(self, input_ids, past=None, use_cache=True):
        assert len(self.layers) >= self.needs
        past = dict(past or {})
        start = past[0].shape[1] if 0 in past else 0
        x = self.words(input_ids) + self.places[start : start + input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, past)
        return {"logits": self.head(x), "past": past if use_cache else None}


class Tabled(nets_deep.Branch):
    """A layer that is given the table of its kind."""

    def forward(self, x, table):
        return x + self.outer(torch.tanh(self.inner(x * table)))


class Kinds(Layers):
    """Each kind of layer has a table, computed once, in the order in which the kinds first occur."""

    def __init__(self, depth=4):
        super().__init__(depth)
        self.tables = nn.ParameterDict({"even": torch.rand(8), "odd": torch.rand(8)})
        self.layers = nn.ModuleList(Tabled(None) for _ in range(depth))
        for at, layer in enumerate(self.layers):
            layer.kind = ["even", "odd"][at % 2]

    def run(self, x):
        kinds = dict.fromkeys(layer.kind for layer in self.layers)
        tables = {kind: self.tables[kind].cos() + 1 for kind in kinds}
        for layer in self.layers:
            x = layer(x, tables[layer.kind])
        return x
