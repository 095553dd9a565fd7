"""Check: two proofs that a cut model computes what the masked original does."""

from secateur.check.locate import first_difference
from secateur.check.numbers import compare_numbers
from secateur.check.regroup import regroup
from secateur.check.shapes import Deviation, compare_records, scalars_that_differ
from secateur.check.varying import Varying, find_varying
from secateur.check.verdict import Verdict
from secateur.check.verify import keep_masks, verify

__all__ = [
    "Deviation",
    "Varying",
    "Verdict",
    "compare_numbers",
    "compare_records",
    "find_varying",
    "first_difference",
    "keep_masks",
    "regroup",
    "scalars_that_differ",
    "verify",
]
