"""Commands reach functions that a notebook has shipped, in worker processes."""

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings, RPCCommand
from mpreg_nb.serialize.pickle import pack_function
from tests.support.cells import run_cell
from tests.support.mpreg_servers import serving

pytestmark = pytest.mark.live

SPACE = run_cell(
    "def analytics(dataset, metrics, top=1):\n"
    "    return {metric: dataset for metric in metrics[:top]}\n"
)


async def test_a_shipped_function_has_types_too() -> None:
    server = MPREGServer(MPREGSettings(workers=1))
    server.register_command("made", lambda: {"k": ["x", {}]})
    commands = [
        RPCCommand("m", "made"),
        RPCCommand("a", "analytics", ("test", "m.k"), {"top": 2}),
    ]

    async with serving(server), MPREGClientAPI(server.url) as client:
        caller: Any = client._caller
        shipped = pack_function(SPACE["analytics"])
        request = caller.registrations.request(shipped, "analytics")
        await caller.registrations.register(request, shipped.parts)
        value = await client.call("analytics", "test", ["a"])
        with pytest.raises(TypeError) as caught:
            await client.request(commands)

    assert value == {"a": "test"}
    assert str(caught.value) == (
        "Function execution failed: command=analytics, error=TypeError: unhashable "
        "type: 'dict', args_types=['str', 'list', 'top=int']"
    )


async def test_json_reaches_shipped_functions() -> None:
    server = MPREGServer(MPREGSettings(workers=1, json_open=True))
    server.register_command("made", lambda: {"k": ["x", {}]})
    frame = {
        "role": "rpc",
        "u": "1",
        "cmds": [
            {"name": "m", "fun": "made"},
            {"name": "a", "fun": "analytics", "args": ["test", "m.k"]},
            {"name": "b", "fun": "analytics", "args": ["a.x", "m.k"]},
        ],
    }

    async with serving(server), MPREGClientAPI(server.url) as client:
        caller: Any = client._caller
        shipped = pack_function(SPACE["analytics"])
        request = caller.registrations.request(shipped, "analytics")
        await caller.registrations.register(request, shipped.parts)
        async with connect(server.url, proxy=None) as link:
            await link.send(json.dumps(frame))
            answer = json.loads(await link.recv())
            frame["cmds"] = [{"name": "a", "fun": "analytics", "args": ["test", [{}]]}]
            await link.send(json.dumps(frame))
            refused = json.loads(await link.recv())

    assert answer["r"] == {"b": {"x": "test"}}
    assert refused["error"]["code"] == 1003
    assert refused["error"]["message"] == (
        "Function execution failed: command=analytics, error=TypeError: unhashable "
        "type: 'dict', args_types=['str', 'list']"
    )
