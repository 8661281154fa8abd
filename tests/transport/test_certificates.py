"""The CA of a cluster, certificates of its nodes, and what of them is refused."""

import asyncio
import os
import ssl
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from websockets.typing import Subprotocol

from mpreg_nb.errors import MpregError, NotTrusted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.certificates import Authority
from mpreg_nb.transport.dial import DialFailed
from mpreg_nb.transport.handshake import SUBPROTOCOLS
from mpreg_nb.transport.tls import (
    SYSTEM,
    Certificate,
    Tls,
    TlsFiles,
    dialling,
    ends_soon,
    load_ca,
    read_tls,
)
from tests.support.links import NODE, OTHER_TOKEN, house, open_link

OURS = Authority.make("ours")
OTHERS = Authority.make("others")
DAY_S = 86400.0


def files_of(folder: Path, authority: Authority = OURS, **options: float) -> TlsFiles:
    issued = authority.issue(NODE, ["10.0.0.5", "n1.lan"], **options)
    return issued.write(folder / "tls", NODE)


def tls_of(folder: Path, authority: Authority = OURS, node: str = NODE) -> Tls:
    return read_tls(authority.issue(node).write(folder / node, node), node=node)


# ------------------------------------------------------------------ what is written


def test_a_certificate_names_its_hosts_its_node_and_loopback(tmp_path: Path) -> None:
    tls = read_tls(files_of(tmp_path), node=NODE, hosts=["N1.lan", "10.0.0.5"])

    assert tls.certificate is not None
    assert tls.certificate.nodes == (NODE,)
    assert set(tls.certificate.hosts) == {
        *("10.0.0.5", "n1.lan", "localhost", "127.0.0.1", "::1")
    }
    assert tls.certificate.expires_s == pytest.approx(time.time() + 365 * DAY_S, abs=60)
    assert tls.ca == OURS.certificate


def test_all_files_are_for_their_user_alone(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    OURS.write(tmp_path / "ca")

    folders = tmp_path / "tls", tmp_path / "ca"
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    written = [file for folder in folders for file in folder.iterdir()]
    assert {file.stat().st_mode & 0o777 for file in written} == {0o600}
    assert len(written) == 5
    assert "PRIVATE" not in Path(files.certificate).read_text()
    assert "PRIVATE" not in repr(OURS) + repr(OURS.issue(NODE))


def test_a_ca_is_read_as_it_was_written_and_never_replaced(tmp_path: Path) -> None:
    OURS.write(tmp_path / "ca")

    with pytest.raises(FileExistsError, match="would be refused"):
        OTHERS.write(tmp_path / "ca")

    assert Authority.read(tmp_path / "ca") == OURS
    with pytest.raises(NotTrusted, match="mpreg-nb tls init"):
        Authority.read(tmp_path / "elsewhere")


@pytest.mark.parametrize("host", ["", "ws://n1:7400", "10.0.0.5/24", "two words"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="neither the name nor the address"):
        OURS.issue(NODE, [host])


def test_without_the_package_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "mpreg_nb.transport.certificates")

    with pytest.raises(MpregError, match=r"pip install 'mpreg_nb\[tls\]'"):
        import mpreg_nb.transport.certificates  # noqa: F401


# ------------------------------------------------------ what a node may not listen with


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    os.chmod(files.key, 0o640)

    with pytest.raises(NotTrusted, match=r"chmod 600 .*n1\.key"):
        read_tls(files)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    Path(files.key).write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")

    with pytest.raises(NotTrusted, match="password"):
        read_tls(files)


def test_a_certificate_that_has_ended_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotTrusted, match=r"has ended.*tls node n1 10\.0\.0\.5"):
        read_tls(files_of(tmp_path, days=-1), node=NODE, hosts=["10.0.0.5"])


def test_a_certificate_that_other_nodes_would_refuse_is_refused_here(
    tmp_path: Path,
) -> None:
    files = files_of(tmp_path)
    Path(files.ca).write_text(OTHERS.certificate)

    with pytest.raises(NotTrusted, match="not of the CA that this node trusts"):
        read_tls(files)


