"""Why a wrong cut can compute the same: the mathematics, by what the independent comparison found.

Two findings are facts of the comparison itself: that no output changes when the wrong entries get noise, and
that no output changes when positions swap. What lies behind them is written here by network and tensor.
"""

import re

from faults_runs.kinds import Fault

UNEXPLAINED = "not explained yet"

_SOFTMAX = (
    "a softmax ignores what is added to all scores of a query: the bias of the keys adds q b to each, a bias "
    "before the softmax itself"
)
_UNREAD: tuple[tuple[str, str, str], ...] = (
    (r"", r"(^|[._])(k|key|k_proj|key_proj|in_proj|qkv|c_attn|before|k_lin)[._]?bias", _SOFTMAX),
    (
        r"batch-norm-without-statistics|instance-norm",
        r"bias",
        "the norm takes its mean from the batch and subtracts it, and with it what was added to a channel",
    ),
    (r"counting-buffer", r"mean", "the buffer is counted in training and not read in eval mode"),
    (
        r"class-token",
        r"^a\.",
        "the output reads the class token alone, and nothing before it mixes tokens",
    ),
    (
        r"fake-quantised|fake_quantize",
        r"zero|tensors\.2",
        "the zero point is added before rounding and subtracted after; only clamping would show it",
    ),
    (r"slice-of-half|narrow", r"^a\.", "the slice leaves this channel out"),
    (
        r"determinant-over-tokens",
        r"",
        "the determinant of seven tokens of fewer channels is zero, and all is multiplied by it",
    ),
    (
        r"^rule:",
        r"",
        "the operator takes a shape, an index or a predicate from these numbers that no draw changes, or "
        "multiplies them by zero",
    ),
)
"""Patterns of a network's name and of where the fault is; no output changes if noise stands there."""

_TOGETHER = "all members of the group are permuted alike: the channels only change their names"
_SAME_SET = (
    "nothing depends on the order of these positions: they are summed, averaged or compared as a set, or "
    "read copies of one number"
)
_READ: tuple[tuple[str, str, str], ...] = (
    (r"", r"^(swap|heads)$", _SAME_SET),
    (
        r"cosine|rms_norm|weight_norm",
        r"^scaled$",
        "the tensor is divided by its own norm, which takes a factor away",
    ),
    (
        r"^rule:|fake-quantised",
        r"^scaled$",
        "the numbers are rounded, compared or used as indices, which one percent does not change",
    ),
    (r"^rule:", r"", "both numbers satisfy the same predicate, or stand for the same index"),
)
"""Patterns of a network's name and of the kind of fault; outputs do depend on the entries."""


def reason_of(network: str, fault: Fault, is_read: bool) -> str:
    """Why no output shows a fault.

    Args:
        network: The network's name.
        fault: The fault, which the independent comparison found to change nothing.
        is_read: Some output changes when the wrong entries get noise.
    """
    if fault.kind == "together":
        return _TOGETHER
    words = fault.kind if is_read else fault.where
    for names, places, reason in _READ if is_read else _UNREAD:
        if re.search(names, network) and re.search(places, words):
            return reason
    return UNEXPLAINED
