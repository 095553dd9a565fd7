"""The mask on a tensor: PyTorch's own parametrisation, with a hook that can be copied.

    module.weight_orig   the parameter that is trained
    module.weight_mask   a buffer of zeros and ones in the parameter's type
    module.weight        weight_orig * weight_mask, computed anew before each forward pass

`torch.nn.utils.prune` finds its masks by pre-hooks that derive from `BasePruningMethod`, and puts further
methods into a `PruningContainer` that it finds. `MaskHook` is such a container, so `is_pruned`, `remove` and
further calls of the module work on our masks, and `own` turns a hook of the module into ours.

The product is no leaf of the autograd graph, and `copy.deepcopy` refuses such tensors. A hook is copied
before the plain attributes of its module are, so `MaskHook` computes the product of the copied factors while
it is copied itself, and leaves it in the memo of the copy, where `deepcopy` finds it. No attribute beyond
those of `torch.nn.utils.prune` is hung on the module.
"""

import copy
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.errors import RequestError

ORIG, MASK = "_orig", "_mask"


class MaskHook(torch_prune.PruningContainer):
    """The hook that multiplies a parameter with its mask before each forward pass.

    Args:
        tensor_name: Name of the parameter in its module, "weight".
        methods: The methods that made the mask so far, oldest first.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> _ = attach(layer, "weight", torch.eye(2, 3))
        >>> torch_prune.is_pruned(layer), copy.deepcopy(layer).weight.count_nonzero().item()
        (True, 2)
    """

    def __init__(self, tensor_name: str, methods: Iterable[torch_prune.BasePruningMethod] = ()) -> None:
        super().__init__()
        self._tensor_name = tensor_name
        self._module: weakref.ref[nn.Module] | None = None
        self.dense_gradient: Tensor | None = None
        self.listens = False
        self.extend(methods)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Renew the product; while `listens` is set, sum the gradients of masked entries, too.

        Where batch norm was fused into the product, the mask is in it, and goes.

        Raises:
            RequestError: The tensor was set to another parameter, which the mask does not fit.
        """
        if module._parameters.get(self._tensor_name) is not None:
            release_fused(module)
            return
        super().__call__(module, inputs)
        if self._module is None or self._module() is None:  # it was unpickled
            self.watch(module)
        product = getattr(module, self._tensor_name)
        if self.listens and product.requires_grad:
            product.register_hook(self._note)

    def _note(self, gradient: Tensor) -> None:
        found = gradient.detach()
        self.dense_gradient = found.clone() if self.dense_gradient is None else self.dense_gradient + found

    def extend(self, methods: Iterable[torch_prune.BasePruningMethod]) -> None:
        """Note further methods that took part in making the mask."""
        for method in methods:
            method._tensor_name = self._tensor_name
            self.add_pruning_method(method)

    def watch(self, module: nn.Module) -> None:
        """Remember the module, weakly: a copy of it needs to find its factors."""
        self._module = weakref.ref(module)

    def __deepcopy__(self, memo: dict[int, Any]) -> "MaskHook":
        module = self._module() if self._module is not None else None
        result = type(self)(self._tensor_name)
        memo[id(self)] = result
        result.listens = self.listens
        result._pruning_methods = copy.deepcopy(self._pruning_methods, memo)
        if module is not None and id(module) in memo and self._tensor_name in vars(module):
            result.watch(memo[id(module)])
            held = vars(module)[self._tensor_name]
            orig = copy.deepcopy(module._parameters[self._tensor_name + ORIG], memo)
            mask = copy.deepcopy(module._buffers[self._tensor_name + MASK], memo)
            if orig is not None and mask is not None:
                memo[id(held)] = mask.to(orig.dtype) * orig
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_module": None, "dense_gradient": None}

    def __repr__(self) -> str:
        made_by = ", ".join(type(method).__name__ for method in self._pruning_methods)
        return f"MaskHook({self._tensor_name!r}{': ' if made_by else ''}{made_by})"


def release_fused(module: nn.Module) -> None:
    """Take masks off tensors that others replaced by a parameter with the mask in it, as fusion does.

    Fusing batch norm scales rows, so masked weights stay zero; a fused bias need not.

    Args:
        module: Changed in place.

    Raises:
        RequestError: A tensor was set to a parameter that its mask does not fit.
    """
    for key, hook in list(module._forward_pre_hooks.items()):
        if not isinstance(hook, torch_prune.BasePruningMethod):
            continue
        name = hook._tensor_name
        new, mask = module._parameters.get(name), module._buffers.get(name + MASK)
        if new is None or mask is None:
            continue
        if new.dim() > 1 and (new.shape != mask.shape or bool(new.detach()[mask == 0].any())):
            raise RequestError(
                f"the masked {name} of {type(module).__name__} was set to a parameter without the mask",
                do=f"set {name}{ORIG}, or take the mask off first with secateur.mask.remove",
            )
        del module._parameters[name + ORIG], module._buffers[name + MASK]
        del module._forward_pre_hooks[key]


class _Refresh:
    """Renews the masked tensors of modules that are used without being called.

    `nn.MultiheadAttention` reads the weights of its `out_proj` and never calls it: a hook there never runs.
    """

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for child in module.children():
            refresh_own(child)


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter that has a mask, or may get one.

    Attributes:
        name: Qualified name, "conv1.weight", with or without a mask.
        places: Every module that holds the parameter, with its name there; several if it is tied.
    """

    name: str
    places: tuple[tuple[nn.Module, str], ...]

    @property
    def module(self) -> nn.Module:
        """The first module that holds it."""
        return self.places[0][0]

    @property
    def parameter(self) -> str:
        """Its name in that module."""
        return self.places[0][1]

    @property
    def is_masked(self) -> bool:
        """Whether it has a mask."""
        return hook_of(self.module, self.parameter) is not None

    @property
    def orig(self) -> nn.Parameter:
        """The parameter that is trained."""
        return trained(self.module, self.parameter)

    @property
    def mask(self) -> Tensor:
        """Zeros and ones, in the parameter's shape and type; ones if it has no mask yet."""
        if not self.is_masked:
            return torch.ones_like(self.orig.detach(), memory_format=torch.contiguous_format)
        return self.module.get_buffer(self.parameter + MASK)

    @property
    def value(self) -> Tensor:
        """The parameter with its mask applied."""
        return self.orig.detach() * self.mask

    def write(self, mask: Tensor, method: torch_prune.BasePruningMethod) -> None:
        """Put a mask on it, or replace the one that it has, at every place.

        Args:
            mask: Zeros and ones in the parameter's shape.
            method: What made it, for the record.
        """
        for module, parameter in self.places:
            attach(module, parameter, mask, [copy.copy(method)])


