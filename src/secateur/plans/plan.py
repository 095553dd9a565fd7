"""The plan: which positions of each group stay, and everything needed to cut the same architecture again.

A plan is self-contained JSON. It names groups and the indices to keep, writes each shrinking tensor's dims as
expressions over groups, and the attributes that are sizes of such dims. An expression is a group's name, an
integer (a dim or factor that stays whole), or a product or sum of expressions:

    {"product": ["features.28", 49]}      {"sum": ["layer1.0", 64]}
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue, ValidationError, ValidationInfo, model_validator
from torch import nn

from secateur.architecture import tensor_shapes
from secateur.asking.request import Request
from secateur.capture.unwrap import unwrap
from secateur.cut import Correction, Followed, slice_model
from secateur.cut.shorten import renamed
from secateur.cut.skip import CallForm, drop
from secateur.errors import CheckpointError, RequestError, prefix_hint
from secateur.graph.axes import Axis, Expr, axis, product, total
from secateur.graph.keep import Kept, Mask, count, keep_mask
from secateur.plans.consistency import require_consistent
from secateur.plans.memory import recalled, remember
from secateur.plans.parts import Account, Factors, Frozen, PlanGroup, Searched, Spec, Terms, Why

# fmt: off
__all__ = [
    "Account", "Factors", "Plan", "PlanGroup", "Request", "Searched", "Spec", "Terms", "Why",
]
# fmt: on


_MAKING = ("model", "shapes", "tensors", "attributes", "corrections", "dropped", "forms", "lists", "numbers")
"""What of a plan, beside what its groups keep, decides about the model that it makes."""


class Plan(Frozen):
    """Which positions of each group to keep; JSON in and out.

    Attributes:
        schema_version: Version of this format.
        model: Class name of the architecture the plan was made for.
        params: Its number of parameters.
        fingerprint: Hash of its tensor names and shapes.
        shapes: Shape of every parameter and buffer before the cut.
        groups: The groups and what they keep.
        tensors: For each tensor that shrinks, its dims as expressions.
        attributes: For each module, the attributes that are sizes, as expressions; dots lead into objects
            (a config) and tuples.
        corrections: For each module, the numbers that its code must pass otherwise than it computes them.
        requested: What was asked for.
        achieved: Share of the channels of the groups that is removed.
        command: The command line or call that made it.
        reasons: Why the groups that are not in the plan were left alone.
        source: The word for the uncut architecture, "zoo:vgg11", and the arguments that built it.
        previous: The plan that made the model which this one cuts further.
        ties: Further names of a tensor, each with the name that comes first.
        unsaved: Buffers that a state dict leaves out.
        dropped: Blocks that are gone, by name; dropped before any tensor is cut.
        forms: For each of them that is not called with one tensor to return one, and that does not leave its
            list: how it is called. What stands in its place hands on what it is given.
        lists: By the name of each list that blocks leave, the positions that stay.
        numbers: By module of the new model, the attributes that number and count the layers of such lists,
            as `attributes`; or the fields of configs that say its widths.
        account: How the budget was met; None where there was none.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> plan = sc.prune(model, torch.zeros(1, 4), ratio=0.5).plan
        >>> plan.apply(model)[0]
        Linear(in_features=4, out_features=4, bias=True)
        >>> sc.Plan.from_json(plan.to_json()) == plan
        True
    """

    schema_version: Literal[1] = 1
    model: str
    params: int
    fingerprint: str
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[PlanGroup, ...]
    tensors: Mapping[str, tuple[Spec, ...]]
    attributes: Mapping[str, Mapping[str, Spec | tuple[Spec, ...]]]
    corrections: Mapping[str, tuple[Correction, ...]] = {}
    requested: Request = Request()
    achieved: float = 0.0
    command: str = ""
    reasons: Mapping[str, str] = {}
    source: str = ""
    source_arguments: Mapping[str, str | int | float | bool] = {}
    previous: "Plan | None" = None
    ties: Mapping[str, str] = {}
    unsaved: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    forms: Mapping[str, CallForm] = {}
    lists: Mapping[str, tuple[int, ...]] = {}
    numbers: Mapping[str, Mapping[str, JsonValue]] = {}
    account: Account | None = None

    @model_validator(mode="before")
    @classmethod
    def _require_architecture(cls, given: Any, info: ValidationInfo) -> Any:
        if info.mode == "python" and isinstance(given, Mapping) and not {"shapes", "groups"} <= given.keys():
            raise RequestError(
                f"a plan cannot be made of {', '.join(map(str, given)) or 'nothing'} alone",
                ["it also holds the names, shapes and groups of its architecture"],
                "sc.plan(model, example_inputs, keep={...}) makes one, and so does sc.prune",
            )
        return given

    @property
    def first(self) -> "Plan":
        """The first of the plans that follow each other: the one for the uncut architecture."""
        return self if self.previous is None else self.previous.first

    @property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """The indices to keep, by group."""
        return {group.name: group.keep for group in self.groups}

    @classmethod
    def of(cls, model: nn.Module) -> "Plan | None":
        """The plan that a model remembers: of all cuts that made it from its uncut architecture.

        Copies of a cut model remember it too, and so does one that was trained, pickled or loaded since.

        Args:
            model: Any module, not a wrapper of one.

        Returns:
            The plan, None for a model that no cut made.

        Example:
            >>> import torch, secateur as sc
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> result = sc.prune(model, torch.zeros(1, 4), ratio=0.5)
            >>> sc.Plan.of(result.model) == result.plan, sc.Plan.of(model)
            (True, None)
        """
        held = recalled(model)
        return held if held is None or isinstance(held, Plan) else cls.from_json(held, "the model's plan")

    @property
    def changes_model(self) -> bool:
        """Whether this plan, those before it left aside, is more than the identity of an uncut model."""
        return bool(self.groups or self.dropped)

    def makes_what(self, other: "Plan") -> bool:
        """Whether another plan makes the same model of the same architecture, whoever asked for it."""
        if self is other:
            return True
        if self.keep != other.keep or any(getattr(self, name) != getattr(other, name) for name in _MAKING):
            return False
        if self.previous is None or other.previous is None:
            return self.previous is other.previous
        return self.previous.makes_what(other.previous)

    @property
    def chain(self) -> tuple["Plan", ...]:
        """This plan and all before it, the first one first."""
        return (self,) if self.previous is None else (*self.previous.chain, self)

    def after(self, previous: "Plan") -> "Plan":
        """This plan as one that cuts the model which another plan made, or the uncut one of an identity."""
        if self.previous is not None:
            same = self.previous.makes_what(previous)
            return self.model_copy(update={"previous": previous if same else self.previous.after(previous)})
        if previous.changes_model or previous.previous is not None:
            return self.model_copy(update={"previous": previous})
        return self.built_by(previous.source, previous.source_arguments) if previous.source else self

    def built_by(self, source: str, arguments: Mapping[str, str | int | float | bool]) -> "Plan":
        """This plan with another word for what builds its uncut architecture, and the arguments of that."""
        if self.previous is not None:
            return self.model_copy(update={"previous": self.previous.built_by(source, arguments)})
        return self.model_copy(update={"source": source, "source_arguments": dict(arguments)})

    def to_json(self) -> str:
        """The plan as JSON text."""
        return self.model_dump_json(indent=1, by_alias=True)

    @classmethod
    def from_json(cls, text: str | bytes, origin: str = "the plan") -> "Plan":
        """Read a plan.

        Raises:
            CheckpointError: The text is no plan of a version this library reads, or contradicts itself.
        """
        try:
            plan = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            is_older = "corrections" in first["loc"]
            raise CheckpointError(
                f"cannot read {origin}: {first['msg']}",
                [f"at {'.'.join(map(str, first['loc'])) or 'the top'}, {error.error_count()} errors in all"],
                "it corrects calls as older versions did: cut the model anew"
                if is_older
                else "pass a plan.json that secateur wrote",
            ) from error
        require_consistent(plan, origin)
        return plan

    def apply(self, model: nn.Module) -> nn.Module:
        """Cut a model of the same architecture, whatever values its tensors hold.

        Args:
            model: The uncut architecture, or what the plans before this one have made of it; not changed.

        Returns:
            A new model, which remembers the plan: see `of`.

        Raises:
            CheckpointError: The plan was made for another architecture.
        """
        model = unwrap(model)
        links, made = self.links_for(model), Plan.of(model)
        for link in links:
            model = link._cut(model)
            step = link.model_copy(update={"previous": None})
            made = step if made is None else step.after(made) if step.changes_model else made
        assert made is not None, "one link at least"
        remember(model, made)
        return model

    def links_for(self, model: nn.Module) -> tuple["Plan", ...]:
        """The plans of this chain that have not cut a model yet, the next one first.

        Args:
            model: The uncut architecture, or what some of these plans have made of it.
        """
        chain, known, shapes = self.chain, Plan.of(model), tensor_shapes(model)
        done = next((at for at, link in enumerate(chain[:-1], 1) if link == known), None)
        fit = next((at for at, link in enumerate(chain) if dict(link.shapes) == shapes), 0)
        return chain[fit if done is None else done :]

    def rest_for(self, model: nn.Module) -> "Plan":
        """This plan without those before it that have cut a model already: see `links_for`."""
        links = self.links_for(model)
        rest = links[0].model_copy(update={"previous": None})
        for link in links[1:]:
            rest = link.model_copy(update={"previous": rest})
        return rest

    def _cut(self, model: nn.Module) -> nn.Module:
        """Cut a model by this plan alone."""
        self.require_fit(model)
        if self.dropped:
            model = drop(model, self.dropped, self.forms, self.lists, self.numbers)
            if not (self.tensors or self.attributes or self.corrections):
                return model
        masks = {name: self._own_masks(name) for name in self.tensors}
        attributes = {
            module: {name: self._size(spec) for name, spec in sizes.items()}
            for module, sizes in self.attributes.items()
        }
        return slice_model(model, masks, attributes, self.corrections, {} if self.dropped else self.numbers)

    def drops(self, name: str) -> bool:
        """Whether a tensor or module of the uncut architecture goes with a dropped block.

        Example:
            >>> import torch, secateur as sc
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> plan = sc.prune(model, torch.zeros(1, 4), ratio=0.5).plan
            >>> plan.model_copy(update={"dropped": ("1",)}).drops("1.weight")
            True
        """
        return self.renamed(name) is None

    def renamed(self, name: str) -> str | None:
        """The name that a tensor or module of the uncut architecture has in the cut one.

        Args:
            name: Its qualified name.

        Returns:
            The same name, unless a block before it has left its list; None for what goes with a block.

        Example:
            >>> import torch, secateur as sc
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> plan = sc.prune(model, torch.zeros(1, 4), ratio=0.5).plan
            >>> plan.model_copy(update={"dropped": ("0",), "lists": {"": (1,)}}).renamed("1.weight")
            '0.weight'
        """
        here = name if self.previous is None else self.previous.renamed(name)
        if here is None or any(here == block or here.startswith(f"{block}.") for block in self.dropped):
            return None
        return renamed(here, self.lists)

    def restricted_to(self, names: Collection[str]) -> "Plan":
        """This plan with only some of its groups cut, the others whole."""
        whole = {group.name: group.size for group in self.groups if group.name not in names}
        groups = tuple(
            group.model_copy(update={"keep": tuple(range(group.size))}) if group.name in whole else group
            for group in self.groups
        )
        numbers = self.numbers if self.dropped else {}  # what a config says holds for the whole cut alone
        return self.model_copy(update={"groups": groups, "numbers": numbers})

    def following(self, followed: Followed) -> "Plan":
        """This plan with the integers of the model's Python following it."""
        attributes = {module: dict(sizes) for module, sizes in self.attributes.items()}
        for held, number in followed.fields.items():
            sizes = attributes.setdefault(held.module, {})
            if held.path[0] not in sizes:
                sizes[".".join(map(str, held.path))] = number
        return self.model_copy(update={"attributes": attributes, "corrections": followed.corrections})

    def masks(self, name: str) -> list[Mask]:
        """Tell which positions of a tensor of the uncut architecture stay, after all plans in a row.

        Args:
            name: A parameter or buffer.

        Returns:
            For each dim a mask over its uncut positions.

        Raises:
            RequestError: The uncut architecture has no such tensor.

        Example:
            >>> import torch, secateur as sc
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> plan = sc.prune(model, torch.zeros(1, 4), ratio=0.5).plan
            >>> [int(mask.sum()) for mask in plan.masks("1.weight")]
            [2, 4]
        """
        if name not in self.first.shapes:
            raise RequestError(
                f"the plan for {self.model} knows no tensor '{name}'",
                [f"it has: {', '.join(list(self.first.shapes)[:8])}, ..."],
                "give the full name of a parameter or buffer",
            )
        if self.previous is None:
            return self._own_masks(name)
        masks, here = self.previous.masks(name), self.previous.renamed(name)
        if here is not None:
            for whole, mask in zip(masks, self._own_masks(here), strict=True):
                whole[whole] = mask
        return masks

    def _own_masks(self, name: str) -> list[Mask]:
        specs = self.tensors.get(name, self.shapes[name])
        return [keep_mask(self._expr(spec), self._kept.masks).copy() for spec in specs]

    def require_fit(self, model: nn.Module) -> None:
        """Refuse a model whose tensors have other names or shapes.

        Raises:
            CheckpointError: Naming the first difference.
        """
        shapes = tensor_shapes(model)
        if dict(self.shapes) == shapes:
            return
        names = [*self.shapes, *(name for name in shapes if name not in self.shapes)]
        name = next(name for name in names if self.shapes.get(name) != shapes.get(name))
        expected, got = self.shapes.get(name), shapes.get(name)
        params = sum(parameter.numel() for parameter in model.parameters())
        raise CheckpointError(
            f"the plan was made for {self.source or self.model} ({self.params:,} parameters), "
            f"got {type(model).__name__} ({params:,})",
            [
                f"first difference: {name} is {list(got) if got is not None else 'missing'}, "
                f"the plan expects {list(expected) if expected is not None else 'no such tensor'}",
                *prefix_hint(self.shapes, shapes, "the plan"),
            ],
            "build the architecture that the plan names, uncut",
        )

    def model_copy(self, **changes: Any) -> "Plan":
        """A plan with some fields replaced; what was computed from the old ones is forgotten."""
        copy = super().model_copy(**changes)
        for name in ("_axes", "_kept"):
            copy.__dict__.pop(name, None)
        return copy

    @cached_property
    def _axes(self) -> dict[str, Expr]:
        return {group.name: axis(group.size) for group in self.groups}

    @cached_property
    def _kept(self) -> Kept:
        return Kept(
            {
                held: np.isin(np.arange(group.size), group.keep)
                for group in self.groups
                if isinstance(held := self._axes[group.name], Axis)
            }
        )

    def _expr(self, spec: Spec) -> Expr:
        if isinstance(spec, int):
            return axis(spec)
        if isinstance(spec, str):
            return self._axes[spec]
        if isinstance(spec, Factors):
            return product(*map(self._expr, spec.product))
        return total(*map(self._expr, spec.sum))

    @property
    def widths(self) -> dict[str, dict[str, int]]:
        """The integers that the cut sets, by module and attribute; those inside of tuples left out."""
        found: dict[str, dict[str, int]] = {}
        for module, sizes in self.attributes.items():
            counted = {name: self._size(spec) for name, spec in sizes.items()}
            found[module] = {name: number for name, number in counted.items() if isinstance(number, int)}
        for module, held in self.numbers.items():
            numbers = {name: number for name, number in held.items() if isinstance(number, int)}
            found.setdefault(module, {}).update(numbers)
        return found

    def _size(self, spec: Spec | tuple[Spec, ...]) -> int | tuple[int, ...]:
        if isinstance(spec, tuple):
            return tuple(self._count(part) for part in spec)
        return self._count(spec)

    def _count(self, spec: Spec) -> int:
        return count(self._expr(spec), self._kept.changed)

    def __str__(self) -> str:
        lines = [f"plan for {self.model}: {self.requested}, {self.achieved:.1%} of the channels removed"]
        lines += [f"  {name}: dropped" for name in self.dropped]
        lines += [f"  {group.name}: {group.size} -> {len(group.keep)}" for group in self.groups]
        return "\n".join(lines)
