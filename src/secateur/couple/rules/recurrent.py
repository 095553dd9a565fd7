"""Recurrent layers: gates times hidden width, layer by layer, in both directions.

    w_ih((k h) i), w_hh((k h) r), b((k h)), w_hr(r h):  input(... i) -> (... (r + r)), states(l . r)

k is the number of gates (LSTM 4, GRU 3, RNN 1). Without a projection (LSTM only) r is h. All layers and
directions share h, as the module has one `hidden_size`; a layer reads both directions of the one before.
"""

from secateur.couple.call import Call
from secateur.couple.rule import rule
from secateur.graph.axes import Expr, axis, product, total

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_FLAGS = "0.0, False, False, False"


@rule(
    *_GATES,
    law="w_ih((k h) i), w_hh((k h) r), b((k h)), w_hr(r h): input(... i) -> (... (r + r)), states(l . r)",
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
)
def recurrent(call: Call) -> list[list[Expr]]:
    """One hidden axis for all layers and directions."""
    if "batch_sizes" in call or "data" in call:
        return call.barrier("packed sequences have no rule")
    gates = _GATES[call.node.op]
    has_biases = call.arg("has_biases")
    directions = 2 if call.arg("bidirectional") else 1
    weights = call.tensors("params")
    runs = call.arg("num_layers") * directions
    each = len(weights) // runs
    has_projection = each == (5 if has_biases else 3)
    hidden = axis(weights[0][0].size // gates)
    out = axis(weights[each - 1][0].size) if has_projection else hidden
    rows = product(call.fixed(gates, "the gates", structural=True), hidden)
    *steps, width = call["input"]
    time = 1 if call.arg("batch_first") and len(steps) > 1 else 0
    call.protect(steps[time], "a step in time")
    batch = steps[:time] + steps[time + 1 :]
    for run in range(runs):
        inner, outer, *rest = weights[run * each : (run + 1) * each]
        call.equate(inner[0], rows)
        call.equate(inner[1], width)
        call.equate(outer[0], rows)
        call.equate(outer[1], out)
        for bias in rest[:2] if has_biases else ():
            call.equate(bias[0], rows)
        if has_projection:
            call.equate(rest[-1][0], out)
            call.equate(rest[-1][1], hidden)
        if run % directions == directions - 1:
            width = total(*[out] * directions)
    return [[*steps, width], *_states(call, batch, out, hidden)]


def _states(call: Call, batch: list[Expr], out: Expr, hidden: Expr) -> list[list[Expr]]:
    """The dims of the first and the last state; theirs are equal."""
    given = call.tensors("hx") if isinstance(call.arg("hx"), tuple) else [call["hx"]]
    for state, last in zip(given, (out, hidden), strict=False):
        call.protect(state[0], "a layer and direction", structural=True)
        for dim, expected in zip(state[1:], [*batch, last], strict=True):
            call.equate(dim, expected)
    return given
