"""An output of a cell whose content can be replaced."""

import uuid
from collections.abc import Mapping
from html import escape
from typing import Any

NOTHING: Mapping[str, str] = {"text/plain": "", "text/html": ""}
"""No output can be taken back, but its content can be empty."""


# A kernel that is killed cannot empty the output of its widget. JupyterLab then writes
# "Error displaying widget: model not found" into it, or "Loading widget..." for ever.
_ONLY_WITH_ITS_WIDGET = (
    "<style>.jp-OutputArea-child:has([data-mpreg-still]) + "
    ".jp-OutputArea-child:has(> .lm-Panel):not(:has(.mpreg-live, .mpreg-end))"
    "{display:none}</style>"
)


def still(picture: str, html: str) -> str:
    """Return `html` as the still picture of that id, with a widget in the next output.

    The output of the widget is hidden wherever the widget does not draw.
    """
    return (
        f'<div data-mpreg-still="{escape(picture)}">{html}</div>{_ONLY_WITH_ITS_WIDGET}'
    )


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
