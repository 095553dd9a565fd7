"""The runner: operators as a record runs them, where nothing is written down."""

from collections.abc import Sequence
from typing import Any

from torch.utils._mode_utils import no_dispatch

from secateur.capture.modes import Mode
from secateur.capture.randomness import draw, is_seeded, seed_of
from secateur.capture.shortcuts import is_constant, run, storages_written


class Runner(Mode):
    """Runs operators on fake tensors by the shorter ways, and on small constants with their numbers."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.seed: int | None = None
        self.count = 0
        """How many operators ran: each draws by a seed of its own."""
        self._written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator."""
        output = self._run(func, args, kwargs or {})
        self.count += 1
        return output

    def _run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run an operator; on small constants with their numbers, so that a model may look at them."""
        if is_constant(func, args, kwargs, self._written):
            with no_dispatch():
                return self._drawn(func, args, kwargs, 0)
        if self.seed is not None:
            return self._drawn(func, args, kwargs, self.seed)
        self._written |= storages_written(func, args, kwargs)
        return run(func, args, kwargs)

    def _drawn(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], seed: int) -> Any:
        """Run an operator on real tensors."""
        if is_seeded(func, args, kwargs):
            return draw(func, args, kwargs, seed_of(seed, self.count))
        return func(*args, **kwargs)
