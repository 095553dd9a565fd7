"""Saved folders as users write and read them: with what builds the architecture, if they name it."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from secateur.errors import CheckpointError, RequestError
from secateur.plans.plan import Plan
from secateur.result import Result, plan_and_model, save_as
from secateur.sources.open import build, open_model, split_word, without_values
from secateur.write.checkpoint import load_model

Value = str | int | float | bool


def save(
    result: Result | nn.Module,
    folder: Path | str,
    *,
    packed: bool = False,
    overwrite: bool = False,
    source: str = "",
    arguments: Mapping[str, Value] | None = None,
) -> Path:
    """Write a pruned model: `weights.safetensors` and `plan.json`; no pickle.

    A cut model remembers all cuts that made it, so the plan leads from the uncut architecture, however many
    there were. What was trained since is saved over its earlier values; another model is not.

    Args:
        result: What `prune` returned, or its model alone, which may have been trained since. Or an uncut
            model, such as one with masks: they are saved with all that they hide, and `load` puts them back.
            Of a wrapper like `DataParallel` the module inside is saved.
        folder: Where to write; made if missing.
        packed: Write sparse tensors as one bit for each entry and the values that are not zero: smaller by
            their sparsity, the same to the last bit when loaded. Masks are baked in: what they hide is not
            saved, and `mask.mask_zeros` puts them back on what was loaded.
        overwrite: Replace another model that the folder holds.
        source: The word for what builds the uncut architecture, "torchvision:resnet18" or "timm:resnet50", so
            that `load` needs the folder alone. It is built once, to compare.
        arguments: What it is built with, such as `{"num_classes": 10}`.

    Returns:
        The folder.

    Raises:
        RequestError: The folder holds another model; or this one was changed after it was cut, so that its
            plan does not make it: a layer more or less. Another number of classes is no such change. Or the
            source builds another architecture.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> net = nn.Linear(256, 64)
        >>> _ = sc.mask.prune(net, amount=0.9)
        >>> folder = save(net, tempfile.mkdtemp(), packed=True)
        >>> (folder / "weights.safetensors").stat().st_size < 0.2 * 4 * 256 * 64
        True
        >>> torch.equal(sc.load(folder, nn.Linear(256, 64)).weight, net.weight)
        True
    """
    plan, model = plan_and_model(result)
    if source or arguments:
        plan = _sourced(plan, model, source, dict(arguments or {}))
    return save_as(plan, model, folder, packed=packed, overwrite=overwrite)


def _sourced(plan: Plan, model: nn.Module, source: str, arguments: dict[str, Value]) -> Plan:
    """A plan with the word for its uncut architecture, which is built and compared.

    Raises:
        RequestError: The word builds something else, or an argument is no plain value.
    """
    objects = [name for name, value in arguments.items() if not isinstance(value, Value)]
    if objects or not source:
        what = (
            f"argument {objects[0]} is {arguments[objects[0]]!r}" if objects else "arguments have no source"
        )
        do = "pass source, and numbers, texts, True or False as arguments: they are written as JSON"
        raise RequestError(what, do=do)
    given = without_values(source, arguments)
    built = build(source, given).model
    do = "name what builds the uncut model, with the arguments that it was built with"
    try:
        made = plan.apply(built)
    except CheckpointError as error:
        raise RequestError(f"{source} is not the uncut model: {error.what}", error.context, do) from error
    lines = zip(str(made).splitlines(), str(model).splitlines(), strict=False)
    differs = next(((one, other) for one, other in lines if one != other), None)
    if differs is not None:
        there, here = (line.strip() for line in differs)
        raise RequestError(f"{source} builds {there}, the model has {here}", do=do)
    return plan.built_by(source, given)


def load(folder: Path | str, architecture: nn.Module | None = None, *, verify: bool = True) -> nn.Module:
    """Read a saved model.

    Args:
        folder: What `save` or a command wrote.
        architecture: The uncut architecture; its values do not matter, and it is not changed. It may be on
            the meta device; the new model's parameters lie on the CPU then, and so do the buffers that no
            checkpoint holds: their modules compute them anew. Its floating-point types do not matter either:
            tensors come back in the types that they were saved in. None builds it, if the plan names what
            builds it: `save(..., source="torchvision:resnet18")`, and commands that were given such a word.
            No file is run for a folder: name it as well, "half@net.py:make".
        verify: Compare the values with the digests that were saved with them; False takes them as they are.

    Returns:
        A new model of the same class with the saved widths and weights.

    Raises:
        CheckpointError: A file is missing, truncated, damaged or foreign, or the plan is for another
            architecture or names none.
        SourceError: The plan names a file to run.

    Example:
        >>> import tempfile, torch, secateur as sc
        >>> from secateur.zoo import models
        >>> vgg = models["vgg11"](width=0.125)
        >>> result = sc.prune(vgg, torch.zeros(1, 3, 32, 32), ratio=0.5)
        >>> folder = sc.save(result, tempfile.mkdtemp(), source="zoo:vgg11", arguments={"width": 0.125})
        >>> torch.equal(load(folder).feature[0].weight, result.model.feature[0].weight)
        True
    """
    if architecture is not None:
        return load_model(folder, architecture, verify=verify)
    word = os.fspath(folder)
    if split_word(word)[0] is None:
        raise CheckpointError(f"cannot load {word}: no such folder", do="name a folder that secateur saved")
    return open_model(word, verify=verify).model
