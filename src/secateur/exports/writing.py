"""The one way to a file: write it beside its place, read it back, compare, and only then give it its name."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.capture.copies import copy_module
from secateur.capture.inputs import as_call, map_inputs
from secateur.capture.switches import as_written
from secateur.capture.unwrap import require_whole, unwrap
from secateur.errors import ExportError, NoEffectWarning, RequestError, SecateurError, SizeError
from secateur.exports.format import Exported, ExportSubject, Format, formats
from secateur.exports.program import reason
from secateur.exports.reading import read_back
from secateur.exports.trials import Trials
from secateur.folding import fold as fold_norms
from secateur.mask.hook import is_masked
from secateur.mask.state import remove
from secateur.plans.plan import Plan
from secateur.result import Result
from secateur.write.atomic import explained, place, scratch_folder


def export(
    model: Result | nn.Module,
    path: Path | str,
    *,
    format: str | None = None,
    example_inputs: Any = None,
    overwrite: bool = False,
    dynamic: bool = True,
    fold: bool = False,
    plan: Plan | None = None,
    tell: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a network as a file of another program, which must compute the same when it reads it back.

    The file is written under a temporary name, opened by its own program in a fresh process without secateur,
    and compared with the model on random inputs: at the sizes of the example, and with another batch and,
    where the model takes it, another image size or length. Only then it gets its name; else nothing is left.

    Args:
        model: What `prune` returned, or any module, cut or not; not changed. A copy in eval mode on the CPU
            is written, with masks baked in.
        path: The file or, for some formats, the folder to write.
        format: "onnx", "pt2", ...; None for the one that the suffix of the path names.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs; None for those
            that `prune` was given. They also say which token ids the comparison draws from.
        overwrite: Replace what is there.
        dynamic: Leave the batch open, and image sizes and lengths where the model takes others. Off: the file
            takes the sizes of the example alone. Formats whose files cannot refuse a size ignore it.
        fold: Fold batch norms into the layers before them, see `secateur.fold`. The file is still compared
            with the model that has its norms; the notes say which of them stay.
        plan: What was cut of the model, where neither it nor its result knows.
        tell: Is called with each step that begins, in a few words.

    Returns:
        What was written, by which program it was read, and how far it is from the model.

    Raises:
        RequestError: Something is at the path, the format is unknown, or there are no example inputs.
        MissingExtraError: A library that the format needs is not installed.
        ExportError: The file could not be written, or its program does not compute what the model does; or
            the format cannot hold a folded model.
        CheckError: The folded model computes something else than the model.
        SecateurError: The disk is full, or the place may not be written to.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> result = sc.prune(net, torch.zeros(1, 3, 16, 16), ratio=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = sc.export(result, f"{folder}/half.onnx")
        >>> made.path.name, list(made.errors), made.error < 1e-5
        ('half.onnx', ['batch 1, 16x16', 'batch 3, 32x48'], True)
    """
    name, chosen = choose(path, format)
    target = Path(os.path.realpath(path))
    _require_free(target, chosen, overwrite=overwrite)
    if fold and chosen.needs_norms:
        do = f"leave fold=True out, or choose {' or '.join(_that_fold())}"
        raise ExportError(f"{name} cannot hold a model whose norms were folded: {chosen.needs_norms}", do=do)
    subject = _subject(model, example_inputs, plan)
    tell("running the model")
    trials = Trials(copy_module(subject.model), subject.example_inputs)
    subject = replace(subject, open=trials.open if dynamic or not chosen.fixes_sizes else {})
    told: tuple[str, ...] = ()
    if fold:
        tell("folding batch norms")
        subject, told = _folded(subject)
    with explained(target), scratch_folder(target) as scratch:
        made, subject, notes = _written(name, subject, trials, scratch / "files" / target.name, tell)
        tell("reading it back")
        try:
            program, errors = read_back(chosen, subject, made, trials.of(subject.open), scratch)
        except ExportError as error:
            raise ExportError(error.what, error.context, _advice(chosen, subject)) from error
        files = [one for one in made.parent.rglob("*") if one.is_file()]
        size_bytes = sum(one.stat().st_size for one in files)
        for beside in sorted(made.parent.iterdir(), key=lambda one: one == made):
            place(beside, target.with_name(beside.name), overwrite=overwrite)
    return Exported(Path(path), name, size_bytes, program, errors, (*told, *notes))


def require_exportable(model: nn.Module, format: str, *, uniform: bool = False) -> None:
    """Refuse a model that no file of a format can hold once it is cut, before it is.

    A cut may still be refused for what it does to the model; `export` says so.

    Args:
        model: Uncut; not changed.
        format: As for `export`.
        uniform: It will be pruned with uniform=True.

    Raises:
        ExportError: No file of this format can hold it, with the request that would fit.

    Example:
        >>> require_exportable(nn.Linear(4, 2), "onnx")
        >>> require_exportable(nn.Linear(4, 2), "hf")
        Traceback (most recent call last):
        secateur.errors.ExportError: Linear is no model of transformers
          choose another format, or sc.save(result, folder)
    """
    formats[format].require(unwrap(model), uniform)


