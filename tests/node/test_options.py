import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpreg_nb.node.options import NodeOptions, arguments_of, read_options
from mpreg_nb.settings import Limits, NodeSettings

ALL_SET = NodeOptions(
    settings=NodeSettings(
        name="-gpu 1",
        resources=frozenset({"gpu", "data set"}),
        host="0.0.0.0",  # noqa: S104 - never bound here
        port=7400,
        join=("ws://10.0.0.5:7400", "wss://[::1]:7401"),
        cluster_id="0123456789abcdef" * 2,
        workers=0,
        slots=8,
        profile="wan",
        advertised=("wss://gpu.example:443",),
        scratch="/tmp/scratch",  # noqa: S108 - never made here
        store_bytes=0,
        drain_s=0.5,
        limits=Limits(max_payload_bytes=1),
    ),
    token_file="/home/me/token",
    tls_cert="/etc/cert.pem",
    tls_key="/etc/key.pem",
    listening=5,
    lifeline=7,
    parent=4711,
)


def test_what_a_parent_writes_is_what_a_node_reads() -> None:
    assert read_options(arguments_of(ALL_SET)) == ALL_SET


@example(name="--", resources=frozenset({"--"}))
@given(
    name=st.text("ab-= é'\"", min_size=1).map(str.strip).filter(bool),
    resources=st.frozensets(
        st.text("ab-= é", min_size=1).map(str.strip).filter(bool), max_size=3
    ),
)
def test_any_name_survives_the_command_line(
    name: str, resources: frozenset[str]
) -> None:
    options = NodeOptions(
        settings=NodeSettings(name=name, resources=resources), lifeline=0
    )

    assert read_options(arguments_of(options)) == options


def test_a_name_alone_gives_the_usual_settings() -> None:
    assert read_options(["--name", "n1"]) == NodeOptions(
        settings=NodeSettings(name="n1")
    )


def test_resources_may_be_given_together_or_one_by_one() -> None:
    options = read_options("--name n1 --resources a,b --resources c".split())

    assert options.settings.resources == {"a", "b", "c"}


def test_the_word_stdin_is_a_lifeline() -> None:
    assert read_options("--name n1 --lifeline stdin".split()).lifeline == 0


def test_files_are_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    options = NodeOptions(settings=NodeSettings(name="n1"), token_file="token")

    assert f"--token-file={tmp_path}/token" in arguments_of(options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "--name"),
        ("--name a:b", "'a:b' cannot name a node"),
        ("--name n1 --resources a,,b", "'' cannot name a resource"),
        ("--name n1 --workers -1", "-1 is too small: the smallest value is 0"),
        ("--name n1 --slots 0", "0 is too small: the smallest value is 1"),
        ("--name n1 --slots two", "'two' is not a whole number"),
        ("--name n1 --port 70000", "70000 is too large"),
        ("--name n1 --join 10.0.0.5:7400", "ws://HOST:PORT"),
        ("--name n1 --join http://a:1", "'http://a:1' is not a node's URL"),
        ("--name n1 --join ws://a", "'ws://a' is not a node's URL"),
        ("--name n1 --join ws://a:x", "is not a URL"),
        ("--name n1 --join ws://me:secret@a:1", "a URL must not contain a password"),
        ("--name n1 --join ws://a:1/?token=x", "a URL must not contain a password"),
        ("--name n1 --cluster-id 12", "'12' is not 32 hexadecimal digits"),
        ("--name n1 --profile fast", "invalid choice: 'fast'"),
        ("--name n1 --drain-s soon", "'soon' is not a number of seconds"),
        ("--name n1 --drain-s nan", "nan is not from 0 to 86400 seconds"),
        ("--name n1 --lifeline pipe", "'pipe' is not a whole number"),
        ("--name n1 --parent 0", "0 is too small"),
        ("--name n1 --token secret", "unrecognized arguments: --token"),
        ("--name n1 --host 0.0.0.0", "add --tls-cert FILE --tls-key FILE"),
        ("--name n1 --host box.lan", "mpreg-nb tls node n1 box.lan"),
        (
            "--name n1 --host 0.0.0.0 --port 7400 --tls-cert a --tls-key b",
            "Add --advertise wss://ADDRESS:7400",
        ),
        ("--name n1 --join wss://10.0.0.5:7400", "could not connect to this one"),
        ("--name n1 --tls-cert a.pem", "give both"),
        (
            "--name n1 --json-open --host 0.0.0.0 --tls-cert a --tls-key b",
            "or use --host 127.0.0.1",
        ),
    ],
)
def test_a_wrong_option_exits_with_2_and_the_cure(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        read_options(arguments.split())

    assert exit_info.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_certificate(host: str) -> None:
    options = read_options(["--name", "n1", "--json-open", "--host", host])

    assert options.settings.host == host


def test_reading_options_loads_no_event_loop() -> None:
    program = (
        "import sys, mpreg_nb.node.options; "
        "print(*{'asyncio', 'websockets', 'psutil'} & set(sys.modules))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == ""
