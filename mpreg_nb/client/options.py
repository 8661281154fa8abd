"""What narrows a call."""

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What narrows a call. Times in seconds; None: no limit."""

    resources: frozenset[str] = frozenset()
    node: str | None = None
    timeout_s: float | None = None
    wait_s: float = 0.0
    version: str | None = None
    holder: str | None = None
    idempotent: bool = False
    space: bytes = b""  # in whose worker it runs
    # Held, so that it can be registered again for as long as somebody may call it.
    shipment: object = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere nobody needs the code of a function to narrow a call.
        values = [getattr(self, each.name) for each in fields(self)]
        return _remade, (*values[:-1],)


def _remade(*values: Any) -> CallOptions:
    return CallOptions(
        **{each.name: v for each, v in zip(fields(CallOptions), values, strict=False)}
    )


PLAIN = CallOptions()
