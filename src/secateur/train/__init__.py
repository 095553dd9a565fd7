"""The training loop: fit a classifier, with a penalty or a teacher, interrupt it, resume it, evaluate it."""

from secateur.train.checkpoint import best_folder, last_folder
from secateur.train.config import FitConfig
from secateur.train.distil import Distillation, soft_targets
from secateur.train.evaluation import Evaluation, evaluate
from secateur.train.features import matching_channels
from secateur.train.history import EpochRecord, FitResult
from secateur.train.loop import fit
from secateur.train.schedule import learning_rate, learning_rates

__all__ = [
    "Distillation",
    "EpochRecord",
    "Evaluation",
    "FitConfig",
    "FitResult",
    "best_folder",
    "evaluate",
    "fit",
    "last_folder",
    "learning_rate",
    "learning_rates",
    "matching_channels",
    "soft_targets",
]
