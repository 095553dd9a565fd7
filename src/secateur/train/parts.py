"""Data as the engine goes through them: parts of batches, whatever a batch is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

Batch: TypeAlias = Any
"""What a part yields: inputs with whatever the loss needs, often a pair; tensors have the samples first."""


@runtime_checkable
class Part(Protocol):
    """Samples that can be gone through in batches."""

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterable[Batch]:
        """Go through all samples once; the iterable has a length.

        Args:
            batch_size: Samples per batch; the last may be smaller.
            training: Shuffle and augment, by (seed, epoch) alone, so that a resumed run sees the same.
            seed: Of order and augmentation.
            epoch: Which time the samples are gone through.
            workers: Processes that prepare batches.
            pin_memory: Put batches in page-locked memory, for a GPU.
        """


@dataclass(frozen=True)
class DatasetPart:
    """A part made of a dataset of PyTorch; what is random in its items is up to it.

    Attributes:
        dataset: Samples by their number.
        collate: Makes a batch of a list of samples.

    Example:
        >>> part = DatasetPart(torch.utils.data.TensorDataset(torch.arange(5.0), torch.arange(5)))
        >>> [len(labels) for _, labels in part.batches(2, training=True)]
        [2, 2]
    """

    dataset: "Dataset[Any]"
    collate: Any = default_collate

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(
        self,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterable[Batch]:
        """Go through all samples once; in training a last batch of one sample is left out."""
        return DataLoader(
            self.dataset,
            batch_size,
            shuffle=training,
            num_workers=workers,
            collate_fn=self.collate,
            pin_memory=pin_memory and torch.cuda.is_available(),
            drop_last=training and len(self) % batch_size == 1,  # batch norm has no variance over one
            generator=generator_of(seed, epoch),
        )


class WholeBatches(ABC):
    """A part that makes a whole batch at once, which is many times faster than one sample after another.

    Every random choice of epoch e comes from a generator seeded by (seed, e), and of batch b by (seed, e, b),
    so a run that resumes sees exactly the batches of an uninterrupted one, whatever the number of workers.

    Example:
        >>> class Numbers(WholeBatches):
        ...     def __len__(self):
        ...         return 5
        ...     def batch(self, chosen, generator=None):
        ...         return chosen
        >>> [len(batch) for batch in Numbers().batches(2, training=True)]
        [2, 2]
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, chosen: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Make a batch.

        Args:
            chosen: Numbers of the samples.
            generator: What augmentation draws from; None for no augmentation.
        """

    def batches(
        self,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterable[Batch]:
        """Go through all samples once; in training a last batch of one sample is left out."""
        return DataLoader(
            _Epoch(self, batch_size, training, (seed, epoch)),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            # Without a generator of its own the loader would draw from the global one.
            generator=generator_of(seed, epoch),
        )


class _Epoch(Dataset[Batch]):
    """The batches of one epoch; item b depends on nothing but (part, batch size, seed, epoch, b)."""

    def __init__(self, part: WholeBatches, batch_size: int, training: bool, key: tuple[int, int]) -> None:
        self.part, self.training, self.key = part, training, key
        n = len(part)
        order = torch.randperm(n, generator=generator_of(*key)) if training else torch.arange(n)
        self.batches = list(order.split(batch_size)) if n else []
        if training and self.batches and len(self.batches[-1]) == 1:  # batch norm has no variance over one
            self.batches.pop()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        generator = generator_of(*self.key, index) if self.training else None
        return self.part.batch(self.batches[index], generator)


@dataclass(frozen=True)
class Parts:
    """The data of a run, in three parts; datasets of PyTorch become parts.

    Attributes:
        name: What it is called.
        train: What the optimizer sees.
        validation: What the best epoch is chosen by.
        test: What is reported; nothing is ever chosen by it.
        details: What a task wants to remember of it, such as the names of classes.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            part = getattr(self, name)
            if not isinstance(part, Part):
                object.__setattr__(self, name, DatasetPart(part))


class Data(Protocol):
    """What a run goes through; a test part is never asked for."""

    @property
    def train(self) -> Part:
        """What the optimizer sees."""

    @property
    def validation(self) -> Part | None:
        """What the best epoch is chosen by; without one the last is kept."""


@dataclass(frozen=True)
class Opening:
    """How data are opened, beside the word that names them.

    Attributes:
        data_dir: Folder of the files; None where the task finds them.
        download: Fetch what is missing.
        seed: Of the split into parts.
        options: What else the data can be told by name, such as an image size.
    """

    data_dir: Path | None = None
    download: bool = False
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def generator_of(*key: int) -> torch.Generator:
    """Make a generator from a tuple of numbers, well mixed, so that neighbouring keys are unrelated.

    Example:
        >>> torch.randperm(4, generator=generator_of(0, 1)).tolist()
        [1, 3, 2, 0]
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
