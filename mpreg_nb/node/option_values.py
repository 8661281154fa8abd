"""How the value of each option of a node is read; errors tell what is accepted."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from mpreg_nb.names import check_name, check_resources, check_url

STDIN = 0
"""The descriptor that the word stdin means."""


def read_named(kind: str) -> Callable[[str], str]:
    """Return a reader of names of `kind`."""

    def read(text: str) -> str:
        try:
            return check_name(kind, text.strip())
        except ValueError as error:
            _refuse(str(error))

    return read


def read_resources(text: str) -> list[str]:
    """Read resource names with commas between them, or nothing."""
    try:
        return sorted(check_resources(map(str.strip, text.split(",")))) if text else []
    except ValueError as error:
        _refuse(str(error))


def read_at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            _refuse(f"{text!r} is not a whole number")
        if number < least:
            _refuse(f"{number} is too small: the smallest value is {least}")
        return number

    return read


def read_port(text: str) -> int:
    """Read a port; 0 stands for a free one."""
    number = read_at_least(0)(text)
    if number > 65535:
        _refuse(f"{number} is too large: the largest port is 65535")
    return number


def read_seconds(text: str) -> float:
    """Read up to a day in seconds."""
    try:
        number = float(text)
    except ValueError:
        _refuse(f"{text!r} is not a number of seconds")
    if not 0 <= number <= 86_400:
        _refuse(f"{text} is not from 0 to 86400 seconds")
    return number


def read_url(text: str) -> str:
    """Read the URL of a node."""
    try:
        return check_url(text)
    except ValueError as error:
        _refuse(str(error))


def read_cluster_id(text: str) -> str:
    """Read the id of a cluster, or nothing."""
    # argparse reads a default that is text as if it were given.
    if text and (len(text) != 32 or set(text) - set("0123456789abcdef")):
        _refuse(f"{text!r} is not 32 hexadecimal digits (0-9, a-f)")
    return text


def read_lifeline(text: str) -> int:
    """Read a descriptor, or the word for standard input."""
    return STDIN if text == "stdin" else read_at_least(0)(text)


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)
