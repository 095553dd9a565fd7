"""A deep snapshot of a model: everything that a careless library could leave behind on it."""

import logging
import random
import warnings

import numpy as np
import torch
from torch.utils import _python_dispatch


def _plain(value):
    """A value as something that compares: tensors by content and place, modules by identity."""
    if isinstance(value, torch.Tensor):
        content = None if value.is_meta else value.detach().cpu().reshape(-1).clone()
        return (
            *("tensor", id(value), value.dtype, str(value.device), tuple(value.shape), value.stride()),
            *(value.requires_grad, value.data_ptr(), value._version),
            *(
                None if content is None else tuple(content.double().tolist()),
                _plain(value.grad if value.is_leaf else None),
            ),
            tuple(sorted(vars(value))),
        )
    if isinstance(value, torch.nn.Module):
        return ("module", id(value))
    if isinstance(value, dict):
        return tuple((key, _plain(held)) for key, held in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_plain(held) for held in value))
    if isinstance(value, (set, frozenset)):
        return (type(value).__name__, *sorted(map(repr, value)))
    return (type(value).__name__, id(value) if callable(value) else repr(value))


def of_value(value):
    """Any value: tensors and containers by content."""
    return _plain(value)


def of_model(model):
    """Every attribute of every module (parameters, buffers, hooks and modes are attributes), by name."""
    return {
        name: (id(module), type(module), [(key, _plain(held)) for key, held in vars(module).items()])
        for name, module in model.named_modules(remove_duplicate=False)
    }


def of_code(*holders):
    """What modules, classes and functions hold beside code: by name, containers by content."""
    return {
        (holder.__name__, name): _plain(value)
        for holder in holders
        for name, value in [*vars(holder).items(), ("__defaults__", getattr(holder, "__defaults__", None))]
        if not callable(value) and (not name.startswith("__") or name == "__defaults__")
    } | {"objects": [_plain(vars(one)) for one in _objects(holders)]}


def _objects(holders):
    """Plain objects in the namespaces of modules."""
    held = [value for holder in holders for value in vars(holder).values()]
    return [one for one in held if type(one).__module__ == getattr(holders[0], "__name__", "")]


def of_process():
    """What PyTorch keeps for the whole process, and the random numbers that come next."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "mha": torch.backends.mha.get_fastpath_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        "matmul": torch.get_float32_matmul_precision(),
        "log": logging.getLogger("torch._subclasses.fake_tensor").disabled,
        "warnings": list(map(repr, warnings.filters)),
        "dispatch modes": _python_dispatch._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": repr(np.random.get_state()),
        "python random": random.getstate(),
        "module hooks": len(torch.nn.modules.module._global_forward_hooks),
    }
