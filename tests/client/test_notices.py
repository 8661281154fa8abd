"""What a node says without being asked, and that nobody answers."""

import asyncio
import logging

from mpreg_nb.protocol.messages import Notice
from tests.support.telling_nodes import run, speakers


class Heard(logging.Handler):
    """Lets a test wait for the next record."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.put_nowait(record.getMessage())


def test_a_notice_of_a_node_is_one_line_of_the_log() -> None:
    heard = Heard()
    broken: list[object] = []
    said: list[str] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: broken.append(context)
        )
        async with speakers("n1") as (_, nodes):
            nodes["n1"].links[0].send(Notice(kind="strike", text="no such message"))
            said.append(await heard.texts.get())

    log = logging.getLogger("mpreg_nb.client.client")
    log.addHandler(heard)
    try:
        run(scene)
    finally:
        log.removeHandler(heard)

    assert said == ["n1 says: no such message"]
    assert not broken
