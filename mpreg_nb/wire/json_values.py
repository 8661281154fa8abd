"""Arguments and results of the JSON dialect: no pickle, no Python types."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Parts


def pack_json(value: object, *, name: str = "result") -> bytes:
    """Return `value` as JSON; sets become lists, arrays and numbers plain ones.

    Raises:
        NotPicklable: JSON has nothing for something in it.
    """
    raise NotImplementedError


def unpack_json(parts: "Parts") -> Any:
    """Return the value of JSON parts."""
    raise NotImplementedError


def pack_json_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Sequence[str] = ()
) -> bytes:
    """Return the payload of a JSON call.

    A string in it that equals a name of `inputs`, or `name.field`, is replaced by
    that result when it runs; where the field is missing, it stays a string.
    """
    raise NotImplementedError


def unpack_json_call(
    parts: "Parts", inputs: "Sequence[Parts]" = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs); `inputs` are the JSON results of the named steps."""
    raise NotImplementedError
