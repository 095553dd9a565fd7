"""Score: how much each channel of each group matters; larger means keep."""

from secateur.score.criterion import Criterion, choose
from secateur.score.scores import Scores, require_data, score
from secateur.score.view import GroupView, MemberView, Parameters, view_group

__all__ = [
    "Criterion",
    "GroupView",
    "MemberView",
    "Parameters",
    "Scores",
    "choose",
    "require_data",
    "score",
    "view_group",
]
