"""The steps: cut, recover, fine-tune, write it down; and how a run that was stopped goes on.

    run/steps.jsonl          a row for each stage, the moment it is known
    run/step-01/cut/         the model of a step before its fine-tuning
    run/step-01/             its checkpoints, and the fine-tuned model
    run/step-02/...

A stage is known when its row is. A model is on the disk before its row is written, so the row never lies.
"""

import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call
from secateur.costs import cost_of
from secateur.errors import EmptyCutError, NoEffectWarning, RequestError
from secateur.iterative.recipe import Recipe
from secateur.iterative.rows import ROWS, Iterated, StageRow
from secateur.pipeline import couple, prune
from secateur.plans.making import identity_plan
from secateur.plans.plan import Plan
from secateur.recovery import choose as choose_steps
from secateur.result import Result, recover_result
from secateur.score import require_data
from secateur.select.floors import require_fit
from secateur.train import Distillation, fit, judge, last_folder
from secateur.train.device import require_one_process
from secateur.train.evidence import criterion_of
from secateur.train.task import Part, Task, tasks
from secateur.write.checkpoint import load_state, read_saved, save_model, weights_of
from secateur.write.rows import Rows, fingerprint_of


class TrainingData(Protocol):
    """Data with the parts that a network is trained on and judged by."""

    @property
    def train(self) -> Part:
        """What the optimizer sees."""

    @property
    def validation(self) -> Part:
        """What the best epoch is chosen by."""


_FOLDER = re.compile(r"step-\d{2,}")


def iterate(
    model: nn.Module,
    example_inputs: Any,
    data: TrainingData,
    recipe: Recipe,
    *,
    task: Task | None = None,
    calibration: Iterable[Any] | None = None,
    distillation: Distillation | None = None,
    save: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    plan: Plan | None = None,
    on_row: Callable[[StageRow], None] | None = None,
) -> Iterated:
    """Prune a network in steps, with recovery and fine-tuning after each.

    With `save` every stage is written down the moment it is known, and a run that was stopped goes on with
    `resume`, within a fine-tuning too.

    Args:
        model: The trained network; not changed.
        example_inputs: As for `prune`.
        data: Its `train` and `validation` parts, such as `load("digits")`.
        recipe: Budget, schedule, criterion, fine-tuning.
        task: What the network is for: it judges each stage (default: image classification). Criteria of
            gradients take those of its loss.
        calibration: Batches for criteria that need data and for recovery, as for `prune`; of other tasks than
            classification as `secateur.train.Work.evidence` draws them.
        distillation: A teacher for every fine-tuning; it matches logits alone, as channels change.
        save: Folder for `steps.jsonl` and the models of all steps; None writes nothing.
        resume: Go on with what is in `save`.
        overwrite: Delete the run in `save` first.
        plan: What the model was cut by before, so that the saved plans lead from its uncut architecture;
            None for what it remembers.
        on_row: Told every new row.

    Returns:
        The model, the plan and the rows; where the budget asks for less than one channel a model that was not
        cut, with a `NoEffectWarning`.

    Raises:
        RequestError: The request makes no sense, or `save` holds another run.
        CheckpointError: What is in `save` is damaged, or of other settings.

    Example:
        >>> import torch
        >>> from secateur.domains.classification.images import calibration
        >>> from secateur.domains.classification import load
        >>> from secateur.train import FitConfig
        >>> from secateur.zoo import models
        >>> digits, vgg = load("digits"), models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
        >>> recipe = Recipe(FitConfig(epochs=1, quiet=True), steps=2, schedule="geometric", ratio=0.75)
        >>> images = calibration(digits.train, 128)
        >>> done = iterate(vgg, torch.zeros(1, 1, 8, 8), digits, recipe, calibration=images)
        >>> [(row.name, round(row.removed, 1)) for row in done.rows if row.stage == "tuned"]
        [('step-01 tuned', 0.5), ('step-02 tuned', 0.8)]
    """
    require_one_process()
    if distillation is not None and distillation.features:
        what = "features are to be matched over several cuts, and channels change at each"
        raise RequestError(what, do="match logits alone")
    if save is None and (resume or overwrite):
        word = "resume" if resume else "overwrite"
        raise RequestError(f"{word} was asked for, but no folder", do="pass the run's folder as save")
    if resume and overwrite:
        raise RequestError("resume and overwrite were both asked for", do="choose one of them")
    batches = None if calibration is None else list(calibration)
    require_data(recipe.ask.criterion, batches is not None, "calibration")
    if recipe.ask.recover:  # what makes no sense is better refused before the work than after
        choose_steps(recipe.ask.recover, has_data=batches is not None, word="calibration")
    # Each step cuts another model: parts of the first are known by name in all of them.
    recipe = replace(recipe, ask=recipe.ask.named(model))
    start = plan or Plan.of(model) or identity_plan(model, "", {})
    folder = None if save is None else Path(save)
    task = task or tasks["classification"]
    given = _Given(model, start, example_inputs, data, recipe, batches, distillation, task)
    with _rows(given, folder, resume=resume, overwrite=overwrite) as rows:
        run = _Run(given, folder, rows, on_row)
        for step in range(1, recipe.steps + 1):
            run.step(step)
        return run.result()


