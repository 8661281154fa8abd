"""What runs on the Dask scheduler: removes what a gateway left, however it ended."""

from typing import Any

from distributed import Scheduler, SchedulerPlugin

from mpreg_nb.engines.dask_messages import WorkerGone, encode


class GatewayLease(SchedulerPlugin):
    """Lasts as long as the Dask client of a gateway is connected."""

    def __init__(self, gateway: str, client: str) -> None:
        """gateway: name of the plugins and of the topic; client: id of its client."""
        self.name = gateway
        self._client = client

    async def start(self, scheduler: Scheduler) -> None:
        """Keep the scheduler."""
        self._scheduler = scheduler

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Tell the gateway at once. That one has come, its plugin says.

        The topic "all" of Dask has this too; but not all that Dask puts there can be
        sent, and then the link to who listens breaks.
        """
        scheduler.log_event(self.name, encode((WorkerGone(address=worker),)))

    def log_event(self, topic: str, msg: Any) -> None:
        """Forget what was reported: it has been sent, and may be large."""
        if topic == self.name:
            self._scheduler._broker.truncate(topic)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Remove everything when the gateway has gone without doing so."""
        if client == self._client:
            scheduler._ongoing_background_tasks.call_soon(self._end_alone)

    async def _end_alone(self) -> None:
        if self.name in self._scheduler.worker_plugins:
            await self._scheduler.unregister_worker_plugin(comm=None, name=self.name)
        await self.end()
        # A result that came to stay at this moment made Dask know the client again.
        known = self._scheduler.clients.get(self._client)
        if known is not None:
            keys = [task.key for task in known.wants_what]
            self._scheduler.client_releases_keys(keys=keys, client=self._client)
            del self._scheduler.clients[self._client]

    async def end(self) -> None:
        """Remove the topic and this plugin."""
        self._scheduler._broker._topics.pop(self.name, None)
        self._scheduler.plugins.pop(self.name, None)


async def end_lease(gateway: str, dask_scheduler: Scheduler) -> None:
    """Remove the topic and the scheduler plugin of a gateway."""
    lease = dask_scheduler.plugins.get(gateway)
    if isinstance(lease, GatewayLease):
        await lease.end()
