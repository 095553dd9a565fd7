"""Recurrent layers: gates times hidden width, layer by layer, in both directions.

    w_ih((k h) i), w_hh((k h) r), b((k h)), w_hr(r h):  input(... i) gives (... (r + r)), states(l . r)

k is the number of gates (LSTM 4, GRU 3, RNN 1). Without a projection (LSTM only) r is h; with one, PyTorch
refuses to run where r and h keep equal counts. All layers and directions share h, as the module has one
`hidden_size`; a layer reads both directions of the one before. A hidden position whose weights and first
state are zero stays zero, as tanh(0) = 0: cutting it is exact.
"""

from collections.abc import Sequence

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr, axis, product, total
from secateur.graph.trait import Trait

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_FLAGS = "0.0, False, False, False"


@rule(
    *_GATES,
    law="w_ih((k h) i), w_hh((k h) r), b((k h)), w_hr(r h): input(... i) gives (... (r + r)), states(l . r)",
    macs="... k h i + ... k h r + ... r h",
    samples={
        "aten.lstm": "torch.lstm(T(5, 2, 3), [T(1, 2, 4), T(1, 2, 4)], "
        f"[T(16, 3), T(16, 4), T(16), T(16)], True, 1, {_FLAGS})",
        "aten.gru": "torch.gru(T(2, 5, 3), T(2, 2, 4), "
        "[T(12, 3), T(12, 4), T(12), T(12), T(12, 3), T(12, 4), T(12), T(12)], "
        "True, 1, 0.0, False, True, True)",
        "aten.rnn_tanh": f"torch.rnn_tanh(T(5, 2, 3), T(1, 2, 4), [T(4, 3), T(4, 4)], False, 1, {_FLAGS})",
        "aten.rnn_relu": "torch.rnn_relu(T(5, 2, 3), T(2, 2, 4), "
        f"[T(4, 3), T(4, 4), T(4, 4), T(4, 4)], False, 2, {_FLAGS})",
    },
    traits=Trait.MIXES,
)
def recurrent(call: Call) -> list[list[Expr]]:
    """One hidden axis for all layers and directions; packed sequences are rows of all their steps."""
    weights = call.tensors("params")
    runs = call.arg("num_layers") * (2 if call.arg("bidirectional") else 1)
    each = len(weights) // runs
    has_projection = each == (5 if call.arg("has_biases") else 3)
    gates = _GATES[call.node.op]
    hidden = axis(weights[0][0].size // gates)
    out = axis(weights[each - 1][0].size) if has_projection else hidden
    rows = product(call.fixed(gates, "the gates", structural=True), hidden)
    *steps, width = call["data" if "batch_sizes" in call else "input"]
    for run in range(runs):
        _run(call, weights[run * each : (run + 1) * each], width, (rows, hidden, out), steps)
        if not call.arg("bidirectional"):
            width = out
        elif run % 2:
            width = total(out, out)
    return [[*steps, width], *_states(call, _batch(call, steps), out, hidden)]


def _run(
    call: Call,
    weights: Sequence[list[Expr]],
    width: Expr,
    sizes: tuple[Expr, Expr, Expr],
    steps: Sequence[Expr],
) -> None:
    """One layer in one direction."""
    rows, hidden, out = sizes
    inner, outer, *rest = weights
    call.equate(inner[1], width)
    call.equate(outer[1], out)
    for dims in (inner, outer, *(rest[:2] if call.arg("has_biases") else ())):
        call.equate(dims[0], rows)
    call.count_macs(*steps, rows, width)
    call.count_macs(*steps, rows, out)
    if out is not hidden:
        call.equate(rest[-1][0], out)
        call.equate(rest[-1][1], hidden)
        call.count_macs(*steps, out, hidden)


def _batch(call: Call, steps: Sequence[Expr]) -> list[Expr] | None:
    """The batch dim of an input; none for a single sequence, None where rows are steps of many sequences."""
    if "batch_sizes" in call:
        for dim in [*steps, *call["batch_sizes"]]:
            call.protect(dim, "steps of packed sequences")
        return None
    time = 1 if call.arg("batch_first") and len(steps) > 1 else 0
    call.protect(steps[time], "a step in time")
    return [*steps[:time], *steps[time + 1 :]]


def _states(call: Call, batch: list[Expr] | None, out: Expr, hidden: Expr) -> list[list[Expr]]:
    """The dims of the first and the last state; theirs are equal."""
    given = call.tensors("hx") if isinstance(call.arg("hx"), tuple) else [call["hx"]]
    for state, last in zip(given, (out, hidden), strict=False):
        call.protect(state[0], "a layer and direction", structural=True)
        if batch is None:
            call.protect(state[1], "steps of packed sequences")
        for dim, expected in zip(state[1:], [*(state[1:2] if batch is None else batch), last], strict=True):
            call.equate(dim, expected)
    return given


_CELLS = {
    "aten.lstm_cell": (4, "torch.lstm_cell(T(2, 3), (T(2, 4), T(2, 4)), T(16, 3), T(16, 4), T(16), T(16))"),
    "aten.gru_cell": (3, "torch.gru_cell(T(2, 3), T(2, 4), T(12, 3), T(12, 4), T(12), T(12))"),
    "aten.rnn_tanh_cell": (1, "torch.rnn_tanh_cell(T(2, 3), T(2, 4), T(4, 3), T(4, 4), T(4), T(4))"),
    "aten.rnn_relu_cell": (1, "torch.rnn_relu_cell(T(2, 3), T(2, 4), T(4, 3), T(4, 4))"),
}


@rule(
    *_CELLS,
    law="input(n i), hx(n h), w_ih((k h) i), w_hh((k h) h), b((k h)) -> (n h)",
    macs="n k h i + n k h h",
    samples={op: sample for op, (_, sample) in _CELLS.items()},
    traits=Trait.MIXES,
)
def cell(call: Call) -> list[list[Expr]]:
    """One step of a recurrent layer."""
    gates, _ = _CELLS[call.node.op]
    batch, width = call["input"]
    states = call.tensors("hx") if isinstance(call.arg("hx"), tuple) else [call["hx"]]
    hidden = states[0][1]
    rows = product(call.fixed(gates, "the gates", structural=True), hidden)
    for state in states:
        call.broadcast([batch, hidden], state)
    call.equate(call["w_ih"][1], width)
    call.equate(call["w_hh"][1], hidden)
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
        if name in call:
            call.equate(call[name][0], rows)
    call.count_macs(batch, rows, width)
    call.count_macs(batch, rows, hidden)
    return [[batch, hidden] for _ in call.out_shapes()]


@rule(
    "aten._pack_padded_sequence",
    law="input(t n ...), lengths(n) -> (rows ...): steps and sequences stay, the rest passes",
    samples=("torch._pack_padded_sequence(T(4, 2, 3), torch.tensor([4, 2]), False)",),
)
def pack(call: Call) -> list[list[Expr]]:
    """All steps of all sequences as rows."""
    first, second, *rest = call["input"]
    for dim in [first, second, *call["lengths"]]:
        call.protect(dim, "steps of packed sequences")
    rows, sizes = (call.fixed(shape[0], "steps of packed sequences") for shape in call.out_shapes())
    return [[rows, *rest], [sizes]]


@rule(
    "aten._pad_packed_sequence",
    law="data(rows ...), batch_sizes(t) -> (t n ...), lengths(n): steps and sequences stay, the rest passes",
    samples=("torch._pad_packed_sequence(T(6, 3), torch.tensor([2, 2, 1, 1]), True, 0.0, 4)",),
)
def unpack(call: Call) -> list[list[Expr]]:
    """Rows as padded sequences."""
    rows, *rest = call["data"]
    for dim in [rows, *call["batch_sizes"]]:
        call.protect(dim, "steps of packed sequences")
    padded, lengths = (
        [call.fixed(size, "steps of packed sequences") if size != 1 else ONE for size in shape]
        for shape in call.out_shapes()
    )
    return [[*padded[:2], *rest], lengths]
