"""What a node says without being asked, and that nobody answers."""

import asyncio
import logging

import pytest

from mpreg_nb.protocol.messages import Notice
from tests.support.telling_nodes import run, speakers


class Heard(logging.Handler):
    """Lets a test wait for the next record."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.put_nowait(record.getMessage())


@pytest.mark.parametrize(
    ("notice", "text"),
    [
        (Notice(kind="strike", text="no such message"), "n1 says: no such message"),
        (Notice(kind="draining"), "n1 says: draining"),
    ],
)
def test_a_notice_of_a_node_is_one_line_of_the_log(notice: Notice, text: str) -> None:
    heard = Heard()
    broken: list[object] = []
    said: list[str] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: broken.append(context)
        )
        async with speakers("n1") as (_, nodes):
            nodes["n1"].links[0].send(notice)
            said.append(await heard.texts.get())

    log = logging.getLogger("mpreg_nb.client.client")
    log.addHandler(heard)
    try:
        run(scene)
    finally:
        log.removeHandler(heard)

    assert said == [text]
    assert not broken
