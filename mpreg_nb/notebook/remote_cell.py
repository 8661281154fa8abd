"""Cells that run on nodes: `remote`, `everywhere` and `step`.

The body of a cell runs in a worker, by `cell_body`. This module stays in the kernel.

What a step cell assigns is its output. A later step cell that reads such a name, or
the name of a step, gets a reference; other variables of the notebook are sent by value.

Each name of `--keep` is a worker of its own on the node where it was used first. It
lasts until it is dropped, its node or its process ends, or the cluster is left.
"""

import ast
import functools
import re
import symtable
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from IPython.display import display

from mpreg_nb.cluster.current import all_clusters, current, parts_of
from mpreg_nb.errors import (
    LOST_SPACE,
    REPLACED,
    NodeLost,
    NodesFailed,
    NoRoute,
    NotPicklable,
    WorkerCrashed,
)
from mpreg_nb.names import check_name, check_resources, nearest
from mpreg_nb.notebook.cell_body import (
    compiled,
    parsed,
    run_body,
    run_kept,
    run_step,
)
from mpreg_nb.notebook.ipython_lines import Refused, has_lines
from mpreg_nb.notebook.parser import Misuse, VerbOptions, arguments
from mpreg_nb.notebook.session import Session, check_variable

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster
    from mpreg_nb.cluster.function import Function
    from mpreg_nb.workflows.builder import Flow


def free_variables(source: str, known: Collection[str]) -> tuple[str, ...]:
    """Return those of `known` that `source` reads before it sets them, sorted.

    Rather too many than too few: what is set only on some way through counts as
    not set, what a nested function reads counts as read where it is defined.

    Raises:
        SyntaxError: it is no Python.

    >>> names = {"rows", "scale", "x", "y"}
    >>> free_variables("y = [x for x in rows]\\nprint(y, scale)", names)
    ('rows', 'scale')
    """
    found: set[str] = set()
    settled: set[str] = set()
    for statement in _Separate().visit(ast.parse(source)).body:
        found |= _read_by(statement) - settled
        settled |= _set_by(statement)
    return tuple(sorted(found & set(known)))


def assigned(source: str) -> tuple[str, ...]:
    """Return the names that `source` assigns at its own level, in their order.

    Those of `=`, `+=` and `:=`, also inside `if`, `for`, `with` and `try`. What else
    sets a name (loops, `with ... as`, imports, functions, classes) does not count,
    nor does a name that begins with _.

    Raises:
        SyntaxError: it is no Python.

    >>> assigned("import math\\nfor i in a:\\n    total, _ = i, 0\\n    n = total")
    ('total', 'n')
    """
    finder = _Assigned()
    finder.visit(ast.parse(source))
    return tuple(name for name in finder.names if not name.startswith("_"))


class _Assigned(ast.NodeVisitor):
    """Collects assigned names; what is inside functions and classes is their own."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def visit_Assign(self, node: ast.Assign) -> None:
        self._add(*node.targets)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._add(node.target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node.target)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._add(node.target)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        return

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        return

    def visit_Lambda(self, node: ast.Lambda) -> None:
        return

    def _add(self, *targets: ast.expr) -> None:
        for target in targets:
            self.names.update(dict.fromkeys(_names(target)))


class _Separate(ast.NodeTransformer):
    """Makes generators of comprehensions: they read the same.

    From Python 3.12 on the variables of a comprehension are in the table of the
    code around it, those of a generator are always in one of their own.
    """

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.expr:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        self.generic_visit(node)
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return ast.GeneratorExp(pair, node.generators)


def _read_by(statement: ast.stmt) -> set[str]:
    table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
    return set(_global_reads(table)) | {
        # The table has these as set only, though they are read first.
        node.target.id
        for node in ast.walk(statement)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    outermost = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (outermost or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_reads(inner)


def _set_by(statement: ast.stmt) -> set[str]:
    """Return what `statement` sets on every way through it."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Import() | ast.ImportFrom():
            names = statement.names
            return {name.asname or name.name.partition(".")[0] for name in names}
        case ast.Assign():
            return {name for target in statement.targets for name in _names(target)}
        case _ if type(statement).__name__ == "TypeAlias":  # from Python 3.12 on
            return set(_names(vars(statement)["name"]))
        case ast.AnnAssign(target=target, value=ast.expr()):
            return set(_names(target))
        case ast.With(items=items, body=body):
            given = [item.optional_vars for item in items if item.optional_vars]
            inner = set().union(*map(_set_by, body))
            return inner.union(*map(set, map(_names, given)))
    return set()


