"""The engine: fit a network to a task, with a penalty or a teacher, interrupt it, resume it, evaluate it."""

from secateur.train.checkpoint import best_folder, last_folder
from secateur.train.config import TUNING, FitConfig
from secateur.train.distil import Distillation, soft_targets
from secateur.train.evaluation import Evaluation, evaluate, judge
from secateur.train.features import matching_channels
from secateur.train.history import EpochRecord, FitResult
from secateur.train.loop import Run, fit
from secateur.train.own import as_parts
from secateur.train.parts import DatasetPart, Opening, Part, Parts
from secateur.train.schedule import learning_rate, learning_rates
from secateur.train.task import Figures, Task, find_task, tasks
from secateur.train.work import Work

__all__ = [
    "TUNING",
    "DatasetPart",
    "Distillation",
    "EpochRecord",
    "Evaluation",
    "Figures",
    "FitConfig",
    "FitResult",
    "Opening",
    "Part",
    "Parts",
    "Run",
    "Task",
    "Work",
    "as_parts",
    "best_folder",
    "evaluate",
    "find_task",
    "fit",
    "judge",
    "last_folder",
    "learning_rate",
    "learning_rates",
    "matching_channels",
    "soft_targets",
    "tasks",
]
