"""Check: two proofs that a cut model computes what the masked original does."""

from secateur.proof.locate import first_difference
from secateur.proof.numbers import compare_numbers
from secateur.proof.regrouping import regroup
from secateur.proof.shapes import Deviation, compare_records, scalars_that_differ
from secateur.proof.varying import Varying, find_varying
from secateur.proof.verdict import Verdict
from secateur.proof.verification import keep_masks, verify

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
