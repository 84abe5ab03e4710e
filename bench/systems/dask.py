"""dask.distributed: a LocalCluster of processes of one thread each, without a dashboard."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

from systems.protocol import Task


class Adapter:
    package: ClassVar[str] = "distributed"
    entrance: ClassVar[str] = "Client"

    def __init__(self) -> None:
        self._distributed: Any = importlib.import_module("distributed")

    def start(self, workers: int) -> None:
        self._cluster: Any = self._distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client: Any = self._distributed.Client(self._cluster)

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()

    # pure=False: otherwise the same call is answered from memory, and nothing is measured.

    def call(self, task: Task, /, *arguments: Any) -> Any:
        return self._client.submit(task, *arguments, pure=False).result()

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        # `map` sends the scheduler one message; n times `submit` would be n of them.
        values: Sequence[Any] = self._client.gather(self._client.map(task, range(n), pure=False))
        return values

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        everywhere = self._client.scatter(value, broadcast=True, hash=False)
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        futures = [self._client.submit(task, everywhere, workers=[name], pure=False) for name in workers]
        values: Sequence[Any] = self._client.gather(futures)
        return values
