"""Prune a Darknet network by a strategy: choose, cut, prove, absorb, and write a cfg that fits.

    model -> residual blocks out -> groups (axis algebra) -> strategy: keep -> core: cut, proof, absorb

The strategy chooses; the cut, the proof and the absorbed constants are the core's.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.costs import Cost
from secateur.domains.darknet.absorbed import Absorbed, absorbed_into
from secateur.domains.darknet.blocks import ResidualBlock, prove_removed
from secateur.domains.darknet.cfg import NET, Config
from secateur.domains.darknet.edit import remove_layers
from secateur.domains.darknet.exporting import export
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.domains.darknet.strategy import Ceiling, StrategyChoice, StrategyRequest, strategies
from secateur.errors import CheckError, NoEffectWarning, RequestError
from secateur.pipeline import couple, measure, prune
from secateur.plans.plan import Plan
from secateur.proof import Verdict
from secateur.recovery import Recovered
from secateur.result import Result, recover_result
from secateur.rich import Table
from secateur.tables import printed

__all__ = ["DarknetPruned", "PrunedLayer", "prunable_scales", "prune_darknet"]

_PROOF_SIDE = 64
"""Pixels of the sides of images that a cut is proven on, at least: equality does not depend on the size."""


@dataclass(frozen=True)
class PrunedLayer:
    """A convolution before and after.

    Attributes:
        layer: Its number in the uncut cfg.
        before: Its filters.
        after: Its filters now; 0 if it went with its block.
        note: "floor" if that held it, "removed" if its block went, or nothing.
    """

    layer: int
    before: int
    after: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class DarknetPruned:
    """What `prune_darknet` returns.

    Attributes:
        model: The smaller network; its `config` is the cfg of what it is now.
        config: That cfg.
        strategy: The strategy's name.
        requested: What was asked for, as words.
        plan: The channels that stay, for the network without its removed blocks; None if only blocks went.
        removed: Layers of the uncut cfg that went whole.
        verdict: The proof; None if it was not asked for.
        ceiling: How far one global threshold can go; None if no channels were to go.
        threshold: The scale below which channels went.
        rows: The convolutions before and after.
        absorbed: How exactly each layer took the constants of its removed inputs; empty with data.
        errors: With data, the error of the maps before and after each recovery step.
        before: Cost of the uncut network at the cfg's input size, batch 1.
        after: Cost of the smaller one.
        result: What the core made of the channels, for `secateur.recover`; None if only blocks went.
    """

    model: Darknet = field(repr=False)
    config: Config = field(repr=False)
    strategy: str
    requested: str
    plan: Plan | None = field(repr=False)
    removed: tuple[int, ...]
    verdict: Verdict | None
    ceiling: Ceiling | None
    threshold: float
    rows: tuple[PrunedLayer, ...] = field(repr=False)
    absorbed: tuple[Absorbed, ...] = field(repr=False)
    errors: tuple[Recovered, ...]
    before: Cost
    after: Cost
    result: Result | None = field(repr=False)

    def table(self) -> Table:
        """The layers that changed, as `print` shows them."""
        table = Table("layer", "filters before", "after", "")
        for row in self.rows:
            if row.after != row.before or row.note == "floor":
                table.add_row(str(row.layer), str(row.before), str(row.after or "-"), row.note)
        return table

    def __str__(self) -> str:
        lines = [f"pruned {self.config.name}: {self.strategy}, {self.requested}", printed(self.table())]
        for name in ("params", "macs", "size_bytes"):
            before, after = getattr(self.before, name), getattr(self.after, name)
            words = {"params": "parameters", "macs": "MACs", "size_bytes": "bytes"}[name]
            lines.append(f"{words}: {before:,} -> {after:,} ({after / before:.1%} left)")
        if self.removed:
            lines.append(f"layers removed: {', '.join(map(str, self.removed))}")
        if self.ceiling is not None:
            lines.append(f"threshold {self.threshold:.4g}; {self.ceiling}")
            floored = [str(row.layer) for row in self.rows if row.note == "floor"]
            if floored:
                lines.append(f"the floor held layers {', '.join(floored)}: the threshold would empty them")
        lines.append(f"check: {self.verdict or 'not asked for'}")
        lines.extend(_absorbed_lines(self.absorbed))
        lines.extend(map(str, self.errors))
        return "\n".join(lines)


def prune_darknet(
    model: Darknet,
    strategy: str = "normal",
    *,
    percent: float = 0.5,
    floor: float | None = None,
    round_to: int | None = None,
    merge: str | None = None,
    blocks: int | None = None,
    absorb: bool = True,
    recover: Sequence[str] = (),
    check: bool = True,
    image_size: int | None = None,
    data: Iterable[Any] | None = None,
    seed: int = 0,
) -> DarknetPruned:
    """Prune a Darknet network.

    Args:
        model: The network; not changed.
        strategy: A registered strategy: "normal", "regular", "extreme", "tiny", "slim", "layers",
            "layers+channels".
        percent: Share of the scales below the global threshold, 0 <= percent < 1; for "layers" the share of
            the residual blocks that goes.
        floor: Share of each group of channels that always stays, at least one channel; None takes the
            strategy's (slim: 0.01).
        round_to: Kept counts are rounded up to a multiple; None takes the strategy's (regular: a power of
            two from 8 to 1024).
        merge: How the scales of layers that shortcuts join become one: "union" (the default), "mean" or
            "first" (as upstream).
        blocks: How many residual blocks go; None takes the strategy's share.
        absorb: Move the constant response of removed channels into the next layers.
        recover: Further recovery steps, run behind it, such as ["refit", "batch-norm"]; they need data.
        check: Prove in float64 that the smaller network computes what the masked one does.
        image_size: Rows and columns of the images that constants are absorbed on, a multiple of the stride;
            None takes the cfg's. It counts where kernels are padded: border positions weigh less in large
            maps.
        data: Batches of images for recovery: tensors, tuples that begin with one, or batches with `images`.
        seed: For the proof's random numbers.

    Returns:
        The smaller network with its cfg, plan, proof and cost; it prints well.

    Raises:
        RequestError: The strategy is unknown, an option makes no sense for it, or it has nothing to take.
        CheckError: The smaller network does not compute what the masked one does.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> pruned = prune_darknet(Darknet("digits").eval(), "normal", percent=0.5)
        >>> pruned.config.layer(2)["filters"], pruned.config.layer(3)["filters"], pruned.verdict.exact
        ('8', '32', True)
        >>> print(pruned.ceiling)
        threshold ceiling 1, percent limit 0.0 %
    """
    asked = StrategyRequest(percent, floor, round_to, merge, blocks)
    chosen = strategies[strategy]
    chosen.require(strategy, asked)
    size = model.image_size(image_size)
    going = chosen.blocks(model, asked)
    proof = model.black(_proof_size(model))
    bodied, verdict = _without_blocks(model, going, proof, check, seed)
    removed = tuple(sorted({index for block in going for index in block.layers}))
    choice, result = None, None
    if chosen.channels is not None:
        groups = couple(bodied, proof)
        choice = chosen.channels.choose(bodied, groups, asked)
        result = _cut(bodied, proof, choice, check=check, seed=seed)
        verdict = _joined(verdict, None if result is None else result.verdict)
    absorbed: tuple[Absorbed, ...] = ()
    steps = [*(["absorb"] if absorb else []), *recover]
    if result is not None and steps:
        result = replace(result, example_inputs=model.black(size))
        result = recover_result(result, None if data is None else map(_inputs, data), steps)
    smaller = bodied if result is None else result.model
    assert isinstance(smaller, Darknet), "a cut keeps the class"
    if result is not None and steps == ["absorb"] and data is None:
        absorbed = absorbed_into(bodied, smaller, result.plan)
    smaller.config = export(smaller)
    picture = model.black(model.image_size())
    return DarknetPruned(
        model=smaller,
        config=smaller.config,
        strategy=strategy,
        requested=str(asked),
        plan=None if result is None else result.plan,
        removed=removed,
        verdict=verdict,
        ceiling=None if choice is None else choice.ceiling,
        threshold=0.0 if choice is None else choice.threshold,
        rows=_rows(model, smaller, removed, choice),
        absorbed=tuple(replace(one, layer=_old_number(model, removed, one.layer)) for one in absorbed),
        errors=() if result is None else result.errors,
        before=measure(model, picture),
        after=measure(smaller, picture),
        result=result,
    )


def prunable_scales(model: Darknet, strategy: str = "normal") -> list[nn.Parameter]:
    """The batch-norm scales that a strategy will prune by: those that sparse training may penalise.

    Args:
        model: The network.
        strategy: A registered strategy.

    Returns:
        Parameters of the network, in its order.

    Raises:
        RequestError: The strategy is unknown.

    Example:
        >>> model = Darknet("digits")
        >>> len(prunable_scales(model, "normal")), len(prunable_scales(model, "extreme"))
        (10, 19)
        >>> len(prunable_scales(model, "layers"))
        5
    """
    return strategies[strategy].prunable(model, couple(model, model.black(_proof_size(model))))


def _proof_size(model: Darknet) -> tuple[int, int]:
    """Rows and columns of the images that cuts are proven on: small, unless the network needs large ones."""
    own = model.image_size()
    small = -(-_PROOF_SIDE // model.stride) * model.stride
    rows, columns = (min(side, small) for side in own)
    try:
        with torch.device("meta"):
            Darknet(export(model).replaced(NET, height=rows, width=columns))
    except RequestError:  # kernels without padding leave nothing of a small image
        return own
    return rows, columns


def _inputs(batch: Any) -> Any:
    """The images of a batch of our loaders; anything else is for the core to read."""
    return getattr(batch, "images", batch)


def _without_blocks(
    model: Darknet, going: Sequence[ResidualBlock], images: Tensor, check: bool, seed: int
) -> tuple[Darknet, Verdict | None]:
    if not going:
        return copy.deepcopy(model), None
    if not check:
        return remove_layers(model, {index for block in going for index in block.layers}), None
    smaller, verdict = prove_removed(model, going, images, seed)
    if not verdict.passed:
        do = "report this cfg; nothing was changed"
        raise CheckError(f"the network without its blocks is wrong: {verdict.failure}", do=do)
    return smaller, verdict


def _cut(model: Darknet, images: Tensor, choice: StrategyChoice, *, check: bool, seed: int) -> Result | None:
    """The core's cut of what a strategy chose; None where it chose to keep everything."""
    if not choice.removes:
        if choice.threshold:
            what = "nothing goes: floor and rounding keep every channel; ask for more"
            warnings.warn(what, NoEffectWarning, stacklevel=3)
        return None
    return prune(model, images, keep=choice.keep, check=check, seed=seed)


