"""Network slimming from end to end: dense, sparse, pruned, fine-tuned, once or in several passes.

    train dense                       the baseline
    train sparse                      L1 on the batch-norm scales of prunable groups
    prune, check, absorb, refit       without training and without labels
    fine-tune                         all three repeated from the sparse training on, for further passes

References:
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, figure 2.
    https://arxiv.org/abs/1708.06519
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.costs import Cost, latency_in_turn
from secateur.coupling import Groups
from secateur.domains.classification.images import Splits, calibration
from secateur.errors import RequestError
from secateur.penalise import penalties
from secateur.penalise.scales import penalised_scales, prunable_scales
from secateur.penalise.sparsity import NEAR_ZERO, Outlook, near_zero_share, reachable_shift
from secateur.pipeline import couple, measure, prune
from secateur.plans.plan import Plan
from secateur.result import Result, recover_result
from secateur.train import Evaluation, FitConfig, FitResult, evaluate, fit, learning_rates
from secateur.write.checkpoint import WEIGHTS, save_model


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
        latency_batch: Images in the batch that latency is measured on.
        calibration_images: Training images, without labels, that the cut network is recovered with.
        save: Folder for the models of all stages.
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

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, eq=False)
class Stage:
    """One model of the path, with what is known of it.

    Attributes:
        name: "dense", "sparse", "pruned", "recovered" or "finetuned".
        model: The model.
        test: Its evaluation on the test part.
        validation_accuracy: Share of the validation images that are right.
        cost: Parameters, MACs, bytes.
        latency_ms: Time of one forward pass, taken when all stages are there.
        size_bytes: Size of its weights file.
        folder: Where it was saved.
        fitted: Its training; None for a stage that trains nothing.
    """

    name: str
    model: nn.Module
    test: Evaluation
    validation_accuracy: float
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


def outlook(config: FitConfig, strength: float, images: int, initial: float = 0.5) -> Outlook:
    """Estimate what a penalty's strength will reach on a schedule, before training.

    Args:
        config: The training.
        strength: The penalty's `s`.
        images: Training images.
        initial: The batch-norm scale at the start.
    """
    rates = learning_rates(config, -(-images // config.batch_size))
    shift = reachable_shift(
        rates, strength, momentum=config.momentum, weight_decay=config.weight_decay, initial=initial
    )
    return Outlook(strength, shift, initial)


def fit_sparse(
    model: nn.Module,
    example: Tensor,
    data: Splits,
    config: FitConfig,
    strength: float,
    penalty: str = "bn-l1",
) -> FitResult:
    """Train with a penalty on the batch-norm scales whose channels can be cut.

    Raises:
        RequestError: No prunable channel has a batch-norm scale.
    """
    return fit(model, data, config, penalties[penalty].of(model, couple(model, example), strength))


def cliff_note(share: float, ratio: float) -> str:
    """Say how the asked ratio lies to the share of scales near zero.

    Example:
        >>> print(cliff_note(0.75, 0.7))
        75 % of the prunable scales are near zero (below 0.01); cutting 70 % removes only such channels
    """
    text = f"{share * 100:.0f} % of the prunable scales are near zero (below {NEAR_ZERO:g}); "
    if ratio <= share:
        return text + f"cutting {ratio * 100:.0f} % removes only such channels"
    return text + f"cutting {ratio * 100:.0f} % goes beyond the cliff: expect a drop; train longer or raise s"


def drop_note(before: float, after: float) -> str:
    """Say what the cut alone cost, and where a large loss comes from.

    Args:
        before: Accuracy before the cut, a share.
        after: Accuracy right after it.

    Example:
        >>> print(drop_note(0.99, 0.985))
        right after the cut 98.50 % of the test images are right, before 99.00 %
    """
    text = (
        f"right after the cut {after * 100:.2f} % of the test images are right, before {before * 100:.2f} %"
    )
    if before - after < 0.05:
        return text
    return (
        f"{text}: near padded borders removed channels were no constants, and on maps of a few pixels most "
        "pixels are borders; recovery and fine-tuning make up for it"
    )


def slim(
    model: nn.Module,
    plan: Plan,
    data: Splits,
    config: SlimConfig,
    say: Callable[[str], None] = lambda _: None,
) -> Slimmed:
    """Slim a network.

    Args:
        model: The untrained network; not changed.
        plan: Its plan, which names what builds it (`identity_plan`).
        data: Training, validation and test part.
        config: How.
        say: Told what happens, a line at a time.

    Returns:
        All stages, each saved in its own folder under `config.save`.
    """
    run = _Run(data, config, say)
    groups = couple(model, run.example)
    penalised_scales(model, groups)
    say(f"training {plan.model} on {data.spec.name}, {config.dense.epochs} epochs")
    fitted = fit(model, data, config.dense)
    dense = run.stage("dense", fitted.model, plan, fitted)
    finished = run.one_pass(model, plan, 1)
    for number in range(2, config.passes + 1):
        finished = run.one_pass(finished["finetuned"].model, finished.plan, number)
    timing = f"latency: one forward pass of {config.latency_batch} images, 1 thread, the stages timed in turn"
    stages, notes = run.timed((dense, *finished.stages)), (*finished.notes, timing)
    return replace(finished, stages=stages, groups=groups, notes=notes, passes=config.passes)


class _Run:
    """Data, settings and example inputs that all passes share."""

    def __init__(self, data: Splits, config: SlimConfig, say: Callable[[str], None]) -> None:
        self.data = data
        self.config = config
        self.say = say
        spec = data.spec
        self.example = torch.zeros(1, spec.in_channels, spec.image_size, spec.image_size)
        self._batch = self.example.expand(config.latency_batch, -1, -1, -1)

    def stage(self, name: str, model: nn.Module, plan: Plan, fitted: FitResult | None = None) -> Stage:
        """Save and measure one model."""
        device, threads = self.config.dense.device, self.config.dense.threads
        folder = save_model(model, plan, self.config.save / name)
        return Stage(
            name=name,
            model=model,
            test=evaluate(model, self.data.test, device=device, threads=threads),
            validation_accuracy=evaluate(
                model, self.data.validation, device=device, threads=threads
            ).accuracy,
            cost=measure(model, self.example),
            latency_ms=math.nan,  # see `timed`
            size_bytes=(folder / WEIGHTS).stat().st_size,
            folder=folder,
            fitted=fitted,
        )

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
        fitted = fit_sparse(model, self.example, self.data, config.sparse, config.strength)
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
        images = calibration(self.data.train, config.calibration_images, config.dense.seed)
        better = recover_result(result, images, ["refit"])
        self.say(f"recovered without training; {better.errors[-1]}")
        recovered = self.stage("recovered", better.model, result.plan)
        self.say(f"fine-tuning, {config.finetune.epochs} epochs")
        fitted = fit(better.model, self.data, config.finetune)
        finetuned = self.stage("finetuned", fitted.model, result.plan, fitted)
        fall = drop_note(sparse.test.accuracy, pruned.test.accuracy)
        notes = (note, absorbed_note(result), fall, refit_note(better, sum(map(len, images))))
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


def refit_note(result: Result, images: int) -> str:
    """Say in one line what the refit brought.

    Args:
        result: The recovered result.
        images: How many images it was recovered with.
    """
    status = Counter(done.status for done in result.recovered if done.step == "refit")
    layers = status["exact"] + status["approximate"]
    return (
        f"recovered: {layers} layers refitted by least squares on {images:,} training images without labels; "
        f"{result.errors[-1]}"
    )


def absorbed_note(result: Result) -> str:
    """Say in one line what the absorbing did."""
    status = Counter(done.status for done in result.recovered if done.step == "absorb")
    return (
        f"the constants of removed channels went into {status['exact'] + status['approximate']} next layers: "
        f"exactly in {status['exact']}, approximately in {status['approximate']} "
        f"(they differed from place to place), left alone in {status['left alone']}"
    )
