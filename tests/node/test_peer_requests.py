"""Questions of one node to another: an answer always comes."""

import asyncio
from typing import Any

from mpreg_nb.node.peer_requests import PeerRequests
from mpreg_nb.protocol.messages import CodePull, Failed


class Silent:
    """Takes what is sent to nodes, and never answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send(self, node: str, message: Any, parts: Any = ()) -> None:
        self.sent.append((node, message))


def test_a_node_that_never_sends_the_code_is_given_up_in_time() -> None:
    there = Silent()

    async def scene() -> Any:
        requests = PeerRequests(there, code_timeout_s=0.05)  # type: ignore[arg-type]
        answer, _ = await requests.code("n2", "v1")
        late = requests.answered(answer, ())
        return answer, late

    answer, late = asyncio.run(scene())

    [(node, asked)] = there.sent
    assert (node, type(asked)) == ("n2", CodePull)
    assert isinstance(answer, Failed)
    assert (answer.failure.kind, answer.failure.node) == ("node_lost", "n2")
    assert "no code within" in answer.failure.message
    assert not late  # nobody waits for it any more
