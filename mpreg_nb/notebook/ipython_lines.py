"""Lines of IPython in a cell that runs elsewhere: what they become there.

IPython turns `!ls` and `%time f()` into calls of `get_ipython()`, which is nowhere
but here. Those that make sense on a node become calls of `lines_there`, and what a
line times becomes code of the cell, so that it is read, awaited and traced like the
rest. Imported in workers too, so it imports nothing of the notebook.
"""

import ast
import re
import string
from collections.abc import Iterator
from typing import Any

LINES = "__mpreg_lines__"
"""The variable that holds what lines call, see `lines_there`."""

_MARK = "get_ipython()"

_LINE_MAGICS = {
    *("time", "timeit", "cd", "pwd", "env", "set_env"),
    *("pip", "conda", "matplotlib", "sx", "system"),
}
_CELL_MAGICS = {"time", "timeit", "bash", "sh", "writefile"}

WORK_THERE = (
    "!command, names = !command, %time, %timeit, %cd, %pwd, %env, %pip, %conda and "
    "%matplotlib inline; %%time, %%timeit, %%bash, %%sh and %%writefile as the next "
    "line"
)

_TIMEIT_OPTIONS = re.compile(
    r"\s*(?:-(?P<name>[nr])\s*(?P<number>\d+)|-(?P<flag>[qc]))\s+"
)
_NAME = re.compile(r"\$(\$?)([A-Za-z_][\w.]*)")


class Refused(Exception):
    """A line that makes no sense on a node; the message says what to do instead."""


def has_lines(text: str) -> bool:
    """Whether `text`, as IPython has made it, may have such lines."""
    return _MARK in text


def expanded(tree: ast.Module) -> ast.Module:
    """Return `tree` with all such lines as they are to run on a node.

    Raises:
        Refused: one of them makes no sense there.
        SyntaxError: what one of them times is no Python.
    """
    body: ast.Module = _Expander().visit(_with_timed_rest(tree))
    return ast.fix_missing_locations(body)


def _with_timed_rest(tree: ast.Module) -> ast.Module:
    """Return `tree` with what follows `%%time` inside of it."""
    if not tree.body:
        return tree
    first, *rest = tree.body
    called = _called(first.value) if isinstance(first, ast.Expr) else None
    if called is None or called[0] != "run_cell_magic" or len(called[1]) != 2:
        return tree
    (name, line), at = called[1], first
    if name == "time":
        body: list[ast.stmt] = [_timed(rest or [ast.Pass()], at)]
    else:
        setup, options = _timeit(line, at)
        body = _measured(rest or [ast.Pass()], setup, options, at)
    return ast.Module(body, tree.type_ignores)


class _Expander(ast.NodeTransformer):
    """Puts what runs there in the place of each line."""

    def visit_Expr(self, node: ast.Expr) -> Any:
        called = _called(node.value)
        if called is not None and called[0] == "run_line_magic":
            name, line = called[1]
            if name == "time":
                return self._expand(_timed(_parsed(line, node), node))
            if name == "timeit":
                code, options = _timeit(line, node)
                found = _measured(code, [], options, node)
                return [self._expand(statement) for statement in found]
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        called = _called(node.value)
        if called is not None and called[:1] == ("run_line_magic",):
            name, line = called[1]
            if name == "time":
                body = _parsed(line, node)
                if len(body) != 1 or not isinstance(body[0], ast.Expr):
                    raise Refused(f"%time {line} has no value that could be assigned")
                kept = ast.copy_location(ast.Assign(node.targets, body[0].value), node)
                return self._expand(_timed([kept], node))
            if name == "timeit":
                raise Refused(
                    "%timeit has no value on a node: write it on its own line"
                )
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        called = _called(node)
        if called is None:
            return self.generic_visit(node)
        method, given = called
        _check(method, given)
        *others, text = given
        arguments: list[ast.expr] = [ast.Constant(value) for value in others]
        arguments.append(ast.Constant(text))
        values = None if method == "run_cell_magic" else _values(text)
        if values is not None:
            arguments.append(values)
        made = _call_there(method, *arguments)
        return _located(made, node)

    def _expand(self, node: ast.stmt) -> Any:
        return self.generic_visit(node)


