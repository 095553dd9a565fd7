"""What a model is before it is fine-tuned: recovered, or from scratch; and whom it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from secateur.cli.options import in_float32
from secateur.cli.runs import RUN, read_run
from secateur.cli.terminal import say
from secateur.errors import RequestError
from secateur.pairing import pair
from secateur.pipeline import measure
from secateur.recovery import SECONDS
from secateur.recovery import choose as choose_steps
from secateur.result import recover_result
from secateur.scratch import BASELINES, from_scratch, require_fresh, scratch_epochs
from secateur.sources import Opened, build, open_model, split_word
from secateur.train import Distillation, FitConfig, Task, Work, matching_channels
from secateur.write.checkpoint import PLAN

NO_TEACHER = "none"
_CUTTING = ("prune", "iterate", "drop")
"""The commands whose folders hold a cut of the model that they were given."""


@dataclass(frozen=True)
class DistillationOptions:
    """A teacher, and what is learned from it.

    Attributes:
        teacher: Learn from this model too: a folder that secateur saved, or none for labels alone; default:
            the one that the model was cut from, where its folder is there.
        teacher_weight: Share of the teacher's logits in the loss, 0 to 1; the labels have the rest.
        temperature: Softens the logits of both before they are compared; default: 4.
        teacher_features: Layers whose kept channels follow the teacher's, 'feature.*'; may be repeated.
        feature_weight: Weight of the features in the loss.
    """

    teacher: str | None = None
    teacher_weight: float = 0.9
    temperature: float | None = None
    teacher_features: tuple[str, ...] = ()
    feature_weight: float = 1.0

    def open(self, student: Opened, word: str, task: Task) -> Opened | None:
        """Open the teacher; where none was named, the model that the student was cut from.

        Args:
            student: What learns.
            word: As it was named.
            task: What it is for: some tasks do not say how far two outputs are apart.

        Raises:
            RequestError: There is none, and an option says how to learn from it.
        """
        found = self.teacher
        if found is None and (task.has_distance or self.teacher_weight == 0):
            found = cut_from(word)
        if found in (None, NO_TEACHER):
            self._require_no_lesson()
            return None
        teacher = in_float32(open_model(found))
        if self.teacher is None and teacher.plan.first.shapes != student.plan.first.shapes:
            say(f"no teacher: {found} is no longer what {word} was cut from")
            self._require_no_lesson()
            return None
        return teacher

    def tell(self, word: str) -> None:
        """Say who teaches where nobody was named.

        Args:
            word: What learns, as it was named.
        """
        if self.teacher is None:
            does = "teaches" if self.teacher_weight or self.teacher_features else "is compared with"
            leave = f"--teacher {NO_TEACHER} leaves it out"
            say(f"{cut_from(word)}, which {word} was cut from, {does} it; {leave}")

    def _require_no_lesson(self) -> None:
        for option, given in (
            ("--temperature", self.temperature),
            ("--teacher-features", self.teacher_features),
        ):
            if given:
                raise RequestError(f"{option} was given without a teacher", do="pass --teacher FOLDER")

    def distillation(self, student: Opened, teacher: Opened | None) -> Distillation | None:
        """What the student shall learn; None where the teacher has no weight."""
        if teacher is None or (self.teacher_weight == 0 and not self.teacher_features):
            return None
        features = {}
        if self.teacher_features:
            above = teacher.plan if teacher.plan.groups or teacher.plan.dropped else None
            features = matching_channels(student.plan, teacher.model, self.teacher_features, above)
        temperature = 4.0 if self.temperature is None else self.temperature
        return Distillation(teacher.model, temperature, self.teacher_weight, features, self.feature_weight)


def cut_from(word: str) -> str | None:
    """The model that a saved folder was cut from, by what the commands that wrote it have left in it.

    Fine-tunings in between are passed over.

    Args:
        word: The folder, alone or with the file that builds its architecture.

    Returns:
        A word for the model; None where no saved folder is known to be it, or it is there no more.
    """
    folder, file = split_word(word)
    seen: set[Path] = set()
    while folder is not None and folder not in seen and (folder / RUN).is_file():
        seen.add(folder)
        held = read_run(folder / RUN)
        asked = held["request"]
        name = str(asked.get("model", "")).partition("@")[0]
        folder = _as_typed_here(Path(str(held.get("directory", "")), name))
        if held.get("command") in _CUTTING and "weights" not in asked:
            return (
                (f"{folder}@{file}" if file else str(folder)) if name and (folder / PLAN).is_file() else None
            )
        if held.get("command") != "finetune":
            return None
    return None


def _as_typed_here(path: Path) -> Path:
    """A path from the working directory, where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def listed(words: Sequence[str] | None) -> list[str]:
    """Read a repeated option whose words may hold commas.

    Example:
        >>> listed(["absorb,refit", "batch-norm"])
        ['absorb', 'refit', 'batch-norm']
    """
    return [name for word in words or () for name in word.split(",")]


