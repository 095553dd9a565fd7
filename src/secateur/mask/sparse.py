"""Sparse kernels: a mask alone makes nothing faster, these may.

A dense kernel multiplies by zeros as fast as by anything else. On the CPU PyTorch multiplies matrices in
compressed sparse rows (CSR); that pays only above a sparsity which depends on the machine and the sizes, so
it is measured, not assumed (`break_even`). GPUs from Ampere on have kernels for 2:4 matrices.
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.capture.copies import copy_module
from secateur.costs.stopwatch import latency
from secateur.errors import RequestError
from secateur.mask.hook import is_masked
from secateur.mask.state import remove

_STEPS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


class SparseLinear(nn.Module):
    """A linear layer whose weight is a CSR matrix; for inference.

    Args:
        linear: The layer whose zeros are left out.

    Example:
        >>> dense = nn.Linear(4, 3)
        >>> with torch.no_grad():
        ...     _ = dense.weight[:, 1:].zero_()
        >>> sparse = SparseLinear(dense)
        >>> x = torch.randn(2, 4)
        >>> torch.allclose(sparse(x), dense(x), atol=1e-6), sparse.sparsity
        (True, 0.75)
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        csr = _csr(linear.weight.detach())
        self.register_buffer("crow_indices", csr.crow_indices())
        self.register_buffer("col_indices", csr.col_indices())
        self.register_buffer("values", csr.values())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return 1 - self.get_buffer("values").numel() / (self.in_features * self.out_features)

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Multiply."""
        rows = x.reshape(-1, self.in_features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Sparse.*beta")
            matrix = torch.sparse_csr_tensor(
                self.get_buffer("crow_indices"),
                self.get_buffer("col_indices"),
                self.get_buffer("values"),
                (self.out_features, self.in_features),
                check_invariants=False,
            )
            product = (matrix @ rows.T).T
        bias = self._buffers["bias"]
        if bias is not None:
            product = product + bias
        return product.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.in_features} -> {self.out_features}, {self.sparsity:.2%} zeros left out"


def _csr(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Sparse.*beta")
        return weight.to_sparse_csr()


def _baked(model: nn.Module) -> nn.Module:
    result = copy_module(model)
    return remove(result) if is_masked(result) else result


def use_sparse_kernels(model: nn.Module, above: float) -> nn.Module:
    """Make a model whose sparse linear layers leave their zeros out; for inference on the CPU.

    Args:
        model: Masked or with zeros; not changed.
        above: Layers of at least this sparsity are converted; see `break_even`.

    Returns:
        A new model, its masks baked in.

    Raises:
        RequestError: No linear layer is that sparse.

    Example:
        >>> from secateur.mask import prune
        >>> net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = prune(net, amount=0.75, select="0")
        >>> use_sparse_kernels(net, above=0.7)[0]
        SparseLinear(16 -> 16, 75.00% zeros left out)
    """
    result = _baked(model)
    found = [
        (parent, name, child)
        for parent in result.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and float((child.weight == 0).double().mean()) >= above
    ]
    if not found:
        raise RequestError(
            f"no linear layer of {type(model).__name__} has {above:.0%} zeros", do="mask more, or lower above"
        )
    for parent, name, child in found:
        setattr(parent, name, SparseLinear(child))
    return result.eval()


def break_even(
    in_features: int,
    out_features: int,
    batch: int = 1,
    *,
    sparsities: Sequence[float] = _STEPS,
    repeats: int = 20,
    seed: int = 0,
) -> float | None:
    """Measure from which sparsity on a CSR linear layer is faster than the dense one, on this machine.

    Args:
        in_features: Columns of the weight.
        out_features: Rows.
        batch: Rows of the input.
        sparsities: What is tried, ascending.
        repeats: Timed runs of each, at least three; medians compare.
        seed: Of the random weights.

    Returns:
        The lowest sparsity from which on every one that was tried is faster; None if not even the highest is.
    """
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(in_features, out_features)
    x = torch.randn(batch, in_features, generator=generator)
    found: float | None = None
    dense = latency(linear, x, repeats=repeats, threads=None)
    for sparsity in sorted(sparsities, reverse=True):
        with torch.no_grad():
            weight = torch.randn(out_features, in_features, generator=generator)
            linear.weight.copy_(weight * (torch.rand(weight.shape, generator=generator) >= sparsity))
        if latency(SparseLinear(linear), x, repeats=repeats, threads=None).median_ms >= dense.median_ms:
            break
        found = sparsity
    return found


def use_semi_structured(model: nn.Module) -> nn.Module:
    """Make a model whose 2:4 linear layers run on sparse tensor cores.

    Args:
        model: On a GPU, in float16, bfloat16 or int8, linear layers masked 2:4 or not at all; not changed.

    Returns:
        A new model, its masks baked in; layers that are not 2:4 or too small stay dense.

    Raises:
        RequestError: The device has no sparse tensor cores, or no layer is 2:4.
    """
    from torch.sparse import to_sparse_semi_structured

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if capability < (8, 0):
        raise RequestError(
            f"2:4 kernels need a GPU of compute capability 8.0, the model is on {device} ({capability[0]}."
            f"{capability[1]})",
            do="move it to such a GPU, or use use_sparse_kernels on the CPU",
        )
    result = _baked(model)
    count = 0
    for module in result.modules():
        if type(module) is nn.Linear and is_two_of_four(module.weight):
            try:
                sparse = to_sparse_semi_structured(module.weight.detach())
            except (RuntimeError, ValueError):  # too small or of a type that the kernels do not take
                continue
            module.weight = nn.Parameter(sparse, requires_grad=False)
            count += 1
    if count == 0:
        raise RequestError("no linear layer is 2:4 and fits the kernels", do="mask with structure='2:4'")
    return result.eval()


def is_two_of_four(weight: Tensor) -> bool:
    """Whether each four consecutive inputs of a matrix hold two zeros at least.

    Example:
        >>> is_two_of_four(torch.tensor([[1.0, 0.0, 0.0, 2.0]])), is_two_of_four(torch.ones(1, 4))
        (True, False)
    """
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())