def test_a_certificate_of_another_node_or_host_is_refused(tmp_path: Path) -> None:
    files = files_of(tmp_path)

    with pytest.raises(NotTrusted, match="is for node n1, not n2"):
        read_tls(files, node="n2")
    with pytest.raises(NotTrusted, match=r"others dial this node at 10\.0\.0\.6\."):
        read_tls(files, node=NODE, hosts=["10.0.0.5", "10.0.0.6"])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    other = OURS.issue(NODE).write(tmp_path / "other", NODE)

    with pytest.raises(NotTrusted, match="do not belong together"):
        read_tls(replace(files, key=other.key))


@pytest.mark.parametrize("damaged", ["certificate", "key", "ca"])
def test_files_that_were_changed_or_are_missing_are_refused(
    tmp_path: Path, damaged: str
) -> None:
    files = files_of(tmp_path)
    file = Path(getattr(files, damaged))
    text = file.read_text()
    file.write_text(text[:100] + ("A" if text[100] != "A" else "B") + text[101:])

    with pytest.raises(NotTrusted):
        read_tls(files)
    file.unlink()
    with pytest.raises(NotTrusted, match=file.name):
        read_tls(files)


# ---------------------------------------------------------------- what a dialler trusts


async def test_who_has_the_ca_is_let_in_and_knows_when_the_certificate_ends(
    tmp_path: Path,
) -> None:
    tls = tls_of(tmp_path)
    async with house(ssl_context=tls.accept) as home:
        link = await open_link(home.listener.url, ssl_context=tls.dial)

        assert link.peer.carrier == "tls"
        assert tls.certificate is not None
        assert link.peer.expires_s == tls.certificate.expires_s
        link.close()


@pytest.mark.parametrize(
    ("ca", "found"),
    [
        (OTHERS.certificate, "of another CA than the one known here"),
        (SYSTEM, "of another CA than the one known here"),
        ("", "no CA is known"),
    ],
)
async def test_a_certificate_of_another_ca_is_refused_with_the_cure(
    tmp_path: Path, ca: str, found: str
) -> None:
    async with house(ssl_context=tls_of(tmp_path).accept) as home:
        with pytest.raises(NotTrusted, match=f"{found}.*--ca FILE, ca=FILE or"):
            await open_link(home.listener.url, ssl_context=dialling(ca) if ca else None)

        assert home.ears == []


async def test_the_certificate_of_one_node_does_not_serve_another(
    tmp_path: Path,
) -> None:
    stolen = tls_of(tmp_path, node="n2")
    async with house(ssl_context=stolen.accept) as home:
        with pytest.raises(NotTrusted, match="with the certificate of node n2"):
            await open_link(home.listener.url, ssl_context=stolen.dial)

        assert home.ears == []


async def test_a_certificate_that_ended_while_its_node_ran_is_refused(
    tmp_path: Path,
) -> None:
    issued = OURS.issue(NODE, days=-1).write(tmp_path / "tls", NODE)
    ended = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ended.load_cert_chain(issued.certificate, issued.key)
    async with house(ssl_context=ended) as home:
        with pytest.raises(NotTrusted, match=r"has ended.*mpreg-nb tls node"):
            await open_link(home.listener.url, ssl_context=dialling(OURS.certificate))


async def test_a_node_receives_the_reason_why_a_dialler_hung_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(ssl_context=tls_of(tmp_path).accept) as home:
        with pytest.raises(NotTrusted):
            await open_link(home.listener.url, ssl_context=dialling(OTHERS.certificate))
        while not home.listener.refusals:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody is told when a refusal is counted

    assert "it needs the CA of this cluster" in caplog.text


# ------------------------------------------------------------------- where the CA is


