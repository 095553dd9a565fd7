"""Why a wrong cut can compute the same: the mathematics, by what the independent comparison found.

Two findings are facts of the comparison itself: that no output changes when the wrong entries get noise, and
that no output changes when positions swap. What lies behind them is written here by network and tensor.
"""

import re

from faults_runs.kinds import Fault

UNEXPLAINED = "unexplained"

REASONS = {
    "names": "all members of the group are permuted alike: the channels only change their names",
    "softmax": "a softmax ignores what is added to all scores of a query: the bias of the keys adds q b to "
    "each, a bias before the softmax itself",
    "order": "nothing depends on the order of these positions: they are summed, averaged or compared as a "
    "set, or read copies of one number",
    "scale": "the tensor is divided by its own norm, which takes a factor away",
    "rounded": "the numbers are rounded, compared or used as indices, which one percent does not change",
    "predicate": "both numbers satisfy the same predicate, or stand for the same index",
    "shape": "the operator takes a shape, an index or a predicate from these numbers, which no draw changes, "
    "or multiplies them by zero",
    "mean": "the norm takes its mean from the batch and subtracts it, with whatever was added to a channel",
    "training": "the buffer is counted in training and not read in eval mode",
    "token": "the output reads the class token alone, and nothing before it mixes tokens",
    "zero point": "the zero point is added before rounding and subtracted after; clamping alone shows it",
    "slice": "a slice leaves this channel out",
    "determinant": "the determinant of seven tokens of fewer channels is zero, and all is multiplied by it",
    "float32": "the model runs in float32 only, and the change is less than 1e-5",
    UNEXPLAINED: "not explained yet",
}
"""By the word that the results hold."""

_UNREAD = (
    ("softmax", r"", r"(^|[._])(k|key|k_proj|key_proj|in_proj|qkv|c_attn|before|k_lin)[._]?bias"),
    ("mean", r"batch-norm-without-statistics|instance-norm", r"bias"),
    ("training", r"counting-buffer", r"mean"),
    ("token", r"class-token", r"^a\."),
    ("zero point", r"fake-quantised|fake_quantize", r"zero|tensors\.2"),
    ("slice", r"slice-of-half|narrow", r"^a\."),
    ("determinant", r"determinant-over-tokens", r""),
    ("shape", r"^rule:", r""),
)
"""Reason, patterns of a network's name and of the place of a fault: noise there changes no output."""

_READ = (
    ("order", r"", r"^(swap|heads)$"),
    ("scale", r"cosine|rms_norm|weight_norm", r"^scaled$"),
    ("rounded", r"^rule:|fake-quantised", r"^scaled$"),
    ("predicate", r"^rule:", r""),
)
"""Reason, patterns of a network's name and of the kind of a fault: noise there does change outputs."""


def reason_of(network: str, fault: Fault, is_read: bool) -> str:
    """Why no output shows a fault: a word of `REASONS`.

    Args:
        network: The network's name.
        fault: The fault, which the independent comparison found to change nothing.
        is_read: Some output changes when the wrong entries get noise.
    """
    if fault.kind == "together":
        return "names"
    words = fault.kind if is_read else fault.where
    for reason, names, places in _READ if is_read else _UNREAD:
        if re.search(names, network) and re.search(places, words):
            return reason
    return UNEXPLAINED