def _called(node: ast.expr) -> tuple[str, tuple[str, ...]] | None:
    """Return method and arguments where `node` is a call that IPython has made."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    of = node.func.value
    if not (
        isinstance(of, ast.Call)
        and isinstance(of.func, ast.Name)
        and of.func.id == "get_ipython"
        and node.func.attr
        in ("system", "getoutput", "run_line_magic", "run_cell_magic")
    ):
        return None
    values = [a.value for a in node.args if isinstance(a, ast.Constant)]
    texts = tuple(value for value in values if isinstance(value, str))
    return (node.func.attr, texts) if len(texts) == len(node.args) else None


def _check(method: str, given: tuple[str, ...]) -> None:
    if method in ("system", "getoutput"):
        if given[0].rstrip().endswith("&"):
            raise Refused(
                f"!{given[0]}: a command cannot run in the background of a remote "
                "cell, which would wait for it. Leave out the & at its end"
            )
        return
    name, line = given[0], given[1]
    if name.startswith("pinfo"):
        raise Refused(
            f"{line}? asks for help, which is shown here: run it in a cell of its own"
        )
    known = _LINE_MAGICS if method == "run_line_magic" else _CELL_MAGICS
    mark = "%" if method == "run_line_magic" else "%%"
    if name not in known:
        raise Refused(
            f"{mark}{name} does not run on a node: run it here, in a cell of its own. "
            f"A remote cell can use {WORK_THERE}"
        )
    if name == "matplotlib" and line.split() not in ([], ["inline"], ["agg"]):
        raise Refused(
            f"%matplotlib {line}: a node has no screen, its figures are shown here as "
            "images: write %matplotlib inline, or leave it out"
        )
    if name in ("time", "timeit"):
        raise Refused(f"{mark}{name} must stand on a line of its own")


def _parsed(code: str, at: ast.stmt) -> list[ast.stmt]:
    """Return the statements of a line, as if they stood where the line stands."""
    body = ast.parse(code.strip() or "pass").body
    return [_located(statement, at) for statement in body]


def _located(node: Any, at: Any) -> Any:
    for inner in ast.walk(node):
        if hasattr(inner, "lineno") or isinstance(inner, ast.stmt | ast.expr):
            ast.copy_location(inner, at)
    return node


def _call_there(method: str, *arguments: ast.expr) -> ast.Call:
    function = ast.Attribute(ast.Name(LINES, ast.Load()), method, ast.Load())
    return ast.Call(function, list(arguments), [])


def _timed(body: list[ast.stmt], at: ast.stmt) -> ast.With:
    made = ast.With([ast.withitem(_call_there("timed"))], body)
    made.items[0] = _located(made.items[0], at)
    return ast.copy_location(made, at)


def _timeit(line: str, at: ast.stmt) -> tuple[list[ast.stmt], dict[str, int]]:
    """Return the code of `%timeit`, and its options n and r."""
    options: dict[str, int] = {}
    rest = f"{line} "
    while found := _TIMEIT_OPTIONS.match(rest):
        if found["name"]:
            options[found["name"]] = int(found["number"])
        rest = rest[found.end() :]
    if rest.lstrip().startswith("-") and rest.strip()[1:2].isalpha():
        option = rest.split()[0]
        raise Refused(f"%timeit {option} does not work on a node; -n, -r, -q, -c do")
    return _parsed(rest, at), options


_LOOP = """
def __mpreg_loop__(__mpreg_times__, __mpreg_clock__):
    setup
    __mpreg_begun__ = __mpreg_clock__()
    for _ in __mpreg_times__:
        pass
    return __mpreg_clock__() - __mpreg_begun__
"""


def _measured(
    body: list[ast.stmt], setup: list[ast.stmt], options: dict[str, int], at: ast.stmt
) -> list[ast.stmt]:
    """Return statements that measure `body`: a function, and its call."""
    function = _parsed(_LOOP, at)[0]
    if not isinstance(function, ast.FunctionDef):
        raise AssertionError(_LOOP)
    loop = function.body[2]
    if not isinstance(loop, ast.For):
        raise AssertionError(_LOOP)
    loop.body = body
    function.body[:1] = setup
    numbers = [ast.Constant(options.get("n", 0)), ast.Constant(options.get("r", 7))]
    name = ast.Name("__mpreg_loop__", ast.Load())
    call = ast.Expr(_call_there("measure", name, *numbers))
    return [function, _located(call, at)]


def _values(text: str) -> ast.Dict | None:
    """Return what `$name` and `{expression}` in a command stand for, as functions.

    So they are read like everything else that the cell reads. None where there is
    nothing of the kind, or where braces are meant for the shell.
    """
    found: dict[str, ast.expr] = {}
    try:
        for name in _names_in(text):
            found[name] = ast.parse(name, mode="eval").body
        for field in _fields_in(text):
            found[field] = ast.parse(field.strip(), mode="eval").body
    except (SyntaxError, ValueError):  # no Python, so it is the shell's
        return None
    if not found:
        return None
    functions = [ast.Lambda(_nothing(), code) for code in found.values()]
    return ast.Dict([ast.Constant(code) for code in found], list(functions))


def _nothing() -> ast.arguments:
    return ast.arguments([], [], None, [], [], None, [])


def _fields_in(text: str) -> Iterator[str]:
    for _, field, _, _ in string.Formatter().parse(text):
        if field is not None:
            yield field


def _names_in(text: str) -> Iterator[str]:
    for literal, _, _, _ in string.Formatter().parse(text):
        for found in _NAME.finditer(literal):
            if not found[1] and not _is_quoted(literal, found.end()):
                yield found[2]


def _is_quoted(text: str, at: int) -> bool:
    """Whether `'` around this place keep the shell, and us, from looking inside."""
    return text.count("'", at) % 2 == 1


def filled(text: str, values: dict[str, Any]) -> str:
    """Return a command with what its names and expressions stand for.

    values: functions, as `expanded` gave them. As in IPython a name that is not
    known is the shell's, and where an expression fails nothing is filled in.
    """

    def named(literal: str) -> Iterator[str]:
        end = 0
        for found in _NAME.finditer(literal):
            yield literal[end : found.start()]
            end = found.end()
            if found[1]:
                yield f"${found[2]}"
            elif _is_quoted(literal, end):
                yield found[0]
            else:
                yield _value_or(found[0], values[found[2]])
        yield literal[end:]

    parts: list[str] = []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            parts += named(literal)
            if field is not None:
                value = values[field]()
                if conversion:
                    value = string.Formatter().convert_field(value, conversion)
                parts.append(format(value, spec or ""))
    except Exception:  # noqa: BLE001  then the braces are the shell's, as in IPython
        return text
    return "".join(parts)


def _value_or(name: str, value: Any) -> str:
    try:
        return str(value())
    except Exception:  # noqa: BLE001  it is a variable of the shell
        return name
