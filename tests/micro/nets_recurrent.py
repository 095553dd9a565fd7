"""Recurrent layers, whole or written as a loop."""

import torch
from case import TOKENS, Between, Case
from torch import nn
from torch.nn import functional as F


class Sequence(nn.Module):
    """A recurrent module of torch.nn, and layers that read its output and its last state."""

    def __init__(self, kind, size=8, width=8, *, has_stem=True, **more):
        super().__init__()
        self.a = nn.Linear(5, 8) if has_stem else nn.Identity()
        self.rnn = kind(8 if has_stem else 5, size, batch_first=True, **more)
        self.b, self.c = nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, x):
        y, _ = self.rnn(self.a(x))
        return self.c(self.b(y).tanh())


class LastState(Sequence):
    """The initial state is given, the last hidden state is read."""

    def forward(self, x):
        state = x.new_zeros(1, x.shape[0], self.rnn.hidden_size)
        _, (hidden, cell) = self.rnn(self.a(x), (state, state))
        return self.c(self.b(hidden[-1] + cell[0]).tanh())


class Packed(nn.Module):
    """A packed sequence of unequal lengths."""

    def __init__(self):
        super().__init__()
        self.a, self.rnn = nn.Linear(5, 8), nn.GRU(8, 8, batch_first=True)
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(self.a(x), torch.tensor([7, 4]), batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.c(self.b(y).tanh())


class Loop(nn.Module):
    """A cell in a loop over the positions."""

    def __init__(self, cell):
        super().__init__()
        self.a, self.cell = nn.Linear(5, 8), cell
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x, state, steps = self.a(x), None, []
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
            steps.append(state[0] if isinstance(state, tuple) else state)
        return self.c(self.b(torch.stack(steps, 1)).tanh())


class OwnCell(nn.Module):
    """An LSTM in Python: four gates in one projection, taken apart by chunk."""

    def __init__(self):
        super().__init__()
        self.hidden_size = 8
        self.x2h, self.h2h = nn.Linear(8, 32), nn.Linear(8, 32, bias=False)

    def forward(self, x, state):
        h, c = state or (x.new_zeros(x.shape[0], self.hidden_size),) * 2
        i, f, g, o = (self.x2h(x) + self.h2h(h)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ConvolutionalCell(nn.Module):
    """A convolutional GRU over three frames, as optical-flow networks have it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.z, self.r, self.q = (nn.Conv2d(16, 8, 3, padding=1) for _ in range(3))
        self.b, self.c = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        h = torch.zeros_like(x)
        for _ in range(3):
            both = torch.cat([h, x], 1)
            z, r = self.z(both).sigmoid(), self.r(both).sigmoid()
            h = (1 - z) * h + z * self.q(torch.cat([r * h, x], 1)).tanh()
        return self.c(self.b(h).tanh())


class SelectiveScan(nn.Module):
    """Mamba's block with its scan as a Python loop: inner width 8, state 3, rank 2."""

    def __init__(self):
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = 8, 3, 2
        self.in_proj = nn.Linear(5, 16, bias=False)
        self.conv1d = nn.Conv1d(8, 8, 3, groups=8, padding=2)
        self.x_proj = nn.Linear(8, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, 8)
        self.A_log, self.D = nn.Parameter(torch.zeros(8, self.d_state)), nn.Parameter(torch.zeros(8))
        self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 2)

    def scan(self, x, dt, b, c):
        a = -torch.exp(self.A_log)
        state, steps = x.new_zeros(x.shape[0], x.shape[2], a.shape[1]), []
        for at in range(x.shape[1]):
            state = torch.exp(dt[:, at, :, None] * a) * state + (dt * x)[:, at, :, None] * b[:, at, None]
            steps.append((state * c[:, at, None]).sum(-1))
        return torch.stack(steps, 1) + x * self.D

    def forward(self, x):
        length = x.shape[1]
        x, gate = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[:, :, :length].transpose(1, 2))
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], -1)
        return self.c(self.b(self.scan(x, F.softplus(self.dt_proj(dt)), b, c) * F.silu(gate)).tanh())


class LinearScan(nn.Module):
    """A first-order recurrence by cumulated sums."""

    def forward(self, x):
        return torch.cumsum(x, 1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1)


