"""`secateur bench`: how long a forward pass takes here, of one model or of several in turn."""

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from secateur.benching import Contender, programs
from secateur.benching import bench as bench_in_turn
from secateur.benching.files import inputs_of_file
from secateur.capture.inputs import map_inputs
from secateur.cli.options import ComputeOptions, ExampleOptions, ModelOptions, inputs_of
from secateur.cli.terminal import Answer, timed
from secateur.costs import latency


@dataclass(frozen=True)
class SeveralModelsOptions:
    """The models that are timed.

    Attributes:
        models: As for other commands, or .onnx files; the others are compared with the first.
        arg: Keyword of the models' factories, such as width=0.25; may be repeated.
    """

    models: Annotated[tuple[str, ...], typer.Argument(metavar="MODEL...")]
    arg: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimingOptions:
    """How the passes are timed.

    Attributes:
        programs: Beside PyTorch, with commas: compile, onnxruntime, openvino.
        batch: Inputs per forward pass.
        repeats: Timed passes.
        threads: Threads inside an operator.
    """

    programs: Annotated[str, typer.Option("--with", metavar="PROGRAMS")] = ""
    batch: Annotated[int, typer.Option(min=1)] = 1
    repeats: Annotated[int, typer.Option(min=3)] = 30
    threads: Annotated[int, typer.Option(min=1)] = 1


def bench(
    models: SeveralModelsOptions, example: ExampleOptions, timing: TimingOptions, place: ComputeOptions
) -> Answer:
    """Time forward passes: median and quartiles; of several models in turn, beside the share of their MACs.

    The first model is the one to compare with. What takes more than its share of the MACs has the operators
    named that do not shrink with it. A program that cannot run a model says why.

    Example: secateur bench runs/dense runs/tuned --batch 16 --with compile,onnxruntime
    """
    asked = [word.strip() for word in timing.programs.split(",") if word.strip()]
    is_file = [word.endswith(".onnx") for word in models.models]
    names = dict.fromkeys(["pytorch", *(["onnxruntime"] if any(is_file) else []), *asked])
    for name in names:
        programs[name]
    with TemporaryDirectory() as folder:
        contenders = _contenders(models, example, timing, place, Path(folder))
        if len(names) == 1 and len(contenders) == 1:
            only = contenders[0]
            taken = latency(only.module, only.inputs, repeats=timing.repeats, threads=timing.threads)
            return Answer(asdict(taken), str(taken))
        with timed("timing in turn"):
            found = bench_in_turn(contenders, list(names), repeats=timing.repeats, threads=timing.threads)
    return Answer(found.to_dict(), str(found))


def _contenders(
    models: SeveralModelsOptions,
    example: ExampleOptions,
    timing: TimingOptions,
    place: ComputeOptions,
    folder: Path,
) -> list[Contender]:
    """Open every model on one device; a file takes the inputs of the first module, or says its own."""
    opened = {
        word: ModelOptions(word, models.arg).open(place.seed, place.device)
        for word in models.models
        if not word.endswith(".onnx")
    }
    inputs: dict[str, Any] = {}
    for word, one in opened.items():
        inputs[word] = _batched(example.of(one, next(iter(inputs.values()), None)), timing.batch)
    shared = next(iter(inputs.values()), None)
    if shared is None and example.shape is not None:
        shared = _batched(inputs_of(example.shape), timing.batch)
    found = []
    for at, word in enumerate(models.models):
        (folder / str(at)).mkdir()
        if word in opened:
            model, plan = opened[word].model, opened[word].plan
            found.append(Contender(word, inputs[word], folder / str(at), model=model, plan=plan))
        else:
            given = inputs_of_file(Path(word), timing.batch) if shared is None else shared
            found.append(Contender(word, given, folder / str(at), file=Path(word)))
    return found


def _batched(inputs: Any, batch: int) -> Any:
    """The first sample of some inputs, so many times."""
    return map_inputs(inputs, lambda leaf: leaf[:1].expand(batch, *leaf.shape[1:]).contiguous())
