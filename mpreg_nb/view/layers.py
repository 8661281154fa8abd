"""Which layer each box of a graph is in, and in which order.

Sources: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical
System Structures", IEEE SMC 11(2), 1981; Gansner, Koutsofios, North, Vo, "A
Technique for Drawing Directed Graphs", IEEE TSE 19(3), 1993.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

MOST_BENDS = 4_000
"""Arrows over several layers bend around what is between. Where there would be
more bends than these, they go straight: it could not be read either way."""

ROUNDS = 8
"""Sweeps over all layers, there and back. More change nothing that can be seen."""

Edge = tuple[str, str]
Key = str | int
"""A box by its name; a bend, where an arrow passes a layer, by its number."""


class Layers:
    """A graph in which every arrow goes from one layer to the next, by bends.

    Cycles are no error: one arrow of each is turned round.
    """

    def __init__(self, names: Sequence[str], edges: Sequence[Edge]) -> None:
        forward = without_cycles(names, edges)
        self.layer_of = layer_of = _layers(names, forward)
        self.rows: list[list[Key]] = [
            [] for _ in range(1 + max(layer_of.values(), default=-1))
        ]
        for name, layer in layer_of.items():
            self.rows[layer].append(name)
        self.chains: dict[Edge, list[Key]] = {}
        self.before: dict[Key, list[Key]] = {name: [] for name in layer_of}
        self.after: dict[Key, list[Key]] = {name: [] for name in layer_of}
        spans = {edge: layer_of[edge[1]] - layer_of[edge[0]] for edge in forward}
        bent = sum(spans.values()) - len(spans) <= MOST_BENDS
        bend = 0
        for (source, target), span in spans.items():
            chain: list[Key] = [source]
            for layer in range(1, span if bent else 1):
                self.rows[layer_of[source] + layer].append(bend)
                self.before[bend], self.after[bend] = [], []
                chain.append(bend)
                bend += 1
            chain.append(target)
            self.chains[source, target] = chain
            if bent or span == 1:
                for left, right in pairwise(chain):
                    self.after[left].append(right)
                    self.before[right].append(left)

    def order(self) -> None:
        """Sort the rows by the middles of their neighbours; keep the best found."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for turn in range(ROUNDS):
            if fewest == 0:
                break
            down = turn % 2 == 0
            neighbours = self.before if down else self.after
            rows = self.rows if down else self.rows[::-1]
            for fixed, row in pairwise(rows):
                place = {key: index for index, key in enumerate(fixed)}
                self._sort(row, place, neighbours)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    @staticmethod
    def _sort(
        row: list[Key], place: Mapping[Key, int], neighbours: Mapping[Key, list[Key]]
    ) -> None:
        middles: dict[Key, float] = {}
        for index, key in enumerate(row):
            near = [place[other] for other in neighbours[key] if other in place]
            middles[key] = sum(near) / len(near) if near else float(index)
        row.sort(key=middles.__getitem__)

    def _crossings(self) -> int:
        """Count pairs of arrows that cross, all layers together.

        Source: Barth, Jünger, Mutzel, "Simple and Efficient Bilayer Cross
        Counting", 2002: insertions into a tree of counts.
        """
        crossings = 0
        for upper, lower in pairwise(self.rows):
            place = {key: index for index, key in enumerate(lower)}
            tree = [0] * (len(lower) + 1)
            seen = 0
            for key in upper:
                ends = sorted(place[other] for other in self.after[key])
                for end in ends:
                    index, not_right = end + 1, 0
                    while index:
                        not_right += tree[index]
                        index &= index - 1
                    crossings += seen - not_right
                for end in ends:
                    index = end + 1
                    while index < len(tree):
                        tree[index] += 1
                        index += index & -index
                seen += len(ends)
        return crossings


def without_cycles(names: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges with those that close a cycle turned round, each once.

    A walk in depth says which. An edge from a name to itself, or to or from a name
    that is not there, is left out.
    """
    known = set(names)
    edges = [
        (source, target)
        for source, target in edges
        if source != target and source in known and target in known
    ]
    targets: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        targets[source].append(target)
    on_trail: set[str] = set()
    done: set[str] = set()
    turned: set[Edge] = set()
    for root in names:
        if root in done:
            continue
        trail = [(root, iter(targets[root]))]
        on_trail.add(root)
        while trail:
            name, rest = trail[-1]
            for target in rest:
                if target in on_trail:
                    turned.add((name, target))
                elif target not in done:
                    on_trail.add(target)
                    trail.append((target, iter(targets[target])))
                    break
            else:
                trail.pop()
                on_trail.discard(name)
                done.add(name)
    return list(
        dict.fromkeys((edge[1], edge[0]) if edge in turned else edge for edge in edges)
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Give each box its layer: as early as can be, then where arrows are short.

    A box with more arrows out than in goes as late as what it gives to allows.
    """
    sources: dict[str, list[str]] = {name: [] for name in names}
    targets: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        targets[source].append(target)
        sources[target].append(source)
    missing = {name: len(sources[name]) for name in names}
    order = [name for name in names if missing[name] == 0]
    for name in order:  # grows while it is read
        for target in targets[name]:
            missing[target] -= 1
            if missing[target] == 0:
                order.append(target)
    layer: dict[str, int] = {}
    for name in order:
        layer[name] = 1 + max((layer[source] for source in sources[name]), default=-1)
    for name in reversed(order):
        if len(targets[name]) > len(sources[name]):
            layer[name] = min(layer[target] for target in targets[name]) - 1
    return layer
