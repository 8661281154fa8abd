"""The JSON dialect: requests, values and answers of programs that are not in Python.

One request and its two possible answers::

    {"role": "rpc", "u": "1", "cmds": [{"name": "a", "fun": "echo", "args": ["hi"],
     "kwargs": {}, "locs": []}], "timeout": 30}
    {"r": {"a": "hi"}, "error": null, "u": "1"}
    {"r": null, "error": {"code": 1001, "message": "…", "details": …}, "u": "1"}

A string in arguments that equals the name of another command stands for its result,
and "step1.rows.first" for a field of the result of "step1".
"""

import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Raw

from mpreg_nb.errors import BadRequest, NotPicklable
from mpreg_nb.names import LONGEST_NAME, check_name, check_resources
from mpreg_nb.serialize.references import by_keys

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Parts


def mention(text: str, names: Container[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the name that `text` begins with, and the fields behind it.

    The longest name counts, since names may have dots. None: it means itself.

    >>> mention("a.b.c", {"a"}), mention("a.b", {"a", "a.b"}), mention("ab", {"a"})
    (('a', ('b', 'c')), ('a.b', ()), None)
    """
    if text in names:
        return text, ()
    dot = text.rfind(".", 0, LONGEST_NAME + 1)
    while dot > 0:
        if text[:dot] in names:
            return text[:dot], tuple(text[dot + 1 :].split("."))
        dot = text.rfind(".", 0, dot)
    return None


class Others:
    """All names except one: a command never refers to itself."""

    __slots__ = ("_me", "_names")

    def __init__(self, names: Collection[str], me: str) -> None:
        self._names = names
        self._me = me

    def __contains__(self, name: object) -> bool:
        return name != self._me and name in self._names


def pack_json(value: object, *, name: str = "result") -> bytes:
    """Return `value` as JSON; sets and arrays become lists, numpy's numbers plain.

    Raises:
        NotPicklable: JSON has nothing for something in it.
    """
    try:
        return _encode(value)
    except Exception as error:  # whatever a dataclass or the hook raises
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else str(error)[:500]
        raise NotPicklable(
            name,
            f"JSON cannot hold it: {reason}",
            "Use numbers, strings, lists, dicts with string keys, and dataclasses",
        ) from error


def _plain(value: Any) -> Any:
    """Return what numpy's numbers and arrays hold, without importing numpy."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"no JSON for objects of type {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def unpack_json(parts: "Parts") -> Any:
    """Return the value of JSON parts; `BadRequest` where they are not JSON."""
    try:
        return msgspec.json.decode(parts[0])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON: {str(error)[:200]}") from error


def pack_json_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[str] = ()
) -> bytes:
    """Return the payload of a JSON call.

    A string in it that equals a name of `inputs`, or `name.field`, is replaced by
    that result when it runs; where the field is missing, it stays a string.

    Raises:
        NotPicklable: JSON has nothing for something in it.
    """
    return pack_json((args, kwargs, inputs), name="the arguments")


def unpack_json_call(
    parts: "Parts", inputs: "Sequence[Parts]" = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs); `inputs` are the JSON results of the named steps.

    Raises:
        BadRequest: the payload is not one of `pack_json_call`.
    """
    match unpack_json(parts):
        case [list(args), dict(kwargs), list(names)] if len(names) == len(inputs):
            pass
        case _:
            raise BadRequest("not the arguments of a JSON call")
    if names:
        results = dict(zip(names, map(unpack_json, inputs), strict=True))
        args, kwargs = _filled(args, results), _filled(kwargs, results)
    return tuple(args), kwargs


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    """Return `value` with results in the place of strings that name them."""
    if isinstance(value, str):
        return _result(value, results)
    if isinstance(value, list):
        return [_filled(item, results) for item in value]
    if isinstance(value, dict):  # keys are never names of results
        return {key: _filled(item, results) for key, item in value.items()}
    return value


def _result(text: str, results: Mapping[str, Any]) -> Any:
    """Return what `text` names; where a field is missing, the text itself.

    >>> _result("a.b", {"a": {"b": 1}}), _result("a.b", {"a": 2, "a.b": 3})
    (1, 3)
    >>> _result("a.c", {"a": {"b": 1}})
    'a.c'
    """
    found = mention(text, results)
    return text if found is None else by_keys(results[found[0]], found[1], text)


T = TypeVar("T")
RequestName: TypeAlias = (
    Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=0, le=2**53)]
)
Code: TypeAlias = Literal[1000, 1001, 1003, 1004]

MALFORMED: Code = 1000
NOT_FOUND: Code = 1001
"""No live node has the function together with the locs."""
FAILED: Code = 1003
LATE: Code = 1004
"""Also for a role that is unknown here, as that protocol has it."""

TIMEOUT_S = 30.0
"""For a request that gives none."""

LONGEST_TIMEOUT_S = 86_400.0
DEEPEST = 64
"""Lists and dicts inside each other; what handles them is recursive."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a request. `args` that is no list is one argument."""

    name: str
    fun: str
    args: Any = ()
    kwargs: dict[str, Any] = {}
    locs: list[str] = []


class _Frame(msgspec.Struct, frozen=True):
    """A request with raw fields, read one by one to answer bad ones by an error."""

    u: Raw = Raw(b'""')
    role: Raw = Raw(b"null")
    cmds: Raw = Raw(b"null")
    timeout: Raw = Raw(b"null")


class JsonRefused(Exception):
    """A request that ends in an error; `answer` is what its sender gets."""

    def __init__(
        self, code: Code, message: str, details: object = None, *, u: RequestName = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.u = u

    @property
    def answer(self) -> str:
        """The text to send."""
        return error_answer(self.u, self.code, self.message, self.details)


class JsonStep(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed command, as a node runs it."""

    name: str
    function: str
    resources: frozenset[str]
    payload: bytes
    inputs: tuple[str, ...]  # commands whose results the payload refers to


class JsonRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed and valid request."""

    u: RequestName
    steps: tuple[JsonStep, ...]
    timeout_s: float


_frame = msgspec.json.Decoder(_Frame)
_name = msgspec.json.Decoder(RequestName)
_role = msgspec.json.Decoder(str)
_commands = msgspec.json.Decoder(list[Command])
_timeout = msgspec.json.Decoder(
    Annotated[float, Meta(gt=0, le=LONGEST_TIMEOUT_S)] | None
)


def read_request(text: str) -> JsonRequest:
    """Return the request in `text`.

    Raises:
        Refused: it is malformed (1000) or of a role that is unknown here (1004).
    """
    frame = _read(_frame, text, "the message", "")
    u = _read(_name, frame.u, "u", "")
    role = _read(_role, frame.role, "role", u)
    if role != "rpc":
        raise JsonRefused(
            LATE, f"unknown role {role[:80]!r}; this node knows 'rpc'", u=u
        )
    commands = _read(_commands, frame.cmds, "cmds", u)
    timeout_s = _read(_timeout, frame.timeout, "timeout", u)
    names = {command.name for command in commands}
    return JsonRequest(
        u=u,
        steps=tuple(_step(command, names, u) for command in commands),
        timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
    )


def results_answer(u: RequestName, results: Mapping[str, bytes]) -> str:
    """Return the answer with the JSON of each result."""
    raw = {name: Raw(result) for name, result in results.items()}
    return msgspec.json.encode({"r": raw, "error": None, "u": u}).decode()


def error_answer(u: RequestName, code: Code, message: str, details: object) -> str:
    """Return the answer with an error."""
    text = message.encode(errors="backslashreplace").decode()
    error = {"code": code, "message": text, "details": details}
    return msgspec.json.encode({"r": None, "error": error, "u": u}).decode()


def _read(
    decoder: "msgspec.json.Decoder[T]", data: str | Raw, what: str, u: RequestName
) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        reason = str(error)[:200]
    except RecursionError:
        reason = "it is nested too deeply"
    raise JsonRefused(MALFORMED, f"malformed request: {what}: {reason}", u=u)


def _step(command: Command, names: Collection[str], u: RequestName) -> JsonStep:
    given = command.args
    args = given if isinstance(given, list | tuple) else (given,)
    try:
        name = check_name("command", command.name)
        function = check_name("function", command.fun)
        resources = check_resources(command.locs)
        others = Others(names, name)
        found = (mention(text, others) for text in _strings([args, command.kwargs]))
        inputs = tuple(dict.fromkeys(one[0] for one in found if one is not None))
        payload = pack_json_call(args, command.kwargs, inputs)
    except (ValueError, TypeError) as error:
        shown = command.name[:128]
        reason = f"malformed request: command {shown!r}: {error}"
        raise JsonRefused(MALFORMED, reason, u=u) from error
    return JsonStep(
        name=name,
        function=function,
        resources=resources,
        payload=payload,
        inputs=inputs,
    )


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in `value` that may be a reference: not the keys of dicts.

    Raises:
        ValueError: something in it cannot be passed on as it is.
    """
    pending = [(value, -1)]  # without the list that holds args and kwargs
    while pending:
        inner, depth = pending.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, list | tuple | dict):
            if depth > DEEPEST:
                raise ValueError(f"lists and dicts nested more than {DEEPEST} deep")
            items = inner.values() if isinstance(inner, dict) else inner
            pending.extend((item, depth + 1) for item in items)
        elif isinstance(inner, float) and not math.isfinite(inner):
            raise ValueError(f"{inner} is not a JSON number")
        elif isinstance(inner, int) and not -(2**63) <= inner < 2**64:
            raise ValueError("an integer of more than 64 bits. Send it as a string")
