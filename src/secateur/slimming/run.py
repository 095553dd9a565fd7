"""Network slimming from end to end: dense, sparse, pruned, fine-tuned, once or in several passes.

    train dense                       the baseline
    train sparse                      L1 on the batch-norm scales of prunable groups
    prune, check, absorb, refit       without training and without labels
    fine-tune                         all three repeated from the sparse training on, for further passes

Every training writes its checkpoints under `training/` in the run's folder. A run that was stopped does again
what takes seconds, and goes on within the training that it was in; it ends with the same weights.

References:
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, figure 2.
    https://arxiv.org/abs/1708.06519
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.capture.inputs import map_inputs
from secateur.costs import Cost, latency_in_turn
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.penalise import Penalty, penalties
from secateur.penalise.scales import penalised_scales, prunable_scales
from secateur.penalise.sparsity import Outlook, near_zero_share, reachable_shift
from secateur.pipeline import couple, measure, prune
from secateur.plans.plan import Plan
from secateur.result import Result, recover_result
from secateur.slimming.notes import absorbed_note, cliff_note, drop_note, refit_note
from secateur.slimming.opening import TRAINING, open_run
from secateur.train import (
    Figures,
    FitConfig,
    FitResult,
    Parts,
    Task,
    fit,
    judge,
    last_folder,
    learning_rates,
    tasks,
)
from secateur.train.device import require_one_process
from secateur.train.evidence import paired
from secateur.write.checkpoint import WEIGHTS, save_model
from secateur.write.rows import fingerprint_of


@dataclass(frozen=True)
class SlimConfig:
    """How a network is slimmed.

    Attributes:
        dense: Training of the baseline.
        sparse: Training with the penalty.
        finetune: Training after the cut.
        strength: The penalty's `s`.
        ratio: Share of channels to remove in all, over all passes.
        passes: Rounds of sparse training, pruning and fine-tuning; each removes the same share of the rest.
        min_keep: Floor: share of each group that always stays.
        round_to: Kept counts are rounded up to a multiple of this.
        latency_batch: Samples in the batch that latency is measured on.
        calibration_images: Training samples, without labels, that the cut network is recovered with.
        save: Folder for the models of all stages.
        resume: Go on with the run that is in `save`, if there is one.
        overwrite: Delete the run that is in `save` and start anew.
    """

    dense: FitConfig
    sparse: FitConfig
    finetune: FitConfig
    strength: float
    ratio: float
    passes: int = 1
    min_keep: float = 0.1
    round_to: int = 1
    latency_batch: int = 64
    calibration_images: int = 1024
    save: Path = Path("slim")
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise RequestError("resume and overwrite were both asked for", do="choose one of them")
        if self.passes < 1:
            raise RequestError(f"passes is {self.passes}", do="pass a number of at least 1")
        if not 0 <= self.ratio < 1:
            raise RequestError(
                f"ratio is {self.ratio:g}", ["allowed: 0 <= ratio < 1"], "pass a share such as 0.7"
            )
        if not self.strength >= 0:
            raise RequestError(
                f"s is {self.strength:g}", ["allowed: 0 or more"], "pass a strength such as 1e-3"
            )
        if not 0 <= self.min_keep <= 1 or self.round_to < 1:
            raise RequestError(
                f"min_keep is {self.min_keep:g} and round_to is {self.round_to}",
                do="pass 0 <= min_keep <= 1 and round_to >= 1",
            )

    @property
    def ratio_per_pass(self) -> float:
        """The share of the remaining channels that each pass removes.

        Example:
            >>> fit = FitConfig(epochs=1)
            >>> SlimConfig(fit, fit, fit, strength=1e-3, ratio=0.75, passes=2).ratio_per_pass
            0.5
        """
        return 1 - (1 - self.ratio) ** (1 / self.passes)

    def recipe(self) -> dict[str, Any]:
        """All settings that decide the result; a run can only be resumed with the same ones."""
        names = ("strength", "ratio", "passes", "min_keep", "round_to", "calibration_images")
        trainings = {name: getattr(self, name) for name in ("dense", "sparse", "finetune")}
        kept = {name: {**config.recipe(), "keep": config.keep} for name, config in trainings.items()}
        return {**{name: getattr(self, name) for name in names}, **kept}


@dataclass(frozen=True, eq=False)
class Stage:
    """One model of the path, with what is known of it.

    Attributes:
        name: "dense", "sparse", "pruned", "recovered" or "finetuned".
        model: The model.
        test: How good it is on the test part.
        validation: How good it is on the validation part.
        cost: Parameters, MACs, bytes.
        latency_ms: Time of one forward pass, taken when all stages are there.
        size_bytes: Size of its weights file.
        folder: Where it was saved.
        fitted: Its training; None for a stage that trains nothing.
    """

    name: str
    model: nn.Module
    test: Figures
    validation: Figures
    cost: Cost
    latency_ms: float
    size_bytes: int
    folder: Path
    fitted: FitResult | None = None


@dataclass(frozen=True, eq=False)
class Slimmed:
    """A finished run.

    Attributes:
        stages: Dense, sparse, pruned, recovered, fine-tuned; of several passes the last.
        result: The last pruning.
        groups: The groups of the network that came in; those of `result` are of what was left of it.
        plan: The plan from the uncut architecture to the last stage.
        near_zero: Share of prunable batch-norm scales near zero before the last cut.
        notes: What the user should know: the outlook, the cliff, what was absorbed.
        passes: Rounds of sparse training, pruning and fine-tuning.
    """

    stages: tuple[Stage, ...]
    result: Result
    groups: Groups
    plan: Plan
    near_zero: float
    notes: tuple[str, ...]
    passes: int = 1

    def __getitem__(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def outlook(config: FitConfig, strength: float, samples: int, initial: float = 0.5) -> Outlook:
    """Estimate what a penalty's strength will reach on a schedule, before training.

    Args:
        config: The training.
        strength: The penalty's `s`.
        samples: Training samples.
        initial: The batch-norm scale at the start.
    """
    rates = learning_rates(config, -(-samples // config.batch_size))
    shift = reachable_shift(
        rates, strength, momentum=config.momentum, weight_decay=config.weight_decay, initial=initial
    )
    return Outlook(strength, shift, initial)


def slim(
    model: nn.Module,
    plan: Plan,
    data: Parts,
    config: SlimConfig,
    say: Callable[[str], None] = lambda _: None,
    *,
    task: Task | None = None,
) -> Slimmed:
    """Slim a network.

    Args:
        model: The untrained network; not changed.
        plan: Its plan, which names what builds it (`identity_plan`).
        data: Training, validation and test part, such as `load("digits")`.
        config: How.
        say: Told what happens, a line at a time.
        task: What the network is for (default: image classification).

    Returns:
        All stages, each saved in its own folder under `config.save`.

    Raises:
        RequestError: The network has nothing to slim, a launcher started several processes, or `config.save`
            holds a run that is not to be resumed, or one of other settings.
        CheckpointError: What is in `config.save` is damaged.
    """
    require_one_process()
    run = _Run(data, config, say, task or tasks["classification"])
    groups = couple(model, run.example)
    penalised_scales(model, groups)
    told = {
        **config.recipe(),
        "model": fingerprint_of(model.state_dict()),
        "plan": hashlib.sha256(plan.to_json().encode()).hexdigest()[:16],
        "data": [data.name, *(len(part) for part in (data.train, data.validation, data.test))],
    }
    open_run(config.save, told, resume=config.resume, overwrite=config.overwrite)
    say(f"training {plan.model} on {data.name}, {config.dense.epochs} epochs")
    fitted = run.fit("dense", model, config.dense)
    dense = run.stage("dense", fitted.model, plan, fitted)
    finished = run.one_pass(model, plan, 1)
    for number in range(2, config.passes + 1):
        finished = run.one_pass(finished["finetuned"].model, finished.plan, number)
    timing = (
        f"latency: one forward pass of {config.latency_batch} {run.task.noun}, 1 thread, stages timed in turn"
    )
    stages = run.timed((dense, *finished.stages))
    layouts = dict.fromkeys(note for stage in stages if stage.fitted for note in stage.fitted.notes)
    notes = (*finished.notes, *layouts, timing)
    return replace(finished, stages=stages, groups=groups, notes=notes, passes=config.passes)


class _Run:
    """Data, settings and example inputs that all passes share."""

    def __init__(self, data: Parts, config: SlimConfig, say: Callable[[str], None], task: Task) -> None:
        self.data = data
        self.config = config
        self.say = say
        self.task = task
        self.example = task.example(data)
        self._batch = map_inputs(
            self.example,
            lambda leaf: leaf.expand(config.latency_batch, *leaf.shape[1:]) if len(leaf) == 1 else leaf,
        )

    def stage(self, name: str, model: nn.Module, plan: Plan, fitted: FitResult | None = None) -> Stage:
        """Save and measure one model."""
        config = self.config.dense
        test, validation = (
            judge(model, part, self.task, device=config.device, threads=config.threads)
            for part in (self.data.test, self.data.validation)
        )
        folder = save_model(model, plan, self.config.save / name)
        return Stage(
            name=name,
            model=model,
            test=test,
            validation=validation,
            cost=measure(model, self.example),
            latency_ms=math.nan,  # see `timed`
            size_bytes=(folder / WEIGHTS).stat().st_size,
            folder=folder,
            fitted=fitted,
        )

    def fit(
        self, name: str, model: nn.Module, config: FitConfig, penalty: Penalty | None = None
    ) -> FitResult:
        """Train, from the last checkpoint on if there is one."""
        folder = self.config.save / TRAINING / name
        config = replace(config, save=folder, resume=last_folder(folder) is not None, overwrite=False)
        return fit(model, self.data, config, penalty, task=self.task)

    def timed(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """Time all stages in turn: between two trainings the machine may have been busy."""
        found = latency_in_turn([stage.model for stage in stages], self._batch)
        return tuple(
            replace(stage, latency_ms=one.median_ms) for stage, one in zip(stages, found, strict=True)
        )

    def one_pass(self, model: nn.Module, plan: Plan, number: int) -> Slimmed:
        """Train sparse, prune, fine-tune."""
        config = self.config
        self._look_ahead(model, number)
        penalty = penalties["bn-l1"].of(model, couple(model, self.example), config.strength)
        fitted = self.fit(f"sparse-{number}", model, config.sparse, penalty)
        sparse = self.stage("sparse", fitted.model, plan, fitted)
        share = near_zero_share(prunable_scales(fitted.model, couple(fitted.model, self.example)))
        note = cliff_note(share, config.ratio_per_pass)
        self.say(f"pruning {config.ratio_per_pass * 100:.0f} %; {note}")
        result = prune(
            fitted.model,
            self.example,
            ratio=config.ratio_per_pass,
            criterion="bn-scale",
            min_keep=config.min_keep,
            round_to=config.round_to,
            recover=["absorb"],
            seed=config.dense.seed,
        )
        result = replace(result, plan=result.plan.after(plan))
        pruned = self.stage("pruned", result.model, result.plan)
        samples = self.task.calibration(self.data, config.calibration_images, config.dense.seed)
        count = sum(map(self.task.count, samples))
        better = recover_result(result, [paired(self.task, batch) for batch in samples], ["refit"])
        self.say(f"recovered without training; {better.errors[-1]}")
        recovered = self.stage("recovered", better.model, result.plan)
        self.say(f"fine-tuning, {config.finetune.epochs} epochs")
        fitted = self.fit(f"finetune-{number}", better.model, config.finetune)
        finetuned = self.stage("finetuned", fitted.model, result.plan, fitted)
        fall = drop_note(sparse.test, pruned.test)
        notes = (note, absorbed_note(result), fall, refit_note(better, count, self.task.noun))
        stages = (sparse, pruned, recovered, finetuned)
        return Slimmed(stages, result, result.groups, result.plan, share, notes)

    def _look_ahead(self, model: nn.Module, number: int) -> None:
        """Say what the penalty's strength will reach, and warn where that is too little."""
        config = self.config
        scales = prunable_scales(model, couple(model, self.example))
        initial = float(torch.cat([scale.detach().abs() for scale in scales]).mean()) if scales else 0.5
        ahead = outlook(config.sparse, config.strength, len(self.data.train), initial)
        self.say(f"pass {number} of {config.passes}: training sparse; {ahead}")
        warning = ahead.warning(config.ratio_per_pass)
        if warning:
            self.say(f"warning: {warning}")