def trained(module: nn.Module, parameter: str) -> nn.Parameter:
    """The parameter behind a name, with or without a mask."""
    is_masked = hook_of(module, parameter) is not None
    return module.get_parameter(parameter + ORIG if is_masked else parameter)


def hook_of(module: nn.Module, parameter: str) -> torch_prune.BasePruningMethod | None:
    """The pruning hook on a parameter of a module, ours or one of `torch.nn.utils.prune`."""
    release_fused(module)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, torch_prune.BasePruningMethod) and hook._tensor_name == parameter:
            return hook
    return None


def masked_tensors(model: nn.Module) -> Iterator[Target]:
    """Every tensor with a mask, in the order of the modules; tied ones once for each place."""
    for name, module in model.named_modules():
        release_fused(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, torch_prune.BasePruningMethod):
                tensor = hook._tensor_name
                yield Target(f"{name}.{tensor}" if name else tensor, ((module, tensor),))


def is_masked(model: nn.Module) -> bool:
    """Whether some tensor of a model has a mask; the same as `torch.nn.utils.prune.is_pruned`."""
    return any(True for _ in masked_tensors(model))


@contextmanager
def in_order(model: nn.Module) -> Iterator[None]:
    """Keep the order of parameters while masks come or go: optimizers number their state by it.

    `torch.nn.utils.prune` puts what it touches last.

    Args:
        model: Whose modules are seen to.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> with in_order(layer):
        ...     _ = torch_prune.identity(layer, "weight")
        >>> [name for name, _ in layer.named_parameters()]
        ['weight_orig', 'bias']
    """
    before = [(module, list(module._parameters)) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            held = module._parameters
            if list(held) != names:
                places = {name.removesuffix(ORIG): place for place, name in enumerate(names)}
                for name in sorted(held, key=lambda name: places.get(name.removesuffix(ORIG), len(places))):
                    held[name] = held.pop(name)


def attach(
    module: nn.Module,
    parameter: str,
    mask: Tensor,
    methods: Iterable[torch_prune.BasePruningMethod] = (),
) -> MaskHook:
    """Put a mask on a parameter, or replace the one that it has.

    Args:
        module: Changed in place.
        parameter: Name of one of its parameters.
        mask: Zeros and ones in the parameter's shape; copied to its type and device.
        methods: What made the mask, for the record.

    Returns:
        The hook.
    """
    if hook_of(module, parameter) is None:
        orig = module.get_parameter(parameter)
        with in_order(module):
            module.register_parameter(parameter + ORIG, orig)
            del module._parameters[parameter]
        module.register_buffer(parameter + MASK, mask.to(orig).clone(memory_format=torch.contiguous_format))
        hook = MaskHook(parameter, methods)
        module.register_forward_pre_hook(hook)
        hook.watch(module)
    else:
        hook = own(module, parameter)
        hook.extend(methods)
        module.get_buffer(parameter + MASK).copy_(mask)
    setattr(module, parameter, hook.apply_mask(module))
    return hook


def own(module: nn.Module, parameter: str) -> MaskHook:
    """Make the hook on a masked parameter ours; its mask, its place and its methods stay."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, torch_prune.BasePruningMethod) and hook._tensor_name == parameter:
            if not isinstance(hook, MaskHook):
                methods = list(hook) if isinstance(hook, torch_prune.PruningContainer) else [hook]
                hook = MaskHook(parameter, methods)
                module._forward_pre_hooks[key] = hook
            hook.watch(module)
            return hook
    raise ValueError(f"{parameter} of {module} has no mask")


def adopt(model: nn.Module) -> nn.Module:
    """Make every mask of `torch.nn.utils.prune` on a model ours, so that the model can be copied.

    Returns:
        The same model.

    Example:
        >>> layer = torch_prune.l1_unstructured(nn.Linear(3, 2), "weight", amount=2)
        >>> copy.deepcopy(adopt(layer)).weight.count_nonzero().item()
        4
    """
    for held in list(masked_tensors(model)):
        own(held.module, held.parameter)
    renew_uncalled(model)
    return model


def renew_uncalled(model: nn.Module) -> None:
    """See to it that masked tensors of modules which are never called are renewed by their parent."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and torch_prune.is_pruned(module.out_proj):
            hooks = module._forward_pre_hooks.values()
            if not any(isinstance(hook, _Refresh) for hook in hooks):
                module.register_forward_pre_hook(_Refresh())


def refresh_own(module: nn.Module) -> None:
    """Compute the masked tensors of one module anew."""
    release_fused(module)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, torch_prune.BasePruningMethod):
            setattr(module, hook._tensor_name, hook.apply_mask(module))


def refresh(model: nn.Module) -> None:
    """Compute every masked tensor of a model anew, as a forward pass would; after parameters were set."""
    for module in model.modules():
        refresh_own(module)
