"""Values, calls, functions and exceptions to parts and back.

Parts are the pickle first, then its out-of-band buffers. Nodes pass parts on
and never open them; clients and workers do that here.

Plain pickle comes first: it takes a fifth of the time. What it cannot do, and
what it would refer to by a name that other processes cannot import (`__main__`,
modules beside the notebook), is pickled again by value. This is the only module
that knows cloudpickle.
"""

import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
from cloudpickle import cloudpickle as reductions

from mpreg_nb.errors import NotPicklable
from mpreg_nb.wire import by_value, classes
from mpreg_nb.wire.by_value import PROTOCOL, ByValue, Form, census
from mpreg_nb.wire.culprit import culprit
from mpreg_nb.wire.digest import code_files, digest, read
from mpreg_nb.wire.function import Capture, Shipped, captures, described, name_of
from mpreg_nb.wire.imports import own_modules, place
from mpreg_nb.wire.modules import mark
from mpreg_nb.wire.raised import describe
from mpreg_nb.wire.references import Referring, ReferringPickler, Resolving
from mpreg_nb.wire.remote import rebuild
from mpreg_nb.wire.taken_apart import make
from mpreg_nb.wire.tracebacks import learn_sources, sources
from mpreg_nb.wire.versions import PYTHON
from mpreg_nb.wire.witnesses import Witnesses

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts

__all__ = [
    "Capture",
    "Shipped",
    "pack",
    "pack_arguments",
    "pack_call",
    "pack_exception",
    "pack_function",
    "remote_error",
    "size_bytes",
    "unpack",
    "unpack_call",
    "unpack_function",
]

IN_BAND_BYTES = 16 * 1024
"""A smaller buffer is cheaper inside the pickle than as a part of its own."""

_MAIN = mark("__main__")

_RAISED = (Exception, SystemExit, GeneratorExit)
"""What user code may raise as it is pickled; Stop, a KeyboardInterrupt, goes on."""


def size_bytes(parts: "Parts") -> int:
    """Return how much `parts` hold together."""
    return sum(memoryview(part).nbytes for part in parts)


# ------------------------------------------------------------------- values


def pack(value: object, *, name: str = "value") -> "tuple[Buffer, ...]":
    """Return `value` as parts. Large arrays in it are referred to, not copied.

    `name` is what the path in an error begins with.

    Raises:
        NotPicklable: something in it cannot travel; the error has the path to it.
    """
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    try:
        head = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
        if _MAIN not in head and not _refers_to_own(head):
            return (head, *buffers)
    except _RAISED:
        pass
    buffers.clear()
    file = BytesIO()
    _dump(Pickler(file, keep), value, {name: value})
    return (file.getvalue(), *buffers)


def _keeper(buffers: "list[Buffer]") -> Callable[[pickle.PickleBuffer], bool]:
    """Return what keeps small buffers in the pickle and puts others aside."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    return keep


def pack_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> "tuple[Buffer, ...]":
    """Return the parts of a plain call: those of `pack((args, kwargs))`.

    Raises:
        NotPicklable: with a path that begins with the argument.
    """
    try:
        return pack((args, kwargs))
    except NotPicklable as error:
        raise culprit(_named(args, kwargs), error, _trouble) from error.__cause__


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, object]:
    return {**{f"args[{n}]": arg for n, arg in enumerate(args)}, **kwargs}


def _refers_to_own(head: bytes) -> bool:
    """Whether `head` names a module beside the notebook."""
    for name in census.marks if len(sys.modules) == census.seen else census.look():
        if name in head:
            return True
    return False


def _dump(pickler: pickle.Pickler, value: object, roots: Mapping[str, object]) -> None:
    try:
        pickler.dump(value)
    except _RAISED as error:
        raise culprit(roots, error, _trouble) from error


def _trouble(value: object) -> BaseException | None:
    """Return why `value` cannot be pickled, if so."""
    try:
        Pickler(BytesIO(), lambda _: False).dump(value)
    except _RAISED as error:  # user code runs in there
        return error
    return None


def unpack(parts: "Parts", *, name: str = "value") -> Any:
    """Return what `pack` was given; arrays are views over `parts`, not copies.

    Raises:
        NotPicklable: it cannot be rebuilt in this process.
    """
    try:
        if len(parts) == 1:
            return pickle.loads(parts[0])  # noqa: S301  peers have proven themselves
        return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301
    except KeyboardInterrupt:  # Stop, or the end of a call in a worker
        raise
    except BaseException as error:  # a pickle calls what it likes, sys.exit too
        raise _cannot_rebuild(name, error) from error


def _cannot_rebuild(name: str, error: BaseException) -> NotPicklable:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        cure = f"Install {package!r} where it is unpickled, in the same version"
        return NotPicklable(name, f"it needs the module {error.name!r}", cure)
    reason = f"rebuilding it raised {type(error).__name__}: {str(error)[:500]}"
    cure = "Use the same versions of Python and packages in the kernel and on nodes"
    return NotPicklable(name, reason, cure)


def find_class(key: str, revision: str, data: bytes, module: str, name: str) -> type:
    """Return a class that was written apart. Pickles call this."""
    cls = classes.known(key, module, name, Pickler.digest)
    if cls is not None and classes.has(cls, revision):
        return cls
    return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301  as above


def expect_class(
    parts: tuple[type, str, tuple[type, ...], dict[str, Any]],
    key: str,
    revision: str,
    module: str,
    name: str,
) -> type:
    """Return a class whose content follows in the stream. Pickles call this."""
    cls = classes.known(key, module, name, Pickler.digest)
    return classes.expect(cls, key, revision, lambda: make(*parts))


def _global_names(code: CodeType) -> tuple[str, ...]:
    return tuple(reductions._extract_code_globals(code))


class Pickler(ByValue, cloudpickle.Pickler):  # type: ignore[misc]
    """Writes anything that can travel at all."""

    find_class = staticmethod(find_class)
    expect_class = staticmethod(expect_class)
    is_importable = staticmethod(reductions._should_pickle_by_reference)
    reduce_function = cloudpickle.Pickler._dynamic_function_reduce
    global_names = staticmethod(_global_names)
    dispatch_table: ClassVar = ChainMap(
        by_value.REDUCERS, cloudpickle.Pickler.dispatch_table
    )


# -------------------------------------------------------------------- steps


class _ReferringByValue(Referring, Pickler):
    """A pickler by value that writes placeholders as references."""


def pack_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Sequence[str] = ()
) -> "tuple[tuple[Buffer, ...], tuple[str, ...]]":
    """Return the parts of a step's arguments, and the steps they refer to.

    An object with `__mpreg_reference__()` is replaced by what that returns: an
    object with `step`, `path` and, in the MPREG dialect, `literal`. The steps come
    in the order in which the worker wants their results: `inputs` first, then
    others as they were found.

    Raises:
        NotPicklable: with a path that begins with the argument.
    """
    value = (args, dict(kwargs))
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    file = BytesIO()
    plain = ReferringPickler(file, PROTOCOL, buffer_callback=keep).refer(inputs)
    try:
        plain.dump(value)
        head = file.getvalue()
        if _MAIN not in head and not _refers_to_own(head):
            return (head, *buffers), plain.steps
    except _RAISED:
        pass
    buffers.clear()
    file = BytesIO()
    by_value = _ReferringByValue(file, keep).refer(inputs)
    _dump(by_value, value, _named(args, kwargs))
    return (file.getvalue(), *buffers), by_value.steps


def unpack_call(
    parts: "Parts", inputs: "Sequence[Parts]" = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs); `inputs` are results of the steps of `pack_call`.

    Raises:
        NotPicklable: they cannot be rebuilt in this process.
        LookupError: a result lacks the part that is referred to.
    """
    loader = Resolving(parts, inputs, unpack)
    try:
        args, kwargs = loader.load()
    except NotPicklable:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as in `unpack`
        if error is loader.missing:
            raise
        raise _cannot_rebuild("the arguments", error) from error
    return args, kwargs


