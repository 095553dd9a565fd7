"""What an operator says about axes, what it is besides, and the registry of all that is said.

A rule is declared once. Coupling, MACs, traits, the documentation row and the law tests derive from it. Most
rules are an equation (`equation`); operators that move positions around are short functions in the algebra
(`rule`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from secateur.coupling.call import Call
from secateur.graph.axes import Expr
from secateur.graph.equation import parse
from secateur.graph.node import Node
from secateur.graph.trait import Trait
from secateur.registry import Registry

Apply = Callable[[Call], list[Expr] | list[list[Expr]]]


@dataclass(frozen=True)
class Rule:
    """What one operator says.

    Attributes:
        op: The operator, "aten.conv2d".
        law: What it says, for the documentation: the equation, or a sentence.
        apply: Equates the dims of a call's operands and returns the dims of its output or outputs.
        samples: Calls that the law test runs, as Python expressions; `T(2, 3)` is a random tensor whose dims
            are free, `F` is torch.nn.functional.
        macs: The MACs of a call as a sum of products of letters; empty where it does not multiply.
        traits: What the operator is besides.
        traits_if: Of which calls the traits are true; None where they are of all.
    """

    op: str
    law: str
    apply: Apply
    samples: tuple[str, ...]
    macs: str = ""
    traits: Trait = Trait.NONE
    traits_if: Callable[[Node], bool] | None = None


rules: Registry[Rule] = Registry("operator rule", "secateur.coupling.rules")


def rule(
    *ops: str,
    law: str,
    samples: Mapping[str, str] | tuple[str, ...] = (),
    macs: str = "",
    traits: Trait | Mapping[str, Trait] = Trait.NONE,
    traits_if: Callable[[Node], bool] | None = None,
) -> Callable[[Apply], Apply]:
    """Register a function as the rule of some operators.

    Args:
        ops: Operators without overload, "aten.relu" or "shop::gate".
        law: What the rule says, one sentence for the documentation.
        samples: Calls for the law test, for all operators together or by operator.
        macs: The MACs that the function counts, for the documentation.
        traits: What the operators are besides, for all together or by operator.
        traits_if: Of which calls the traits are true, if not of all.
    """

    def register(apply: Apply) -> Apply:
        for op in ops:
            own = (samples[op],) if isinstance(samples, Mapping) else samples
            known = traits.get(op, Trait.NONE) if isinstance(traits, Mapping) else traits
            _add(Rule(op, law, apply, own, macs, known, traits_if))
        return apply

    return register


def equation(
    op: str,
    text: str,
    *,
    samples: tuple[str, ...] = (),
    macs: str = "",
    sizes: Mapping[str, str] | None = None,
    renormalised: str = "",
    fixed: str = "",
    traits: Trait = Trait.NONE,
) -> None:
    """Register an equation as the rule of an operator.

    Args:
        op: The operator without overload, "aten.linear" or "shop::project".
        text: The equation; operands are named as in the operator's schema.
        samples: Calls for the law test.
        macs: MACs as products of letters, joined by "+"; "..." stands for the broadcast dims.
        sizes: Letters whose size is an integer argument: {"g": "groups"}; the argument follows the axis.
        renormalised: Letters over which the operator takes statistics; "..." for the broadcast dims.
        fixed: Letters that may not shrink although they return.
        traits: What the operator is besides.
    """
    parsed = parse(text)

    def apply(call: Call) -> list[list[Expr]]:
        return call.equation(parsed, macs=macs, sizes=sizes or {}, renormalised=renormalised, fixed=fixed)

    _add(Rule(op, text, apply, samples, macs, traits))


def _add(entry: Rule) -> None:
    """Register a rule under the name that a record gives the operator."""
    name = entry.op.replace("::", ".")
    rules.add(name, replace(entry, op=name))


def rule_of(op: str) -> Rule | None:
    """The rule of an operator, or else that of its out-of-place form; None if there is neither."""
    return next((rules[name] for name in (op, op.removesuffix("_")) if name in rules), None)


def is_norm_scale(op: str, arg: str) -> bool:
    """Whether an argument of an operator is the scale of a norm of single channels: a batch norm's, say.

    Example:
        >>> is_norm_scale("aten.batch_norm", "weight"), is_norm_scale("aten.layer_norm", "weight")
        (True, False)
    """
    found = rule_of(op)
    return arg == "weight" and found is not None and Trait.CHANNEL_NORM in found.traits


def traits_of(node: Node) -> Trait:
    """What the operator of a call is, as its rule declares.

    An operator without a rule has no trait, but for what PyTorch itself says: that it is element-wise.
    """
    found = rule_of(node.op)
    if found is None:
        return Trait.POINTWISE if node.is_pointwise else Trait.NONE
    return found.traits if found.traits_if is None or found.traits_if(node) else Trait.NONE
