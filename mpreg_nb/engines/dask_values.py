"""What a program has of Dask, as arguments of calls: computed by its Dask cluster.

A future is one of the cluster already. Collections and delayed values are computed
through a Dask client: that which the program gave, else its default one if it is of
this cluster, else one that is made here.
"""

import asyncio
from typing import Any

from mpreg_nb.client.deferred import DeferredArguments
from mpreg_nb.errors import BadRequest


class DaskArguments(DeferredArguments):
    """Has Dask compute the arguments of the calls of one client."""

    def __init__(self, address: str) -> None:
        """address: of the scheduler, as Dask writes it."""
        super().__init__()
        self._address = address
        self._given: Any = None
        self._security: dict[str, Any] | None = None
        self._own: Any = None
        self._same = {address}  # addresses of the scheduler

    def use(self, client: Any, security: dict[str, Any] | None) -> None:
        """Take a client of the program, if it has one, and arguments of `Security`."""
        self._given, self._security = client, security

    def submit(self, value: Any, where: str) -> tuple[str, object]:
        """Return the key under which Dask has or will have `value`, and its future.

        Raises:
            BadRequest: it is a future of another Dask cluster, or one without a value.
        """
        import distributed

        future: Any = value
        if not isinstance(value, distributed.Future):
            future = self._client().compute(value)
        elif future.status in ("cancelled", "lost"):
            raise BadRequest(
                f"{where} is a Dask future without a value: it is {future.status}. "
                "Submit it to Dask again"
            )
        elif not self._is_ours(future.client):
            raise BadRequest(
                f"{where} is a future of the Dask cluster at "
                f"{future.client.scheduler.address}, and this cluster runs on that at "
                f"{self._address}. Pass its value: future.result()"
            )
        return repr(future.key), future

    def _is_ours(self, client: Any) -> bool:
        """Return whether a client is one of the Dask cluster that runs the calls."""
        address = client.scheduler.address
        if address not in self._same:
            # A scheduler has several addresses, and one id.
            if client.scheduler_info()["id"] != self._client().scheduler_info()["id"]:
                return False
            self._same.add(address)
        return True

    async def close(self) -> None:
        """Close the client that was made here, if any."""
        own, self._own = self._own, None
        if own is not None:
            await asyncio.to_thread(own.close)

    def _client(self) -> Any:
        import distributed

        client_of: Any = distributed.Client
        if self._given is not None and self._given.status == "running":
            return self._given
        try:
            default: Any = distributed.default_client()  # type: ignore[no-untyped-call]
        except ValueError:  # there is none
            default = None
        if default is not None and default.scheduler.address == self._address:
            return default
        if self._own is None:
            security: Any = distributed.Security
            self._own = client_of(
                self._address,
                security=security(**self._security) if self._security else None,
                set_as_default=False,
                name="mpreg-arguments",
            )
        return self._own
