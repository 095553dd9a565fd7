"""What each trait says, asked of one call of an operator: True, False, or None where it cannot be asked."""

from functools import partial

import numpy as np
import torch
from calls import close, is_rational

from secateur.coupling.layers import layer_operands
from secateur.coupling.rule import traits_of
from secateur.graph.axes import leaves
from secateur.graph.keep import DimPlaces
from secateur.graph.trait import Trait

LAWS = {}


def law(trait):
    """Register the law of a trait."""

    def register(function):
        def ask(call):
            try:
                return function(call)
            except (RuntimeError, IndexError, TypeError, NotImplementedError):
                return False  # the operator refuses what the law puts to it

        LAWS[trait] = ask
        return ask

    return register


def _tensors(results):
    return [result for result in results if isinstance(result, torch.Tensor)]


@law(Trait.POINTWISE)
def is_pointwise(call):
    """What is taken at some positions of broadcast operands is made at these positions."""
    results = call.run()
    if len(results) != 1 or not call.held:
        return None
    try:
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in call.held.values()))
    except RuntimeError:
        return False
    if shape != results[0].shape:
        return False
    order = torch.randperm(results[0].numel(), generator=torch.Generator().manual_seed(3))
    chosen = {value: tensor.expand(shape).flatten()[order] for value, tensor in call.held.items()}
    (made,) = call.run(chosen)
    return close(made, results[0].flatten()[order]) and made.dtype == results[0].dtype


@law(Trait.ARITHMETIC)
def is_arithmetic(call):
    """Pointwise, affine in the first operand and rational in all of them."""
    if not call.run() or call.output.is_complex() or len(call.floats) < len(call.held):
        return None
    if not call.floats or not call.output.is_floating_point() or not is_pointwise(call):
        return False
    return _is_affine(call, call.first) and _is_rational(call)


def _is_rational(call):
    along = call.draw(call.floats, seed=5)
    at = np.linspace(-3.1, 2.9, 24)
    runs = [
        call.run({value: call.held[value] + along[value] * float(step) for value in call.floats})[0]
        for step in at
    ]
    columns = torch.stack(runs).flatten(1).T.double().numpy()
    return all(is_rational(column, at) for column in columns)


def _is_affine(call, values):
    """f(x) + f(y) = f(x + y) + f(0) in some operands."""
    other = call.draw(values, seed=2)
    both = {value: call.held[value] + other[value] for value in values}
    none = {value: torch.zeros_like(call.held[value]) for value in values}
    x, y, together, zero = (call.run(change)[0] for change in ({}, other, both, none))
    return x.is_floating_point() and close(x + y, together + zero, 1e-8)


@law(Trait.ADDS)
def adds(call):
    """What is added to the first operand is added to the result; the other operands count."""
    if is_arithmetic(call) is not True:
        return False
    more = call.draw(call.first)
    rest = [value for value in call.floats if value not in call.first]
    if not rest:
        return False
    added = call.run({value: call.held[value] + more[value] for value in call.first})[0]
    return close(added, call.output + more[call.first[0]]) and not close(
        call.run(call.draw(rest))[0], call.output
    )


@law(Trait.SUMS)
def sums(call):
    """What is added to any operand is added to the result."""
    if len(call.floats) < 2 or not is_arithmetic(call):
        return False
    more = call.draw(call.floats)
    added = call.run({value: call.held[value] + more[value] for value in call.floats})[0]
    return close(added, call.output + sum(more.values()))


@law(Trait.MULTIPLIES)
def multiplies(call):
    """A factor of either operand is a factor of the result."""
    if len(call.floats) != 2 or not is_arithmetic(call):
        return False
    scaled = [call.run({value: -2.5 * call.held[value]})[0] for value in call.floats]
    return all(close(made, -2.5 * call.output) for made in scaled)


@law(Trait.ACTIVATION)
def is_activation(call):
    """A curve with a slope of one somewhere, and not everywhere."""
    if len(call.first) != 1 or len(call.run()) != 1:
        return False
    (value,) = call.first
    if call.output.shape != call.held[value].shape:
        return False
    rank = max(call.held[value].dim(), 1)
    at = torch.linspace(-8, 8, 4001, dtype=torch.float64).view(-1, *[1] * (rank - 1))
    size = call.held[value].shape[1] if rank > 1 else 1
    (made,) = call.run({value: at.expand(-1, size, *[1] * (rank - 2)) if rank > 1 else at})
    slope = (made.diff(dim=0) / 0.004).flatten(1)[:, 0] if rank > 1 else made.diff() / 0.004
    follows = (slope - 1).abs() < 0.1
    return bool(follows.any()) and not bool(follows.all())


