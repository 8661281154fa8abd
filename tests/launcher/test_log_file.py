"""Reading a log from its end, and as it grows."""

from pathlib import Path

import pytest

from mpreg_nb.launcher.log_file import TAIL_BYTES, LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n1.log"


def test_the_last_lines_are_read_also_one_without_an_end(path: Path) -> None:
    path.write_text("one\ntwo\r\nthree")

    log = LogFile(path)

    assert log.last(2) == ("two", "three")
    assert log.last(10) == ("one", "two", "three")
    assert log.last(0) == ()


def test_what_others_wrote_before_is_left_out(path: Path) -> None:
    path.write_text("old\nnew\n")

    assert LogFile(path, start_bytes=4).last(10) == ("new",)


def test_a_growing_file_is_read_line_by_line(path: Path) -> None:
    path.write_text("one\n")
    log = LogFile(path)
    log.last(1)

    with path.open("a") as file:
        file.write("two\nthr")
        file.flush()
        first = log.more()
        file.write("ee\n")
        file.flush()
        second = log.more()

    assert (first, second, log.more()) == (("two",), ("three",), ())


def test_of_a_long_log_only_the_end_is_read(path: Path) -> None:
    path.write_bytes(b"x" * 10 + b"\n" + b"y" * TAIL_BYTES + b"\nlast\n")

    lines = LogFile(path).last(10)

    assert lines[-1] == "last"
    assert set(lines[0]) == {"y"}


def test_what_does_not_print_is_written_out(path: Path) -> None:
    path.write_bytes(b"\x1b[31mred\tblue \xff\n")

    assert LogFile(path).last(1) == ("\\x1b[31mred\tblue \ufffd",)


def test_a_file_that_is_gone_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogFile(path).last(1)
