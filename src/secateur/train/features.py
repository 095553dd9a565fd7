"""Which layers of a cut network can be matched with its teacher's, channel by channel."""

import fnmatch
from collections.abc import Sequence

import numpy as np
from torch import nn

from secateur.architecture import fingerprint, tensor_shapes
from secateur.errors import RequestError
from secateur.graph.keep import Mask
from secateur.plans.plan import Plan

_FIRST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
)
LAYERS = (*_FIRST, nn.Linear, nn.LayerNorm)
"""Layers of which it is known where their channels are."""


def channel_dim(module: nn.Module) -> int:
    """The dim of a layer's output that holds its channels.

    A layer norm over several dims, such as (channels, height, width), has them in the first of these.

    Raises:
        RequestError: The layer is of no kind for which this is known.

    Example:
        >>> [channel_dim(layer) for layer in (nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.LayerNorm((2, 3, 3)))]
        [1, -1, -3]
    """
    if isinstance(module, _FIRST):
        return 1
    if isinstance(module, nn.LayerNorm):
        return -len(module.normalized_shape)
    if isinstance(module, nn.Linear):
        return -1
    raise RequestError(
        f"where {type(module).__name__} has its channels is not known",
        do="match convolutions, linear layers and norms",
    )


def matching_channels(
    plan: Plan, teacher: nn.Module, patterns: Sequence[str], teacher_plan: Plan | None = None
) -> dict[str, tuple[int, ...]]:
    """Find the layers that student and teacher share, and which of the teacher's channels the student kept.

    Args:
        plan: What made the student from the uncut architecture.
        teacher: The uncut network, or one that was cut less.
        patterns: Which layers, by name: "layer3.*", "feature.25". Of what they fit convolutions, linear
            layers and norms with weights are taken.
        teacher_plan: What made the teacher from the same uncut architecture; None if it is uncut.

    Returns:
        By layer, indices into the teacher's channels in the order of the student's.

    Raises:
        RequestError: A pattern fits no such layer, or the teacher lacks what the student has.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> plan = sc.prune(net, torch.zeros(1, 4), keep={"0": [0, 2]}).plan
        >>> matching_channels(plan, net, ["*"])
        {'0': (0, 2), '2': (0, 1)}
    """
    _require_same_root(plan, teacher, teacher_plan)
    found: dict[str, tuple[int, ...]] = {}
    layers = {
        name: tensor
        for name, module in teacher.named_modules()
        if isinstance(module, LAYERS) and (tensor := _shaped_like_output(name, module))
    }
    for pattern in patterns:
        fitting = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
        fitting = [name for name in fitting if not plan.drops(layers[name])]
        if not fitting:
            known = f"layers to match: {', '.join(list(layers)[:12])}{', ...' if len(layers) > 12 else ''}"
            do = "name layers that student and teacher both have"
            raise RequestError(f"no layer with features to match fits '{pattern}'", [known], do)
        for name in fitting:
            _require_same_name(name, plan, teacher_plan)
            found[name] = _kept(name, layers[name], plan, teacher_plan)
    return found


def _shaped_like_output(name: str, module: nn.Module) -> str | None:
    """A parameter whose first dim is the layer's output channels."""
    tensor = next((kind for kind in ("bias", "weight") if getattr(module, kind, None) is not None), None)
    return None if tensor is None else f"{name}.{tensor}"


def _require_same_name(layer: str, plan: Plan, teacher_plan: Plan | None) -> None:
    """Refuse a layer that stands behind one that has left its list: the other network has it elsewhere."""
    for one in (plan, teacher_plan):
        if one is not None and one.renamed(layer) != layer:
            raise RequestError(
                f"layer {layer} of the uncut network is {one.renamed(layer)} after blocks were dropped",
                do="match layers that have one name in both networks, such as those before the first block",
            )


def _kept(layer: str, tensor: str, plan: Plan, teacher_plan: Plan | None) -> tuple[int, ...]:
    ours = plan.masks(tensor)[0]
    theirs: Mask = np.ones_like(ours) if teacher_plan is None else teacher_plan.masks(tensor)[0]
    if bool((ours & ~theirs).any()):
        raise RequestError(
            f"the student has channels of {layer} that the teacher has lost",
            do="choose the network that the student was cut from, or an earlier one",
        )
    return tuple(np.flatnonzero(ours[theirs]).tolist())


def _require_same_root(plan: Plan, teacher: nn.Module, teacher_plan: Plan | None) -> None:
    root = fingerprint(tensor_shapes(teacher)) if teacher_plan is None else teacher_plan.first.fingerprint
    if root != plan.first.fingerprint:
        raise RequestError(
            f"the teacher is not {plan.first.source or plan.first.model}, which the student was cut from",
            ["features are matched channel by channel, by the plan"],
            "choose the network that the student was cut from, or match logits alone",
        )
