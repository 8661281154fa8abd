"""The user's token: where it comes from, and when it is not trusted."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mpreg_nb.errors import NotTrusted
from mpreg_nb.transport.token import (
    Token,
    accepted,
    current,
    default_path,
    hkdf,
    load_token,
    read_token,
    rotate,
)

SECRET = "kq2Jq0p3sS8Jm1nVb7Qw4x"


def put(path: Path, content: str = SECRET, mode: int = 0o600) -> Path:
    path.write_text(content, encoding="ascii")
    path.chmod(mode)
    return path


# RFC 5869, appendix A, the three cases with SHA-256.
@pytest.mark.parametrize(
    ("secret", "salt", "info", "length", "expected"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
            "34007208d5b887185865",
        ),
        (
            bytes(range(0x00, 0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
            "9d201395faa4b61a96c8",
        ),
    ],
    ids=["basic", "longer", "no salt and no info"],
)
def test_keys_are_derived_by_the_standard(
    secret: str, salt: str, info: str, length: int, expected: str
) -> None:
    made = hkdf(
        bytes.fromhex(secret),
        bytes.fromhex(info),
        salt=bytes.fromhex(salt),
        length=length,
    )

    assert made.hex() == expected


def test_each_role_has_a_key_of_its_own() -> None:
    token = Token(SECRET)

    keys = {token.key("client"), token.key("node"), SECRET.encode()}

    assert len(keys) == 3
    assert token.key("node") == Token(SECRET).key("node")


def test_a_token_does_not_show_itself() -> None:
    token = Token(SECRET)

    shown = f"{token!r} {token}"

    assert SECRET not in shown
    assert token.reveal() == SECRET


@pytest.mark.parametrize("offered", ["", SECRET[:-1], SECRET + "x", "ключ", "\udcff"])
def test_only_the_secret_itself_matches(offered: str) -> None:
    token = Token(SECRET)

    assert token.matches(SECRET)
    assert not token.matches(offered)


@pytest.mark.parametrize(
    "secret", ["", "two\nlines", "ключ", "\x00", "with spaces and a stop.", "client."]
)
def test_what_cannot_be_a_token_is_refused(secret: str) -> None:
    with pytest.raises(NotTrusted, match="MPREG_NB_TOKEN is not a token"):
        load_token(environ={"MPREG_NB_TOKEN": secret})


def test_the_argument_wins_over_the_environment_and_that_over_files(
    tmp_path: Path,
) -> None:
    named = put(tmp_path / "named", "from-the-named-file-0123456789")
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    own = load_token(environ=environ)

    environ["MPREG_NB_TOKEN_FILE"] = str(named)
    from_file = load_token(environ=environ)
    environ["MPREG_NB_TOKEN"] = "from-the-environment-0123456789"
    from_environment = load_token(environ=environ)
    given = load_token("from-the-argument-0123456789", environ=environ)

    assert from_file.reveal() == "from-the-named-file-0123456789"
    assert from_environment.reveal() == "from-the-environment-0123456789"
    assert given.reveal() == "from-the-argument-0123456789"
    assert own.reveal() not in {token.reveal() for token in (from_file, given)}


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "blank", "folder", "pipe", "long"]
)
def test_a_named_file_without_a_token_is_an_error_and_not_passed_over(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "token"
    match kind:
        case "empty":
            put(path, "")
        case "blank":
            put(path, " \n")
        case "folder":
            path.mkdir(mode=0o700)
        case "pipe":
            os.mkfifo(path, mode=0o600)
        case "long":
            put(path, "x" * 5000)
    environ = {"MPREG_NB_TOKEN_FILE": str(path), "XDG_STATE_HOME": str(tmp_path)}

    with pytest.raises(NotTrusted, match=str(path)):
        load_token(environ=environ)

    assert not (tmp_path / "mpreg_nb").exists()


def test_the_token_is_made_on_first_use_for_its_owner_only(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}

    first = load_token(environ=environ)

    path = default_path(environ)
    assert path == tmp_path / "state" / "mpreg_nb" / "token"
    assert len(first.reveal()) == 43
    assert load_token(environ=environ).reveal() == first.reveal()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]


def test_processes_that_race_to_make_it_end_up_with_one_token(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}

    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: load_token(environ=environ), range(32)))

    assert len({token.reveal() for token in tokens}) == 1


def test_without_a_state_folder_it_is_kept_under_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    path = default_path({})

    assert path == tmp_path / ".local" / "state" / "mpreg_nb" / "token"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_file_that_others_may_touch_is_refused_with_its_path_and_the_cure(
    tmp_path: Path, mode: int
) -> None:
    path = put(tmp_path / "token", mode=mode)

    with pytest.raises(NotTrusted) as caught:
        read_token(path)

    assert f"chmod 600 {path}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_link_to_a_token_is_refused(tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere")
    link = tmp_path / "token"
    link.symlink_to(target)

    with pytest.raises(NotTrusted, match="symbolic link"):
        read_token(link)


def test_a_dangling_link_in_place_of_the_own_token_is_not_followed(
    tmp_path: Path,
) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    path = default_path(environ)
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "target")

    with pytest.raises(NotTrusted, match="symbolic link"):
        load_token(environ=environ)

    assert not (tmp_path / "target").exists()


def test_a_token_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "token")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(NotTrusted, match="belongs to user"):
        read_token(path)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    load_token(environ=environ)
    folder = default_path(environ).parent
    folder.chmod(0o777)

    with pytest.raises(NotTrusted, match=f"chmod 700 {folder}"):
        load_token(environ=environ)


def test_where_no_token_can_be_kept_the_cure_is_named(tmp_path: Path) -> None:
    in_the_way = put(tmp_path / "state")

    with pytest.raises(NotTrusted, match="Set MPREG_NB_TOKEN"):
        load_token(environ={"XDG_STATE_HOME": str(in_the_way)})


# ------------------------------------------------------------------------ strength


@pytest.mark.parametrize("secret", ["a", SECRET[:21], "x" * 21])
def test_a_token_of_less_than_128_bit_is_refused_with_the_cure(secret: str) -> None:
    with pytest.raises(NotTrusted, match=r"too short.*mpreg-nb token show"):
        load_token(secret)


def test_a_token_of_128_bit_is_taken() -> None:
    assert load_token(SECRET).reveal() == SECRET
    assert len(SECRET) == 22


@pytest.mark.parametrize("kept", [0, 2, 21, 30, 43])
def test_an_own_token_file_that_was_cut_short_is_refused_and_not_used(
    tmp_path: Path, kept: int
) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    whole = load_token(environ=environ).reveal()
    put(default_path(environ), whole[:kept])

    with pytest.raises(NotTrusted, match="Remove it; the next use creates a new one"):
        load_token(environ=environ)

    assert default_path(environ).read_text() == whole[:kept]


# --------------------------------------------------------------- tokens for less


def test_a_token_for_clients_proves_clients_and_nothing_else() -> None:
    token = Token(SECRET)
    issued = Token(token.issue("client"), source="MPREG_NB_TOKEN")

    assert issued.key("client") == token.key("client")
    assert issued.caller_role == "client"
    with pytest.raises(NotTrusted, match="a token for clients, and cannot be used by"):
        issued.key("node")
    with pytest.raises(NotTrusted):
        issued.key("viewer")


def test_a_read_only_token_proves_viewers_and_nothing_else() -> None:
    token = Token(SECRET)
    issued = Token(token.issue("viewer"))

    assert issued.key("viewer") == token.key("viewer")
    assert issued.caller_role == "viewer"
    with pytest.raises(NotTrusted, match="clients that only look"):
        issued.key("client")
    with pytest.raises(NotTrusted, match="clients that only look"):
        issued.key("node")


def test_the_token_looks_like_one_that_was_issued() -> None:
    token = Token(SECRET)

    for issued in (token.issue("client"), token.issue("viewer")):
        assert SECRET not in issued
        assert token.role_of(issued) in ("client", "viewer")
    assert token.role_of(SECRET) == "client"
    assert token.role_of(Token(SECRET[::-1]).issue("client")) is None


@pytest.mark.parametrize("damage", [slice(0, -1), slice(1, None), slice(0, 40)])
def test_an_issued_token_that_was_cut_off_is_refused(damage: slice) -> None:
    issued = Token(SECRET).issue("client")

    with pytest.raises(NotTrusted, match=r"not a whole token|too short"):
        Token(issued[damage])


def test_the_id_of_a_key_distinguishes_keys_and_reveals_none() -> None:
    token = Token(SECRET)
    ids = {token.key_id("client"), token.key_id("node"), Token("x" * 22).key_id("node")}

    assert len(ids) == 3
    assert token.key_id("node") not in token.key("node").hex()


# ------------------------------------------------------------------------ rotation


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path)}


def test_after_a_rotation_both_tokens_are_accepted_and_the_new_one_used(
    environ: dict[str, str],
) -> None:
    old = load_token(environ=environ)

    rotate(old)

    new = load_token(environ=environ)
    assert new.reveal() != old.reveal()
    assert current(old).reveal() == new.reveal()
    for token in (old, new):
        secrets = [one.reveal() for one in accepted(token)]
        assert secrets == [new.reveal(), old.reveal()]


def test_when_the_overlap_is_over_only_the_new_token_is_accepted(
    environ: dict[str, str],
) -> None:
    old = load_token(environ=environ)

    rotate(old, overlap_s=0)

    assert [one.reveal() for one in accepted(old)] == [current(old).reveal()]
    assert current(old).reveal() != old.reveal()


def test_of_two_rotations_the_token_before_the_first_is_accepted_no_more(
    environ: dict[str, str],
) -> None:
    first = load_token(environ=environ)

    second = rotate(first)
    third = rotate(second)

    secrets = {one.reveal() for one in accepted(first)}
    assert secrets == {second.reveal(), third.reveal()}


def test_both_files_of_a_rotation_are_for_their_owner_only(
    environ: dict[str, str],
) -> None:
    rotate(load_token(environ=environ))
    folder = default_path(environ).parent

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert modes == {"token": 0o600, "token.previous": 0o600}


@pytest.mark.parametrize("content", ["", "x", "not a token\nsoon\n", "\xff"])
def test_a_previous_token_that_makes_no_sense_is_passed_over(
    environ: dict[str, str], content: str
) -> None:
    token = load_token(environ=environ)
    previous = default_path(environ).with_name("token.previous")
    previous.write_text(content, encoding="latin-1")
    previous.chmod(0o600)

    assert [one.reveal() for one in accepted(token)] == [token.reveal()]


def test_a_token_file_that_is_gone_changes_nothing_for_those_who_read_it(
    environ: dict[str, str],
) -> None:
    token = load_token(environ=environ)

    default_path(environ).unlink()

    assert current(token) is token
    assert accepted(token) == (token,)


@pytest.mark.parametrize("issued", [False, True], ids=["of no file", "issued"])
def test_what_cannot_be_rotated_is_refused_with_the_cure(issued: bool) -> None:
    token = Token(Token(SECRET).issue("client") if issued else SECRET)

    with pytest.raises(NotTrusted, match=r"Rotate that one|Set a new value"):
        rotate(token)
