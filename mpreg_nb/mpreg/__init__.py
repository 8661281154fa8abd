"""The names of MPREG's own examples, on the same node and client.

    server = MPREGServer(MPREGSettings(port=9001, resources={"gpu"}))
    server.register_command("train", train, ["gpu"])
    await server.server()

    async with MPREGClientAPI("ws://127.0.0.1:9001") as client:
        await client.call("train", rows, locs=frozenset({"gpu"}))
        await client.request([RPCCommand(name="a", fun="train", args=(rows,))])

In commands, unlike in the workflows of `mpreg_nb`, a string that names another
command stands for its result.
"""

from mpreg_nb.mpreg.client import MPREGClientAPI, RPCCommand
from mpreg_nb.mpreg.server import MPREGServer, MPREGSettings

__all__ = ["MPREGClientAPI", "MPREGServer", "MPREGSettings", "RPCCommand"]
