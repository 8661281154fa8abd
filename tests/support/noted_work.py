"""The function that histories call, in a file of its own: workers load it fast."""

import os
import time


def work(log: str, call: str, seconds: float, fate: str) -> str:
    """Record the start and the end of one execution, each by one write."""
    run = f"{os.getpid()}-{os.urandom(4).hex()}"

    def note(what: str) -> None:
        line = f"{what} {call} {run} {time.monotonic():.6f} {os.getppid()}\n"
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    try:
        note("start")
        if seconds:
            time.sleep(seconds)
    except BaseException:  # interrupted, perhaps before it could write: it did start
        note("start")
        raise
    if fate == "exit":
        os._exit(3)
    note("end")
    if fate == "raise":
        raise ValueError(call)
    return call
