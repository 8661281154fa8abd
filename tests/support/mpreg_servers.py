"""Servers for a test, in its own event loop, and what a test waits for."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings
from mpreg_nb.mpreg.client import caller_of
from mpreg_nb.protocol.gossip import MemberState

PORTS = 20_000, 32_000
"""Below those that the system gives to programs that ask for any port."""


@asynccontextmanager
async def serving(*servers: MPREGServer) -> AsyncIterator[None]:
    """Let `servers` serve inside the block."""
    tasks = [asyncio.ensure_future(server.server()) for server in servers]
    try:
        for server in servers:
            await server.started()
        yield
    finally:
        for server in servers:
            server.shutdown()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def served(
    commands: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[MPREGServer, MPREGClientAPI]]:
    """Serve `commands` on one server; yields it and a client of it."""
    server = MPREGServer(MPREGSettings(**settings))
    for name, function in commands.items():
        server.register_command(name, function)
    async with serving(server), MPREGClientAPI(server.url) as client:
        yield server, client


@asynccontextmanager
async def clustered(
    commands: dict[str, tuple[Iterable[str], dict[str, Any]]],
) -> AsyncIterator[dict[str, MPREGServer]]:
    """Serve on several servers: name -> (resources, its commands).

    All join through the first. They know all of each other inside the block.
    """
    first = ""
    servers: dict[str, MPREGServer] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, (resources, functions) in commands.items():
            settings = MPREGSettings(
                name=name, resources=resources, connect=first or None
            )
            server = servers[name] = MPREGServer(settings)
            for function_name, function in functions.items():
                server.register_command(function_name, function)
            await stack.enter_async_context(serving(server))
            first = first or server.url
        names = {name for _, functions in commands.values() for name in functions}
        for server in servers.values():
            async with MPREGClientAPI(server.url) as client:
                await until_known(client, names, nodes=len(servers))
        yield servers


async def until_known(
    client: MPREGClientAPI, functions: Iterable[str], *, nodes: int = 1
) -> None:
    """Wait until the client's node knows `functions` and so many live nodes."""
    caller = caller_of(client)
    changed = asyncio.Event()
    stop = caller.on_snapshot(lambda _: changed.set())
    try:
        while True:
            offered = {offer.function for _, offer in caller.state.entries()}
            alive = [
                picture
                for picture in caller.state.nodes
                if picture.record.state is MemberState.ALIVE
            ]
            if set(functions) <= offered and len(alive) >= nodes:
                return
            await changed.wait()
            changed.clear()
    finally:
        stop()


def free_port() -> int:
    """Return a port that nobody has, and that the system gives to nobody else."""
    while True:
        try:
            with socket.create_server(("127.0.0.1", random.randint(*PORTS))) as bound:
                port: int = bound.getsockname()[1]
                return port
        except OSError:
            continue
