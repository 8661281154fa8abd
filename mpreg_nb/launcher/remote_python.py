"""Python on another machine: found by a probe, or installed into a folder of its own.

Both are scripts for `sh -s` there. What they have to say stands on lines that begin
with a random mark, so that what a login shell prints is passed over.
"""

import hashlib
import io
import shlex
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import msgspec

import mpreg_nb

NEEDED = ("msgspec", "psutil", "websockets", "cloudpickle")
"""What nodes and their workers import; pandas and Jupyter are for notebooks."""

USED_IF_THERE = ("uvloop", "hdrhistogram")

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Functions travel as byte code, which one minor version of Python reads."""

_FOLDER = '"${XDG_STATE_HOME:-$HOME/.local/state}/mpreg_nb/environments"'


class FoundPython(msgspec.Struct, frozen=True, kw_only=True):
    """One interpreter of another machine."""

    path: str
    python: str = ""  # its version
    has: dict[str, str] = {}
    """Version by package, "" where it is missing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that a node needs and that it has not."""
        return tuple(name for name, found in self.has.items() if not found)

    @property
    def is_right_minor(self) -> bool:
        """Whether it reads the byte code of this Python."""
        return self.python.split(".")[:2] == MINOR.split(".")

    @property
    def fits(self) -> bool:
        """Whether nodes can run on it."""
        ours = own_version()
        return (
            self.is_right_minor
            and not self.missing
            and (not ours or self.has["mpreg_nb"] in (ours, "source"))
        )

    def __str__(self) -> str:
        if self.missing:
            what = f"lacks {', '.join(self.missing)}"
        elif not self.is_right_minor:
            what = f"this Python is {MINOR}"
        else:
            what = f"has mpreg_nb {self.has['mpreg_nb']}, here is {own_version()}"
        return f"{self.path} (Python {self.python}): {what}"


def own_version() -> str:
    """Return the version of this package, "" where it was not installed."""
    try:
        return version("mpreg_nb")
    except PackageNotFoundError:
        return ""


_CHECK = """
import json, sys
try:
    from importlib.metadata import version
    from importlib.util import find_spec
except ImportError:
    version = None
def found(name):
    try:
        return version(name)
    except Exception:
        try:
            return "source" if find_spec(name) else ""
        except Exception:
            return ""
said = {"path": sys.executable, "python": "%d.%d.%d" % sys.version_info[:3]}
said["has"] = {name: found(name) for name in NAMES}
print(json.dumps(said))
"""

_PROBE = """
cd / || exit
check=CHECK
try() {
    command -v "$1" >/dev/null 2>&1 || return
    said=$("$1" -c "$check" 2>/dev/null </dev/null | tail -n 1) || return
    [ -n "$said" ] && printf '\\n%s %s\\n' MARK "$said"
}
environments=FOLDER
for python in GIVEN "$MPREG_NB_PYTHON" OWN SAME pythonMINOR python3; do
    [ -n "$python" ] && try "$python"
