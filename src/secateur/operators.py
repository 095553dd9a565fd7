"""Rules for operators of your own: what a `torch.library.custom_op` says of axes, and what it is besides.

An operator without a rule is a barrier: all that it touches keeps its shape. A rule is declared as the
library's own are, and PyTorch's `register_flop_formula` is: by decorator, under the operator's name.

Example:
    >>> import torch
    >>> import secateur as sc
    >>> @torch.library.custom_op("secateur_example::swish", mutates_args=())
    ... def swish(x: torch.Tensor, rate: float) -> torch.Tensor:
    ...     return x * torch.sigmoid(rate * x)
    >>> _ = swish.register_fake(lambda x, rate: torch.empty_like(x))
    >>> traits = sc.operators.Trait.POINTWISE | sc.operators.Trait.ACTIVATION
    >>> declare = sc.operators.rule("secateur_example::swish", law="element-wise", traits=traits)
    >>> _ = declare(sc.operators.pointwise)

See `docs/custom-operators.md` for equations and rules in the algebra of axes, and `docs/rules.md` for what
every trait means.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import Rule, equation, rule, rules, traits_of
from secateur.coupling.rules.elementwise import pointwise
from secateur.graph.trait import Trait

__all__ = ["Call", "Rule", "Trait", "equation", "pointwise", "rule", "rules", "traits_of"]

rules.load()  # so that a name that is taken is refused where it is declared