def _names(target: ast.expr) -> Iterator[str]:
    return (
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )


class CellSource(msgspec.Struct, frozen=True):
    """The Python of a cell, and the file name that tracebacks know it by."""

    text: str
    filename: str

    @classmethod
    def of(cls, session: Session, cell: str, name: str) -> "CellSource":
        """Take what the user wrote.

        Raises:
            Misuse: it is no Python, or has lines of IPython that make no sense there.
        """
        text = _python(session.shell, cell)
        filename = f"<{name} {sha256(text.encode()).hexdigest()[:8]}>"
        try:
            with misuse_of_syntax():
                compiled(text, filename)  # found here, not there
        except Refused as error:
            raise Misuse(str(error)) from None
        return cls(text, filename)

    @property
    def code(self) -> str:
        """What runs, with lines of IPython as what they do."""
        return ast.unparse(parsed(self.text)) if has_lines(self.text) else self.text

    @property
    def is_silent(self) -> bool:
        """Whether its last expression ends with a `;`, as in any cell."""
        from IPython.core.displayhook import DisplayHook

        ends: Any = DisplayHook.semicolon_at_end_of_expression
        silent: bool = ends(self.text)
        return silent

    def variables(self, session: Session) -> dict[str, Any]:
        """Return those variables of the notebook that it reads."""
        known = session.variables
        return {name: known[name] for name in free_variables(self.code, known.keys())}


def _python(shell: Any, cell: str) -> str:
    """Return the Python of `cell`, as IPython has it.

    What `%%time` or `%%timeit` times stays code of the cell, below that line.
    """
    text: str = shell.transform_cell(cell)
    first, _, rest = cell.lstrip("\n").partition("\n")
    timed = re.match(r"%%(time|timeit)\b[ \t]*(.*)", first)
    if timed is None:
        return text
    name, line = timed.groups()
    above = "\n" * (len(cell) - len(cell.lstrip("\n")))
    below: str = shell.transform_cell(rest)
    return f"{above}get_ipython().run_cell_magic({name!r}, {line!r})\n{below}"


def check_syntax(text: str, filename: str) -> None:
    """Refuse what is no Python.

    Raises:
        Misuse: with the line and the place in it.
    """
    with misuse_of_syntax():
        compile(text, filename, "exec")


@contextmanager
def misuse_of_syntax() -> Iterator[None]:
    """Turn what is no Python into Misuse, with the line and the place in it."""
    try:
        yield
    except SyntaxError as error:
        line = (error.text or "").rstrip("\n")
        place = " " * (min(error.offset or 1, len(line) + 1) - 1) + "^"
        raise Misuse(
            f"line {error.lineno} of the cell: {error.msg}\n    {line}\n    {place}"
        ) from None


@functools.cache
def shipped(name: str, body: "Callable[..., Any]") -> "Function[Any, Any]":
    """Return `body` as a function of the current cluster, shown as `name`.

    It is one object, so that a cluster gets it once, whatever cells it runs.
    """
    from mpreg_nb.cluster.function import Function

    made: Function[Any, Any] = Function(body, name=name, cluster=current)
    vars(made)["__name__"] = name  # what drawings show
    return made


def refusal(error: NotPicklable, names: Mapping[str, Any]) -> Misuse | None:
    """Return what to tell where a variable of the cell cannot travel.

    None where it is something else: the result.
    """
    variable = re.match(r"\w+", error.path)
    if variable is None or variable[0] not in names:
        return None
    return Misuse(
        f"{error.path}, which the cell reads, cannot be sent: {error.reason}. "
        "Create it inside the cell"
    )


@contextmanager
def travelling(names: dict[str, Any]) -> Iterator[None]:
    """Say which variable of the cell it is that cannot travel."""
    try:
        yield
    except NotPicklable as error:
        refused = refusal(error, names)
        if refused is None:
            raise
        raise refused from error


