"""The registry of criteria and the words that declare one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from secateur.registry import Registry
from secateur.score.view import GroupView

Scorer: TypeAlias = Callable[[GroupView], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A criterion as the pipeline runs it.

    Attributes:
        name: Its registered name.
        score: From a group's view to one score for each channel; larger means keep.
        needs: What a group must have to be scored, for messages: "a weight", "a batch-norm scale".
        applies: Whether a group has it.
        is_relative: Divide by the group's mean before comparing groups: scores of different layers have
            different units.
    """

    name: str
    score: Scorer
    needs: str
    applies: Callable[[GroupView], bool]
    is_relative: bool


criteria: Registry[Criterion] = Registry("criterion", "secateur.score.criteria")

_CHUNK = 1 << 24
"""Elements that a formula which takes every row by itself sees at once: 128 MiB in float64."""

_ROWS: dict[str, tuple[str, Callable[[GroupView], Sequence[Tensor]]]] = {
    "weights": ("a weight", lambda view: view.weights),
    "norm-scales": ("a batch-norm scale", lambda view: view.norm_scales),
}


def criterion(name: str, *, of: str, is_relative: bool, is_by_row: bool = False) -> Callable[[Any], Any]:
    """Register a formula on rows; a group's score is the mean over its members.

    Args:
        name: The word that users choose it by.
        of: Which members it reads: "weights" or "norm-scales".
        is_relative: Divide by the group's mean before comparing groups.
        is_by_row: The score of a row depends on that row alone; large tensors are then scored in pieces.
    """
    needs, rows_of = _ROWS[of]

    def register(formula: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def score(view: GroupView) -> Tensor:
            score_member = _in_pieces if is_by_row else _at_once
            return torch.stack([score_member(formula, rows) for rows in rows_of(view)]).mean(0)

        criteria.add(name, Criterion(name, score, needs, lambda view: bool(rows_of(view)), is_relative))
        return formula

    return register


def _at_once(formula: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return formula(rows.double())


def _in_pieces(formula: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    if len(rows) <= step:
        return formula(rows.double())
    return torch.cat([formula(piece.double()) for piece in rows.split(step)])
