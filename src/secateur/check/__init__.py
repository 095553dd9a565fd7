"""Check: two proofs that a cut model computes what the masked original does."""

from secateur.check.numbers import compare_numbers
from secateur.check.shapes import Deviation, compare_records, scalars_that_differ
from secateur.check.verdict import Verdict
from secateur.check.verify import keep_masks, verify

__all__ = [
    "Deviation",
    "Verdict",
    "compare_numbers",
    "compare_records",
    "keep_masks",
    "scalars_that_differ",
    "verify",
]