STEP_CELL = "step cell"
"""Under this name step cells are in drawings and in the tables of functions."""

_INPUT = object()
"""Stands for an input of the workflow, until it is known that the cell reads it."""

_outputs: "WeakKeyDictionary[Flow[Any, Any], dict[str, tuple[str, ...]]]" = (
    WeakKeyDictionary()
)
"""Flow -> step that is a cell -> the names that it sets."""


def step(session: Session, options: VerbOptions, cell: str) -> Any:
    """Make `cell` a step of a workflow and return the workflow.

    Raises:
        Misuse: an option makes no sense, the variable holds no workflow, or the
            cell is no Python.
    """
    source = CellSource.of(session, cell, f"step {options.step}")
    flow, is_new = _flow(session, options.flow)
    outputs = assigned(source.code)
    with arguments():
        _check(options)
        given = _inputs(session, flow, options, source)
        made = flow.replace(
            options.step,
            shipped(STEP_CELL, run_step),
            source.text,
            source.filename,
            outputs,
            **given,
        )
        made.on(*options.on).after(*options.after).retry(options.retry)
        if options.timeout is not None:
            made.timeout(options.timeout)
    _outputs.setdefault(flow, {})[options.step] = outputs
    if is_new:
        session.keep(options.flow, flow)
    return flow


def _check(options: VerbOptions) -> None:
    """Refuse what the step would refuse, before the step that is there is gone."""
    from mpreg_nb.workflows.graph import StepOptions as StepOptions

    checked = StepOptions().on(options.on, None).waiting_for(options.after)
    checked = checked.retry(options.retry, Exception)
    if options.timeout is not None:
        checked.timeout(options.timeout)


def _flow(session: Session, name: str) -> "tuple[Flow[Any, Any], bool]":
    """Return the workflow that `name` says, and whether it was made for that."""
    if name in session.shell.user_ns or name in session.flow_names():
        return session.flow(name), False
    from mpreg_nb.cluster.api import workflow

    check_variable(name)
    return workflow(name), True


def _inputs(
    session: Session, flow: "Flow[Any, Any]", options: VerbOptions, source: CellSource
) -> dict[str, Any]:
    """Return what the cell reads: references to steps, and values of variables."""
    from mpreg_nb.workflows.builder import ref

    boxes = flow.diagram().boxes
    others = [box.name for box in boxes if box.kind != "input"]
    place = others.index(options.step) if options.step in others else len(others)
    made = _outputs.get(flow, {})
    known: dict[str, Any] = session.variables
    for name in (*(box.name for box in boxes if box.kind == "input"), *options.input):
        known[name] = _INPUT
    # The last that sets a name counts, of those before this step if there is one.
    for other in (*others[place + 1 :], *others[:place]):
        known[other] = ref(other)
        names = made.get(other, ())
        for name in names:
            known[name] = ref(other)[name] if len(names) > 1 else ref(other)
    given = {name: known[name] for name in free_variables(source.code, known)}
    unread = [name for name in options.input if given.get(name) is not _INPUT]
    if unread:
        reason = (
            "a step assigns it" if unread[0] in given else "the cell does not read it"
        )
        raise Misuse(f"{unread[0]!r} cannot be an input of the cell: {reason}")
    return {
        name: flow.input(name) if value is _INPUT else value
        for name, value in given.items()
    }


NAME = "remote cell"


class Kept(msgspec.Struct):
    """Names that cells keep on a node."""

    name: str
    node: str
    space: bytes
    names: tuple[str, ...] = ()  # as of its last cell


_of: "WeakKeyDictionary[Cluster, dict[str, Kept]]" = WeakKeyDictionary()


class KeptNames(tuple[Kept, ...]):
    """What `%mpreg kept` returns; shows one line for each."""

    __slots__ = ()

    def __repr__(self) -> str:
        return (
            "\n".join(map(_line, self)) or "nothing is kept: %%mpreg remote --keep NAME"
        )


def _line(kept: Kept) -> str:
    return f"{kept.name} on {kept.node}: {', '.join(kept.names) or 'no names yet'}"


