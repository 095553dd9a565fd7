"""What a slimming run says of its steps, a sentence each."""

from collections import Counter

from secateur.penalise.sparsity import NEAR_ZERO
from secateur.result import Result
from secateur.train import Figures


def cliff_note(share: float, ratio: float) -> str:
    """Say how the asked ratio lies to the share of scales near zero.

    Example:
        >>> print(cliff_note(0.75, 0.7))
        75 % of the prunable scales are near zero (below 0.01); cutting 70 % removes only such channels
    """
    text = f"{share * 100:.0f} % of the prunable scales are near zero (below {NEAR_ZERO:g}); "
    if ratio <= share:
        return text + f"cutting {ratio * 100:.0f} % removes only such channels"
    return text + f"cutting {ratio * 100:.0f} % goes beyond the cliff: expect a drop; train longer or raise s"


def drop_note(before: Figures, after: Figures) -> str:
    """Say what the cut alone cost, and where a large loss comes from.

    Args:
        before: How good the network was before the cut, on the test part.
        after: How good it is right after it.

    Example:
        >>> print(drop_note(Figures({"accuracy": 0.99}, 100), Figures({"accuracy": 0.985}, 100)))
        right after the cut the test accuracy is 0.9850, before 0.9900
    """
    text = f"right after the cut the test {after.name} is {after.deciding:.4f}, before {before.deciding:.4f}"
    lost = abs(before.deciding - after.deciding) > 0.05 * abs(before.deciding)
    if not (lost and before.is_better_than(after)):
        return text
    return (
        f"{text}: near padded borders removed channels were no constants, and on maps of a few pixels most "
        "pixels are borders; recovery and fine-tuning make up for it"
    )


def refit_note(result: Result, count: int, noun: str = "images") -> str:
    """Say in one line what the refit brought.

    Args:
        result: The recovered result.
        count: How many samples it was recovered with.
        noun: What they are.
    """
    status = Counter(done.status for done in result.recovered if done.step == "refit")
    layers = status["exact"] + status["approximate"]
    return (
        f"recovered: {layers} layers refitted by least squares on {count:,} training {noun} without labels; "
        f"{result.errors[-1]}"
    )


def absorbed_note(result: Result) -> str:
    """Say in one line what the absorbing did."""
    status = Counter(done.status for done in result.recovered if done.step == "absorb")
    return (
        f"the constants of removed channels went into {status['exact'] + status['approximate']} next layers: "
        f"exactly in {status['exact']}, approximately in {status['approximate']} "
        f"(they differed from place to place), left alone in {status['left alone']}"
    )