@law(Trait.IDEMPOTENT)
def is_idempotent(call):
    """The second time changes nothing."""
    if Trait.ACTIVATION not in traits_of(call.node):
        return None
    (once,) = call.run()
    return close(call.run({call.first[0]: once})[0], once)


@law(Trait.MOVES)
def moves(call):
    """As `repeats`, and no number twice."""
    return repeats(call) and all(len(made.unique()) == made.numel() for made in call.run(_distinct(call)))


@law(Trait.REPEATS)
def repeats(call):
    """Each number is one of the operand's, and any function of single numbers may come before or after."""
    return all(_hands_on(call, wave) for wave in _WAVES) and all(
        made.is_floating_point() for made in call.run()
    )


@law(Trait.SELECTS)
def selects(call):
    """So it is for increasing functions alone."""
    return _hands_on(call, lambda x: x + x**3) and not all(_hands_on(call, wave) for wave in _WAVES)


_WAVES = [partial(lambda x, speed: torch.sin(speed * x) + 0.1, speed=speed) for speed in (7, -3, 5, 11)]
"""Functions that neither grow nor fall."""


def _distinct(call, seed=7):
    """Distinct numbers between -4 and 4 that single precision holds too."""
    generator = torch.Generator().manual_seed(seed)
    held = {value: call.held[value] for value in call.first}
    total = sum(tensor.numel() for tensor in held.values())
    numbers = (torch.randperm(2**12, generator=generator)[:total] - 2**11 + 0.5) / 2**9
    parts = numbers.split([tensor.numel() for tensor in held.values()])
    return {
        value: part.view(tensor.shape).to(tensor.dtype)
        for (value, tensor), part in zip(held.items(), parts, strict=True)
    }


def _hands_on(call, function):
    numbers = _distinct(call)
    if not numbers:
        return False
    given = torch.cat([tensor.flatten() for tensor in numbers.values()]).double()
    made = call.run(numbers)[0]
    after = call.run({value: function(tensor) for value, tensor in numbers.items()})[0]
    is_taken = made.is_floating_point() and bool(torch.isin(made.double(), given).all())
    return is_taken and close(function(made.double()), after.double(), 1e-6)


@law(Trait.RESAMPLES)
def resamples(call):
    """Twice the numbers give twice the numbers, and ones give ones, or less at the border."""
    ones = call.run(call.with_first(torch.ones_like))[0]
    twice = call.run(call.with_first(lambda x: 2 * x))[0]
    return close(twice, 2 * call.output) and bool(((ones >= -1e-9) & (ones <= 1 + 1e-9)).all())


@law(Trait.ROW_MAJOR)
def is_row_major(call):
    """The same numbers in the same order."""
    if call.writes:
        return None
    if len(call.first) != 1 or len(call.run()) != 1:
        return False
    (value,) = call.first
    draws = [_distinct(call, seed) for seed in (7, 8, 9)]
    made = [call.run(numbers)[0] for numbers in draws]
    return all(
        one.is_floating_point() and close(one.flatten(), numbers[value].flatten())
        for one, numbers in zip(made, draws, strict=True)
    )


def _lies_in(call, lay):
    """Whether all results lie in the memory of the first operand, which is laid out by a function."""
    operand = lay(call.held[call.first[0]].clone())
    held = {value: own for value, own in call.held.items() if value != call.first[0]}
    made = call.run_as_is({**held, call.first[0]: operand})
    return bool(made) and all(
        one.untyped_storage().data_ptr() == operand.untyped_storage().data_ptr() for one in made
    )


def _layouts(call):
    """Ways to lay out the first operand that are not contiguous."""
    rank = call.held[call.first[0]].dim()
    order = list(range(rank))
    for turn in (order[::-1], [*order[1:], 0], [*order[:-2], *order[:-3:-1]]):
        back = [turn.index(at) for at in order]
        yield lambda x, turn=turn, back=back: x.permute(turn).contiguous().permute(back)


