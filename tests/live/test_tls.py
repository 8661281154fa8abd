"""Nodes with certificates on two hosts, and joins that fail, with their reasons.

The hosts have networks of their own where the system allows that.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cli import main
from mpreg_nb.errors import NodeLost, NotTrusted
from mpreg_nb.launcher.cluster_files import ClusterFiles
from mpreg_nb.transport.certificates import Authority
from mpreg_nb.transport.tls import TlsFiles
from mpreg_nb.transport.token import load_token
from tests.support.hosts import Host, two_hosts

pytestmark = pytest.mark.live

PROGRAM = str(Path(sys.executable).with_name("mpreg-nb"))
WAITED = "no node can be reached"
"""What a node says that tried for 15 s; one that knows why ends at once."""


class Node:
    """A node started by hand, and what it says."""

    def __init__(
        self, name: str, host: Host, secret: str, words: Sequence[str]
    ) -> None:
        self.name = name
        self.log: list[str] = []
        self._said = threading.Condition()
        command = [*host.prefix, PROGRAM, "node", "--name", name, *words]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MPREG_NB_TOKEN": secret},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready, self.ended()
        self.url: str = json.loads(ready)["url"]

    def line(self, pattern: str, timeout_s: float = 30.0) -> str:
        """Return the first line of its log that has `pattern`; waits for it."""

        def found() -> str:
            return next((line for line in self.log if re.search(pattern, line)), "")

        with self._said:
            assert self._said.wait_for(found, timeout_s), self.log
            return found()

    def ended(self) -> str:
        """End it and return its log."""
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return "\n".join(self.log)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.log.append(line.rstrip())
                self._said.notify_all()


@dataclass(frozen=True)
class Two:
    """A cluster of nodes n1 and n2 on two hosts, and how to join it."""

    hosts: tuple[Host, Host]
    nodes: tuple[Node, Node]
    authority: Authority
    secret: str
    folder: Path
    ledger: ClusterFiles  # each test has folders of its own, and another ledger

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    def files(
        self, node: str, authority: Authority | None = None, days: float = 365
    ) -> TlsFiles:
        """Make a certificate for a node on the second host."""
        hosts = [self.hosts[1].address]
        issued = (authority or self.authority).issue(node, hosts, days=days)
        kind = "others" if authority else "more"
        return issued.write(self.folder / f"{kind}-{node}", node)

    def refused(
        self,
        name: str,
        *words: str,
        secret: str = "",
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Start a node on the second host that cannot join; return how it ended."""
        done = subprocess.run(
            [*self.hosts[1].prefix, PROGRAM, "node", "--name", name, *words],
            capture_output=True,
            text=True,
            env={**os.environ, "MPREG_NB_TOKEN": secret or self.secret}
            | (environment or {}),
            timeout=60,
        )
        assert done.returncode == 1, done
        assert WAITED not in done.stderr
        assert "Traceback" not in done.stderr
        return done

    def last(self, name: str, *words: str, secret: str = "") -> str:
        """Return the last line of a node that cannot join."""
        return self.refused(name, *words, secret=secret).stderr.splitlines()[-1]


