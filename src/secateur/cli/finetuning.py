"""What a model is before it is fine-tuned: recovered, or from scratch; and whom it learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from secateur.cli.options import example_of, say
from secateur.domains.classification import Splits
from secateur.domains.classification.images import calibration
from secateur.errors import RequestError
from secateur.pairing import pair
from secateur.pipeline import measure
from secateur.recovery import choose as choose_steps
from secateur.result import recover_result
from secateur.scratch import BASELINES, from_scratch, require_fresh, scratch_epochs
from secateur.sources import Opened, build, open_model
from secateur.train import Distillation, matching_channels


@dataclass(frozen=True)
class Teaching:
    """What the options of a command say of a teacher.

    Attributes:
        teacher: Its word; None for no teacher.
        weight: Share of its soft targets in the loss.
        temperature: Divides the logits.
        features: Patterns of the layers whose features are matched.
        feature_weight: Factor of their distance.
    """

    teacher: str | None
    weight: float
    temperature: float
    features: Sequence[str] = ()
    feature_weight: float = 1.0

    def open(self) -> Opened | None:
        """Open the teacher.

        Raises:
            RequestError: Features are to be matched with nobody.
        """
        if self.teacher is None and self.features:
            raise RequestError("--teacher-features was given without a teacher", do="pass --teacher FOLDER")
        return None if self.teacher is None else open_model(self.teacher)

    def distillation(self, student: Opened, teacher: Opened | None) -> Distillation | None:
        """What the student shall learn; None where the teacher has no weight."""
        if teacher is None or (self.weight == 0 and not self.features):
            return None
        features = {}
        if self.features:
            above = teacher.plan if teacher.plan.groups or teacher.plan.dropped else None
            features = matching_channels(student.plan, teacher.model, self.features, above)
        return Distillation(teacher.model, self.temperature, self.weight, features, self.feature_weight)


def listed(words: Sequence[str] | None) -> list[str]:
    """Read a repeated option whose words may hold commas.

    Example:
        >>> listed(["absorb,refit", "batch-norm"])
        ['absorb', 'refit', 'batch-norm']
    """
    return [name for word in words or () for name in word.split(",")]


def recovered(
    student: Opened, dense: Opened | None, data: Splits, steps: Sequence[str], images: int, seed: int
) -> tuple[Opened, dict[str, Any]]:
    """Recover a saved model without training, beside the one it was cut from.

    Args:
        student: The model.
        dense: What it was cut from, the teacher.
        data: Its training images are used, without labels.
        steps: Recovery steps.
        images: How many images.
        seed: Of the draw.

    Returns:
        The better model, and what to tell of it.

    Raises:
        RequestError: There is no dense model, or constants would be absorbed twice.
    """
    chosen = choose_steps(steps, has_data=True)
    if dense is None:
        raise RequestError(
            f"--recover {','.join(chosen)} needs the network before the cut, which is not in the folder",
            ["recovery compares the layers of the two"],
            "pass it as --teacher FOLDER; with --teacher-weight 0 nothing is learned from it",
        )
    result = pair(dense.model, student.model, student.plan, example_of(data))
    better = recover_result(result, calibration(data.train, images, seed), chosen)
    for error in better.errors:
        say(str(error))
    told = [{"step": one.step, "before": one.before, "after": one.after} for one in better.errors]
    return replace(student, model=better.model), {"recovered": told}


def scratch(
    student: Opened, data: Splits, baseline: str, settings: Mapping[str, Any]
) -> tuple[Opened, dict[str, Any], dict[str, Any]]:
    """Make the baseline: the pruned architecture with fresh weights.

    Args:
        student: The pruned model.
        data: What to train on.
        baseline: "epochs" (scratch-e) or "compute" (scratch-b).
        settings: Arguments of `FitConfig`; their epochs are those of the dense network.

    Returns:
        The fresh model, the settings with the epochs that it is due, and what to tell of it.

    Raises:
        RequestError: The baseline is unknown, or its architecture cannot be built with fresh weights.
    """
    scratch_epochs(baseline, 1, 1, 1)  # an unknown word is refused before anything is built
    first, seed = student.plan.first, int(settings["seed"])
    if not student.plan.groups and not student.plan.dropped:
        raise RequestError("the model was not pruned", do="use secateur train for a dense network")
    arguments = {name: value for name, value in first.source_arguments.items() if name != "weights"}
    if student.source.startswith("hf:"):
        arguments["weights"] = False
    built = []
    for drawn in (seed, seed + 1):
        torch.manual_seed(drawn)
        built.append(build(student.source, arguments).model)
    require_fresh(*built)
    example = example_of(data)
    model = from_scratch(built[0], student.plan, example)
    macs, dense = measure(model, example).macs, measure(built[0], example).macs
    epochs = scratch_epochs(baseline, settings["epochs"], dense, macs)
    name = f"scratch-{'e' if baseline == BASELINES[0] else 'b'}"
    say(
        f"{name}: {epochs} epochs from fresh weights; the dense network has {dense / macs:.2f} times the MACs"
    )
    told = {"baseline": name, "dense_macs": dense}
    return replace(student, model=model), {**settings, "epochs": epochs}, told
