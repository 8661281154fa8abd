"""Arguments and results of the JSON dialect: no pickle, no Python types."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mpreg_nb.errors import BadRequest, NotPicklable
from mpreg_nb.wire.mentions import mention
from mpreg_nb.wire.references import by_keys

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Parts


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
