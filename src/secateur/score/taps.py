"""Taps: what single samples say of parameters, from one backward pass over a whole batch.

With y the output of a layer for all samples, and the loss a sum over them, dL/dy holds the gradients of every
sample side by side. What a gate needs of a weight, of each sample n, summed over positions p, is

    sum over i of  w_oi dL_n/dw_oi  =  sum over p of  (y_nop - b_o) dL/dy_nop
    sum over o of  w_oi dL_n/dw_oi  =  sum over p of  x_nip dL/dx_nip

with dL/dx through this layer alone. So no gradient of a weight is taken at all. Only squares of single
entries need those, and then only their sum over the samples, layer by layer: sum of (dL/dy_n x_n^T)^2.

Parameters whose calls are not understood stay in the graph of autograd: they are told by their gradients.

References:
    Goodfellow, "Efficient per-example gradient computations", 2015. https://arxiv.org/abs/1510.01799
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from secateur.capture.modes import Mode
from secateur.capture.operators import operator_name, schema_arguments
from secateur.coupling.patches import Patches

_BLOCK = 1 << 18
"""Numbers of a weight's gradient that are made at once: they stay in the cache."""
_FEW = 4
"""Positions up to which the square of a sum over them is summed pair by pair."""

Dims: TypeAlias = tuple[int, ...]
Margins: TypeAlias = dict[str, dict[Dims, Tensor]]


