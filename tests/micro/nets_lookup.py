"""Look-ups in tables, and choices by index or by mask."""

import torch
from case import A_MAP, A_ROW, IMAGES, ROWS, TOKENS, WHOLE_MAP, WHOLE_ROW, Case, halves, maps, rows
from torch import nn
from torch.nn import functional as F

LINES = halves(A_ROW, (3, 4))


class Words(nn.Module):
    """A table of words, positions by number, two layers."""

    def __init__(self, table):
        super().__init__()
        self.words, self.places = table, nn.Embedding(9, 8)
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.c(self.b(x).tanh())


class TiedDecoder(nn.Module):
    """Words in and words out through one table."""

    def __init__(self):
        super().__init__()
        self.words, self.b = nn.Embedding(11, 8), nn.Linear(8, 6)
        self.up, self.decoder = nn.Linear(6, 8), nn.Linear(8, 11, bias=False)
        self.decoder.weight = self.words.weight

    def forward(self, tokens):
        return self.decoder(self.up(self.b(self.words(tokens)).relu()).tanh())


class Bags(nn.Module):
    """Sums of rows of a table."""

    def __init__(self, mode):
        super().__init__()
        self.words, self.b, self.c = nn.EmbeddingBag(11, 8, mode=mode), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, tokens):
        return self.c(self.b(self.words(tokens)).tanh())


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.b, self.c = nn.Parameter(torch.zeros(11, 8)), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, tokens):
        chosen = F.one_hot(tokens, 11).to(self.table.dtype)
        return self.c(self.b(chosen @ self.table).tanh())


class Picked(nn.Module):
    """index_select, gather, take_along_dim or indexing by a registered tensor."""

    def __init__(self, pick, positions):
        super().__init__()
        self.pick = pick
        self.register_buffer("index", torch.tensor(positions))

    def forward(self, x):
        return self.pick(x, self.index)


class OwnFilled(nn.Module):
    """masked_fill and where with masks made of the maps themselves."""

    def forward(self, x):
        x = x.masked_fill(x.detach() < -1, 0.0)
        return torch.where(x > 0, x, 0.1 * x)


class Selected(nn.Module):
    """Rows chosen by a boolean mask: how many depends on numbers, of the input or of the hidden layer."""

    def __init__(self, *, by_hidden):
        super().__init__()
        self.by_hidden = by_hidden
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = self.a(x)
        return self.c(self.b(y[(y if self.by_hidden else x).sum(1) > 0]).tanh())


class MaskedChannels(nn.Module):
    """A boolean mask over the channels, held as a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False] * 4))

    def forward(self, x):
        return x[:, self.mask]


def tokens():
    return torch.tensor([[1, 4, 2], [10, 0, 4]])


def pick(by, positions=(0, 2, 5), frame=rows):
    return lambda: frame(Picked(by, positions), len(positions))


def along_positions(x, index):
    return torch.gather(x, 1, index.view(1, -1, 1).expand(x.shape[0], -1, x.shape[2]))


THREE = halves(WHOLE_ROW, (3, 3))


PICKED = halves(WHOLE_ROW, (3, 1)) | {"op.index": (1,)}

CASES = (
    Case(
        "embedding",
        lambda: Words(nn.Embedding(11, 8, padding_idx=0)),
        tokens,
        "exact",
        {"words.weight": (11, 4), "places.weight": (9, 4), "b.weight": (3, 4)},
        reason={"words.weight": "aten.embedding"},
    ),
    Case(
        "embedding-with-a-largest-norm",
        lambda: Words(nn.Embedding(11, 8, max_norm=1.0)),
        tokens,
        "exact",
        {"words.weight": (11, 4), "b.weight": (3, 4)},
    ),
    Case(
        "embedding-bag-sum",
        lambda: Bags("sum"),
        tokens,
        "exact",
        {"words.weight": (11, 4), "b.weight": (3, 4)},
    ),
    Case(
        "embedding-bag-max",
        lambda: Bags("max"),
        tokens,
        "exact",
        {"words.weight": (11, 4), "b.weight": (3, 4)},
    ),
    Case(
        "tied-embedding-decoder",
        TiedDecoder,
        tokens,
        "exact",
        {"words.weight": (11, 4), "decoder.weight": (11, 4), "b.weight": (3, 4), "up.weight": (4, 3)},
    ),
    Case("one-hot", OneHot, tokens, "exact", {"table": (11, 4), "b.weight": (3, 4)}),
    Case(
        "index-select-of-channels",
        pick(lambda x, index: x.index_select(1, index)),
        ROWS,
        "protected",
        THREE,
        reason={"a.weight": "aten.index_select"},
    ),
    Case(
        "index-of-channels",
        pick(lambda x, index: x[:, index]),
        ROWS,
        "protected",
        PICKED,
        reason={"a.weight": "aten.index"},
    ),
    Case(
        "gather-of-channels",
        pick(lambda x, index: x.gather(1, index.expand(x.shape[0], -1))),
        ROWS,
        "protected",
        PICKED,
        reason={"a.weight": "aten.gather"},
    ),
    Case("gather-of-positions", lambda: rows(Picked(along_positions, (3, 0, 6))), TOKENS, "exact", LINES),
    Case(
        "index-of-positions",
        lambda: rows(Picked(lambda x, index: x[:, index], (3, 0, 6))),
        TOKENS,
        "exact",
        LINES,
    ),
    Case(
        "take-along-positions",
        lambda: rows(Picked(lambda x, index: x.take_along_dim(index.view(1, -1, 1), 1), (3, 0, 6))),
        TOKENS,
        "exact",
        LINES,
    ),
    Case(
        "scatter-of-positions",
        lambda: rows(
            Picked(
                lambda x, index: x.new_zeros(x.shape[0], 9, x.shape[2]).index_copy(1, index, x), range(1, 8)
            )
        ),
        TOKENS,
        "exact",
        LINES,
    ),
    Case(
        "permuted-channels",
        lambda: maps(Picked(lambda x, index: x[:, index], (3, 1, 0, 2, 7, 6, 5, 4))),
        IMAGES,
        "protected",
        halves(WHOLE_MAP, (3, 4, 1, 1)),
        reason={"a.weight": "aten.index"},
    ),
    Case("where-and-masked-fill", lambda: maps(OwnFilled()), IMAGES, "exact", halves(A_MAP, (3, 4, 1, 1))),
    Case("boolean-mask-of-rows", lambda: Selected(by_hidden=False), (20, 5), "exact", LINES),
    Case(
        "boolean-mask-of-hidden-numbers",
        lambda: Selected(by_hidden=True),
        (20, 5),
        "exact",
        LINES,
    ),
    Case(
        "boolean-mask-of-channels",
        lambda: rows(MaskedChannels(), 4),
        ROWS,
        "protected",
        halves(WHOLE_ROW, (3, 4)),
        reason={"a.weight": "aten.index"},
    ),
)