@dataclass(frozen=True, eq=False)
class _Given:
    """What a run starts from."""

    model: nn.Module
    plan: Plan
    example_inputs: Any
    data: TrainingData
    recipe: Recipe
    batches: Sequence[Any] | None
    distillation: Distillation | None
    task: Task

    def opening(self) -> dict[str, Any]:
        """What the rows belong to."""
        opening = self.recipe.as_json()
        opening["model"] = fingerprint_of(self.model.state_dict())
        leaves = pytree.tree_leaves(as_call(self.example_inputs))
        opening["example inputs"] = [_shaped(leaf) for leaf in leaves]
        opening["validation images"] = _images(self.data.validation)
        opening["training images"] = _images(self.data.train)
        opening["calibration"] = None if self.batches is None else fingerprint_of(self.batches)
        opening["teacher"] = None
        if self.distillation is not None:
            asked, state = self.distillation, self.distillation.teacher.state_dict()
            opening["teacher"] = [fingerprint_of(state), asked.temperature, asked.weight]
        return opening


def _shaped(leaf: Any) -> str:
    """A tensor by its type and shape, a plain value as it is, any other by its kind."""
    if isinstance(leaf, Tensor):
        return f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"
    return str(leaf) if isinstance(leaf, (str, int, float)) else type(leaf).__name__


def _images(part: Part) -> str:
    """How many, and a hash of them; batch by batch, as all need not fit in memory."""
    return f"{len(part)} {fingerprint_of([fingerprint_of(batch) for batch in part.batches(256)])}"


def _rows(given: _Given, folder: Path | None, *, resume: bool, overwrite: bool) -> Rows:
    """The rows that are known, of a run that may go on."""
    if folder is None:
        return Rows(None, {}, "name", StageRow)
    if overwrite:
        (folder / ROWS).unlink(missing_ok=True)
        for entry in folder.iterdir() if folder.is_dir() else ():
            if _FOLDER.fullmatch(entry.name) and entry.is_dir():
                shutil.rmtree(entry)
    if not resume and _has_rows(folder):
        do = "resume it (--resume), overwrite it (--overwrite), or name another folder"
        raise RequestError(f"{folder} already holds a run ({ROWS})", do=do)
    if not resume:
        (folder / ROWS).unlink(missing_ok=True)  # of a run that was refused before its first row
    return Rows(folder / ROWS, given.opening(), "name", StageRow, of="run")


def _has_rows(folder: Path) -> bool:
    """Whether a run got further than to say what it is."""
    path = folder / ROWS
    return path.exists() and len(path.read_bytes().splitlines()) > 1


