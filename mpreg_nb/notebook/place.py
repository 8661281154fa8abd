"""A place among the outputs of a cell, whose content can be replaced."""

import uuid
from collections.abc import Mapping
from typing import Any

NOTHING: Mapping[str, str] = {"text/plain": "", "text/html": ""}
"""No output can be taken back, but its content can be empty."""


class Place:
    """One output with a display id. The first `put` makes it, the next replace it."""

    def __init__(self, publisher: Any) -> None:
        self.id = uuid.uuid4().hex
        self._publisher = publisher
        self._is_made = False

    def put(
        self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Show `data`, a MIME bundle, instead of the content that is there."""
        is_update, self._is_made = self._is_made, True
        self._publisher.publish(
            data=dict(data),
            metadata=dict(metadata or {}),
            transient={"display_id": self.id},
            update=is_update,
        )

    def clear(self) -> None:
        """Show nothing."""
        self.put(NOTHING)