def with_certificate(host: Host, files: TlsFiles) -> tuple[str, ...]:
    return (
        *("--host", host.address, "--tls-cert", files.certificate),
        *("--tls-key", files.key, "--ca", files.ca),
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two") / "tls"
    secret = load_token().reveal()
    assert main(["tls", "init", "--out", str(folder)]) == 0
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(two_hosts())
        nodes: list[Node] = []
        for name, host, resource in zip(("n1", "n2"), hosts, "ab", strict=True):
            made = ["tls", "node", name, host.address, "--out", str(folder)]
            assert main(made) == 0
            files = TlsFiles(
                certificate=str(folder / f"{name}.pem"),
                key=str(folder / f"{name}.key"),
                ca=str(folder / "ca.pem"),
            )
            join = ("--join", nodes[0].url) if nodes else ()
            words = (*with_certificate(host, files), "--resources", resource, *join)
            nodes.append(Node(name, host, secret, words))
            stack.callback(nodes[-1].ended)
        authority = Authority.read(folder)
        pair = nodes[0], nodes[1]
        yield Two(hosts, pair, authority, secret, folder, ClusterFiles())


@pytest.fixture(scope="module")
def cluster(two: Two) -> Iterator[mp.Cluster]:
    cluster = mp.connect(two.url, token=two.secret, ca=two.ca)
    cluster.wait_for("n1", "n2")
    yield cluster
    cluster.disconnect()


def own_node() -> str:
    return str(mp.call("echo", "nested"))


# ------------------------------------------------------------------- what works


def test_calls_go_to_both_hosts_directly_and_through_one(
    two: Two, cluster: mp.Cluster
) -> None:
    through_one = mp.connect(two.url, token=two.secret, ca=two.ca, direct=False)
    try:
        results = {
            (node, kind): view.on(node=node, timeout=60).call("echo", node)
            for kind, view in (("direct", cluster), ("through n1", through_one))
            for node in ("n1", "n2")
        }
        large = cluster.on(node="n2", timeout=60).call("echo", bytes(5_000_000))
    finally:
        through_one.disconnect()

    assert set(results.values()) == {"n1", "n2"}
    assert len(results) == 4
    assert large == bytes(5_000_000)
    assert {node.url.partition("://")[0] for node in two.nodes} == {"wss"}


def test_a_node_on_all_addresses_is_reached_at_the_one_that_it_advertises(
    two: Two, cluster: mp.Cluster
) -> None:
    host = two.hosts[1]
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    everywhere = Host("0.0.0.0", host.prefix)  # noqa: S104 - what this is about
    words = (
        *with_certificate(everywhere, two.files("wide")),
        *("--port", port, "--advertise", f"wss://{host.address}:{port}"),
        *("--join", two.url),
    )
    node = Node("wide", host, two.secret, words)
    try:
        cluster.wait_for("wide")
        nested = cluster.register(own_node).on(node="wide", timeout=60).call()
    finally:
        node.ended()

    assert node.url == f"wss://{host.address}:{port}"
    assert nested == "nested"


def test_status_and_doctor_say_that_tls_carries_the_links(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")

    card = str(cluster.status())
    found = [one.found for one in mp.doctor().found if one.about == "cluster"]

    assert re.search("connected by TLS to n1", card)
    assert re.search(r"^2 of \d nodes alive, connected by TLS to n1", found[-1])


def test_functions_call_the_cluster_from_both_hosts(cluster: mp.Cluster) -> None:
    registered = cluster.register(own_node)

    for node in ("n1", "n2"):
        assert registered.on(node=node, timeout=60).call() == "nested"


def test_shells_and_notebooks_name_the_ca_by_option_or_variable(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPREG_NB_TOKEN", two.secret)

    assert main(["call", two.url, "echo", "1", "--ca", two.ca]) == 0
    monkeypatch.setenv("MPREG_NB_CA", two.ca)
    assert main(["call", two.url, "echo", "2"]) == 0

    assert capsys.readouterr().out == "1\n2\n"


def test_the_list_of_own_nodes_knows_the_ca(two: Two, cluster: mp.Cluster) -> None:
    by_hand = [entry for entry in two.ledger.entries() if entry.by_hand]

    assert {entry.ca for entry in by_hand} == {two.authority.certificate}
    assert len(by_hand) == 2


# ------------------------------------------------------------ joins that are refused


def test_a_node_with_a_certificate_of_another_ca_may_not_join(two: Two) -> None:
    others = Authority.make("others")
    said = two.last(
        "w1",
        *with_certificate(two.hosts[1], two.files("w1", others)),
        "--join",
        two.url,
    )

    assert "is of another CA than the one known here" in said
    assert "Copy ca.pem" in said
    two.nodes[0].line("it needs the CA of this cluster")


def test_the_error_of_a_node_without_the_ca_says_to_copy_it(two: Two) -> None:
    said = two.last("w2", "--join", two.url, "--advertise", "ws://127.0.0.1:9")

    assert "no CA is known" in said
    assert "--ca FILE" in said


def test_a_node_that_others_would_refuse_does_not_join_half(two: Two) -> None:
    files = two.files("w3", Authority.make("others"))
    words = with_certificate(two.hosts[1], files)[:-1]
    said = two.last("w3", *words, two.ca, "--join", two.url)

    assert "other nodes would refuse it" in said


def test_a_node_with_the_certificate_of_another_is_refused(two: Two) -> None:
    words = with_certificate(two.hosts[1], two.files("w4"))
    said = two.last("w5", *words, "--join", two.url)

    assert "is for node w4, not w5" in said
    assert f"mpreg-nb tls node w5 {two.hosts[1].address}" in said


def test_a_node_whose_certificate_names_another_host_is_refused(two: Two) -> None:
    issued = two.authority.issue("w6", ["w6.lan"]).write(two.folder / "w6", "w6")
    said = two.last("w6", *with_certificate(two.hosts[1], issued), "--join", two.url)

    assert f"others dial this node at {two.hosts[1].address}" in said


def test_a_node_with_another_token_is_refused_on_both_ends(two: Two) -> None:
    words = with_certificate(two.hosts[1], two.files("w7"))
    said = two.last(
        "w7", *words, "--join", two.url, secret="another-token-0123456789abcdef"
    )

    assert "different token than MPREG_NB_TOKEN" in said
    assert "mpreg-nb token show" in said
    two.nodes[0].line("node 'w7' has another token")


def test_a_node_that_joins_without_tls_gets_the_right_scheme_on_both_ends(
    two: Two,
) -> None:
    plain = two.url.replace("wss:", "ws:")
    words = with_certificate(two.hosts[1], two.files("w8"))
    said = two.last("w8", *words, "--join", plain)

    assert "it speaks TLS only. Its URL begins with wss://" in said
    two.nodes[0].line("it speaks without TLS")


def test_a_second_node_of_a_name_is_refused_on_both_ends(two: Two) -> None:
    words = with_certificate(two.hosts[1], two.files("n1"))
    said = two.last("n1", *words, "--join", two.url)

    assert "another live node is named 'n1'" in said
    assert "--name" in said
    two.nodes[0].line("a second node named n1")


def test_clients_get_the_same_error(two: Two) -> None:
    others = Authority.make("others").certificate
    plain = two.url.replace("wss:", "ws:")

    with pytest.raises(NotTrusted, match="of another CA than the one known here"):
        mp.connect(two.url, token=two.secret, ca=others)
    with pytest.raises(NotTrusted, match="no CA is known"):
        mp.connect(two.url, token=two.secret)
    with pytest.raises(NotTrusted, match="has a different token"):
        mp.connect(two.url, token="another-token-0123456789abcdef", ca=two.ca)
    with pytest.raises(NodeLost, match="begins with wss://"):
        mp.connect(plain, token=two.secret)


def test_log_and_card_report_a_certificate_that_expires_within_a_month(
    two: Two, cluster: mp.Cluster
) -> None:
    files = two.files("soon", days=12.5)
    words = (*with_certificate(two.hosts[1], files), "--join", two.url)
    node = Node("soon", two.hosts[1], two.secret, words)
    try:
        cluster.wait_for("soon")
        card = str(cluster.status())
        found = {one.about: one for one in mp.doctor().found}
        node.line("certificate of node soon ends in 12 days.*mpreg-nb tls node soon")
    finally:
        node.ended()

    assert "the certificate of soon ends in 12 days" in card
    assert found["soon"].state == "note"


# -------------------------------------------------------------------- the command


def test_the_commands_say_what_they_made_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "tls")]

    assert main(["tls", "node", "n1", "10.0.0.5", *out]) == 1
    missing = capsys.readouterr().err
    assert main(["tls", "init", *out]) == 0
    made = capsys.readouterr().out
    assert main(["tls", "node", "n1", "10.0.0.5", "n1.lan", *out]) == 0
    issued = capsys.readouterr().out
    assert main(["tls", "init", *out]) == 1
    again = capsys.readouterr().err

    assert "mpreg-nb tls init" in missing
    assert "copy it to each machine" in made
    assert f"mpreg-nb tls node NAME HOST --out {tmp_path / 'tls'}" in made
    assert "for 10.0.0.5, n1.lan, 365 days" in issued
    assert "mpreg-nb node --name n1 --host 10.0.0.5 --port 7400 --tls-cert" in issued
    assert "To begin anew, remove" in again


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("tls node", "at which names or addresses"),
        ("tls node n1", "mpreg-nb tls node n1 HOST"),
        ("tls init n1", "init takes no name"),
        ("tls init --days 0", "--days is from 1"),
    ],
)
def test_a_wrong_line_is_answered_with_the_right_one(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())

    assert ended.value.code == 2
    assert told in capsys.readouterr().err
