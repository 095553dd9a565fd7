"""Masks on weights, on top of `torch.nn.utils.prune`: what it has, and what its users have asked for."""

from torch.nn.utils.prune import is_pruned

from secateur.mask.evidence import Gathering
from secateur.mask.gradual import Gradual
from secateur.mask.hook import MaskHook, adopt, masked_tensors, refresh
from secateur.mask.pruning import prune
from secateur.mask.reporting import Sparsity, histogram, report
from secateur.mask.rewind import Snapshot, find_ticket
from secateur.mask.rigl import RigL
from secateur.mask.sparse import break_even, use_semi_structured, use_sparse_kernels
from secateur.mask.state import baked, forget_masked, load_state_dict, mask_zeros, masks_of, remove
from secateur.mask.targets import choose

__all__ = [
    "Gathering",
    "Gradual",
    "MaskHook",
    "RigL",
    "Snapshot",
    "Sparsity",
    "adopt",
    "baked",
    "break_even",
    "choose",
    "find_ticket",
    "forget_masked",
    "histogram",
    "is_pruned",
    "load_state_dict",
    "mask_zeros",
    "masked_tensors",
    "masks_of",
    "prune",
    "refresh",
    "remove",
    "report",
    "use_semi_structured",
    "use_sparse_kernels",
]
