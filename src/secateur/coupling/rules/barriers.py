"""Operators that may never lose a position, and why: a barrier that says more than "no rule".

What they do depends on numbers (which entries, how many), on random draws that belong to positions, or on
memory.
"""

from secateur.coupling.call import Call
from secateur.coupling.rule import rule
from secateur.graph.axes import Expr
from secateur.graph.trait import Trait

_DRAWN = "its random numbers belong to positions"
_COUNTED = "how many positions it returns depends on the numbers"
_LISTED = "all its numbers are counted together"
_ORDERED = "it fills chosen positions one after the other from a list"
_JUDGED = "a truth value over all positions decides what the model does"
_MEMORY = "it addresses memory, not positions"
_FUSED = "a fused kernel of torch; its module runs unfused while it is recorded"
_SINGULAR = "a matrix that lacks rows or columns has no inverse"
_ALIGNED = "sequences are aligned by number"

_BARRIERS: dict[str, dict[str, str]] = {
    _DRAWN: {
        "aten.bernoulli": "torch.bernoulli(T(2, 3).sigmoid())",
        "aten.cauchy": "T(2, 3).clone().cauchy_()",
        "aten.exponential": "T(2, 3).clone().exponential_()",
        "aten.geometric": "T(2, 3).clone().geometric_(0.5)",
        "aten.log_normal": "T(2, 3).clone().log_normal_()",
        "aten.multinomial": "torch.multinomial(T(2, 3).abs(), 1)",
        "aten.normal": "torch.normal(T(2, 3), 1.0)",
        "aten.poisson": "torch.poisson(T(2, 3).abs())",
        "aten.rand_like": "torch.rand_like(T(2, 3))",
        "aten.randint_like": "torch.randint_like(T(2, 3), 5)",
        "aten.randn_like": "torch.randn_like(T(2, 3))",
        "aten.random": "T(2, 3).clone().random_()",
        "aten.uniform": "T(2, 3).clone().uniform_()",
    },
    _COUNTED: {
        "aten._unique2": "T(2, 3).unique()",
        "aten.masked_select": "T(2, 3).masked_select(T(2, 3) > 0)",
        "aten.nonzero": "torch.nonzero(T(2, 3))",
        "aten.nonzero_numpy": "torch.nonzero(T(2, 3), as_tuple=True)",
        "aten.unique_consecutive": "torch.unique_consecutive(T(2, 3))",
        "aten.unique_dim": "T(2, 3).unique(dim=1)",
        "torchvision.nms": "torchvision.ops.nms(T(3, 4).abs().cumsum(1), T(3), 0.5)",
    },
    _LISTED: {
        "aten.bincount": "torch.bincount((T(2) > 0).long())",
        "aten.histc": "torch.histc(T(2, 3), 4)",
    },
    _ORDERED: {
        "aten.put": "T(2, 3).put((T(2) > 0).long(), T(2))",
        "aten.segment_reduce": "torch.segment_reduce(T(4), 'sum', lengths=torch.tensor([1, 3]))",
        "aten.combinations": "torch.combinations(T(3))",
    },
    _JUDGED: {
        "aten.allclose": "(T(2, 3), torch.allclose(T(2, 3), T(2, 3)))[0].sin()",
        "aten.equal": "(T(2, 3), torch.equal(T(2, 3), T(2, 3)))[0].sin()",
    },
    _MEMORY: {
        "aten.as_strided": "T(4, 6).as_strided((2, 3), (6, 1))",
        "aten.as_strided_scatter": "torch.as_strided_scatter(T(4, 6), T(2, 3), (2, 3), (6, 1))",
        "aten.set": "T(2, 3).clone().set_(T(3, 2).clone())",
    },
    _SINGULAR: {
        "aten.inverse": "torch.inverse(T(3, 3))",
        "aten.linalg_inv": "torch.linalg.inv(T(3, 3))",
        "aten.linalg_solve": "torch.linalg.solve(T(3, 3), T(3, 2))",
        "aten.linalg_cholesky": "torch.linalg.cholesky(T(3, 3) @ T(3, 3).mT * 0 + torch.eye(3).double())",
        "aten.linalg_lstsq": "torch.linalg.lstsq(T(3, 2), T(3, 1)).solution",
        "aten.linalg_matrix_power": "torch.linalg.matrix_power(T(3, 3), -1)",
    },
    _ALIGNED: {
        "aten.ctc_loss": "F.ctc_loss(T(5, 2, 3), torch.tensor([[1, 2], [1, 2]]), torch.tensor([5, 5]), "
        "torch.tensor([2, 2]))",
    },
    _FUSED: {
        "aten._native_multi_head_attention": "torch._native_multi_head_attention("
        "T(2, 5, 6), T(2, 5, 6), T(2, 5, 6), 6, 2, T(18, 6), T(18), T(6, 6), T(6))",
        "aten._transformer_encoder_layer_fwd": "torch._transformer_encoder_layer_fwd("
        "T(2, 5, 6), 6, 2, T(18, 6), T(18), T(6, 6), T(6), False, False, 1e-5, "
        "T(6), T(6), T(6), T(6), T(8, 6), T(8), T(6, 8), T(6))",
    },
}


def _register(reason: str, samples: dict[str, str]) -> None:
    @rule(*samples, law=f"barrier: {reason}", samples=samples, traits={"aten.as_strided": Trait.VIEW})
    def barrier(call: Call) -> list[list[Expr]]:
        return call.barrier(reason)


for _reason, _samples in _BARRIERS.items():
    _register(_reason, _samples)