class _Run:
    """The model on its way."""

    def __init__(
        self, given: _Given, folder: Path | None, rows: Rows, on_row: Callable[[StageRow], None] | None
    ) -> None:
        self.given, self.folder, self.rows, self.on_row = given, folder, rows, on_row
        self.model, self.plan, ask = given.model, given.plan, given.recipe.ask
        self._look_at(given.model)
        self.before = self.cost
        self.groups = {group.name: group.size for group in self.coupled.prunable}
        require_fit(ask.budget.parts, "channels", self.coupled, self.groups)
        require_fit(ask.floors.by_pattern, "min_keep", self.coupled, self.groups)
        self.whole = self._count()
        self.shares = given.recipe.shares(self.whole)

    def _look_at(self, model: nn.Module) -> None:
        """Couple and measure a model."""
        ask = self.given.recipe.ask
        self.coupled = couple(model, self.given.example_inputs, ask.protect, ask.axes, ask.state, ask.outputs)
        self.cost = cost_of(model, self.coupled)

    def step(self, step: int) -> None:
        """Make one step, or take it from the disk."""
        if self._reopened(step, "tuned", self._folder(step)):
            return
        came_in = "recovered" if self.given.recipe.ask.recover else "cut"
        if not self._reopened(step, came_in, self._folder(step, "cut")):
            self._cut(step)
        self._tune(step, self.rows.known[_name(step, came_in)]["figures"])

    def _folder(self, step: int, *inside: str) -> Path | None:
        return None if self.folder is None else self.folder.joinpath(f"step-{step:02d}", *inside)

    def _reopened(self, step: int, stage: str, folder: Path | None) -> bool:
        """Take the model of a stage from the disk, if its row is known."""
        if folder is None or _name(step, stage) not in self.rows.known:
            return False
        plan, tensors = read_saved(folder)
        model = copy_module(self.given.model)
        for link in _links(plan, self.given.plan):
            model = link.apply(model)
        load_state(model, tensors, weights_of(folder))
        self._take(model, plan)
        return True

    def _take(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self._look_at(model)
        for link in _links(plan, self.given.plan):
            self.groups |= {group.name: len(group.keep) for group in link.groups}

    def _cut(self, step: int) -> None:
        """Cut, recover, save, and only then write down what came out."""
        started = time.perf_counter()
        recipe, result = self.given.recipe, self._pruned(step)
        if result is not None:
            self._take(result.model, result.plan.after(self.plan))
        rows = [self._row(step, "cut", started)]
        if recipe.ask.recover:
            started = time.perf_counter()
            if result is not None:
                self.model = recover_result(result, self.given.batches, recipe.ask.recover).model
            rows.append(self._row(step, "recovered", started))
        self._save(self._folder(step, "cut"))
        for row in rows:
            self._note(row)

    def _pruned(self, step: int) -> Result | None:
        """Cut the share of a step; None if it is less than one of what the budget counts."""
        recipe, share = self.given.recipe, self.shares[step - 1]
        stays = (1 - share) * self.whole
        if round(self._count() - stays) < 1:
            return None
        gone = self.shares[step - 2] if step > 1 else 0.0
        floors = recipe.floors(gone, share, self.shares[-1]).fitting(self.coupled.prunable)
        budget = replace(recipe.budget.leaving(stays, self._count()), at_most={})
        criterion = criterion_of(self.given.task, self.model, recipe.ask.criterion)
        bounds = replace(recipe.ask, min_keep=floors, max_ratio=1.0)
        ask = replace(bounds, budget=budget, criterion=criterion, recover=None)
        try:
            return prune(self.model, self.given.example_inputs, ask, data=self.given.batches)
        except RequestError as error:
            # Late steps of AGP are small; what they ask for is left to the next one.
            if step < recipe.steps and isinstance(error, EmptyCutError):
                return None
            raise RequestError(f"step {step} of {recipe.steps}, towards {recipe.budget}: {error}") from error

    def _tune(self, step: int, came_in: dict[str, float]) -> None:
        """Fine-tune; what comes out goes on unless it is worse than what came in."""
        started, folder, config = time.perf_counter(), self._folder(step), self.given.recipe.finetune
        if folder is not None:
            config = replace(config, save=folder, resume=last_folder(folder) is not None)
        given = self.given
        fitted = fit(self.model, given.data, config, distillation=given.distillation, task=given.task)
        after = fitted.kept.validated
        is_worse = replace(after, values=came_in).is_better_than(after)
        kept = 0 if is_worse else fitted.kept_epoch
        self.model = fitted.model if kept else self.model
        self._save(folder)
        self._note(replace(self._row(step, "tuned", started), kept_epoch=kept))

    def _save(self, folder: Path | None) -> None:
        if folder is not None:
            save_model(self.model, self.plan, folder)

    def _row(self, step: int, stage: str, started: float) -> StageRow:
        config = self.given.recipe.finetune
        found = judge(
            self.model,
            self.given.data.validation,
            self.given.task,
            device=config.device,
            threads=config.threads,
        )
        return StageRow(
            name=_name(step, stage),
            step=step,
            stage=stage,
            asked=self.shares[step - 1],
            removed=1 - self._count() / self.whole,
            params=self.cost.params,
            macs=self.cost.macs,
            figures=dict(found.values),
            seconds=time.perf_counter() - started,
            lower_is_better=found.lower_is_better,
        )

    def _note(self, row: StageRow) -> None:
        if row.name in self.rows.known:
            return
        self.rows.add(asdict(row))
        if self.on_row is not None:
            self.on_row(row)

    def _count(self) -> int:
        """How much is left of what the budget counts."""
        meter = self.given.recipe.budget.meter(self.coupled)
        return sum(self.groups.values()) if meter is None else round(meter.at({}))

    def result(self) -> Iterated:
        """What came out; a copy where it is what came in."""
        if self.plan == self.given.plan:
            what = f"{self.given.recipe.budget} asks for less than one of what it counts: nothing was cut"
            warnings.warn(what, NoEffectWarning, stacklevel=3)
        if self.model is self.given.model:
            self.model = copy_module(self.model)
        rows = tuple(StageRow(**row) for row in self.rows.known.values())
        return Iterated(self.model, self.plan, rows, self.before, self.cost)


def _name(step: int, stage: str) -> str:
    return f"step-{step:02d} {stage}"


def _links(plan: Plan, start: Plan) -> list[Plan]:
    """The plans that were made since the start, the first one first."""
    links: list[Plan] = []
    link: Plan | None = plan
    while link is not None and link != start:
        links.insert(0, link.model_copy(update={"previous": None}))
        link = link.previous
    return links
