"""Who hears of a run while it goes on, and the last that its steps printed."""

import msgspec

from mpreg_nb.node.pending import Source
from mpreg_nb.wire.codec import Parts
from mpreg_nb.wire.history import Line, Printed
from mpreg_nb.wire.last_lines import LastLines
from mpreg_nb.wire.messages import Output


class Audience:
    """The callers that are told of one run; anybody may join and leave."""

    def __init__(self, run_id: bytes, source: Source) -> None:
        self._run_id = run_id
        self._sources = [source]
        self.lines = LastLines()

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: Source) -> None:
        """Tell `source` too from now on; again changes nothing."""
        if source not in self._sources:
            self._sources.append(source)

    def drop(self, source: Source) -> None:
        """Tell `source` nothing more."""
        if source in self._sources:
            self._sources.remove(source)

    def tell(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Send `message` to all of them."""
        for source in self._sources:
            source.send(message, parts)

    def printed(self, step: str, output: Output, parts: Parts = ()) -> None:
        """Pass on what a step printed, and keep it for who asks later."""
        line = Line(
            step=step,
            node=output.node,
            stream=output.stream,
            text=output.text,
            lines_cut=output.lines_cut,
            characters_cut=output.characters_cut,
        )
        self.lines.add(line, parts)
        self.tell(Printed(id=self._run_id, line=line), parts)
