from pathlib import Path

import pytest

from mpreg_nb.user_files import runtime_folders


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [("own", "own/mpreg_nb"), ("missing", None), ("", None), ("relative", None)],
)
def test_the_folders_are_the_users_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    expected: str | None,
) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    relative = runtime in {"", "relative"}
    monkeypatch.setenv(
        "XDG_RUNTIME_DIR", runtime if relative else str(tmp_path / runtime)
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fallback = tmp_path / "state" / "mpreg_nb" / "clusters"

    assert runtime_folders() == (
        (fallback,) if expected is None else (tmp_path / expected, fallback)
    )


def test_the_state_folder_is_below_home_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    assert runtime_folders() == (tmp_path / ".local/state/mpreg_nb/clusters",)
