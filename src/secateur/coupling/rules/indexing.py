"""Look-ups by number: the looked-up dim stays, the others pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import ONE, Expr, product
from secateur.graph.node import Ref
from secateur.graph.trait import Trait

_REASON = "its positions are addressed by number"
_MASKED = "its positions are chosen by a mask"


@rule(
    "aten.embedding",
    law="weight(v d), indices(...) -> (... d): v stays",
    samples=("F.embedding(torch.tensor([[0, 2], [1, 1]]), T(3, 4))",),
    traits=Trait.REPEATS,
)
def embedding(call: Call) -> list[list[Expr]]:
    """Rows of a table."""
    rows, width = call["weight"]
    call.protect(rows, _REASON)
    return [[*call["indices"], width]]


@rule(
    "aten.embedding_renorm",
    law="self(v d), indices(...) -> (v d): rows get a largest norm, to which zeros add nothing; v stays",
    samples=("torch.embedding_renorm_(T(3, 4).clone(), torch.tensor([0, 2]), 0.5, 2.0)",),
    traits=Trait.MIXES,
)
def embedding_renorm(call: Call) -> list[list[Expr]]:
    """What an embedding with a largest norm does before it looks up."""
    call.protect(call["self"][0], _REASON)
    return [call["self"]]


@rule(
    "aten.embedding_bag",
    "aten._embedding_bag",
    "aten._embedding_bag_forward_only",
    law="weight(v d), indices(k), offsets(b) -> (b d): all but d stay",
    samples={
        op: f"{call}(T(5, 4), torch.tensor([0, 2, 1, 4]), torch.tensor([0, 2]){more})"
        for op, call, more in (
            ("aten.embedding_bag", "torch.embedding_bag", ", False, 2"),
            ("aten._embedding_bag", "torch.ops.aten._embedding_bag", ""),
            ("aten._embedding_bag_forward_only", "torch.ops.aten._embedding_bag_forward_only", ""),
        )
    },
)
def embedding_bag(call: Call) -> list[list[Expr]]:
    """Rows of a table, summed, averaged or compared bag by bag; the other outputs are bookkeeping."""
    rows, width = call["weight"]
    for name, dims in call.operands():
        for dim in (rows,) if name == "weight" else dims:
            call.protect(dim, _REASON)
    return [
        [call.fixed(shape[0], "a bag"), width]
        if len(shape) == 2
        else [call.fixed(at, "a bag") for at in shape]
        for shape in call.out_shapes()
    ]


@rule(
    "aten.index_select",
    law="self(... a ...), index(k) -> (... k ...): a stays",
    samples=("T(2, 3, 4).index_select(1, torch.tensor([0, 2]))",),
    traits=Trait.REPEATS,
)
def index_select(call: Call) -> list[list[Expr]]:
    """Some positions of one dim."""
    dims = list(call["self"])
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], _REASON)
    for dim in call["index"]:
        call.protect(dim, _REASON)
    dims[at] = call.fixed(call.out_shape()[at], _REASON)
    return [dims]


@dataclass(frozen=True)
class Indexing:
    """What the tensors between the brackets of an indexing stand for.

    Attributes:
        covered: The dims that they address, from the left; a mask addresses as many as it has.
        numbers: The dims of each tensor of numbers.
        masks: The dims of each mask.
        start: Where the dims of the look-up come in the result: in place, or first if there is a gap.
    """

    covered: tuple[int, ...]
    numbers: tuple[list[Expr], ...]
    masks: tuple[list[Expr], ...]

    @property
    def start(self) -> int:
        """Where the looked-up dims stand in the result: in place, or first if there is a gap between them."""
        first = self.covered[0]
        return first if self.covered == tuple(range(first, first + len(self.covered))) else 0

    @property
    def rank(self) -> int:
        """How many dims the look-up has."""
        return max([len(dims) for dims in self.numbers] + [1] * bool(self.masks))

    def rest(self, dims: Sequence[Expr]) -> list[Expr]:
        """The dims that are not addressed."""
        return [dim for at, dim in enumerate(dims) if at not in self.covered]


def read_places(call: Call) -> Indexing:
    """Tell masks from numbers."""
    covered: list[int] = []
    numbers: list[list[Expr]] = []
    masks: list[list[Expr]] = []
    at = 0
    for ref in call.arg("indices"):
        if not isinstance(ref, Ref):
            at += 1
            continue
        dims = call.findings.dims[ref.value]
        is_mask = call.graph.values[ref.value].dtype in ("bool", "uint8")
        if is_mask and not dims:
            raise ValueError("indexing by a single truth value")
        (masks if is_mask else numbers).append(dims)
        span = len(dims) if is_mask else 1
        covered.extend(range(at, at + span))
        at += span
    return Indexing(tuple(covered), tuple(numbers), tuple(masks))


@rule(
    "aten.index",
    law="self(... a b ...), indices(j), (j) -> (... j ...): what is indexed stays, as does a mask; "
    "the rest passes",
    samples=(
        "T(2, 3, 4)[:, torch.tensor([0, 2])]",
        "T(2, 3, 4)[torch.tensor([[0], [1]]), torch.tensor([[0, 2, 1]])]",
        "T(2, 3, 4)[torch.tensor([0, 1]), :, torch.tensor([3, 0])]",
        "T(2, 3, 4)[torch.tensor([[True, False, True], [True, True, False]])]",
    ),
    traits=Trait.REPEATS,
)
def index(call: Call) -> list[list[Expr]]:
    """Indexing by integer tensors, by a mask, or both."""
    dims, places = call["self"], read_places(call)
    if len(places.masks) > 1:
        return call.barrier("indexing by several masks has no rule")
    for at in places.covered:
        call.protect(dims[at], _REASON)
    for dim in (dim for mask in places.masks for dim in mask):
        call.protect(dim, _MASKED)
    start, rest = places.start, places.rest(dims)
    chosen = [call.fixed(call.out_shape()[start + places.rank - 1], _MASKED)] if places.masks else []
    joined = call.broadcast(chosen, *places.numbers)
    return [[*rest[:start], *joined, *rest[start:]]]


@rule(
    "aten.gather",
    law="self(... a ...), index(... j ...) -> (... j ...): a stays, the other dims are equal",
    samples=("torch.gather(T(2, 3), 1, (T(2, 2) > 0).long())",),
    traits=Trait.REPEATS,
)
def gather(call: Call) -> list[list[Expr]]:
    """One look-up for each position of the index."""
    dims, result = call["self"], call["index"]
    at = call.dim(call.arg("dim"), len(dims))
    for place, (dim, other) in enumerate(zip(dims, result, strict=True)):
        if place == at:
            call.protect(dim, _REASON)
        elif dim.size == other.size:
            call.equate(dim, other)
        else:
            call.protect(dim, "only its first positions are looked up")
            call.protect(other, "only the first positions are looked up")
    return [result]


@rule(
    "aten.take_along_dim",
    law="as gather, broadcast: self(... a ...), indices(... j ...) -> (... j ...): a stays",
    samples=(
        "torch.take_along_dim(T(2, 3), (T(2, 5) > 0).long(), 1)",
        "torch.take_along_dim(T(1, 3, 4), (T(5, 2, 1) > 0).long(), -2)",
        "torch.take_along_dim(T(2, 3), (T(4) > 0).long())",
    ),
    traits=Trait.REPEATS,
)
def take_along(call: Call) -> list[list[Expr]]:
    """One look-up for each position of the indices; without a dim all positions are one row."""
    dims, indices = call["self"], call["indices"]
    if call.arg("dim") is None:
        for dim in dims:
            call.protect(dim, _REASON)
        return [[product(*indices)]]
    at = call.dim(call.arg("dim"), len(dims))
    call.protect(dims[at], _REASON)
    result = call.broadcast([*dims[:at], ONE, *dims[at + 1 :]], [*indices[:at], ONE, *indices[at + 1 :]])
    result[at] = indices[at]
    return [result]


@rule(
    "aten.take",
    law="self(...), index(j ...) -> (j ...): all of self stays",
    samples=("torch.take(T(2, 3), (T(4) > 0).long())",),
    traits=Trait.REPEATS,
)
def take(call: Call) -> list[list[Expr]]:
    """Look-ups in a tensor read as one row."""
    for dim in call["self"]:
        call.protect(dim, _REASON)
    return [call["index"]]


@rule(
    "aten.one_hot",
    law="self(...) -> (... k): the classes stay",
    samples=("F.one_hot((T(2, 3) > 0).long(), 4)",),
)
def one_hot(call: Call) -> list[list[Expr]]:
    """A new dim that is addressed by number."""
    return [[*call["self"], call.fixed(call.out_shape()[-1], _REASON)]]


@rule(
    "aten.isin",
    law="elements(...), test_elements(k) -> (...): all of k stays",
    samples=("torch.isin(T(2, 3), T(4))",),
)
def isin(call: Call) -> list[list[Expr]]:
    """Whether each element is one of some values."""
    found: list[Expr] = []
    for name, dims in call.operands():
        if name == "elements":
            found = dims
            continue
        for dim in dims:
            call.protect(dim, "all its values are compared with every element")
    return [found]


@rule(
    "aten.bucketize",
    "aten.searchsorted",
    law="the bounds stay, what is placed between them passes",
    samples={
        "aten.bucketize": "torch.bucketize(T(2, 3), T(4))",
        "aten.searchsorted": "torch.searchsorted(T(2, 4), T(2, 3))",
    },
)
def search(call: Call) -> list[list[Expr]]:
    """Where each value stands among sorted ones."""
    placed = next((dims for name, dims in call.operands() if name == "self"), [])
    if call.node.op == "aten.bucketize":
        for dim in call["boundaries"]:
            call.protect(dim, _REASON)
        return [placed]
    *batch, last = call["sorted_sequence"]
    call.protect(last, _REASON)
    for name in ("sorted_sequence", "sorter"):
        if name in call:
            call.protect(call[name][-1], _REASON)
            call.broadcast(call[name][:-1], batch)
    if batch:
        call.broadcast(batch, placed[:-1])
    return [placed]
