"""Why a wrong cut can compute the same: the mathematics, by network and tensor."""

import re

from faults_runs.kinds import Fault

UNEXPLAINED = "not explained yet"

_REASONS: tuple[tuple[str, str, str], ...] = ()
"""Patterns of a network's name and of where the fault is, and the reason."""


def reason_of(network: str, fault: Fault, is_read: bool) -> str:
    """Why no output shows a fault.

    Args:
        network: The network's name.
        fault: The fault, which the independent comparison found to change nothing.
        is_read: Some output changes when the tensor gets noise.
    """
    for names, places, reason in _REASONS:
        if re.search(names, network) and re.search(places, fault.where):
            return reason
    if not is_read:
        return "no output depends on this tensor, whatever it holds"
    return UNEXPLAINED
