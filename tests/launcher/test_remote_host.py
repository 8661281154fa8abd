"""What a starter makes of the reports of a host."""

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.launcher.host_messages import (
    ClusterEntered,
    HostMessage,
    NodeEnded,
    NodeLogged,
)
from mpreg_nb.launcher.launcher import LaunchContext
from mpreg_nb.launcher.remote_host import RemoteHost
from tests.support.links import CLUSTER, TOKEN


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.stop()


@pytest.fixture
def there(thread: LoopThread) -> RemoteHost:
    context = LaunchContext(token=TOKEN, cluster="lab", cluster_id=CLUSTER)
    return RemoteHost("box", context, thread, lambda line: None)


def hear(there: RemoteHost, said: HostMessage) -> None:
    there.receive(msgspec.json.encode(said).decode())


def test_a_log_that_cannot_be_written_costs_no_report(
    there: RemoteHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = there.expect("n1", "ws://127.0.0.1:7400", tmp_path)  # no file, as if full
    with caplog.at_level(logging.WARNING):
        hear(there, NodeLogged(node="n1", lines=("one",)))
        hear(there, NodeLogged(node="n1", lines=("two",)))
    hear(there, NodeEnded(node="n1", code=3))

    assert node.wait(0) == 3
    [warned] = caplog.messages
    assert str(tmp_path) in warned
    assert "Is a directory" in warned


def test_an_answer_that_comes_too_late_is_passed_over(
    there: RemoteHost, thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg_nb.launcher.remote_host.ANSWER_S", 0.0)
    entered = ClusterEntered(sockets="", machine="", cluster="lab", cluster_id=CLUSTER)

    async def scene() -> None:
        with pytest.raises(Exception, match="did not answer"):
            await there.enter(entered)
        hear(there, entered)

    thread.run(scene())