def _joined(first: Verdict | None, second: Verdict | None) -> Verdict | None:
    """One proof of both: blocks out, then channels."""
    if first is None or second is None:
        return first or second
    return replace(
        second,
        relative_error=max(first.relative_error, second.relative_error),
        nodes=first.nodes + second.nodes,
    )


def _rows(
    model: Darknet, smaller: Darknet, removed: Sequence[int], choice: StrategyChoice | None
) -> tuple[PrunedLayer, ...]:
    held = (
        set() if choice is None else {_old_number(model, removed, layer) for layer in choice.floored_layers}
    )
    rest = iter(smaller.layers)
    rows: list[PrunedLayer] = []
    for index, layer in enumerate(model.layers):
        left = None if index in removed else next(rest)
        if isinstance(layer, Convolutional):
            after = left.conv.out_channels if isinstance(left, Convolutional) else 0
            note = "removed" if left is None else "floor" if index in held else ""
            rows.append(PrunedLayer(index, layer.conv.out_channels, after, note))
    return tuple(rows)


def _old_number(model: Darknet, removed: Sequence[int], layer: int) -> int:
    """The number that a layer of the network without its blocks had before."""
    return [index for index in range(len(model.layers)) if index not in set(removed)][layer]


def _absorbed_lines(absorbed: Sequence[Absorbed]) -> list[str]:
    if not absorbed:
        return []
    exact = [one for one in absorbed if one.exact]
    rest = sorted((one for one in absorbed if not one.exact), key=lambda one: -one.bound)
    lines = [f"constants absorbed exactly into {len(exact)} layers: {', '.join(str(o.layer) for o in exact)}"]
    lines += [f"constants absorbed approximately: {one}" for one in rest[:3]]
    if len(rest) > 3:
        lines.append(f"  and into {len(rest) - 3} more layers within less")
    varying = max(one.largest_scale for one in absorbed)
    if varying:
        lines.append(f"removed channels also vary: their largest scale is {varying:.3g}")
    return lines