def test_the_ca_is_the_one_given_that_of_the_environment_or_ones_own(
    tmp_path: Path,
) -> None:
    own = {"XDG_STATE_HOME": str(tmp_path)}
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    first.write_text(OURS.certificate)
    second.write_text(OTHERS.certificate)

    assert load_ca(first, own) == OURS.certificate
    assert load_ca(first, {"MPREG_NB_CA": str(second)}) == OURS.certificate
    assert load_ca(None, {"MPREG_NB_CA": str(second)}) == OTHERS.certificate
    assert load_ca(OURS.certificate) == OURS.certificate
    assert load_ca(SYSTEM) == SYSTEM


def test_the_ca_that_this_user_made_is_used_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("MPREG_NB_CA", raising=False)

    before = load_ca()
    OURS.write(tmp_path / "mpreg_nb" / "tls")

    assert (before, load_ca()) == ("", OURS.certificate)


def test_a_file_that_is_no_ca_is_refused_by_what_it_is(tmp_path: Path) -> None:
    key, text = tmp_path / "ca.key", tmp_path / "text"
    key.write_text(OURS.key)
    text.write_bytes(b"\xff")

    with pytest.raises(NotTrusted, match="holds a private key"):
        load_ca(key)
    with pytest.raises(NotTrusted, match="no certificate"):
        load_ca(text)
    with pytest.raises(NotTrusted, match="cannot be read: No such file"):
        load_ca(tmp_path / "missing")


# ----------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("days", "said"),
    [(31, ""), (29.5, "ends in 29 days"), (1.5, "ends in 1 day"), (0.2, "ends today")],
)
def test_the_expiry_is_announced_a_month_before(days: float, said: str) -> None:
    assert ends_soon(days * DAY_S, 0.0) == said
    assert ends_soon(-1.0, 0.0) == "has ended"


def test_hosts_of_a_certificate_are_compared_as_addresses() -> None:
    one = Certificate.of(
        {
            "subjectAltName": (("IP Address", "0:0:0:0:0:0:0:1"), ("DNS", "n1.lan")),
            "notAfter": "Jan  5 09:34:43 2030 GMT",
        }
    )

    assert one.is_for("::1")
    assert one.is_for("N1.LAN")
    assert not one.is_for("lan")


# --------------------------------------------------------------- who speaks otherwise


async def test_a_link_without_tls_is_reported_on_both_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(proof_timeout_s=20)
    tls = tls_of(tmp_path)
    async with house(ssl_context=tls.accept, limits=limits) as home:
        with pytest.raises(DialFailed, match="begins with wss://") as caught:
            await open_link(home.listener.url.replace("wss:", "ws:"))

        assert caught.value.kind == "mismatch"
        assert "it speaks without TLS" in caplog.text
        assert home.listener.unproven == 0


async def test_tls_to_a_node_without_it_is_reported_on_both_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house() as home:
        with pytest.raises(DialFailed, match="begins with ws://") as caught:
            await open_link(
                home.listener.url.replace("ws:", "wss:"),
                ssl_context=tls_of(tmp_path).dial,
            )

        assert caught.value.kind == "mismatch"
        assert "it speaks TLS, and this node has no certificate" in caplog.text


async def test_another_protocol_version_is_reported_on_both_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house() as home:
        monkeypatch.setitem(SUBPROTOCOLS, "data", Subprotocol("mpreg.data.v9"))
        with pytest.raises(DialFailed, match=r"this process mpreg\.data\.v9") as caught:
            await open_link(home.listener.url)

        assert caught.value.kind == "mismatch"
        assert "Install the same one on both" in caught.value.detail
        assert "it speaks 'mpreg.data.v9'" in caplog.text
        assert home.ears == []


async def test_a_node_with_another_token_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house() as home:
        with pytest.raises(NotTrusted, match="has a different token"):
            await open_link(home.listener.url, token=OTHER_TOKEN, name="w1")

        assert "node 'w1' has another token" in caplog.text
        assert OTHER_TOKEN.reveal() not in caplog.text
