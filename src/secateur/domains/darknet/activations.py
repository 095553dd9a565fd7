"""The activations that Darknet names, as modules.

leaky(x) = x if x > 0 else 0.1 x        mish(x) = x tanh(softplus(x))        swish(x) = x sigmoid(x)
"""

from collections.abc import Callable, Mapping

from torch import nn

from secateur.domains.darknet.layers import SectionPlace

__all__ = ["ACTIVATIONS", "activation"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}


def activation(place: SectionPlace, default: str) -> nn.Module:
    """The activation of a section.

    Args:
        place: The section.
        default: What a section without the key has.

    Returns:
        A module of its own.

    Raises:
        RequestError: The activation is unknown.
    """
    name = place.section.get("activation", default) or default
    if name not in ACTIVATIONS:
        do = f"choose one of {', '.join(ACTIVATIONS)}"
        raise place.error(f"activation={name} is unknown", "activation", do=do)
    return ACTIVATIONS[name]()
