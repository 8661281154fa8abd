"""A second process that runs the functions sent to it, as a worker does."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mpreg_nb.serialize.exceptions import remote_error
from mpreg_nb.serialize.pickle import (
    pack,
    pack_exception,
    pack_function,
    unpack,
    unpack_function,
)


class OtherProcess:
    """Runs functions in a process that has seen none of the cells."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what `function` returns there, or raise what it raises."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        parts = pack_function(function).parts
        sent = [[bytes(p) for p in some] for some in (parts, pack(args))]
        pickle.dump(sent, to)
        to.flush()
        raised, answer = pickle.load(back)
        if raised:
            raise remote_error(answer, function="work", node="n1")
        return unpack(answer)


@contextmanager
def other_process() -> Iterator[OtherProcess]:
    program = "from tests.support.other_process import serve; serve()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield OtherProcess(process)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """Answer calls until there is nothing more to read."""
    while True:
        try:
            function, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            value = unpack_function(function)(*unpack(args))
            answer = False, [bytes(part) for part in pack(value)]
        except BaseException as error:  # noqa: BLE001  the caller gets it
            answer = True, [bytes(part) for part in pack_exception(error)]
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.flush()
