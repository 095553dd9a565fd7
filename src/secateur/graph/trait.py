"""Traits: what an operator is, beside what its rule says of axes.

A trait is one fact that other stages ask for, declared where the operator's rule is and held by a law that
runs every sample of the rule (`tests/laws/test_traits.py`). An operator of which nothing is known has none,
which is the careful answer to every question.
"""

from enum import Flag, auto


class Trait(Flag):
    """One fact about an operator; several are joined by `|`.

    The operand is the first tensor that a call takes, be it called `input`, `self` or `tensors` (a list
    counts as one); x and y stand for operands, g for a function of single numbers.

    Attributes:
        POINTWISE: Each number is computed from the numbers of the operands at its own position, broadcast.
        ARITHMETIC: Pointwise sums, products and quotients, affine in x: of random numbers the result is zero
            only where it is zero for all numbers.
        ADDS: Arithmetic that adds something to x: f(x + d, y) = f(x, y) + d.
        SUMS: All operands are added: f(x + d, y + e) = f(x, y) + d + e.
        MULTIPLIES: The pointwise product of two operands.
        ACTIVATION: A non-linear function of single numbers that follows them somewhere, with a slope of one.
        IDEMPOTENT: Applied again it changes nothing: f(f(x)) = f(x).
        MOVES: Each number of the result is one of the operand, used at most once, wherever it goes:
            f(g(x)) = g(f(x)). Some numbers may be left behind.
        REPEATS: As `MOVES`, but a number may come out several times.
        SELECTS: Some of the operand's numbers, chosen by their size: f(g(x)) = g(f(x)) for an increasing g.
        RESAMPLES: A map or sequence at another resolution, or its mean or maximum: f(2 x) = 2 f(x), and ones
            give ones, or less at a border.
        ROW_MAJOR: All numbers of the operand in their row-major order, in whatever shape.
        VIEW: The result lies in the operand's memory, unless it has another element type.
        PACKS: The result lies in the operand's memory if that is contiguous, else it may be a copy.
        NORM: A normalisation, scaled by `weight`.
        CHANNEL_NORM: A normalisation of each channel by itself, whose scale says how much the channel counts.
        LAYER: Input times weight, plus a bias: linear in the input and in the weight, channels summed over.
        MIXES: A position depends on others of an axis that returns, and may be cut: a running sum.

    Example:
        >>> Trait.MOVES in Trait.MOVES | Trait.VIEW
        True
        >>> (Trait.MOVES | Trait.VIEW).words
        'moves, view'
    """

    NONE = 0
    POINTWISE = auto()
    ARITHMETIC = auto()
    ADDS = auto()
    SUMS = auto()
    MULTIPLIES = auto()
    ACTIVATION = auto()
    IDEMPOTENT = auto()
    MOVES = auto()
    REPEATS = auto()
    SELECTS = auto()
    RESAMPLES = auto()
    ROW_MAJOR = auto()
    VIEW = auto()
    PACKS = auto()
    NORM = auto()
    CHANNEL_NORM = auto()
    LAYER = auto()
    MIXES = auto()

    @property
    def words(self) -> str:
        """The traits in lower case, for a table."""
        return ", ".join((one.name or "").lower().replace("_", " ") for one in self)
