"""The public names of secateur, for which torch is imported."""

from secateur import errors, mask, operators
from secateur.asking import Ask
from secateur.bridge import plan_from_masks
from secateur.checking import check
from secateur.costs import Cost, Latency, latency
from secateur.coupling import Group, Groups
from secateur.coupling.model import couple
from secateur.depth import Dropped, drop_blocks
from secateur.explanation import Explanation, explain
from secateur.exports import Exported, export
from secateur.folding import Folded, fold
from secateur.iterative import iterate
from secateur.optimizers import carry
from secateur.pairing import pair
from secateur.pipeline import measure, prune
from secateur.pipeline import plan_model as plan
from secateur.plans.plan import Plan
from secateur.proof import Verdict
from secateur.reports.subjects import report
from secateur.result import Result
from secateur.result import recover_result as recover
from secateur.score import choose as criterion
from secateur.scratch import from_scratch
from secateur.sources.folders import load, save
from secateur.write.stream import Streamed, stream

__all__ = [
    "Ask",
    "Cost",
    "Dropped",
    "Explanation",
    "Exported",
    "Folded",
    "Group",
    "Groups",
    "Latency",
    "Plan",
    "Result",
    "Streamed",
    "Verdict",
    "carry",
    "check",
    "couple",
    "criterion",
    "drop_blocks",
    "errors",
    "explain",
    "export",
    "fold",
    "from_scratch",
    "iterate",
    "latency",
    "load",
    "mask",
    "measure",
    "operators",
    "pair",
    "plan",
    "plan_from_masks",
    "prune",
    "recover",
    "report",
    "save",
    "stream",
]
