"""Which norm scales a penalty may act on: those of single channels, as in batch norm, that can be cut."""

from collections.abc import Mapping, Sequence

from torch import nn

from secateur.coupling import Groups
from secateur.errors import RequestError


def prunable_scales(model: nn.Module, groups: Groups) -> list[nn.Parameter]:
    """List the scales of the batch and instance norms of prunable groups.

    Sparsity where nothing can be cut costs accuracy and gains nothing.

    Args:
        model: The model that the groups belong to.
        groups: Its groups.

    Returns:
        The parameters in the order of the network, each once.

    Example:
        >>> import torch, secateur as sc
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
        >>> [len(scale) for scale in prunable_scales(net, sc.couple(net, torch.zeros(1, 1, 8, 8)))]
        [4]
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    names = [member.tensor for group in groups.prunable for member in group.members if member.is_norm_scale]
    return list({id(named[name]): named[name] for name in names}.values())


def penalised_scales(model: nn.Module, groups: Groups, penalty: str = "bn-l1") -> list[nn.Parameter]:
    """The norm scales that a penalty acts on: those whose channels can be cut.

    Raises:
        RequestError: There are none.
    """
    scales = prunable_scales(model, groups)
    if not scales:
        raise RequestError(
            f"penalty {penalty} has nothing to act on: no prunable channel has a batch-norm scale",
            do="use a model with batch norm, or the penalty group-lasso",
        )
    return scales


def require_all_channels(penalty: str, keep: Mapping[str, Sequence[int]] | None) -> None:
    """Refuse to be told which channels stay, for a penalty that acts on all of them.

    Raises:
        RequestError: `keep` was passed.
    """
    if keep is not None:
        raise RequestError(
            f"{penalty} acts on all channels, but was told which will stay",
            do="leave keep out, or choose growing-l2",
        )