def kept(session: Session, _: VerbOptions) -> KeptNames:
    """Return what cells keep on nodes of the current cluster."""
    return KeptNames(_of.get(session.cluster, {}).values())


def names_of(session: Session) -> list[str]:
    """Return the names that `--keep` was given, for completion."""
    return sorted({name for cluster in all_clusters() for name in _of.get(cluster, {})})


def forget(session: Session, options: VerbOptions) -> tuple[str, ...]:
    """Drop what these names keep; return them."""
    known = _of.get(session.cluster, {})
    for name in options.names:
        if name not in known:
            meant = nearest(name, known)
            hint = f"Did you mean {meant!r}?" if meant else "%mpreg kept lists all"
            raise Misuse(f"nothing is kept under the name {name!r}. {hint}")
    for name in options.names:
        dropped = known.pop(name)
        try:
            parts_of(session.cluster).calling.close_space(dropped.node, dropped.space)
        except NodeLost:  # then it has ended with its node, or ends with our links
            continue
    return tuple(options.names)


def run(
    session: Session, options: VerbOptions, source: CellSource, silent: bool
) -> Any:
    """Run a cell with the names of `options.keep`; return its value.

    Raises:
        Misuse: the place is another, or what was kept is lost; nothing was run.
    """
    __tracebackhide__ = True
    from mpreg_nb.cluster.function import in_space

    place = _place(session, options)
    own = set(place.names)
    names = {
        name: value
        for name, value in source.variables(session).items()
        if name not in own  # the cells there have set it
    }
    with arguments():
        view = shipped(NAME, run_kept).on(node=place.node, timeout=options.timeout)
    try:
        with travelling(names):
            value, set_there = in_space(view, place.space).call(
                source.text, source.filename, silent, **names
            )
    except NoRoute:
        if _is_alive(session, place.node):
            raise
        raise _lost(session, place, f"{place.node} has ended") from None
    except NodeLost as error:
        if error.reason.startswith(LOST_SPACE):
            reason = error.reason.removeprefix(LOST_SPACE).removeprefix(": ")
            raise _lost(session, place, reason) from None
        _drop(session, place)
        error.kept = place.name
        raise
    except WorkerCrashed as error:
        _drop(session, place)
        error.args = (str(error).replace(REPLACED, ""),)
        error.add_note(_advice(place))
        raise
    place.names = set_there
    return value


def _place(session: Session, options: VerbOptions) -> Kept:
    """Return where the cell runs; made where it was not used before."""
    with arguments():
        name = check_name("kept names", options.keep)
        wanted = check_resources(options.on)
    cluster = session.cluster
    known = _of.setdefault(cluster, {})
    held = _held(session)
    if name in known:
        place = known[name]
        elsewhere = options.node not in (None, place.node)
        lacks = sorted(wanted - held.get(place.node, wanted))
        if elsewhere or lacks:
            why = f"run on {options.node}" if elsewhere else f"use {', '.join(lacks)}"
            raise Misuse(
                f"{name!r} is kept on {place.node}, so the cell cannot {why}. Leave "
                f"that option out, or drop what is kept: %mpreg forget {name}"
            )
        return place
    fitting = [n for n, resources in held.items() if wanted <= resources]
    if options.node is not None:
        fitting = [n for n in fitting if n == options.node]
    if not fitting:
        engine = parts_of(session.cluster).client.state.engine
        raise NoRoute(NAME, wanted, held, held=held, pinned=options.node, engine=engine)
    node = fitting[0]
    space = parts_of(cluster).calling.open_space(node)
    place = known[name] = Kept(name, node, space)
    print(  # noqa: T201 - what is kept where is to be known
        f"[{node}] keeps {name!r} from now on; %mpreg forget {name} drops it"
    )
    return place


def _held(session: Session) -> Mapping[str, frozenset[str]]:
    """Return the resources of the nodes that run cells, the idlest first."""

    def load(picture: Any) -> float:
        load = picture.load
        return (load.running + load.queued) / max(1, load.slots) if load else 0.0

    pictures = [
        picture
        for picture in session.cluster.refresh().nodes
        if picture.record.state.name == "ALIVE" and picture.record.workers
    ]
    kept = [each.node for each in _of.get(session.cluster, {}).values()]
    pictures.sort(key=lambda p: (load(p), kept.count(p.record.name), p.record.name))
    return {picture.record.name: picture.record.resources for picture in pictures}