@dataclass(frozen=True)
class StartOptions:
    """What the model is before it is trained.

    Attributes:
        recover: Recover before training, by --teacher and training images: absorb, refit, blocks, distil,
            batch-norm.
        images: How many training images --recover draws.
        recover_seconds: What each of the recovery steps blocks and distil may take.
        from_scratch: Baseline with fresh weights: for --epochs (epochs), or for the MACs that the dense
            network takes in --epochs (compute).
    """

    recover: tuple[str, ...] = ()
    images: Annotated[int, typer.Option(min=1)] = 1024
    recover_seconds: Annotated[float, typer.Option(min=0.0)] = SECONDS
    from_scratch: str | None = None

    @property
    def steps(self) -> list[str]:
        """The recovery steps that are named."""
        return listed(self.recover)


def recovered(
    student: Opened, dense: Opened | None, data: Work, start: StartOptions, seed: int
) -> tuple[Opened, dict[str, Any]]:
    """Recover a saved model without training, beside the one it was cut from.

    Args:
        student: The model.
        dense: What it was cut from, the teacher.
        data: Its training images are used, without labels.
        start: The steps, and how many images.
        seed: Of the draw.

    Returns:
        The better model, and what to tell of it.

    Raises:
        RequestError: There is no dense model, or constants would be absorbed twice.
    """
    chosen = choose_steps(start.steps, has_data=True)
    if dense is None:
        raise RequestError(
            f"--recover {','.join(chosen)} needs the network before the cut, which is not in the folder",
            ["recovery compares the layers of the two"],
            "pass it as --teacher FOLDER; with --teacher-weight 0 nothing is learned from it",
        )
    result = pair(dense.model, student.model, student.plan, data.example)
    samples = data.evidence(start.images, seed)
    better = recover_result(result, samples, chosen, seconds=start.recover_seconds, say=say)
    for error in better.errors:
        say(str(error))
    told = [{"step": one.step, "before": one.before, "after": one.after} for one in better.errors]
    return replace(student, model=better.model), {"recovered": told}


def scratch(
    student: Opened, data: Work, baseline: str, config: FitConfig
) -> tuple[Opened, FitConfig, dict[str, Any]]:
    """Make the baseline: the pruned architecture with fresh weights.

    Args:
        student: The pruned model.
        data: What to train on.
        baseline: "epochs" (scratch-e) or "compute" (scratch-b).
        config: How it is trained; its epochs are those of the dense network.

    Returns:
        The fresh model, the training with the epochs that it is due, and what to tell of it.

    Raises:
        RequestError: The baseline is unknown, or its architecture cannot be built with fresh weights.
    """
    scratch_epochs(baseline, 1, 1, 1)  # an unknown word is refused before anything is built
    first, seed = student.plan.first, config.seed
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
    example = data.example
    model = from_scratch(built[0], student.plan, example)
    macs, dense = measure(model, example).macs, measure(built[0], example).macs
    epochs = scratch_epochs(baseline, config.epochs, dense, macs)
    name = f"scratch-{'e' if baseline == BASELINES[0] else 'b'}"
    say(
        f"{name}: {epochs} epochs from fresh weights; the dense network has {dense / macs:.2f} times the MACs"
    )
    told = {"baseline": name, "dense_macs": dense}
    return replace(student, model=model), replace(config, epochs=epochs), told