def squared(left: Tensor, right: Tensor) -> Tensor:
    """Sum the squares of the products of pairs of matrices over the pairs.

    Args:
        left: [pairs, groups, rows, places].
        right: [pairs, groups, columns, places].

    Returns:
        [groups, rows, columns].

    Example:
        >>> left, right = torch.randn(5, 1, 3, 4), torch.randn(5, 1, 2, 4)
        >>> torch.allclose(squared(left, right), (left @ right.mT).square().sum(0), atol=1e-4)
        True
    """
    places = left.shape[-1]
    if places <= _FEW:
        rows, columns = left.permute(3, 1, 2, 0).contiguous(), right.permute(3, 1, 0, 2).contiguous()
        pairs = [(one, two) for one in range(places) for two in range(one, places)]
        first = torch.cat([rows[one] * rows[two] * (1 if one == two else 2) for one, two in pairs], 2)
        return first @ torch.cat([columns[one] * columns[two] for one, two in pairs], 1)
    found = left.new_zeros(*left.shape[1:3], right.shape[2])
    step = max(1, _BLOCK // (len(found) * right.shape[2]))
    for sums, part in zip(found.split(step, 1), left.split(step, 2), strict=True):
        made = torch.empty_like(sums)
        for rows, columns in zip(part, right, strict=True):
            torch.bmm(rows, columns.mT, out=made)
            sums.addcmul_(made, made)
    return found


class Taps(Mode):
    """Notes, while a model runs, what the gradients of its activations are multiplied with.

    Args:
        leaves: The parameters that count, by name: as the model is given them.
        dims: Of each the dims that are kept, one margin for each tuple.
        samples: How many the batch holds.
        are_inner: Where a dim holds several rows of each sample, the rows of one do not lie together.
        with_squares: Also sum the squares of all entries.

    Attributes:
        dims: As given.
        margins: After the backward pass: weight times gradient, by parameter and kept dims, [samples, ...].
        squares: The squares of weight times gradient, summed over the samples, by parameter.
        ends: By what to differentiate the loss, beside the parameters.
    """

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        dims: Mapping[str, set[Dims]],
        samples: int,
        *,
        are_inner: bool = False,
        with_squares: bool = False,
    ) -> None:
        super().__init__()
        self.margins: Margins = {}
        self.squares: dict[str, Tensor] = {}
        self.ends: list[Tensor] = []
        self._names = {id(leaf): name for name, leaf in leaves.items() if leaf.is_floating_point()}
        self.with_squares = with_squares
        self.dims, self._samples, self._are_inner = dims, samples, are_inner
        self._met: set[str] = set()
        self._keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the model in here: operators are seen whole, and autograd follows what takes their place."""
        with torch._C._AutoDispatchBelowADInplaceOrView(), self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C._ForceDispatchKeyGuard(*self._keys):
            known = any(id(arg) in self._names for arg in (*args, *kwargs.values()))
            kind = _KINDS.get(operator_name(func)) if known and torch.is_grad_enabled() else None
            named = dict(schema_arguments(func, args, kwargs)) if kind else {}
            taken = {
                name: self._names[id(held)]
                for name, held in named.items()
                if id(held) in self._names and self._names[id(held)] not in self._met
            }
            call = kind(self, named, taken) if kind and taken else None
            if call is None:
                return func(*args, **kwargs)
            return self._tapped(call, func, args, kwargs)

    def _tapped(self, call: "_Call", func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a call on values in place of its parameters; its gradients come back to it."""
        self._met.update(call.taken.values())
        instead = {id(call.named[name]): call.named[name].detach() for name in call.taken}
        if isinstance(call, _Layer) and call.reads:
            source = call.named[call.reads]
            alias = source.view_as(source) if source.requires_grad else source.detach().requires_grad_()
            alias.register_hook(call.on_input)
            self._ended(alias)
            instead[id(source)] = alias
        output = func(
            *(instead.get(id(arg), arg) for arg in args),
            **{name: instead.get(id(arg), arg) for name, arg in kwargs.items()},
        )
        if not output.requires_grad:
            output = output.detach().requires_grad_()
            self._ended(output)
        call.output = output.detach()
        output.register_hook(call.on_output)
        return output.clone()  # what comes behind may write into it

    def _ended(self, tensor: Tensor) -> None:
        if tensor.is_leaf:
            self.ends.append(tensor)

    def sample_dim(self, shape: Sequence[int], allowed: Sequence[int]) -> int | None:
        """Which of the first two dims holds the samples, or several rows of each; None if neither does."""
        allowed = [dim for dim in allowed if dim < min(2, len(shape))]
        exact = [dim for dim in allowed if shape[dim] == self._samples]
        several = [dim for dim in allowed if dim == 0 and shape[0] % self._samples == 0]
        return next(iter(exact + several), None)

    def apart(self, tensor: Tensor, dim: int) -> Tensor:
        """The samples in front, and what else was in their dim still there; no shorter than float32."""
        wide = tensor.float() if tensor.dtype.itemsize < 4 else tensor
        if self._are_inner:
            return wide.unflatten(dim, (-1, self._samples)).movedim(dim + 1, 0)
        return wide.unflatten(dim, (self._samples, -1)).movedim(dim, 0)

    def wants(self, name: str, dims: Dims) -> bool:
        """Whether a margin of a parameter is asked for."""
        return dims in self.dims[name]

    def needs_entries(self, name: str) -> bool:
        """Whether margins do not suffice for a weight."""
        return self.with_squares or any(len(dims) > 1 for dims in self.dims[name])

    def add_margin(self, name: str, dims: Dims, found: Tensor) -> None:
        """Keep a margin: [samples, sizes of the dims]."""
        self.margins.setdefault(name, {})[dims] = found

    def add_entries(self, name: str, entries: Tensor) -> None:
        """Keep the margins of all entries, [samples, shape of the parameter], and their squares."""
        for dims in self.dims[name]:
            others = [1 + dim for dim in range(entries.ndim - 1) if dim not in dims]
            self.add_margin(name, dims, entries.sum(others) if others else entries)
        if self.with_squares:
            self.squares[name] = entries.square().sum(0)


@dataclass(eq=False)
class _Call(ABC):
    """A call with parameters; `output` is set once it has run.

    Attributes:
        taps: Where what is found is kept.
        named: Its arguments.
        taken: The arguments that are parameters, with their names.
        dim: Which dim of the output holds the samples.
    """

    taps: Taps
    named: Mapping[str, Any]
    taken: Mapping[str, str]
    dim: int

    def __post_init__(self) -> None:
        self.output = torch.empty(0)

    @abstractmethod
    def on_output(self, gradient: Tensor) -> None:
        """Note what the gradient by the output says."""


