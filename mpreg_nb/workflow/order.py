"""The rules for what waits for what, checked before anything runs."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.names import nearest

MOST_STEPS = 10_000
"""In one workflow: a run of so many is still started, shown and kept with ease."""

Waits = tuple[str, Set[str]]
"""The name of a step, and the names of the steps that it waits for."""


def check_order(
    workflow: str, waits: Sequence[Waits], *, mentions: Sequence[Waits] = ()
) -> None:
    """Refuse steps of which some could never run.

    mentions: steps that refer to others without waiting for them, as undo does.

    Raises:
        InvalidWorkflow: there is no step, or more than 10,000; two have one name;
            one waits for a step that is not there, or in the end for itself.
    """
    faults = list(_faults(waits, mentions))
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise InvalidWorkflow(
            f"workflow {workflow!r} cannot run: {'; '.join(faults[:5])}{more}"
        )


def _faults(waits: Sequence[Waits], mentions: Sequence[Waits]) -> Iterable[str]:
    if not waits:
        yield "it has no steps. Add one: flow.step(name, function, ...)"
        return
    if len(waits) > MOST_STEPS:
        yield (
            f"it has {len(waits):,} steps, and a workflow may have {MOST_STEPS:,}. "
            "Give each step more to do, or map() a function over the data"
        )
        return
    counted = Counter(name for name, _ in waits)
    for name, count in counted.items():
        if count > 1:
            yield f"{count} steps are named {name!r}. Give each its own name"
    known = True
    for name, dependencies in (*waits, *mentions):
        for missing in sorted(n for n in dependencies if n not in counted):
            known = False
            yield unknown_step(missing, counted, asker=name)
    if known:
        cycle = find_cycle(dict(waits))
        if len(cycle) == 2:
            yield f"step {cycle[0]!r} waits for itself. Use the result of another step"
        elif cycle:
            yield (
                f"steps wait for each other in a cycle: {_shown(cycle)} (each "
                "gives its result to the next). Remove one of these references"
            )


def _shown(cycle: Sequence[str]) -> str:
    if len(cycle) > 12:
        cycle = [*cycle[:6], f"… {len(cycle) - 9:,} more …", *cycle[-3:]]
    return " → ".join(cycle)


def unknown_step(missing: str, known: Collection[str], *, asker: str) -> str:
    """Say that `asker` refers to a step that is not there, and what is."""
    close = nearest(missing, known)
    if close is not None:
        cure = f"Did you mean {close!r}?"
    else:
        shown = ", ".join(sorted(known)[:6]) + (", …" if len(known) > 6 else "")
        cure = f"The steps are: {shown}"
    return (
        f"step {asker!r} refers to {missing!r}, which is not a step of this workflow. "
        f"{cure}"
    )


def find_cycle(dependencies: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Return one cycle, its first step again at its end, or () where there is none.

    Each step of the answer is waited for by the next. Takes away the steps that
    wait for nothing until none is left (Kahn, CACM 5(11), 1962), without
    recursion: chains may be as long as a workflow.

    >>> find_cycle({"a": {"c"}, "b": {"a"}, "c": {"b"}, "d": {"c"}})
    ('a', 'b', 'c', 'a')
    """
    open_inputs = {name: len(needed) for name, needed in dependencies.items()}
    dependents = dependents_of(dependencies)
    ready = [name for name, count in open_inputs.items() if count == 0]
    while ready:
        name = ready.pop()
        del open_inputs[name]
        for dependent in dependents[name]:
            open_inputs[dependent] -= 1
            if open_inputs[dependent] == 0:
                ready.append(dependent)
    if not open_inputs:
        return ()
    # Whatever is left waits for something that is left: going from step to
    # dependency must come back to a step that was passed.
    passed: dict[str, int] = {}
    trail: list[str] = []
    name = next(iter(open_inputs))
    while name not in passed:
        passed[name] = len(trail)
        trail.append(name)
        name = min(needed for needed in dependencies[name] if needed in open_inputs)
    circle = trail[passed[name] :][::-1]
    first = circle.index(min(circle))
    circle = circle[first:] + circle[:first]
    return (*circle, circle[0])


def dependents_of(dependencies: Mapping[str, Set[str]]) -> dict[str, list[str]]:
    """Turn what each step waits for into who waits for each step."""
    dependents: dict[str, list[str]] = {name: [] for name in dependencies}
    for name, needed in dependencies.items():
        for dependency in needed:
            dependents[dependency].append(name)
    return dependents
