"""`%mpreg doctor`: checks the installation and the clusters, and suggests fixes."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mpreg_nb.cluster import checks
from mpreg_nb.cluster.current import all_clusters
from mpreg_nb.view.html import GREEN, ORANGE, RED, chosen
from mpreg_nb.view.tables import Marked, Table, safe
from mpreg_nb.view.terminal import shown
from mpreg_nb.view.units import count

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.cluster.checks import Finding

State: TypeAlias = Literal["ok", "note", "wrong"]

_MARKS = {"ok": ("●", GREEN), "note": ("◐", ORANGE), "wrong": ("✗", RED)}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was looked at, subject by subject."""

    found: "tuple[Finding, ...]"

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return all(finding.state != "wrong" for finding in self.found)

    def frame(self) -> "pd.DataFrame":
        """Return one row a finding.

        Columns: about, state (ok, note, wrong), found, cure.
        """
        from mpreg_nb.view.columns import FINDINGS, frame

        return frame(
            FINDINGS, [(f.about, f.state, f.found, f.cure) for f in self.found]
        )

    def __str__(self) -> str:
        return f"{self._title}\n{self._table}"

    def __repr__(self) -> str:
        return shown(self)

    def _repr_html_(self) -> str:
        return (
            f'<div style="overflow-x:auto"><div><b>Doctor</b>: {safe(self._title)}'
            f"</div>{self._table.html}</div>"
        )

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        bundle = {"text/plain": shown(self), "text/html": self._repr_html_()}
        return chosen(bundle, include, exclude)

    @property
    def _title(self) -> str:
        by_state = {state: 0 for state in _MARKS}
        for finding in self.found:
            by_state[finding.state] += 1
        if by_state["wrong"]:
            return f"{count(by_state['wrong'], 'problem')} found"
        if by_state["note"]:
            return f"everything works; {count(by_state['note'], 'note')}"
        return "no problems found"

    @property
    def _table(self) -> Table:
        return Table(
            head=["about", "state", "found", "what to do"],
            rows=[
                [
                    finding.about,
                    Marked(_MARKS[finding.state][0], finding.state, _ink(finding)),
                    finding.found,
                    finding.cure,
                ]
                for finding in self.found
            ],
        )


def _ink(finding: "Finding") -> str:
    return _MARKS[finding.state][1]


def examine() -> Findings:
    """Look at this installation, this kernel, this user's files and clusters.

    Starts nothing, changes nothing, and sends nothing but questions to the clusters
    that are open here. Takes some tenths of a second.
    """
    return Findings(tuple(_everything()))


def _everything() -> "Iterator[Finding]":
    yield from checks.installation()
    yield from checks.notebook()
    yield from checks.machine()
    yield from checks.trust()
    yield from checks.leftovers()
    for cluster in all_clusters():
        yield from checks.cluster(cluster)
