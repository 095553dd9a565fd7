"""`secateur evaluate`: accuracy and cost of a saved model."""

from secateur.cli.app import commands
from secateur.cli.options import (
    AsJson,
    DataDir,
    DataName,
    Device,
    Download,
    ModelArguments,
    ModelWord,
    Seed,
    Threads,
    data_arguments,
    emit,
    example_of,
    load_data,
    model_arguments,
)
from secateur.costs import latency
from secateur.pipeline import measure
from secateur.sources import open_model
from secateur.train import evaluate as evaluate_model


@commands("evaluate")
def evaluate(
    model: ModelWord,
    data: DataName = "digits",
    arg: ModelArguments = None,
    data_dir: DataDir = None,
    download: Download = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Report accuracy on the test part, in all and by class, and what the model costs.

    Example: secateur evaluate runs/tuned --data digits
    """
    parts = load_data(data, data_dir, download, seed)
    opened = open_model(model, data_arguments(parts, model, model_arguments(arg)))
    found = evaluate_model(opened.model, parts.test, device=device, threads=threads)
    cost = measure(opened.model, example_of(parts))
    timing = latency(opened.model, example_of(parts))
    by_class = dict(zip(parts.spec.class_names, found.per_class_accuracy, strict=True))
    numbers = {
        "accuracy": found.accuracy,
        "loss": found.loss,
        "images": found.n,
        "per_class_accuracy": by_class,
        "params": cost.params,
        "macs": cost.macs,
        "size_bytes": cost.size_bytes,
        "latency_ms": timing.median_ms,
    }
    lines = [f"{found.accuracy * 100:.2f} % of {found.n} test images right, loss {found.loss:.4f}", str(cost)]
    lines.append(str(timing))
    lines += [
        f"  {name}: {'no image' if share is None else f'{share * 100:.2f} %'}"
        for name, share in by_class.items()
    ]
    emit(numbers, "\n".join(lines), as_json=as_json)