@dataclass(eq=False)
class _Pointwise(_Call):
    """Parameters that are multiplied with an activation or added to it, spread over its positions.

    Attributes:
        factors: The arguments that are factors; others are added.
        behind: Dims of the output behind those of the parameters.
    """

    factors: Sequence[str] = ()
    behind: int = 0

    def on_output(self, gradient: Tensor) -> None:
        given, output = self.taps.apart(gradient, self.dim), self.taps.apart(self.output, self.dim)
        bias = self.named.get("bias")
        for argument, name in self.taken.items():
            held = self.named[argument].detach()
            if argument not in self.factors:
                entries = self._over(given, held) * held
            elif bias is None:
                entries = self._over(given * output, held)
            else:
                entries = self._over(given * output, held) - self._over(given, held) * bias.detach()
            self.taps.add_entries(name, entries)

    def _over(self, apart: Tensor, held: Tensor) -> Tensor:
        """Sum over the positions that a parameter is spread over: [samples, its shape]."""
        rest = apart.ndim - 1 - held.ndim - self.behind
        kept = (len(apart), *[1] * rest, *held.shape, *[1] * self.behind)
        return apart.sum_to_size(kept).reshape(len(apart), *held.shape)


@dataclass(eq=False)
class _Layer(_Call):
    """A linear layer or a convolution.

    Attributes:
        names: What input, weight and bias are called.
        channel: Where the channels lie in input and output, counted from the right.
        inputs_first: The weight is laid out (inputs, outputs).
    """

    names: tuple[str, str, str] = ("input", "weight", "bias")
    channel: int = -1
    inputs_first: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        source, weight, _ = self.names
        self.name = self.taken.get(weight, "")
        self.source = self.named[source]
        self.version = self.source._version
        self.groups = int(self.named.get("groups", 1))
        is_read = self.name and self.taps.wants(self.name, (0 if self.inputs_first else 1,))
        self.reads = source if is_read else ""

    def on_output(self, gradient: Tensor) -> None:
        _, weight, bias = self.names
        given = self._flat(gradient)
        total = given.sum(2)
        shift: Any = self.named.get(bias)
        if bias in self.taken:
            self.taps.add_entries(self.taken[bias], total * shift.detach())
        if not self.name:
            return
        dim = 1 if self.inputs_first else 0
        if self.taps.wants(self.name, (dim,)):
            found = (given * self._flat(self.output)).sum(2)
            found = found if shift is None else found - total * shift.detach()
            self._add(dim, found)
        if self.taps.needs_entries(self.name):
            self._add_entries(given, self.named[weight].detach())

    def on_input(self, gradient: Tensor) -> None:
        self._add(0 if self.inputs_first else 1, (self._flat(gradient) * self._flat(self._read())).sum(2))

    def _read(self) -> Tensor:
        if self.source._version != self.version:
            raise RuntimeError("an activation was written into after a layer had read it")
        return self.source.detach()

    def _flat(self, tensor: Tensor) -> Tensor:
        """[samples, channels, positions]."""
        return self.taps.apart(tensor, self.dim).movedim(self.channel, 1).flatten(2)

    def _add(self, dim: int, found: Tensor) -> None:
        if dim == 1 and self.groups > 1:
            found = found.unflatten(1, (self.groups, -1)).sum(1)
        self.taps.add_margin(self.name, (dim,), found)

    def _add_entries(self, given: Tensor, weight: Tensor) -> None:
        """What needs gradients of single entries: squares, and where rows and columns meet."""
        source = self._read()
        if self.channel == -1:
            columns = self._flat(source)[:, None]
        else:
            columns = self.taps.apart(Patches(self.named, source).columns(), 0)
            columns = columns.movedim(1, -2).flatten(-2)
        rows = given.unflatten(1, (self.groups, -1))

        def laid_out(found: Tensor) -> Tensor:
            found = found.flatten(0, 1)
            return (found.T if self.inputs_first else found).reshape(weight.shape)

        if self.taps.with_squares:
            self.taps.squares[self.name] = laid_out(squared(rows, columns)).mul_(weight).mul_(weight)
        for dims in (dims for dims in self.taps.dims[self.name] if len(dims) > 1):
            others = [dim for dim in range(weight.ndim) if dim not in dims]
            each = (laid_out(one @ two.mT) * weight for one, two in zip(rows, columns, strict=True))
            made = [entries.sum(others) if others else entries for entries in each]
            self.taps.add_margin(self.name, dims, torch.stack(made))