def sequence(name, kind, size=8, width=8, kept=None, make=Sequence, **more):
    return Case(name, lambda: make(kind, size, width, **more), TOKENS, "exact", kept or {})


LSTM = {"a.weight": (4, 5), "rnn.weight_ih_l0": (16, 4), "rnn.weight_hh_l0": (16, 4), "b.weight": (3, 4)}
GRU = {"a.weight": (4, 5), "rnn.weight_ih_l0": (12, 4), "rnn.bias_hh_l0": (12,), "b.weight": (3, 4)}
RNN = {"a.weight": (4, 5), "rnn.weight_ih_l0": (4, 4), "rnn.weight_hh_l0": (4, 4), "b.weight": (3, 4)}

CASES = (
    sequence("lstm", nn.LSTM, kept=LSTM),
    sequence(
        "lstm-raw-input", nn.LSTM, has_stem=False, kept={"rnn.weight_ih_l0": (16, 5), "b.weight": (3, 4)}
    ),
    sequence("lstm-two-layers", nn.LSTM, num_layers=2, kept=LSTM | {"rnn.weight_ih_l1": (16, 4)}),
    sequence(
        "lstm-bidirectional",
        nn.LSTM,
        width=16,
        num_layers=2,
        bidirectional=True,
        kept={"rnn.weight_ih_l1_reverse": (16, 8), "rnn.weight_hh_l0": (16, 4), "b.weight": (3, 8)},
    ),
    sequence(
        "lstm-projected",
        nn.LSTM,
        width=6,
        proj_size=6,
        kept={"rnn.weight_hh_l0": (16, 3), "rnn.weight_hr_l0": (3, 4), "b.weight": (3, 3)},
    ),
    sequence("lstm-last-state", nn.LSTM, make=LastState, kept=LSTM),
    sequence("gru", nn.GRU, kept=GRU),
    sequence(
        "gru-bidirectional",
        nn.GRU,
        width=16,
        bidirectional=True,
        kept={"rnn.weight_ih_l0_reverse": (12, 4), "b.weight": (3, 8)},
    ),
    sequence("rnn-tanh", nn.RNN, kept=RNN),
    sequence(
        "rnn-relu-two-layers",
        nn.RNN,
        num_layers=2,
        nonlinearity="relu",
        kept=RNN | {"rnn.weight_ih_l1": (4, 4)},
    ),
    Case(
        "packed-sequence",
        Packed,
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "rnn.weight_ih_l0": (12, 4), "b.weight": (3, 4)},
    ),
    Case(
        "lstm-cell",
        lambda: Loop(nn.LSTMCell(8, 8)),
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "cell.weight_ih": (16, 4)},
    ),
    Case(
        "gru-cell",
        lambda: Loop(nn.GRUCell(8, 8)),
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "cell.weight_hh": (12, 4)},
    ),
    Case(
        "rnn-cell",
        lambda: Loop(nn.RNNCell(8, 8)),
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "cell.weight_hh": (4, 4)},
    ),
    Case(
        "own-lstm-cell",
        lambda: Loop(OwnCell()),
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "cell.x2h.weight": (16, 4), "cell.h2h.weight": (16, 4)},
    ),
    Case(
        "convolutional-gru",
        ConvolutionalCell,
        (2, 3, 6, 6),
        "exact",
        {"a.weight": (4, 3, 3, 3), "z.weight": (4, 8, 3, 3), "b.weight": (3, 4, 1, 1)},
    ),
    Case(
        "selective-scan",
        SelectiveScan,
        TOKENS,
        "exact",
        {
            "in_proj.weight": (8, 5),
            "conv1d.weight": (4, 1, 3),
            "x_proj.weight": (3, 4),
            "dt_proj.weight": (4, 1),
            "A_log": (4, 1),
            "D": (4,),
            "b.weight": (3, 4),
        },
    ),
    Case(
        "cumulated-mean",
        lambda: Between(nn.Linear(5, 8), LinearScan(), nn.Linear(8, 6), nn.Linear(6, 2)),
        TOKENS,
        "exact",
        {"a.weight": (4, 5), "b.weight": (3, 4)},
    ),
)