# ---------------------------------------------------------------- functions


def pack_function(function: Callable[..., Any]) -> Shipped:
    """Return `function` with all of its code that is not installed.

    Raises:
        NotPicklable: something that it captures cannot travel.
    """
    census.look_at_files()
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    modules: dict[str, ModuleType] = {}
    while True:
        file = BytesIO()
        first = Pickler(file, keep, form=Form.NAMELESS)
        _dump(first, (function, modules), {name_of(function): function, **modules})
        imports = own_modules(first.imports, census)
        if imports.keys() <= modules.keys():
            break
        modules |= imports
        buffers.clear()
    said = read(file.getbuffer(), buffers)
    if first.classes:
        buffers.clear()
        file = BytesIO()
        Pickler(file, keep, form=Form.WHOLE).dump((function, modules))
    texts = sources(code_files(said))
    code = file.getvalue()
    beside = len(code) >= IN_BAND_BYTES
    head = pickle.dumps((None if beside else code, texts), PROTOCOL)
    parts = (head, code, *buffers) if beside else (head, *buffers)
    signature, doc = described(function)
    return Shipped(
        parts=parts,
        version=digest(said),
        captures=captures(first.taken, _captured_bytes),
        signature=signature,
        doc=doc,
        size_bytes=size_bytes(parts),
        sources=texts,
        python=PYTHON if first.compiled else "",
        witnesses=Witnesses(
            function,
            first.functions,
            (*first.classes, *first.modules),
            modules,
            census.watches,
        ),
    )


def _captured_bytes(value: object) -> int:
    return size_bytes(pack(value))


def unpack_function(parts: "Parts") -> Callable[..., Any]:
    """Return the function; its source lines are known to tracebacks from here on.

    Raises:
        NotPicklable: it cannot be rebuilt in this process.
    """
    code, texts = unpack(parts[:1], name="the function")
    learn_sources(texts)
    rest = parts[1:] if code is None else (code, *parts[1:])
    function: Callable[..., Any]
    function, modules = unpack(rest, name="the function")
    place(modules)
    return function


# --------------------------------------------------------------- exceptions


def pack_exception(error: BaseException) -> "tuple[Buffer, ...]":
    """Return `error` with its traceback, causes and text; never fails."""
    return (describe(error, _packed_alone),)


def _packed_alone(value: object) -> bytes:
    """Return one pickle of `value` that this process could read again."""
    file = BytesIO()
    Pickler(file).dump(value)
    data = file.getvalue()
    pickle.loads(data)  # noqa: S301  our own, to see that it can be done
    return data


def remote_error(parts: "Parts", *, function: str, node: str) -> Exception:
    """Return the RemoteError to raise for what `pack_exception` returned.

    It is also an instance of the class that was raised, where that is an
    Exception, and its traceback shows the remote lines. Raise it as it is.
    """
    return rebuild(bytes(parts[0]), function, node)
