"""Values, calls, functions and exceptions to parts and back.

Parts are the pickle first, then its out-of-band buffers. Nodes pass parts on
and never open them; clients and workers do that here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One global or closure variable that travels with a function."""

    name: str
    type_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A function, ready to be registered."""

    parts: "tuple[Buffer, ...]"
    version: str  # 32 hexadecimal digits; equal code and captures, equal version
    captures: tuple[Capture, ...]
    signature: str  # "(rows, lr=0.1)"
    doc: str
    size_bytes: int  # of all parts
    sources: Mapping[str, str]  # file name of a cell -> its text; travels along


def size_bytes(parts: "Parts") -> int:
    """Return how much `parts` hold together."""
    return sum(memoryview(part).nbytes for part in parts)


def pack(value: object, *, name: str = "value") -> "tuple[Buffer, ...]":
    """Return `value` as parts; a plain call is `pack((args, kwargs))`.

    `name` is what the path in an error begins with.

    Raises:
        NotPicklable: something in it cannot travel; the error has the path to it.
    """
    raise NotImplementedError


def unpack(parts: "Parts", *, name: str = "value") -> Any:
    """Return what `pack` was given; arrays are views over `parts`, not copies.

    Raises:
        NotPicklable: it cannot be rebuilt in this process.
    """
    raise NotImplementedError


def pack_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Sequence[str] = ()
) -> "tuple[tuple[Buffer, ...], tuple[str, ...]]":
    """Return the parts of a step's arguments, and the steps they refer to.

    An object with `__mpreg_reference__()` is replaced by what that returns: an
    object with `step`, `path` and, in the MPREG dialect, `literal`. The steps come
    in the order in which the worker wants their results: `inputs` first, then
    others as they were found.
    """
    raise NotImplementedError


def unpack_call(
    parts: "Parts", inputs: "Sequence[Parts]" = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs); `inputs` are results of the steps of `pack_call`."""
    raise NotImplementedError


def pack_function(function: Callable[..., Any]) -> Shipped:
    """Return `function` with all of its code that is not installed.

    Raises:
        NotPicklable: something that it captures cannot travel.
    """
    raise NotImplementedError


def unpack_function(parts: "Parts") -> Callable[..., Any]:
    """Return the function; its source lines are known to tracebacks from here on."""
    raise NotImplementedError


def pack_exception(error: BaseException) -> "tuple[Buffer, ...]":
    """Return `error` with its traceback, causes and text; never fails."""
    raise NotImplementedError


def remote_error(parts: "Parts", *, function: str, node: str) -> Exception:
    """Return the RemoteError to raise for what `pack_exception` returned.

    It is also an instance of the class that was raised, where that is an
    Exception, and its traceback shows the remote lines. Raise it as it is.
    """
    raise NotImplementedError
