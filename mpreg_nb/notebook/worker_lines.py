"""Runs `%` and `!` lines in a worker; imported only for cells that have such lines."""

import importlib
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import timeit
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from mpreg_nb.notebook.ipython_lines import filled

_READ_BYTES = 64 * 1024

Values = dict[str, Any]


class Lines:
    """Runs the lines of one cell; restores the environment when the cell ends."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._replaced: dict[str, str | None] = {}  # variables, as they were

    def end(self) -> None:
        """Restore the environment."""
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    # ----------------------------------------------------------------- commands

    def system(self, command: str, values: Values | None = None) -> None:
        """Run a shell command, and print its output as it appears."""
        command = filled(command, values or {})
        self._namespace["_exit_code"] = _run(command, is_shell=True)

    def getoutput(self, command: str, values: Values | None = None) -> Any:
        """Run a shell command, and return the lines of its output."""
        lines: list[str] = []
        command = filled(command, values or {})
        self._namespace["_exit_code"] = _run(command, is_shell=True, put=lines.append)
        return _lines("".join(lines).splitlines())

    def run_line_magic(self, name: str, line: str, values: Values | None = None) -> Any:
        """Run a line magic that is supported on nodes."""
        if name in ("sx", "system"):
            return self.getoutput(line, values)
        return getattr(self, f"_{name}")(filled(line, values or {}).strip())

    def run_cell_magic(self, name: str, line: str, body: str) -> None:
        """Run a magic with the rest of the cell as its text."""
        if name == "writefile":
            self._writefile(line, body)
            return
        self._namespace["_exit_code"] = code = _run(
            [name, *shlex.split(line)], given=body
        )
        if code:
            raise subprocess.CalledProcessError(code, [name, *shlex.split(line)])

    # -------------------------------------------------------------------- magics

    def _matplotlib(self, _: str) -> None:
        """Do nothing: figures are shown in the cell anyway."""

    def _pwd(self, _: str) -> str:
        return os.getcwd()

    def _cd(self, line: str) -> None:
        os.chdir(Path(line.strip("\"'") or "~").expanduser())
        print(os.getcwd())  # noqa: T201  as IPython does

    def _env(self, line: str) -> Any:
        if not line:
            return dict(os.environ)
        name, mark, value = line.partition("=" if "=" in line else " ")
        if not mark:
            return os.environ[name]
        self._set(name.strip(), value.strip())
        return None

    def _set_env(self, line: str) -> None:
        name, _, value = line.partition("=" if "=" in line else " ")
        self._set(name.strip(), value.strip())

    def _set(self, name: str, value: str) -> None:
        self._replaced.setdefault(name, os.environ.get(name))
        os.environ[name] = value
        print(f"env: {name}={value}")  # noqa: T201  as IPython does

    def _pip(self, line: str) -> None:
        """Install into the Python of this node."""
        print(f"pip of {sys.executable}")  # noqa: T201  whose packages change
        code = _run([sys.executable, "-m", "pip", *shlex.split(line)])
        importlib.invalidate_caches()
        if code:
            raise RuntimeError(f"pip {line} ended with exit code {code}")

    def _conda(self, line: str) -> None:
        """Install into the environment of this node."""
        found = os.environ.get("CONDA_EXE") or shutil.which("conda")
        if found is None:
            raise RuntimeError("there is no conda on this node; try %pip")
        print(f"conda for {sys.prefix}")  # noqa: T201  whose packages change
        verb, *rest = shlex.split(line) or ["--help"]
        place = ["--prefix", sys.prefix, "--yes"]
        changes = verb in ("create", "install", "remove", "uninstall", "update")
        code = _run([found, verb, *(place if changes else []), *rest])
        importlib.invalidate_caches()
        if code:
            raise RuntimeError(f"conda {line} ended with exit code {code}")

    def _writefile(self, line: str, body: str) -> None:
        words = shlex.split(line)
        adds = words[:1] in (["-a"], ["--append"])
        path = Path(words[-1]).expanduser()
        verb = "Appending to" if adds else "Overwriting" if path.exists() else "Writing"
        print(f"{verb} {path}")  # noqa: T201  as IPython does
        with path.open("a" if adds else "w") as file:
            file.write(body)

    # -------------------------------------------------------------------- timing

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Print how long the body took."""
        before, began = os.times(), perf_counter()
        try:
            yield
        finally:
            wall, after = perf_counter() - began, os.times()
            user, system = after.user - before.user, after.system - before.system
            print(  # noqa: T201  what it is for
                f"CPU times: user {_duration(user)}, sys: {_duration(system)}, "
                f"total: {_duration(user + system)}\nWall time: {_duration(wall)}"
            )

    def measure(self, loop: Callable[..., float], number: int, repeat: int) -> None:
        """Print how long one round of `loop` takes.

        number: rounds each time; 0 finds out how many take long enough.
        """
        timer: Any = timeit.Timer()
        timer.inner = loop
        number = number or timer.autorange()[0]
        times = [taken / number for taken in timer.repeat(repeat, number)]
        mean, spread = statistics.fmean(times), statistics.pstdev(times)
        runs = f"{repeat} run{'s' * (repeat != 1)}"
        loops = f"{number:,} loop{'s' * (number != 1)}"
        print(  # noqa: T201  what it is for
            f"{_duration(mean)} ± {_duration(spread)} per loop "
            f"(mean ± std. dev. of {runs}, {loops} each)"
        )


def _duration(seconds: float) -> str:
    """Return a time with three digits.

    >>> _duration(0.00123), _duration(75.0), _duration(0.0)
    ('1.23 ms', '1min 15s', '0 ns')
    """
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}min {rest}s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("μs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _lines(lines: list[str]) -> Any:
    try:
        from IPython.utils.text import SList
    except ImportError:
        return lines
    return SList(lines)


def _print(text: str) -> None:
    sys.stdout.write(text)


def _run(
    command: str | list[str],
    *,
    is_shell: bool = False,
    given: str | None = None,
    put: Callable[[str], object] = _print,
) -> int:
    """Run a command to its end, also after an interrupt; return its exit code.

    given: what it reads from stdin.
    put: takes what it writes, as it does.
    """
    source = subprocess.DEVNULL if given is None else _file_of(given)
    process = subprocess.Popen(  # noqa: S603  the user's command
        command,
        shell=is_shell,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if given is not None:
        os.close(source)
    decode = getincrementaldecoder("utf-8")(errors="backslashreplace").decode
    if process.stdout is None:
        raise AssertionError("its stdout is a pipe")
    try:
        with process.stdout as output:
            while data := os.read(output.fileno(), _READ_BYTES):
                put(decode(data))
        put(decode(b"", final=True))
        return process.wait()
    finally:
        if process.poll() is None:
            _kill(process)


def _file_of(text: str) -> int:
    """Return a descriptor to read `text` from; a pipe would block on long texts."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        return os.dup(file.fileno())


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a command and all processes that it has started."""
    import psutil

    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    for child in started:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue  # it has ended
    process.wait()
