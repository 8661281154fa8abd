"""Pictures of a cluster as a front end shows them, not plainly."""

import pytest


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPREG_NB_PLAIN", "0")
