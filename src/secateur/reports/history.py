"""What is reported of a training: its curves, whatever the task measures."""

from secateur.reports.charts import Line, Lines, Scale
from secateur.reports.content import ModelRow, Report
from secateur.reports.rows import curve, gamma_history
from secateur.reports.section import Section, Values
from secateur.train.history import EpochRecord, find_best_epoch


def training_report(
    history: tuple[EpochRecord, ...], kept: int | None, start: EpochRecord | None = None
) -> Report:
    """What is known of a training.

    Args:
        history: Its epochs.
        kept: The epoch whose weights the model has, 0 for those that came in; None if that is not known.
        start: The figures of what came in, where they count.
    """
    is_sparse = any(record.penalty for record in history)
    best = find_best_epoch(history)
    said = f"the best epoch is {best} of {len(history)}"
    is_start = kept == 0 and start is not None
    said += f", the weights are those of epoch {kept}" if kept else ""
    said += ", the weights are those before the training, as no epoch is better" if is_start else ""
    told = start.figures if kept == 0 and start is not None else history[(kept or best) - 1].figures
    name = "as before the training" if is_start else "trained" if kept else f"epoch {best}, the best"
    model = ModelRow(
        name, None, None, None, None, None, validation_accuracy=None if told is None else told.deciding
    )
    is_accuracy = all(record.figures and record.figures.name == "accuracy" for record in history)
    return Report(
        title="Training",
        created="",
        command="",
        model="",
        metric="accuracy" if told is None else told.name,
        lower_is_better=told is not None and told.lower_is_better,
        stages=(model,) if kept or is_start else (),
        models=() if kept or is_start else (model,),
        curves=(curve("sparse" if is_sparse else "training", history),) if is_accuracy else (),
        gamma=gamma_history([history] if is_sparse else []),
        notes=(said,),
        more=() if is_accuracy else (_epochs(history),),
    )


def _epochs(history: tuple[EpochRecord, ...]) -> Section:
    """All losses and figures of a task's own, epoch by epoch."""
    parts = list(history[-1].losses)
    epochs = tuple(record.epoch for record in history)
    losses = {name: tuple(record.losses[name] for record in history) for name in parts}
    measured = [(record.epoch, record.figures.values) for record in history if record.figures is not None]
    figures = {
        name: [values[name] for _, values in measured] for name in (measured[0][1] if measured else ())
    }
    known = dict(measured)
    columns = (
        Values("Epoch", epochs, "count"),
        Values("Loss", tuple(record.train_loss for record in history), "real"),
        *(Values(name.capitalize(), values, "real") for name, values in losses.items() if len(parts) > 1),
        *(
            Values(
                name,
                tuple(known.get(epoch, {}).get(name) for epoch in epochs),
                Scale.of(name, values).measure,
            )
            for name, values in figures.items()
        ),
    )
    label = f"Line chart of the loss by epoch: it ends at {history[-1].train_loss:.3g}."
    whole = {"loss": tuple(record.train_loss for record in history)} if len(parts) > 1 else {}
    lines = tuple(Line(name, epochs, values) for name, values in {**whole, **losses}.items())
    caption = "Loss and its parts." if whole else "Loss."
    charts = [Lines("parts", label, caption, "epoch", "loss", lines, 0, None, True)]
    shares = {name: values for name, values in figures.items() if Scale.of(name, values).is_share}
    apart = [{name: values} for name, values in figures.items() if name not in shares]
    at = tuple(epoch for epoch, _ in measured)
    for number, together in enumerate([shares, *apart] if shares else apart):
        first = next(iter(together))
        scale = Scale.of(first if len(together) == 1 else "share", together[first])
        label = f"Line chart of {first} by epoch: it ends at {scale.word(together[first][-1])}."
        drawn = tuple(Line(name, at, scale.on_axis(values)) for name, values in together.items())
        caption = f"{', '.join(together)} on the validation part."
        charts.append(Lines(f"figure-{number}", label, caption, "epoch", scale.label, drawn, is_whole=True))
    return Section("epochs", "Epochs", columns=columns, charts=tuple(charts), place=80)
