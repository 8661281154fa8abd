"""What every message of the data lane is made of."""

from typing import Annotated, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

RequestId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""8 random bytes of the asking session, then a big-endian counter of 8 bytes."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Version: TypeAlias = Annotated[str, Meta(min_length=32, max_length=32)]
"""Hexadecimal digits of the first 128 bits of the sha256 of what was shipped."""


class Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of every message of the data lane; never sent by itself."""

    before_others: ClassVar[bool] = False
    """Whether its parts arrive before all messages with its id that are sent later."""
