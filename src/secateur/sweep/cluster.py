"""Cluster: the points of a sweep on the workers of a Ray cluster.

Every worker has the model and the images once, and its own forks. Choices that the local engine runs together
run together here, so both engines compute the same numbers; a worker stays at a place as long as there is
something left to do, for the calls before it are made only once.

References:
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.
    https://arxiv.org/abs/1712.05889
"""

import contextlib
import copy
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from torch import nn

from secateur.errors import RequestError, SecateurError
from secateur.sweep.engine import Job
from secateur.sweep.forks import Counts, Forks
from secateur.sweep.places import ChannelPlace, GroupPlace
from secateur.train.device import choose_device
from secateur.train.task import Part
from secateur.user_code import own_modules


@dataclass(frozen=True)
class _Task:
    """Choices of one job that run together.

    Attributes:
        job: Number of the job.
        first: Number of its first choice in the job.
        place: Where channels are zeroed.
        choices: Which.
        step: How many choices the batch is made for.
    """

    job: int
    first: int
    place: ChannelPlace | GroupPlace
    choices: tuple[tuple[int, ...], ...]
    step: int


class _Worker:
    """The forks of one process of the cluster."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.forks: Forks | None = None

    def open(self, model: nn.Module, part: Part, options: dict[str, Any]) -> None:
        """Make ready for a model and images."""
        if self.forks is not None:
            self.forks.close()
        self.forks = Forks(model, part, **options, device=self.device)

    def run(self, task: _Task) -> list[Counts]:
        """The counts of each choice."""
        assert self.forks is not None, "open comes first"
        return list(self.forks.counts(task.place, task.choices, task.step))


class RayEngine:
    """Workers on a Ray cluster.

    Args:
        workers: How many; None takes one for each CPU of the cluster. Each takes one CPU, or one GPU if the
            device is one.
        address: Of a cluster, as `ray.init` reads it; None takes one that runs on this machine, or starts one
            that ends with `close`. A process that is connected already stays so.
        device: As for `Forks`; of several GPUs Ray gives each worker its own.

    Raises:
        RequestError: Ray is not installed, the device is absent, or the cluster has no such workers.
    """

    def __init__(
        self, workers: int | None = None, *, address: str | None = None, device: str = "auto"
    ) -> None:
        if workers is not None and workers < 1:
            raise RequestError(f"workers is {workers}", do="pass at least 1")
        self.device = choose_device(device).type
        self._ray = _import_ray()
        self._is_own = not self._ray.is_initialized()
        self._forks: Forks | None = None
        self._workers: list[Any] = []
        if self._is_own:
            try:
                self._ray.init(address=address, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                what = f"no Ray cluster at {address or 'this machine'}: {str(error).partition(chr(10))[0]}"
                raise RequestError(what, do="start one with `ray start --head`, or name another") from error
        self.resource = "GPU" if self.device == "cuda" else "CPU"
        has = int(self._ray.cluster_resources().get(self.resource, 0))
        self.count = has if workers is None else workers
        if not 1 <= self.count <= has:
            self.close()
            what = f"{workers or 1} workers were asked for, the Ray cluster has {has} {self.resource}s"
            raise RequestError(what, do="ask for fewer workers, or use the local engine")

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, and the cluster if this engine started it."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers, self._forks = [], None
        if self._is_own and self._ray.is_initialized():
            self._ray.shutdown()

    def map(self, forks: Forks, jobs: Sequence[Job]) -> Iterator[tuple[int, int, Counts]]:
        """See `Engine.map`.

        Raises:
            SecateurError: A worker died; what was found until then is not lost.
        """
        waiting = [task for number, job in enumerate(jobs) for task in _tasks(forks, number, job)]
        if not waiting:
            return
        self._start_workers(forks, min(self.count, len(waiting)))
        running: dict[Any, tuple[Any, _Task]] = {}
        for worker in self._workers:
            self._give(worker, None, waiting, running)
        while running:
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            worker, task = running.pop(done)
            found = self._get(done)
            self._give(worker, task, waiting, running)
            for at, counts in enumerate(found):
                yield task.job, task.first + at, counts

    def _give(
        self, worker: Any, last: _Task | None, waiting: list[_Task], running: dict[Any, tuple[Any, _Task]]
    ) -> None:
        """The next task: of the same place if there is one, else of a place that nobody is at."""
        if not waiting:
            return
        taken = {task.job for _, task in running.values()}
        task = min(waiting, key=lambda one: (last is None or one.job != last.job, one.job in taken, one.job))
        waiting.remove(task)
        running[worker.run.remote(task)] = (worker, task)

    def _get(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SecateurError) else error) from None
        except errors.RayActorError as error:
            raise SecateurError(
                f"a worker of the Ray cluster died: {str(error).partition(chr(10))[0]}",
                do="start the sweep again; with a file of rows it goes on where it was",
            ) from error

    def _start_workers(self, forks: Forks, count: int) -> None:
        """Have so many workers at least, all ready for the model and the images."""
        if self._forks is forks and len(self._workers) >= count:
            return
        make = self._ray.remote(**{f"num_{self.resource.lower()}s": 1})(_Worker)
        self._workers += [make.remote(self.device) for _ in range(count - len(self._workers))]
        with self._taking_along(own_modules()):
            model = self._ray.put(copy.deepcopy(forks.model).cpu())  # once in the store of each machine
            part = self._ray.put(forks.part)
            opening = [worker.open.remote(model, part, forks.options) for worker in self._workers]
        for ready in opening:
            self._get(ready)
        self._forks = forks

    @contextlib.contextmanager
    def _taking_along(self, modules: Sequence[ModuleType]) -> Iterator[None]:
        """Send what is defined in some modules together with what is made of it."""
        pickler = self._ray.cloudpickle
        for module in modules:
            pickler.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                pickler.unregister_pickle_by_value(module)


def _tasks(forks: Forks, number: int, job: Job) -> Iterator[_Task]:
    """A job in the pieces that the local engine runs together."""
    if not job.choices:
        return
    step = forks.step(len(job.choices))
    for first in range(0, len(job.choices), step):
        yield _Task(number, first, job.place, job.choices[first : first + step], step)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RequestError(
            "the engine ray needs Ray, which is not installed",
            do="pip install 'secateur[ray]', or use the local engine",
        ) from error