def _is_alive(session: Session, node: str) -> bool:
    return node in _held(session)


def _drop(session: Session, place: Kept) -> None:
    _of.get(session.cluster, {}).pop(place.name, None)


def _advice(place: Kept) -> str:
    return (
        f"What was kept as {place.name!r} is lost with it. Run the cells again that "
        f"made it, with --keep {place.name}: they start again"
    )


def _lost(session: Session, place: Kept, reason: str) -> Misuse:
    _drop(session, place)
    names = f" ({', '.join(place.names)})" if place.names else ""
    return Misuse(
        f"what was kept on {place.node} as {place.name!r}{names} is lost: {reason}. "
        f"The cell was not run. Run the cells again that made it, with --keep "
        f"{place.name}: they start again"
    )


REMOTE_CELL = "remote cell"
"""Under this name bodies of cells are in the tables of functions and calls."""


def remote(session: Session, options: VerbOptions, cell: str) -> Any:
    """Run `cell` once on a node that fits; return the value of its last expression."""
    __tracebackhide__ = True
    if options.target is not None:
        check_variable(options.target)
    _ = session.cluster
    if options.keep is not None:
        source = CellSource.of(session, cell, REMOTE_CELL)
        silent = source.is_silent and options.target is None
        return _kept(session, options, run(session, options, source, silent))
    with arguments():
        view = shipped(REMOTE_CELL, run_body).on(
            *options.on, node=options.node, timeout=options.timeout
        )
    source = CellSource.of(session, cell, REMOTE_CELL)
    names = source.variables(session)
    silent = source.is_silent and options.target is None
    with travelling(names):
        value = view.call(source.text, source.filename, silent, **names)
    return _kept(session, options, value)


def everywhere(session: Session, options: VerbOptions, cell: str) -> Any:
    """Run `cell` on every node that fits, at once; return a dict of node -> value.

    Raises:
        NodesFailed: it failed on some; the values of the others are shown, or kept
            as the options say, and are in the error too.
    """
    __tracebackhide__ = True
    if options.target is not None:
        check_variable(options.target)
    with arguments():
        nodes = _fitting(session, options)
        function = shipped(REMOTE_CELL, run_body)
        views = {n: function.on(node=n, timeout=options.timeout) for n in nodes}
    source = CellSource.of(session, cell, REMOTE_CELL)
    names = source.variables(session)
    silent = source.is_silent and options.target is None
    calls: dict[str, Any] = {}
    values: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    try:
        with travelling(names):
            for node, view in views.items():
                calls[node] = view.submit(source.text, source.filename, silent, **names)
        for node, call in calls.items():
            try:
                values[node] = call.result()
            except Exception as error:  # noqa: BLE001 - the outcome of that node
                errors[node] = error
    except BaseException:  # Stop ends all of them
        for call in calls.values():
            call.cancel()
        raise
    if not errors and silent:
        return None
    if not errors:
        return _kept(session, options, values)
    if options.target is not None:
        session.keep(options.target, values)
    elif values and not silent:
        display(values)  # type: ignore[no-untyped-call]
    raise NodesFailed.of(errors, values)


def _fitting(session: Session, options: VerbOptions) -> list[str]:
    wanted = check_resources(options.on)
    pictures = session.cluster.refresh().nodes
    held = {
        picture.record.name: picture.record.resources
        for picture in pictures
        if picture.record.state.name == "ALIVE"
    }
    nodes = sorted(node for node, resources in held.items() if wanted <= resources)
    state = parts_of(session.cluster).client.state
    if not nodes:
        raise NoRoute(REMOTE_CELL, wanted, held, held=held, engine=state.engine)
    # Where none has workers, the call itself says what is missing.
    return [node for node in nodes if node not in state.workerless] or nodes


def _kept(session: Session, options: VerbOptions, value: Any) -> Any:
    if options.target is None:
        return value
    session.keep(options.target, value)
    return None
