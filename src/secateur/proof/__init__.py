"""Proof: by shape and by number, that a cut model computes what the masked original does."""

from secateur.proof.passes import Reference
from secateur.proof.regrouping import regroup
from secateur.proof.shapes import Deviation, compare_records, scalars_that_differ, suspects_of
from secateur.proof.varying import Varying, find_varying
from secateur.proof.verdict import Verdict
from secateur.proof.verification import Proof, kept_by, verify

__all__ = [
    "Deviation",
    "Proof",
    "Reference",
    "Varying",
    "Verdict",
    "compare_records",
    "find_varying",
    "kept_by",
    "regroup",
    "scalars_that_differ",
    "suspects_of",
    "verify",
]
