"""What an operator says about axes, and the registry of all that is said.

A rule is declared once. Coupling, MACs, the documentation row and the law test derive from it. Most rules are
an equation (`equation`); operators that move positions around are short functions in the algebra (`rule`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secateur.coupling.call import Call
from secateur.graph.axes import Expr
from secateur.graph.equation import parse
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
    """

    op: str
    law: str
    apply: Apply
    samples: tuple[str, ...]
    macs: str = ""


rules: Registry[Rule] = Registry("operator rule", "secateur.coupling.rules")


def rule(
    *ops: str, law: str, samples: Mapping[str, str] | tuple[str, ...] = (), macs: str = ""
) -> Callable[[Apply], Apply]:
    """Register a function as the rule of some operators.

    Args:
        ops: Operators without overload.
        law: What the rule says, one sentence for the documentation.
        samples: Calls for the law test, for all operators together or by operator.
        macs: The MACs that the function counts, for the documentation.
    """

    def register(apply: Apply) -> Apply:
        for op in ops:
            own = (samples[op],) if isinstance(samples, Mapping) else samples
            rules.add(op, Rule(op, law, apply, own, macs))
        return apply

    return register


def equation(
    op: str,
    text: str,
    *,
    samples: tuple[str, ...],
    macs: str = "",
    sizes: Mapping[str, str] | None = None,
    renormalised: str = "",
    fixed: str = "",
) -> None:
    """Register an equation as the rule of an operator.

    Args:
        op: The operator without overload.
        text: The equation; operands are named as in the operator's schema.
        samples: Calls for the law test.
        macs: MACs as products of letters, joined by "+"; "..." stands for the broadcast dims.
        sizes: Letters whose size is an integer argument: {"g": "groups"}; the argument follows the axis.
        renormalised: Letters over which the operator takes statistics; "..." for the broadcast dims.
        fixed: Letters that may not shrink although they return.
    """
    parsed = parse(text)

    def apply(call: Call) -> list[list[Expr]]:
        return call.equation(parsed, macs=macs, sizes=sizes or {}, renormalised=renormalised, fixed=fixed)

    rules.add(op, Rule(op, text, apply, samples, macs))
