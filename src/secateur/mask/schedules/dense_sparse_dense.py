"""Dense-sparse-dense: a third dense, a third sparse, a third dense again.

The sparse third regularises; afterwards the masks are lifted and the masked weights start again from zero.

References:
    Han et al., "DSD: Dense-Sparse-Dense Training for Deep Neural Networks", ICLR 2017, section 3.
    https://arxiv.org/abs/1607.04381
"""

from secateur.mask.schedule import schedules


@schedules("dense-sparse-dense")
def dense_sparse_dense(progress: float, start: float, end: float) -> float:
    """Sparse in the middle third only.

    Example:
        >>> [dense_sparse_dense(at, 0.0, 0.3) for at in (0.2, 0.5, 0.8)]
        [0.0, 0.3, 0.0]
    """
    return end if 1 / 3 <= progress < 2 / 3 else start