def _shares(call, lay):
    try:
        return _lies_in(call, lay)
    except RuntimeError:
        return None  # it refuses to


@law(Trait.VIEW)
def is_view(call):
    """The results lie in the operand's memory, however that is laid out."""
    if call.writes or not call.run() or call.output.dtype != call.held[call.node.reads[0]].dtype:
        return None
    if len(call.first) != 1:
        return False
    return _lies_in(call, torch.Tensor.contiguous) and all(
        _shares(call, lay) is not False for lay in _layouts(call)
    )


@law(Trait.PACKS)
def packs(call):
    """The result lies in the memory of a contiguous operand, and elsewhere for some other."""
    if call.writes or not call.run() or call.output.dtype != call.held[call.node.reads[0]].dtype:
        return None
    if len(call.first) != 1:
        return False
    return _lies_in(call, torch.Tensor.contiguous) and any(
        _shares(call, lay) is False for lay in _layouts(call)
    )


@law(Trait.NORM)
def is_norm(call):
    """The result has the shape of the input and grows with the weight."""
    args = call.node.args
    if not {"input", "weight"} <= args.keys() or call.output.shape != call.held[args["input"].value].shape:
        return False
    if args["weight"] is None:
        return None
    none = {} if args.get("bias") is None else {"bias": torch.zeros_like(call.held[args["bias"].value])}
    weight = call.held[args["weight"].value]
    return close(call.run(weight=2 * weight, **none)[0], 2 * call.run(weight=weight, **none)[0])


@law(Trait.CHANNEL_NORM)
def is_channel_norm(call):
    """A norm in which no channel sees another."""
    if is_norm(call) is not True:
        return is_norm(call)
    dims, given = call.recording.findings.dims, call.node.args["input"].value
    channels = set(leaves(dims[call.node.args["weight"].value][-1]))
    at = next(at for at, dim in enumerate(dims[given]) if channels & set(leaves(dim)))
    changed = call.held[given].transpose(0, at).clone()
    changed[0] += torch.rand(changed[0].shape, dtype=changed.dtype)
    made = call.run(input=changed.transpose(0, at))[0].transpose(0, at)
    before = call.output.transpose(0, at)
    return close(made[1:], before[1:]) and not close(made[0], before[0])


@law(Trait.LAYER)
def is_layer(call):
    """Linear in input and weight, but for the bias; sums over channels."""
    found = layer_operands(call.node)
    if found is None or not call.recording.findings.macs.get(call.node.index):
        return False
    values = [call.node.args[name].value for name in found[:2]]
    bias = call.node.args.get(found[2]) if found[2] else None
    if bias is not None:
        call.held[bias.value].zero_()
    scaled = all(close(call.run({value: -2 * call.held[value]})[0], -2 * call.output) for value in values)
    return scaled and all(_is_affine(call, [value]) for value in values)


@law(Trait.MIXES)
def mixes(call):
    """A change at one position of a free axis that returns is seen at another."""
    findings = call.recording.findings
    for value in call.floats:
        name = call.node.argument_of(value)
        for dim, expr in enumerate(findings.dims[value]):
            if (call.node.index, name, dim) in findings.contracted:
                continue
            for axis in set(leaves(expr)) & set(call.recording.free):
                if not axis.renormalised and _spreads(call, value, dim, axis):
                    return True
    return False


def _spreads(call, value, dim, axis):
    """Whether a change at the first position of an axis is seen where every dim is at another."""
    dims = call.recording.findings.dims
    changed = call.held[value].clone()
    changed.index_fill_(dim, torch.from_numpy(DimPlaces(dims[value][dim]).of(axis))[0], 0.37)
    for made, before, after in zip(call.node.makes, call.run(), call.run({value: changed}), strict=True):
        pair, holding = (before, after), [at for at, expr in enumerate(dims[made]) if axis in leaves(expr)]
        for at in holding:
            others = torch.from_numpy(DimPlaces(dims[made][at]).of(axis))[1:].flatten()
            pair = tuple(tensor.index_select(at, others) for tensor in pair)
        if holding and not close(*pair):
            return True
    return False
