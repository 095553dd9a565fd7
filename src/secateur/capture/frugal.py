"""The fake mode without what PyTorch imports for it: its compiler and sympy, twice as long as itself.

The constructor reads two settings of the compiler, whatever is dispatched is kept off the compiler by the
compiler, and an operator asks for symbols before it is known whether there are any. All that matters only
where something is compiled, where a size is a symbol or where a tensor knows its numbers; PyTorch's own code
runs where that is so. Operators that are made of others are taken apart as they are on real tensors, which
takes less time than PyTorch's Python for it.
"""

import dis
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table, meta_table
from torch._library import simple_registry
from torch._ops import OpOverload
from torch._subclasses import fake_impls, fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter, FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.capture.modes import uncompiled

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_TO_DENSE = torch.ops.aten.to_dense.default


class FrugalFakeMode(FakeTensorMode):
    """The fake mode of PyTorch, which looks at the compiler only where it is there."""

    def __init__(self) -> None:
        super(FakeTensorMode, self).__init__()
        import torch._functorch.config as functorch
        import torch.nested._internal.nested_tensor as nested

        settings: Any = functorch
        self.allow_fallback_kernels = True
        self.propagate_real_tensors = settings.fake_tensor_propagate_real_tensors
        self.fake_tensor_converter = FakeTensorConverter(copy_data=self.propagate_real_tensors, export=False)
        self.static_shapes = True
        self.allow_scalar_outputs = False
        self._allow_unsafe_data_ptr_access = settings.fake_tensor_allow_unsafe_data_ptr_access
        self.allow_meta = settings.fake_tensor_allow_meta
        self.allow_non_fake_inputs = True
        self.in_kernel_invocation = False
        self.enter_stack = []
        self.shape_env = None
        self._stack_trace: Any = []  # only messages about two modes show it
        self._stack = None
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.nt_tensor_id_initial_count = nested._tensor_id_counter
        self.nt_tensor_id_counter = self.nt_tensor_id_initial_count
        self.cache_enabled = self.cache_crosscheck_enabled = False  # `answers` is ours

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # `uncompiled` does

    __torch_dispatch__ = uncompiled(inspect.unwrap(FakeTensorMode.__torch_dispatch__))

    def _dispatch_impl(
        self, func: Any, types: Any, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Any:
        made = NotImplemented
        if isinstance(func, OpOverload) and func.namespace == "aten" and func is not _TO_DENSE:
            flat, spec = tree_flatten((args, kwargs))
            if self._is_known(func, flat):
                flat, _ = self.validate_and_convert_non_fake_tensors(
                    func, self.fake_tensor_converter, flat, spec
                )
                made = self._made(func, flat, *tree_unflatten(flat, spec))
        return super()._dispatch_impl(func, types, args, kwargs) if made is NotImplemented else made

    def _is_known(self, func: OpOverload, leaves: Sequence[object]) -> bool:
        """Whether sizes and strides of what a call is given tell all."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func in self.lift_fns or self.propagate_real_tensors or not all(map(self._is_plain, tensors)):
            return False
        return bool(tensors) or fake_impls._is_tensor_constructor(func)

    def _made(
        self, func: OpOverload, flat: Sequence[object], args: Sequence[object], kwargs: dict[str, Any]
    ) -> Any:
        """What an operator makes of fake tensors; NotImplemented where PyTorch has to tell."""
        if func not in meta_table and not self.cpp_meta_supports_symint(func):
            with self:
                made = _taken_apart(func, args, kwargs)
            if made is not NotImplemented:
                return made
        if simple_registry.singleton.find(func.name()).fake_impl.kernel:
            return NotImplemented
        for is_its, implementation in fake_impls.op_implementations_checks:
            if is_its(func):
                made = implementation(self, func, *args, **kwargs)
                if made is not NotImplemented:
                    return made
        if not fake_impls.has_meta(func):
            return NotImplemented
        try:
            with fake_tensor.in_kernel_invocation_manager(self):
                made = func(*args, **kwargs)
        except NotImplementedError:
            return NotImplemented
        device: Any = kwargs.get("device")
        return self.wrap_meta_outputs_with_default_device_logic(made, func, flat, device)

    def _is_plain(self, tensor: Tensor) -> bool:
        if isinstance(tensor, FakeTensor):
            return tensor.fake_mode is self and tensor.constant is None and not tensor.is_sparse
        return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided


def _taken_apart(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> Any:
    """What an operator makes by way of others: those that it calls on real tensors, not PyTorch's Python."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
        return func._op_dk(_COMPOSITE, *args, **kwargs)
    if func in decomposition_table and fake_tensor.torch_decomp_decompositions(func):
        return decomposition_table[func](*args, **kwargs)
    return func.decompose(*args, **kwargs)


def _sets(function: Any) -> set[str]:
    """The attributes that a method sets."""
    return {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}


_STEPS = """
    cpp_meta_supports_symint decompose decomposition_table fake_impl find has_meta
    in_kernel_invocation_manager invalidate_written_to_constants lift_fns meta_table
    op_implementations_checks prim_meta_impl simple_registry singleton to_dense
    torch_decomp_decompositions validate_and_convert_non_fake_tensors
    wrap_meta_outputs_with_default_device_logic
"""
"""What PyTorch's dispatch names on the way that ours goes."""

_IS_KNOWN = (
    _sets(FakeTensorMode.__init__) == _sets(FrugalFakeMode.__init__)
    and {*_STEPS.split()} <= {*FakeTensorMode._dispatch_impl.__code__.co_names}
    and hasattr(fake_impls, "_is_tensor_constructor")
)
"""Whether this release's fake mode is made as ours is, and dispatches as ours does."""


def fake_mode() -> FakeTensorMode:
    """A fake mode for tensors of known sizes, in which models may hold tensors that are none of its own.

    Example:
        >>> with fake_mode():
        ...     torch.empty(2, 3).shape
        torch.Size([2, 3])
    """
    return FrugalFakeMode() if _IS_KNOWN else FakeTensorMode(allow_non_fake_inputs=True)