done
printf '\\n%s end\\n' MARK
"""


def probe_script(mark: str, given: str, environment: str = "") -> str:
    """Return the script that looks at the interpreters there, the best first.

    environment: the name of the only one that will do, of those that were made there.
    """
    check = _CHECK.replace("NAMES", repr(("mpreg_nb", *NEEDED)))
    own = f'"$environments"/{environment or f"{wheel_key()}-*"}/bin/python'
    if environment:
        others = {"GIVEN": "", '"$MPREG_NB_PYTHON"': "", "SAME": ""}
        script = _PROBE.replace("pythonMINOR python3", "")
    else:
        others = {"GIVEN": shlex.quote(given), "SAME": shlex.quote(sys.executable)}
        script = _PROBE
    for word, value in {
        **others,
        "CHECK": shlex.quote(check),
        "OWN": own,
        "FOLDER": _FOLDER,
        "MARK": mark,
        "MINOR": MINOR,
    }.items():
        script = script.replace(word, value)
    return script


def read_probe(mark: str, output: str) -> tuple[FoundPython, ...]:
    """Return the interpreters that a probe found, in its order, each once."""
    found: dict[str, FoundPython] = {}
    for said in marked(mark, output):
        if said != "end":
            python = msgspec.json.decode(said, type=FoundPython)
            found.setdefault(python.path, python)
    return tuple(found.values())


def marked(mark: str, output: str) -> Iterator[str]:
    """Yield what follows the mark on lines that begin with it."""
    for line in output.splitlines():
        if line.startswith(f"{mark} "):
            yield line.removeprefix(f"{mark} ")


# --------------------------------------------------------------------- installation


def needed_here() -> tuple[str, ...]:
    """Return what a node and its workers import, in the versions that are here."""
    return tuple(_pinned(name) for name in (*NEEDED, *USED_IF_THERE))


def _pinned(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:  # it is used only where it is there
        return name


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that is made on another machine, once for each content."""

    packages: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name: what is in it, and nothing else, decides."""
        content = "\n".join((MINOR, *needed_here(), *sorted(self.packages)))
        return f"{wheel_key()}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


SENDS_WHEEL = "ready for the wheel"
"""Said once the script is read to its end: a shell reads ahead, and what comes before
would be lost to it."""

# In braces, so that nothing runs before the last line has been read.
_INSTALL = """
{
folder=FOLDER/KEY
new="$folder.$$"
say() { printf '\\n%s %s\\n' MARK "$1"; }
fail() { rm -rf "$new"; say failed; exit 1; }
umask 077
mkdir -p "$new" || fail
wheel="$new/WHEEL"
PATH="$PATH:$HOME/.local/bin:$HOME/.cargo/bin"
say "READY"
head -c SIZE > "$wheel" || fail
if command -v uv >/dev/null 2>&1; then
    say "making an environment with uv"
    uv venv --quiet --python BASE "$new/env" 1>&2 || fail
    say "installing packages with uv"
    uv pip install --quiet --python "$new/env/bin/python" PACKAGES 1>&2 || fail
    uv pip install --quiet --no-deps --python "$new/env/bin/python" "$wheel" 1>&2 \\
        || fail
else
    say "making an environment with venv"
    BASE -m venv "$new/env" 1>&2 || fail
    say "installing packages with pip"
    pip() { "$new/env/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
    pip install PACKAGES 1>&2 || fail
    pip install --no-deps "$wheel" 1>&2 || fail
fi
rm -rf "$folder.old" && { [ ! -e "$folder" ] || mv "$folder" "$folder.old"; }
rm -f "$wheel"
ln -s "${new##*/}/env" "$folder.link.$$" && mv -f "$folder.link.$$" "$folder" || fail
say "done"
exit
}
"""


def install_script(mark: str, environment: Environment, base: str) -> str:
    """Return the script that makes `environment`.

    Its input is the wheel, once it has said `SENDS_WHEEL`.

    base: the interpreter to make it of; "" takes one of this minor version.
    """
    script = _INSTALL
    for word, value in {
        "FOLDER": _FOLDER,
        "KEY": environment.key,
        "MARK": mark,
        "READY": SENDS_WHEEL,
        "WHEEL": wheel_name(),
        "SIZE": str(len(own_wheel())),
        "BASE": shlex.quote(base or f"python{MINOR}"),
        "PACKAGES": shlex.join((*needed_here(), *environment.packages)),
    }.items():
        script = script.replace(word, value)
    return script


def wheel_name() -> str:
    """Return the file name of the wheel of this package."""
    return f"mpreg_nb-{own_version() or '0'}-py3-none-any.whl"


@cache
def wheel_key() -> str:
    """Return what tells the code of this package from any other."""
    digest = hashlib.sha256(own_version().encode())
    for name, content in _own_files().items():
        digest.update(b"%b %d\n%b" % (name.encode(), len(content), content))
    return digest.hexdigest()[:12]


def _own_files() -> dict[str, bytes]:
    root = Path(mpreg_nb.__file__).parent
    return {
        f"mpreg_nb/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@cache
def own_wheel() -> bytes:
    """Return this package as a wheel."""
    stem = f"mpreg_nb-{own_version() or '0'}.dist-info"
    files = _own_files()
    files[f"{stem}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: mpreg_nb\nVersion: {own_version() or '0'}\n"
    ).encode()
    files[f"{stem}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: mpreg_nb\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n"
    )
    record = "".join(f"{name},,\n" for name in (*files, f"{stem}/RECORD"))
    files[f"{stem}/RECORD"] = record.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return packed.getvalue()


# ------------------------------------------------------------------- what is in use


def wanted_packages(packages: Sequence[str] | str) -> tuple[str, ...]:
    """Return requirements for pip: those given, or what functions here import.

    packages: "kernel" stands for the versions that this process has of the packages
        that the functions and modules of its main program name.
    """
    if packages == "kernel":
        return tuple(sorted(f"{name}=={version(name)}" for name in _in_use()))
    if isinstance(packages, str):
        return (packages,)
    return tuple(packages)


def _in_use() -> set[str]:
    main = vars(sys.modules["__main__"])
    tops = {top for value in list(main.values()) for top in _tops_of(value)}
    known = packages_distributions()
    found = {name for top in tops for name in known.get(top, ())}
    return {name for name in found if name not in ("mpreg_nb", "mpreg-nb")}


def _tops_of(value: Any) -> Iterator[str]:
    """Yield the top-level names of the modules that a variable needs."""
    value = getattr(value, "local", value)  # a function that was decorated
    if isinstance(value, ModuleType):
        yield value.__name__.partition(".")[0]
        return
    if isinstance(value, FunctionType):
        yield from _imports_of(value.__code__)
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and isinstance(value, type | FunctionType):
        yield module.partition(".")[0]


def _imports_of(code: CodeType) -> Iterator[str]:
    from dis import get_instructions

    for instruction in get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            yield str(instruction.argval).partition(".")[0]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports_of(constant)
