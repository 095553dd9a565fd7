"""Score: how much each channel of each group matters; larger means keep."""

from secateur.score.scores import Scores, score
from secateur.score.view import GroupView, MemberView, Parameters, view_group

__all__ = ["GroupView", "MemberView", "Parameters", "Scores", "score", "view_group"]
