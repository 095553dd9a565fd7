"""Tables of positions: read for as many positions as an input has, however that is written, they stay whole.

A table of 24 positions is pruned with an input of 6. Whatever the cut model does for an input of 20 must be
what the original does with the removed channels at zero.
"""

import pytest
import torch
import torch.nn.functional as F
from masked import kept_positions, require_equal, run, spread, zeroed
from torch import nn

import secateur as sc

SHORT, LONG, ROWS, WIDTH = 6, 20, 24, 8


class Tokens(nn.Module):
    """Tokens, to which a read of a table is added."""

    def __init__(self, read, *shape, is_buffer=False):
        super().__init__()
        self.read = read
        self.first, self.middle, self.last = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 10), nn.Linear(10, 3)
        if is_buffer:
            self.register_buffer("table", torch.zeros(shape or (ROWS, WIDTH)))
        else:
            self.table = nn.Parameter(torch.zeros(shape or (ROWS, WIDTH)))
        self.more = nn.Parameter(torch.zeros(4, WIDTH))
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        unused = 0 * self.more.sum() + 0 * self.inner.weight.sum()
        return self.last(self.middle(self.first(x) + self.read(self, x.shape[1], x) + unused).relu())


class Scores(nn.Module):
    """Attention whose scores are projected from each token, one for each position there may be."""

    def __init__(self, read):
        super().__init__()
        self.read = read
        self.scores, self.values, self.last = nn.Linear(4, ROWS), nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.last(self.read(self.scores(x), x.shape[1]).softmax(-1) @ self.values(x))


READS = {
    "slice": lambda net, n, x: net.table[:n],
    "narrow": lambda net, n, x: net.table.narrow(0, 0, n),
    "offset": lambda net, n, x: net.table[2 : n + 2],
    "split": lambda net, n, x: net.table.split([n, ROWS - n])[0],
    "tensor_split": lambda net, n, x: net.table.tensor_split([n])[0],
    "type_as": lambda net, n, x: net.table.type_as(x)[:n],
    "to": lambda net, n, x: net.table.to(x.dtype)[:n],
    "mT": lambda net, n, x: net.table.mT[:, :n].mT,
    "swapaxes": lambda net, n, x: net.table.swapaxes(0, 1)[:, :n].swapaxes(0, 1),
    "movedim": lambda net, n, x: net.table.movedim(0, 1)[:, :n].movedim(1, 0),
    "moveaxis": lambda net, n, x: net.table.moveaxis(0, 1)[:, :n].moveaxis(1, 0),
    "expand": lambda net, n, x: net.table.expand(len(x), -1, -1)[:, :n],
    "clone": lambda net, n, x: net.table.clone()[:n],
    "dropout": lambda net, n, x: F.dropout(net.table, 0.1, training=net.training)[:n],
    "atleast_3d": lambda net, n, x: torch.atleast_3d(net.table)[:n, :, 0],
    "product": lambda net, n, x: (net.table * 1.5)[:n],
    "scaled-by-a-parameter": lambda net, n, x: (net.table * net.more[0])[:n],
    "tanh": lambda net, n, x: net.table.tanh()[:n],
    "layer": lambda net, n, x: net.inner(net.table)[:n],
    "normalised": lambda net, n, x: F.normalize(net.table, dim=1)[:n],
    "cat": lambda net, n, x: torch.cat([net.more, net.table])[:n],
    "cumsum": lambda net, n, x: net.table.cumsum(0)[:n],
    "cropped": lambda net, n, x: F.pad(net.table, (0, 0, 0, n - ROWS)),
    "select": lambda net, n, x: torch.stack([net.table[at] for at in range(n)]),
    "unbind": lambda net, n, x: torch.stack(net.table.unbind()[:n]),
    "index": lambda net, n, x: net.table[torch.arange(n)],
    "index_select": lambda net, n, x: net.table.index_select(0, torch.arange(n)),
    "embedding": lambda net, n, x: F.embedding(torch.arange(n), net.table),
    "gather": lambda net, n, x: net.table.gather(0, torch.arange(n)[:, None].expand(n, net.table.shape[1])),
    "take_along_dim": lambda net, n, x: net.table.take_along_dim(torch.arange(n)[:, None], 0),
    "twice": lambda net, n, x: net.table[:n] + net.table[1 : n + 1],
    "summed": lambda net, n, x: (net.table * 1.5)[:n].sum(0),
}

SHAPED = {
    "flatten": ((4, 6, WIDTH), lambda net, n, x: net.table.flatten(0, 1)[:n]),
    "reshape": ((4, 6, WIDTH), lambda net, n, x: net.table.reshape(24, -1)[:n]),
    "unflatten": ((ROWS, WIDTH), lambda net, n, x: net.table.unflatten(0, (2, 12))[0][: n // 2].repeat(2, 1)),
    "squeeze": ((1, ROWS, WIDTH), lambda net, n, x: net.table.squeeze(0)[:n]),
    "interpolate": ((1, WIDTH, ROWS), lambda net, n, x: F.interpolate(net.table, size=n)[0].mT),
    "average": ((1, WIDTH, ROWS), lambda net, n, x: F.adaptive_avg_pool1d(net.table, n)[0].mT),
}

ACTIVATIONS = {
    "slice": lambda scores, n: scores[..., :n],
    "narrow": lambda scores, n: scores.narrow(-1, 0, n),
    "split": lambda scores, n: scores.split([n, ROWS - n], -1)[0],
    "turned": lambda scores, n: scores.mT[:, :n].mT,
    "computed": lambda scores, n: (scores * 2).tanh()[..., :n],
}


def require_whole(model):
    model = spread(model).eval()
    result = sc.prune(model, torch.zeros(2, SHORT, 4), ratio=0.5, scope="local", seed=0)
    assert str(result.verdict.status) in ("exact", "renormalised")
    assert dict(result.model.named_parameters())["last.weight"].shape[1] < 10
    x = torch.randn(2, LONG, 4, generator=torch.Generator().manual_seed(1))
    require_equal(run(zeroed(model, kept_positions(model, result.model)), x), run(result.model, x))


@pytest.mark.parametrize("is_buffer", [False, True], ids=["parameter", "buffer"])
@pytest.mark.parametrize("read", list(READS))
def test_a_table_stays_whole_for_longer_inputs(read, is_buffer):
    require_whole(Tokens(READS[read], is_buffer=is_buffer))


@pytest.mark.parametrize("read", list(SHAPED))
def test_a_table_of_another_shape_stays_whole_for_longer_inputs(read):
    shape, function = SHAPED[read]
    require_whole(Tokens(function, *shape))


@pytest.mark.parametrize("read", list(ACTIVATIONS))
def test_scores_for_every_position_there_may_be_stay_whole(read):
    require_whole(Scores(ACTIVATIONS[read]))


def test_channels_that_no_input_reads_may_go():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x)[:, :4])

    groups = sc.couple(Half(), torch.zeros(1, 4))
    assert sorted(group.size for group in groups.prunable) == [4, 4]
