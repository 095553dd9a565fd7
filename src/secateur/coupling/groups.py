"""Groups: all dims that share an axis, what they belong to, and why some may not be cut."""

import fnmatch
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from secateur.coupling.call import Findings
from secateur.coupling.rule import is_norm_scale
from secateur.errors import RequestError, prefix_hint
from secateur.graph.axes import Axis, Expr, explain, leaves
from secateur.graph.keep import count
from secateur.graph.node import Graph, Ref

if TYPE_CHECKING:
    from secateur.rich import Table


@dataclass(frozen=True)
class Member:
    """A dim of a parameter or buffer that holds the group's axis.

    Attributes:
        tensor: Qualified name, "layer1.0.conv1.weight".
        dim: Which dim.
        expr: The whole dim as an expression; the group's axis is one of its leaves.
        rank: How many dims the tensor has.
        kind: "parameter" or "buffer".
        op: The operator that uses it first, "aten.conv2d".
        arg: As which argument, "weight".
        is_contracted: The operator sums over this dim: it reads the channels rather than makes them.
    """

    tensor: str
    dim: int
    expr: Expr = field(repr=False)
    rank: int
    kind: str
    op: str
    arg: str
    is_contracted: bool

    @property
    def module(self) -> str:
        """Qualified name of the module that holds the tensor."""
        return self.tensor.rpartition(".")[0]

    @property
    def is_norm_scale(self) -> bool:
        """Whether this is the scale of a norm that takes each channel by itself: a batch or instance norm."""
        return is_norm_scale(self.op, self.arg)

    def __str__(self) -> str:
        return f"{self.tensor}[{self.dim}]"


@dataclass(frozen=True)
class Group:
    """All dims that share an axis.

    Attributes:
        name: The module that makes the channels, "layer1.0.conv1".
        axis: The shared axis.
        members: The parameter and buffer dims that hold it.
        reason: Why no channel may be removed; None if channels may.
        renormalised: Why removing a channel changes a statistic; None if it does not.
        multiple: A kernel wants a multiple of so many channels.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> print(sc.couple(model, torch.zeros(1, 4))["0"])
        0: 8 channels, free
          0.weight[0], 0.bias[0], 1.weight[1]
    """

    name: str
    axis: Axis = field(repr=False)
    members: tuple[Member, ...]
    reason: str | None
    renormalised: str | None
    multiple: int = 1

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.axis.size

    @property
    def is_prunable(self) -> bool:
        """Whether channels may be removed."""
        return self.reason is None

    @property
    def status(self) -> str:
        """Whether channels may be removed, and why not, in words."""
        if self.reason:
            return f"protected: {self.reason}"
        return f"free, renormalised: {self.renormalised}" if self.renormalised else "free"

    def __str__(self) -> str:
        return f"{self.name}: {self.size} channels, {self.status}\n  {self.shown_members(8)}"

    def shown_members(self, most: int) -> str:
        """The first members as words, and how many more there are."""
        more = len(self.members) - most
        return ", ".join(map(str, self.members[:most])) + (f" and {more} more" if more > 0 else "")

    def matches(self, pattern: str) -> bool:
        """Whether the group's name, or the tensor or module of a producing member, fits a pattern."""
        names = {self.name}
        for member in self.members:
            if not member.is_contracted:
                names |= {member.tensor, member.module}
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a model.

    Attributes:
        graph: The record they were found in.
        findings: What the rules found.
        all: Every group, protected ones included, in the order of the network.
        ties: Groups that must keep equal counts, by name, with the reason.
        offered: The only counts that a group may keep, ascending, by name; of others any.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> groups = sc.couple(model, torch.zeros(1, 4))
        >>> [(group.name, group.size) for group in groups if group.is_prunable]
        [('0', 8)]
        >>> for step in groups.why("0.weight", "2.weight"):
        ...     print(step.partition(" at ")[0])
        0
        aten.linear (node 0) in 0
        aten.linear (node 2) in 2
    """

    graph: Graph
    findings: Findings = field(repr=False)
    all: tuple[Group, ...]
    ties: tuple[tuple[tuple[str, ...], str], ...] = ()
    offered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, name: str) -> Group:
        if name not in self.by_name:
            hint = prefix_hint(self.by_name, [name], "the groups")
            raise RequestError(f"no group is called '{name}'", [*hint, f"groups: {', '.join(self.by_name)}"])
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, Group]:
        """Each group by its name."""
        return {group.name: group for group in self.all}

    @cached_property
    def name_of(self) -> Mapping[Axis, str]:
        """The group's name of each axis."""
        return {group.axis: group.name for group in self.all}

    @cached_property
    def summed(self) -> Mapping[int, frozenset[Axis]]:
        """The axes that each node sums over, by its index."""
        found: dict[int, set[Axis]] = {}
        for index, name, dim in self.findings.contracted:
            ref = self.graph.nodes[index].args.get(name)
            if isinstance(ref, Ref):
                found.setdefault(index, set()).update(leaves(self.findings.dims[ref.value][dim]))
        return {index: frozenset(axes) for index, axes in found.items()}

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may lose channels."""
        return tuple(group for group in self.all if group.is_prunable)

    def dims(self, tensor: str) -> list[Expr]:
        """The dims of a parameter or buffer as expressions."""
        return self.findings.dims[self.graph.tensors[tensor]]

    def params(self, kept: Mapping[Axis, int]) -> int:
        """Count the parameters that stay when each axis keeps this many positions; ties count once."""
        return sum(
            _size(self.findings.dims[value], kept)
            for value in self.graph.names
            if self.graph.values[value].kind == "parameter"
        )

    def macs(self, kept: Mapping[Axis, int]) -> int:
        """Count the multiply-accumulates of one forward pass on the recorded inputs."""
        return sum(_size(term, kept) for terms in self.findings.macs.values() for term in terms)

    def why(self, tensor: str, other: str) -> list[str]:
        """Say which operators coupled the dims of two tensors, from the one to the other.

        Returns:
            The shared group's name, then each coupling operator; empty if they share no axis.
        """
        for one in self.dims(tensor):
            for two in self.dims(other):
                shared = [leaf for leaf in leaves(one) if leaf in leaves(two) and leaf in self.name_of]
                if shared:
                    steps = [*_steps(one, shared[0]), *reversed(_steps(two, shared[0]))]
                    return [self.name_of[shared[0]], *dict.fromkeys(map(str, steps))]
        return []

    def table(self) -> "Table":
        """The table that `print` shows: group, size, members, protected and the reason."""
        from secateur.rich import Table  # to couple needs none

        table = Table("group", "size", "members", "status", title=f"{len(self)} groups", title_justify="left")
        for group in self.all:
            table.add_row(group.name, str(group.size), group.shown_members(4), group.status)
        return table

    def __str__(self) -> str:
        from secateur.rich import Console

        console = Console(width=160, file=io.StringIO(), color_system=None)
        console.print(self.table())
        for names, reason in self.ties:
            console.print(f"equal counts: {', '.join(names)} ({reason})")
        output: Any = console.file
        return output.getvalue().rstrip()


def _size(dims: list[Expr], kept: Mapping[Axis, int]) -> int:
    size = 1
    for dim in dims:
        size *= count(dim, kept)
    return size


def _steps(expr: Expr, leaf: Axis) -> list[object]:
    return explain(expr, leaf) if isinstance(expr, Axis) else []
