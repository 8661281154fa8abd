"""Which variables of the notebook a piece of code reads, by looking at it."""

import ast
import symtable
from collections.abc import Collection, Iterator


def reads(source: str, known: Collection[str]) -> tuple[str, ...]:
    """Return those of `known` that `source` reads before it sets them, sorted.

    Rather too many than too few: what is set only on some way through counts as
    not set, what a nested function reads counts as read where it is defined.

    Raises:
        SyntaxError: it is no Python.

    >>> reads("y = [x for x in rows]\\nprint(y, scale)", {"rows", "scale", "x", "y"})
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
