"""Values of this process: what they accept, and how they are read and shown."""

from collections.abc import Iterator
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.config import CONFIG, KEYS, Config


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key in KEYS.values():
            patch.delenv(key.variable, raising=False)
        CONFIG.reset()
        yield
    CONFIG.reset()


def test_every_key_begins_with_its_default_and_accepts_it() -> None:
    config = Config()

    for key in KEYS.values():
        assert getattr(config, key.name) == key.default
        assert key.checked(key.default) == key.default
    assert set(KEYS) == set(Config.__annotations__)


def test_a_process_starts_with_the_settings_of_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "SLOTS": "8",
        "DIRECT_CALLS": "0",
        "KEEP": "True",
        "MAP_CHUNK_MS": "2.5",
        "PROGRESS_AFTER_S": "inf",
        "CWD": "scratch",
        "WORKERS": "",
    }
    for name, text in given.items():
        monkeypatch.setenv(f"MPREG_NB_{name}", text)

    config = Config()

    assert (config.slots, config.direct_calls, config.keep) == (8, False, True)
    assert (config.map_chunk_ms, config.progress_after_s) == (2.5, float("inf"))
    assert (config.cwd, config.workers) == ("scratch", 1)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("MPREG_NB_SLOTS", "many", "1 to 1,024, not 'many'"),
        ("MPREG_NB_SLOTS", "0", "1 to 1,024, not '0'"),
        ("MPREG_NB_DIRECT_CALLS", "no", "must be 0 or 1, not 'no'"),
        ("MPREG_NB_CWD", "home", "'caller' or 'scratch', not 'home'"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_refused_with_the_cure(
    variable: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(ValueError, match=said) as raised:
        Config()

    assert f"variable {variable} must be" in str(raised.value)
    assert str(raised.value).endswith(f"remove it: unset {variable}")


def test_a_value_that_is_set_is_the_one_that_is_read() -> None:
    assert mp.config("workers") == 1

    assert mp.config("workers", 3) == 3

    assert mp.config("workers") == CONFIG.workers == 3
    assert mp.config() is CONFIG


def test_a_number_of_seconds_may_be_whole_and_without_end() -> None:
    whole = mp.config("progress_after_s", 5)
    never = mp.config("progress_after_s", float("inf"))

    assert (whole, type(whole)) == (5.0, float)
    assert never == float("inf")


@pytest.mark.parametrize(
    ("key", "value", "error", "said"),
    [
        ("wrkers", 1, AttributeError, "Did you mean 'workers'?"),
        ("xyzzy", 1, AttributeError, "The keys are: workers, slots"),
        ("workers", -1, ValueError, "a whole number of processes, 0 to 256, not -1"),
        ("workers", 2.0, TypeError, "not 2.0"),
        ("workers", True, TypeError, "not True"),
        ("slots", 0, ValueError, "1 to 1,024"),
        ("keep", 1, TypeError, "keep must be True or False, not 1"),
        ("start_timeout_s", "soon", TypeError, "not 'soon'"),
        ("progress_after_s", float("nan"), ValueError, "0 or more, not nan"),
    ],
)
def test_what_a_key_does_not_accept_is_refused_with_what_it_does(
    key: str, value: Any, error: type[Exception], said: str
) -> None:
    before = {name: getattr(CONFIG, name) for name in KEYS}

    with pytest.raises(error) as refused:
        mp.config(key, value)

    assert said in str(refused.value)
    assert {name: getattr(CONFIG, name) for name in KEYS} == before


def test_only_keys_can_be_set() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'slots'"):
        CONFIG.slot = 3


def test_the_table_shows_what_was_changed_and_the_frame_explains_all() -> None:
    CONFIG.output_lines = 50

    text = repr(CONFIG)
    bundle = CONFIG._repr_mimebundle_()
    frame = CONFIG.frame()

    assert "output_lines      50      1000     lines that one call may print" in text
    assert bundle["text/plain"] == text
    assert "<td" in bundle["text/html"]
    assert list(frame.columns) == ["key", "value", "default", "accepted", "meaning"]
    assert list(frame.key) == list(KEYS)
    assert dict(zip(frame.key, frame.value, strict=True))["output_lines"] == 50


def test_a_word_is_set_only_if_it_is_among_the_choices() -> None:
    values = Config()

    values.cwd = "scratch"

    assert values.cwd == "scratch"
    accepted = "cwd must be 'caller' or 'scratch'"
    with pytest.raises(ValueError, match=f"{accepted}, not 'home'"):
        values.cwd = "home"
    with pytest.raises(TypeError, match=f"{accepted}, not 1"):
        values.cwd = 1  # type: ignore[assignment]