@dataclass(eq=False)
class _Embedding(_Call):
    """A table, of which each position reads one row."""

    def on_output(self, gradient: Tensor) -> None:
        name, table = self.taken["weight"], self.named["weight"].detach()
        indices = self.taps.apart(self.named["indices"].double(), self.dim).long().flatten(1)
        given = self.taps.apart(gradient, self.dim).flatten(1, -2)
        given = given * (indices != self.named["padding_idx"])[..., None]
        read = self.taps.apart(self.output, self.dim).flatten(1, -2)
        self.taps.add_margin(name, (1,), (given * read).sum(1))
        if self.taps.needs_entries(name):
            samples = torch.arange(len(indices), device=indices.device)[:, None]
            keys, inverse = (samples * len(table) + indices).unique(return_inverse=True)
            sums = given.new_zeros(len(keys), table.shape[1])
            sums.index_add_(0, inverse.flatten(), given.flatten(0, 1))
            found = torch.zeros_like(table, dtype=given.dtype)
            found.index_add_(0, keys % len(table), sums.square())
            self.taps.squares[name] = found * table.square()


_Maker: TypeAlias = Callable[[Taps, Mapping[str, Any], Mapping[str, str]], _Call | None]


def _pointwise(factors: Sequence[str], *, channels_second: bool = False) -> _Maker:
    """A maker for operators whose parameters lie along the last dims of the output, or along its second."""

    def make(taps: Taps, named: Mapping[str, Any], taken: Mapping[str, str]) -> _Call | None:
        shapes = [held.shape for held in named.values() if isinstance(held, Tensor)]
        if "size" in named:
            shapes.append(torch.Size(max(1, size) for size in named["size"]))
        shape = named["input"].shape if "input" in named else torch.broadcast_shapes(*shapes)
        behind = len(shape) - 2 if channels_second else 0
        free = {0, 1}
        for held in (named[argument] for argument in taken):
            start = len(shape) - behind - held.ndim
            free -= {start + at for at, size in enumerate(held.shape) if size != 1}
        dim = taps.sample_dim(shape, sorted(free))
        if dim is None or named.get("alpha", 1) != 1:
            return None
        return _Pointwise(taps, named, taken, dim, factors=factors, behind=behind)

    return make


def _layer(names: tuple[str, str, str], spatial: int = 0) -> _Maker:
    """A maker for layers; a matrix product has the inputs first in its weight."""

    def make(taps: Taps, named: Mapping[str, Any], taken: Mapping[str, str]) -> _Call | None:
        source, weight, bias = (named.get(name) for name in names)
        is_transposed, is_matrix = "output_padding" in named, weight is not None and weight.ndim == 2
        taken = {argument: name for argument, name in taken.items() if argument in names[1:]}
        if source is None or not (is_matrix or spatial) or (bias is not None and bias.ndim != 1):
            return None
        if is_transposed and names[1] in taken and taps.needs_entries(taken[names[1]]):
            return None
        if named.get("beta", 1) != 1 or named.get("alpha", 1) != 1 or (spatial and source.ndim < spatial + 2):
            return None
        dim = taps.sample_dim(source.shape, [0] if spatial else range(source.ndim - 1))
        if dim is None or not taken:
            return None
        inputs_first = is_transposed or names[1] != "weight"
        return _Layer(taps, named, taken, dim, names=names, channel=-1 - spatial, inputs_first=inputs_first)

    return make


def _embedding(taps: Taps, named: Mapping[str, Any], taken: Mapping[str, str]) -> _Call | None:
    dim = taps.sample_dim(named["indices"].shape, (0, 1))
    if dim is None or named["scale_grad_by_freq"] or taps.dims[taken["weight"]] != {(1,)}:
        return None
    return _Embedding(taps, named, taken, dim)


_USUAL = ("input", "weight", "bias")
_KINDS: Mapping[str, _Maker] = {
    "aten.linear": _layer(_USUAL),
    "aten.addmm": _layer(("mat1", "mat2", "self")),
    "aten.mm": _layer(("self", "mat2", "")),
    "aten.matmul": _layer(("self", "other", "")),
    **{f"aten.conv{rank}d": _layer(_USUAL, rank) for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": _layer(_USUAL, rank) for rank in (1, 2, 3)},
    **{f"aten.{kind}_norm": _pointwise(["weight"], channels_second=True) for kind in ("batch", "group")},
    "aten.instance_norm": _pointwise(["weight"], channels_second=True),
    "aten.layer_norm": _pointwise(["weight"]),
    "aten.rms_norm": _pointwise(["weight"]),
    "aten.mul": _pointwise(["self", "other"]),
    "aten.add": _pointwise([]),
    "aten.expand": _pointwise([]),
    "aten.embedding": _embedding,
}
