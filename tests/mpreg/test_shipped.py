"""Commands reach functions that a notebook has shipped, in worker processes."""

from typing import Any

import pytest

from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings, RPCCommand
from mpreg_nb.wire.payload import pack_function
from tests.mpreg.servers import serving
from tests.wire.cells import run_cell

pytestmark = pytest.mark.live

SPACE = run_cell(
    "def analytics(dataset, metrics, top=1):\n"
    "    return {metric: dataset for metric in metrics[:top]}\n"
)


async def test_a_shipped_function_tells_types_too() -> None:
    server = MPREGServer(MPREGSettings(workers=1))
    server.register_command("made", lambda: {"k": ["x", {}]})
    commands = [
        RPCCommand("m", "made"),
        RPCCommand("a", "analytics", ("test", "m.k"), {"top": 2}),
    ]

    async with serving(server), MPREGClientAPI(server.url) as client:
        caller: Any = client._caller
        await caller.registrations.register(pack_function(SPACE["analytics"]), "analytics")
        value = await client.call("analytics", "test", ["a"])
        with pytest.raises(TypeError) as caught:
            await client.request(commands)

    assert value == {"a": "test"}
    assert str(caught.value) == (
        "Function execution failed: command=analytics, error=TypeError: unhashable "
        "type: 'dict', args_types=['str', 'list', 'top=int']"
    )
