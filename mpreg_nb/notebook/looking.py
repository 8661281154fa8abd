"""Verbs that show something: frames, live views, logs, checks, settings."""

import ast
from collections.abc import Callable
from typing import Any

from mpreg_nb.notebook.line import Misuse, Options, arguments
from mpreg_nb.notebook.session import Session


def method(name: str) -> Callable[[Session, Options], Any]:
    """Return the verb that calls the cluster's method `name`, without arguments."""
    return lambda session, options: getattr(session.cluster, name)()


def functions(session: Session, options: Options) -> Any:
    """Return the frame of functions."""
    return session.cluster.functions(options.pattern)


def latency(session: Session, options: Options) -> Any:
    """Return the frame of latencies."""
    return session.cluster.latency(options.by)


def watch(session: Session, options: Options) -> Any:
    """Return a live view."""
    with arguments():
        return session.cluster.watch(*options.views)


def logs(session: Session, options: Options) -> Any:
    """Return the last lines of logs; with -f print them until Stop or their end."""
    cluster = session.cluster
    given = {} if options.lines is None else {"lines": options.lines}
    if not options.f:
        with arguments():
            return cluster.logs(options.node, **given)
    with arguments():
        lines = cluster.follow_logs(options.node, **given)
    try:
        for line in lines:
            print(line, flush=True)  # noqa: T201 - it is what was asked for
    except KeyboardInterrupt:
        return None  # how one says that it is enough
    return None


def bench(session: Session, options: Options) -> Any:
    """Measure, and return what was measured."""
    import mpreg_nb

    cluster = session.cluster if options.here else None
    with arguments():
        return mpreg_nb.bench(not options.full, cluster, only=options.only)


def doctor(session: Session, options: Options) -> Any:
    """Return what is wrong here, with cures."""
    from mpreg_nb.cluster.doctor import examine

    return examine()


def config(session: Session, options: Options) -> Any:
    """Return all values, or one, which is set first where a value is given."""
    from mpreg_nb.cluster.config import config

    try:
        with arguments():
            if options.value is None:
                return config(options.key)
            return config(options.key, _value(options.value))
    except AttributeError as error:
        raise Misuse(str(error)) from None


def _value(text: str) -> Any:
    """Return what `text` says in Python, or the word itself.

    >>> _value("5"), _value("true"), _value("inf"), _value("soon")
    (5, True, inf, 'soon')
    """
    words = {"true": True, "false": False, "inf": float("inf")}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
