"""Fields: which numbers of a config say which dims of the model, found by building it from other numbers.

    config.num_attention_heads = v  ->  dim = v * rest    (a product, the field some of its factors)

No architecture is named: each integer of the config is changed in turn and the model is built on the meta
device. What a cut leaves of the factors that a field stands for is what the field must say then. The model
built from the new numbers must have the shapes of the cut one, else the config cannot say it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import prod
from typing import Any, TypeAlias

from torch import nn

from secateur.architecture import tensor_shapes
from secateur.configs.maker import Maker
from secateur.configs.records import Path, facts_of, leaves_of, records_of
from secateur.coupling import Groups
from secateur.graph.axes import Expr, Product, Sum, resolve
from secateur.graph.axes import product as times
from secateur.graph.keep import Kept

Dim: TypeAlias = tuple[str, int]
"""A tensor and one of its dims."""

Numbers: TypeAlias = dict[str, dict[str, Any]]
"""By module, the fields of the configs that it holds, with dots, and what they become."""

_WIDTH = re.compile(r"(inner|dim|size|heads|channels|hidden|width)", re.IGNORECASE)
_PROBE = 48
_MOST_TERMS = 6
_UNSAID = "head_dim"
"""What attention reads of a config that need not have it."""


@dataclass(frozen=True)
class Said:
    """A field of a config and the dims that it says.

    Attributes:
        path: Where it lies in the config.
        number: What it is.
        dims: How much each dim grows with it, for one more.
    """

    path: Path
    number: int
    dims: Mapping[Dim, float]

    @property
    def name(self) -> str:
        """The field as it is written, with dots."""
        return ".".join(self.path)

    def readings(self, dim: Expr, key: Dim) -> list[tuple[Expr, ...]]:
        """What of a dim may be what the field says; none if the dim is made of it otherwise.

        Some factors of a product, or of some terms of a sum: `num_key_value_heads` is a factor of keys and of
        values where one weight holds both.
        """
        found = resolve(dim)
        terms = found.terms if isinstance(found, Sum) else (found,)
        chosen = (held for count in range(1, len(terms) + 1) for held in combinations(terms, count))
        return [
            parts
            for held in chosen
            if len(terms) <= _MOST_TERMS and sum(term.size for term in held) == self.number * self.dims[key]
            for parts in product(*map(self._factors, held))
        ]

    def _factors(self, term: Expr) -> list[Expr]:
        """The products of some factors of a term that are as large as the number."""
        parts = term.factors if isinstance(term, Product) else (term,)
        chosen = (held for count in range(1, len(parts) + 1) for held in combinations(parts, count))
        return [times(*held) for held in chosen if prod(part.size for part in held) == self.number]

    def wanted(self, groups: Groups, kept: Kept) -> set[int]:
        """What the field may be after a cut: the numbers that all dims agree on."""
        exact: list[set[int]] = []
        rough: list[set[int]] = []
        for (tensor, at), slope in self.dims.items():
            dim = groups.dims(tensor)[at] if tensor in groups.graph.tensors else None
            held = [] if dim is None else self.readings(dim, (tensor, at))
            if held:
                counts = [{kept.count(part) for part in parts} for parts in held]
                exact.append({number for found in counts if len(found) == 1 for number in found})
            elif dim is not None:
                number = self.number + (kept.count(dim) - dim.size) / slope
                rough.append({int(number)} if number.is_integer() and number > 0 else set())
        return set.intersection(*(exact or rough)) if exact or rough else {self.number}


class Described:
    """A model that is built from a config which it holds.

    Args:
        model: The model; not changed.
        maker: Builds it.
    """

    def __init__(self, model: nn.Module, maker: Maker) -> None:
        self.model, self.maker = model, maker
        self._made: dict[tuple[tuple[Path, int], ...], nn.Module | None] = {}

    @classmethod
    def of(cls, model: nn.Module) -> "Described | None":
        """The model with its config; None for one that is not built from one, or not as it says."""
        maker = Maker.of(model)
        if maker is None:
            return None
        made = maker.make({})
        return cls(model, maker) if made is not None and tensor_shapes(made) == tensor_shapes(model) else None

    @cached_property
    def fields(self) -> tuple[Said, ...]:
        """The fields that say dims of tensors."""
        found = (self._probe(path, value) for path, value in self._integers())
        return tuple(one for one in found if one is not None)

    @cached_property
    def unsaid(self) -> dict[Path, int]:
        """Fields that are None, or missing, and what they stand for."""
        found: dict[Path, int] = {}
        leaves = dict(leaves_of(self.maker.config))
        empty = [path for path, value in leaves.items() if value is None and _WIDTH.search(path[-1])]
        attention = [path for path in leaves if path[-1] in ("num_attention_heads", "n_head")]
        empty += [(*path[:-1], _UNSAID) for path in attention if (*path[:-1], _UNSAID) not in leaves]
        for path in empty:
            said = self._changed({path: _PROBE})
            ratios = {before * _PROBE / after for before, after in said.values()}
            if len(ratios) == 1 and (number := ratios.pop()).is_integer():
                again = self.make({path: int(number)})
                if again is not None and tensor_shapes(again) == self._shapes:
                    found[path] = int(number)
        return found

    def make(self, edits: Mapping[Path, int]) -> nn.Module | None:
        """The model of a config with other numbers, on the meta device; None if it refuses them."""
        key = tuple(sorted(edits.items()))
        if key not in self._made:
            self._made[key] = self.maker.make(edits)
        return self._made[key]

    def edits(self, groups: Groups, kept: Kept) -> dict[Path, int] | None:
        """The fields that change with a cut; None if no config says what is left.

        Args:
            groups: The groups of the model.
            kept: What stays of their axes.
        """
        found: dict[Path, int] = {}
        for field in self.fields:
            numbers = field.wanted(groups, kept)
            if not numbers:
                return None
            if field.number not in numbers:
                found[field.path] = min(numbers)
        goal = {
            name: tuple(map(kept.count, groups.dims(name))) if name in groups.graph.tensors else shape
            for name, shape in self._shapes.items()
        }
        for edits in (found, {**self.unsaid, **found}):
            made = self.make(edits)
            if made is not None and tensor_shapes(made) == goal and not self._other_constants(made):
                return edits
        return None

    def numbers(self, edits: Mapping[Path, int]) -> Numbers:
        """Where the model holds the fields: in its own config, and in copies of it that parts hold."""
        found: Numbers = {}
        seen: set[int] = set()
        leaves = dict(leaves_of(self.maker.config))
        for name, module in self.model.named_modules():
            for attribute, record in records_of(module):
                if id(record) in seen:
                    continue
                seen.add(id(record))
                held = dict(leaves_of(record))
                for path, number in edits.items():
                    is_alike = path in held and path in leaves and held[path] == leaves[path]
                    if is_alike or record is self.maker.config:
                        found.setdefault(name, {})[".".join((attribute, *path))] = number
        return found

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return tensor_shapes(self.model)

    def _integers(self) -> Iterator[tuple[Path, int]]:
        """The fields that may say a dim: numbers that some dim is a multiple of."""
        sizes = {size for shape in self._shapes.values() for size in shape}
        yield from self.unsaid.items()
        for path, value in leaves_of(self.maker.config):
            if type(value) is int and value > 0 and any(size % value == 0 for size in sizes):
                yield path, value

    def _probe(self, path: Path, number: int) -> Said | None:
        trials = (2 * number, number + 1, *([number // 2] if number > 3 else ()))
        for trial in trials:
            changed = self._changed({**self.unsaid, path: trial})
            if changed:
                slopes = {
                    key: (after - before) / (trial - number) for key, (before, after) in changed.items()
                }
                return Said(path, number, slopes)
        return None

    def _changed(self, edits: Mapping[Path, int]) -> dict[Dim, tuple[int, int]]:
        """The dims that another config gives otherwise, before and after; none if more differs."""
        made = self.make(edits)
        shapes = {} if made is None else tensor_shapes(made)
        if shapes.keys() != self._shapes.keys():
            return {}
        pairs = ((name, list(zip(self._shapes[name], shapes[name], strict=False))) for name in shapes)
        return {
            (name, at): (before, after)
            for name, sizes in pairs
            for at, (before, after) in enumerate(sizes)
            if before != after
        }

    @cached_property
    def _constants(self) -> dict[tuple[str, str], float]:
        return _floats(self.model)

    def _other_constants(self, made: nn.Module) -> dict[tuple[str, str], float]:
        """Constants that another config gives otherwise, an attention scale; a cut leaves them as is."""
        own = self._constants
        return {key: value for key, value in _floats(made).items() if own.get(key, value) != value}


def _floats(model: nn.Module) -> dict[tuple[str, str], float]:
    return {key: value for key, value in facts_of(model).items() if isinstance(value, float)}


def stale_fields(model: nn.Module, cut: nn.Module) -> list[str]:
    """The fields of a config that say widths which a cut has changed, where no config says what is left.

    Args:
        model: The uncut model.
        cut: The cut one, with the config of the uncut one.
    """
    described, before, after = Described.of(model), tensor_shapes(model), tensor_shapes(cut)
    found: list[str] = []
    for said in described.fields if described is not None else ():
        dims = [key for key in said.dims if key[0] in after]
        now = {after[name][at] for name, at in dims if after[name][at] != before[name][at]}
        if now:
            shown = ", ".join(map(str, sorted(now)[:4])) + (", ..." if len(now) > 4 else "")
            found.append(
                f"config.{said.name} = {said.number}, but dims that it says are now {shown}; a folder of "
                "save_pretrained would not load, one of sc.export(..., format='hf') does"
            )
    return found