def choose(path: Path | str, format: str | None) -> tuple[str, Format]:
    """Find a format by its name, or by the suffix of a path.

    Raises:
        RequestError: There is no such format, none or several have the suffix, or the path has another's.

    Example:
        >>> choose("half.onnx", None)[0], choose("half", "state-dict")[0]
        ('onnx', 'state-dict')
    """
    suffix = Path(path).suffix.lower()
    named = [name for name, one in formats.items() if one.suffix and one.suffix == suffix]
    if format is None:
        if len(named) == 1:
            return named[0], formats[named[0]]
        known = [f"{one.suffix or 'a folder'}: {name}" for name, one in formats.items()]
        both = f", which {' and '.join(named)} have" if named else ""
        what = f"cannot tell the format of {path} from its suffix '{suffix}'{both}"
        raise RequestError(what, known, "pass format= to choose one")
    chosen = formats[format]
    if named and format not in named:
        do = f"name it {Path(path).with_suffix(chosen.suffix)}, or leave format= out"
        raise RequestError(f"format is {format}, and {path} has the suffix of {' and '.join(named)}", do=do)
    return format, chosen


def _require_free(target: Path, chosen: Format, *, overwrite: bool) -> None:
    """Refuse a place where something is, before the work."""
    if target.is_dir() and chosen.suffix:
        raise RequestError(
            f"{target} is a folder", do=f"name a file, such as {target / 'model'}{chosen.suffix}"
        )
    if target.is_file() and not chosen.suffix:
        raise RequestError(f"{target} is a file", do="name a folder: this format writes several files")
    is_there = any(target.iterdir()) if target.is_dir() else target.exists()
    if is_there and not overwrite:
        raise RequestError(f"{target} exists already", do="choose another name, or pass overwrite=True")


def _subject(given: Result | nn.Module, example_inputs: Any, plan: Plan | None) -> ExportSubject:
    """A copy that a file can be written of."""
    result = given if isinstance(given, Result) else None
    model = unwrap(given.model if isinstance(given, Result) else given)
    require_whole(model)
    if example_inputs is None and result is None:
        raise RequestError(
            f"the input of {type(model).__name__} is not known", do="pass example_inputs=, one small batch"
        )
    inputs = result.example_inputs if result is not None and example_inputs is None else example_inputs
    as_call(inputs)
    copied = copy_module(model)
    plain = (remove(copied) if is_masked(copied) else copied).cpu().eval().requires_grad_(False)
    inputs = map_inputs(inputs, lambda leaf: leaf.detach().cpu())
    known = plan or Plan.of(model) or (result.plan if result is not None else None)
    return ExportSubject(plain, inputs, known, result)


def _folded(subject: ExportSubject) -> tuple[ExportSubject, tuple[str, ...]]:
    """A subject without the norms that can be folded, and notes of those that stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # the notes say it
        made = fold_norms(subject.model, subject.example_inputs)
    return replace(subject, model=made.model), (made.summary, *made.reasons)


def _that_fold() -> list[str]:
    return [name for name, one in formats.items() if not one.needs_norms]


def _written(
    name: str, subject: ExportSubject, trials: Trials, path: Path, tell: Callable[[str], None]
) -> tuple[Path, ExportSubject, tuple[str, ...]]:
    """Write a subject with as many sizes left open as the format can; what it fixes is noted."""
    fixed: list[str] = []
    for number, roles in enumerate(_fewer(list(subject.open))):
        opened = {role: subject.open[role] for role in roles}
        other = trials.of(opened)[-1].inputs
        attempt = replace(subject, model=copy_module(subject.model), open=opened, other_inputs=other)
        made = path.parent.with_name(f"files-{number}") / path.name
        made.parent.mkdir()
        tell(f"writing {name}" + (f", any {' and '.join(opened)}" if opened else ""))
        try:
            with without_advice(), as_written():
                notes = formats[name].write(attempt, made)
        except SizeError as error:
            fixed.append(f"{' and '.join(opened)} cannot all be left open: {error.what}")
            continue
        except SecateurError:
            raise
        except Exception as error:
            raise ExportError(f"cannot write {name}: {reason(error)}") from error
        if not made.exists():
            raise ExportError(f"cannot write {name}: the writer made no {path.name}")
        return made, attempt, (*fixed, *notes)
    raise ExportError(f"cannot write {name}", fixed)


def _fewer(roles: list[str]) -> Iterator[list[str]]:
    """All of some sizes, then the batch alone, then none."""
    tried: list[list[str]] = []
    for some in (roles, [role for role in roles if role == "batch"], []):
        if some not in tried:
            tried.append(some)
            yield some


def _advice(chosen: Format, subject: ExportSubject) -> str:
    """What to do where a file was written that is not the model; it is gone."""
    if subject.open and chosen.fixes_sizes:
        return "nothing was kept; pass dynamic=False for a file of the example's sizes alone"
    return "nothing was kept; choose another format"


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Without the advice of exporters and quantisers, which users can do nothing about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
