"""The doctor names what is wrong, and a cure that works."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster import doctor
from mpreg_nb.cluster.doctor import Finding, Findings, examine
from mpreg_nb.launcher.cluster_files import ClusterFiles
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport.certificates import Authority
from tests.support.leaks import Leaks, nothing_left
from tests.support.settings import default_settings


@pytest.fixture(autouse=True)
def leaks(tmp_path: Path) -> Iterator[Leaks]:
    with nothing_left(tmp_path) as leaks:
        yield leaks


def about(subject: str, findings: Findings) -> Finding:
    [found] = [finding for finding in findings.found if finding.about == subject]
    return found


def test_where_all_is_well_nothing_has_to_be_done() -> None:
    findings = examine()

    assert findings.healthy
    assert {about(s, findings).state for s in ("Python", "packages", "loopback")} == {
        "ok"
    }
    assert about("leftovers", findings).state == "ok"


def test_doctor_says_whether_large_values_share_memory_and_how_to_switch_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with default_settings():
        on = about("shared memory", examine())
    monkeypatch.setattr(MEMORY, "limit_bytes", 0)
    off = about("shared memory", examine())

    assert (on.state, on.found) == ("ok", "up to 1,024 MB for large values")
    assert off.state == "note"
    assert off.cure == 'mp.config("shared_memory_mb", 1024)'


def test_a_missing_and_an_old_package_are_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = ["nowhere-to-be-had>=1.2", "msgspec>=999", "absent>=1; extra == 'x'"]
    monkeypatch.setattr(doctor, "requires", lambda _: needed)

    found = {finding.about: finding for finding in doctor.check_installation()}

    assert found["nowhere-to-be-had"].found == "not installed, needs >=1.2"
    assert found["nowhere-to-be-had"].cure == "pip install 'nowhere-to-be-had>=1.2'"
    assert found["msgspec"].state == "wrong"
    assert "absent" not in found
    assert "packages" not in found


def test_a_token_that_others_can_read_is_wrong_until_it_is_closed() -> None:
    examine()  # makes the token
    token = Path(os.environ["XDG_STATE_HOME"], "mpreg_nb", "token")
    token.chmod(0o644)

    findings = examine()

    assert not findings.healthy
    assert f"chmod 600 {token}" in about("token", findings).found
    token.chmod(0o600)
    assert examine().healthy


def test_a_damaged_ledger_file_is_named() -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"], "mpreg_nb")
    folder.mkdir(mode=0o700)
    damaged = folder / "half.json"
    damaged.touch(0o600)

    finding = about("ledger", examine())

    assert finding.state == "wrong"
    assert str(damaged) in finding.found
    damaged.unlink()


KEEP = """
import mpreg_nb as mp

if __name__ == "__main__":
    mp.up(1, keep=True, name="left-over")
"""


def test_a_kept_cluster_of_a_process_that_is_gone_is_a_leftover(
    tmp_path: Path,
) -> None:
    program = tmp_path / "keep.py"
    program.write_text(KEEP, encoding="utf-8")
    subprocess.run([sys.executable, str(program)], check=True, timeout=60)

    finding = about("clusters", examine())

    assert finding.state == "note"
    assert finding.found == "your cluster 'left-over' is running: 1 of 1 nodes"
    assert "mp.down('left-over')" in finding.cure
    mp.down("left-over")
    assert about("leftovers", examine()).state == "ok"


def test_nodes_that_are_no_leftovers_are_nobodys_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = ClusterFiles()
    entry = ledger.claim("1" * 32, by_hand=True)
    monkeypatch.setattr(doctor, "_node_processes", lambda: iter([1, 2]))

    by_hand, others = [f for f in doctor.check_leftovers() if f.about != "leftovers"]

    assert (by_hand.state, by_hand.cure) == ("ok", "")
    assert "by hand" in by_hand.found
    assert others.found.startswith("2 node processes of other programs of yours")
    assert (others.state, others.cure) == ("ok", "")
    ledger.remove(entry)


def test_a_dead_node_is_named_with_the_line_that_starts_it_again() -> None:
    with mp.up({"n1": set(), "n2": {"gpu", "big"}}) as cluster:
        cluster.kill("n2")
        cluster.wait_for("n2", state="dead")

        findings = examine()

        assert not findings.healthy
        assert about("n2", findings).found == "is dead"
        assert (
            about("n2", findings).cure
            == "cluster.add('n2', {'big', 'gpu'}) starts it again"
        )
        assert about(cluster.name, findings).found == "1 of 2 nodes alive"


def test_certificates_are_listed_with_a_warning_a_month_before_they_expire(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tls"
    authority = Authority.make()
    authority.write(folder)
    for node, days in (("n1", 365.0), ("n2", 12.5), ("n3", -1.0)):
        authority.issue(node, days=days).write(folder, node)
    (folder / "n4.pem").write_text("not one")

    found = {one.about: one for one in doctor.check_certificates(folder)}

    assert [found[f"{name}.pem"].state for name in ("ca", "n1", "n2", "n3", "n4")] == [
        *("ok", "ok", "note", "wrong", "wrong")
    ]
    assert found["n2.pem"].found == "the certificate ends in 12 days"
    assert "mpreg-nb tls node NAME HOST" in found["n2.pem"].cure
    assert "has ended" in found["n3.pem"].found
    assert list(doctor.check_certificates(tmp_path / "none")) == []


def test_findings_show_themselves_in_every_way() -> None:
    findings = Findings(
        (
            Finding(about="a", found="fine"),
            Finding(about="b", state="wrong", found="<b>", cure="mend it"),
        )
    )

    assert str(findings).splitlines()[0] == "1 problem found"
    assert "&lt;b&gt;" in findings._repr_html_()
    assert set(findings._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert findings.frame()["state"].tolist() == ["ok", "wrong"]


def test_the_command_ends_with_1_where_something_is_wrong() -> None:
    command = [str(Path(sys.executable).with_name("mpreg-nb")), "doctor"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    Path(os.environ["XDG_STATE_HOME"], "mpreg_nb", "token").chmod(0o644)

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert "1 problem found" in ended.stdout
