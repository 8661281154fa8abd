"""`display` in functions: shows objects in the cell that made the call.

An object is turned into its forms (text, HTML, an image, …) here, where it lives;
only they travel. `display` is a builtin, as in a notebook, and the functions of
`IPython.display` do the same as soon as anything imports them.
"""

import builtins
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mpreg_nb.output.capture import OutputCapture, PrintingCall
from mpreg_nb.protocol.displays import packed, packed_clear, set_passing_on

Bundle: TypeAlias = dict[str, Any]
"""MIME type -> the object in that form."""

MOST_BYTES = 32 << 20
"""Of one display; a larger one is shown as its text only."""

_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/pdf": "_repr_pdf_",
    "application/json": "_repr_json_",
    "application/javascript": "_repr_javascript_",
}

_IPYTHONS = "IPython.core.display_functions"

_capture: list[OutputCapture] = []
_most_bytes = [MOST_BYTES]
_formatter: list[Any] = []  # IPython's, once it is made; None where there is none


def install(capture: OutputCapture, max_payload_bytes: int) -> None:
    """Send displays of this process the way that prints go."""
    _capture[:] = [capture]
    set_passing_on(_pass_on)
    _most_bytes[:] = [min(MOST_BYTES, max_payload_bytes)]
    builtins.display = display  # type: ignore[attr-defined]  # as IPython has it
    sys.meta_path.insert(0, _Finder())
    os.environ["MPLBACKEND"] = "module://mpreg_nb.output.figures"


def displaying_call() -> PrintingCall | None:
    """Return the call whose cell shows displays made at this moment.

    None outside of calls, and in processes that capture none.
    """
    return _capture[0].call if _capture else None


def display(
    *objects: Any,
    include: Any = None,
    exclude: Any = None,
    metadata: Mapping[str, Any] | None = None,
    transient: Mapping[str, Any] | None = None,
    display_id: str | bool | None = None,
    raw: bool = False,
    clear: bool = False,
    **options: Any,
) -> "Handle | None":
    """Show objects in the cell that made the call, as `IPython.display.display` does.

    display_id: a name for what is shown, or True for a new one; returns a handle
        that shows something else in its place.
    """
    told = dict(transient or {})
    if display_id:
        told["display_id"] = _new_id() if display_id is True else display_id
    if options.get("update") and "display_id" not in told:
        raise TypeError("display_id required for update_display")
    if clear:
        clear_output(wait=True)
    for value in objects:
        data, known = (value, {}) if raw else _forms(value, include, exclude)
        if data:
            known = {**known, **(metadata or {})}
            publish_display_data(data, known, transient=told, **options)
    return Handle(told["display_id"]) if display_id else None


def publish_display_data(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    transient: Mapping[str, Any] | None = None,
    update: bool = False,
    **_: Any,
) -> None:
    """Show forms that are made already."""
    shown = {kind: _as_json(value) for kind, value in data.items()}
    told = dict(transient or {})
    if not told and not update and set(shown) == {"text/plain"}:
        print(shown["text/plain"])  # noqa: T201  it reads as any other print
        return
    known = metadata or {}
    line = packed(shown, known, told, update=update)
    if len(line) > _most_bytes[0]:
        text = {"text/plain": _too_large(shown, len(line))}
        line = packed(text, {}, told, update=update)
    _show(line)


def update_display(value: Any, *, display_id: str, **options: Any) -> None:
    """Show `value` in place of the last display under this id."""
    display(value, display_id=display_id, update=True, **options)


def clear_output(wait: bool = False) -> None:
    """Clear the output of the cell; with `wait`, at the next display."""
    _show(packed_clear(wait=wait))


def _pass_on(line: str, head: str) -> bool:
    """Show displays of a call that was made from here, after a line of text.

    Returns False outside of calls.
    """
    if displaying_call() is None:
        return False
    if head:
        print(head, end="")  # noqa: T201  prints of a function are shown in its cell
    _show(line)
    return True


def _show(line: str) -> None:
    _capture[0].show(line.encode())


class Handle:
    """The place of something that was displayed."""

    def __init__(self, display_id: str | None = None) -> None:
        self.display_id = display_id or _new_id()

    def __repr__(self) -> str:
        return f"<DisplayHandle display_id={self.display_id}>"

    def display(self, value: Any, **options: Any) -> None:
        """Show `value` once more, under the same name."""
        display(value, display_id=self.display_id, **options)

    def update(self, value: Any, **options: Any) -> None:
        """Show `value` in all places of this name."""
        update_display(value, display_id=self.display_id, **options)


def _new_id() -> str:
    return os.urandom(16).hex()


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    return value


def _too_large(shown: Bundle, size: int) -> str:
    text = str(shown.get("text/plain", ""))[: 1 << 16]
    kinds = ", ".join(sorted(set(shown) - {"text/plain"})) or "text/plain"
    return (
        f"{text}\n… {kinds} not shown: {size / 1e6:.0f} MB, and a display may have "
        f"{_most_bytes[0] / 1e6:.0f} MB"
    ).lstrip()


# ----------------------------------------------------------------------- forms


def _forms(value: Any, include: Any, exclude: Any) -> tuple[Bundle, dict[str, Any]]:
    """Return the forms of `value` and metadata; empty if it displayed itself."""
    formatter = _ipythons_formatter()
    if formatter is not None:
        data, metadata = formatter.format(value, include=include, exclude=exclude)
        return data, metadata
    itself = _method(value, "_ipython_display_")
    if itself is not None:
        itself()
        return {}, {}
    data, metadata = _own_forms(value, include, exclude)
    kinds = set(data) if include is None else set(include) | {"text/plain"}
    kinds -= set(exclude or ())
    return {kind: form for kind, form in data.items() if kind in kinds}, metadata


def _own_forms(value: Any, include: Any, exclude: Any) -> tuple[Bundle, dict[str, Any]]:
    """Return the forms that methods of `value` make, where there is no IPython."""
    data: Bundle = {"text/plain": repr(value)}
    metadata: dict[str, Any] = {}

    def note(kind: str, made: Any) -> None:
        if isinstance(made, tuple):
            made, metadata[kind] = made
        if made is not None:
            data[kind] = made

    bundle = _method(value, "_repr_mimebundle_")
    if bundle is not None:
        made = _attempt(lambda: bundle(include=include, exclude=exclude))
        found, known = made if isinstance(made, tuple) else (made, {})
        data.update(found or {})
        metadata.update(known)
    for kind, name in _METHODS.items():
        method = _method(value, name)
        if method is not None and kind not in data:
            note(kind, _attempt(method))
    if any(c.__module__ == "matplotlib.figure" for c in type(value).__mro__):
        note("image/png", _attempt(lambda: png_of(value)))
    return data, metadata


def _method(value: Any, name: str) -> Callable[..., Any] | None:
    if isinstance(value, type):  # its methods are for its instances
        return None
    found = getattr(value, name, None)
    return found if callable(found) else None


def _attempt(make: Callable[[], Any]) -> Any:
    """Call `make`; print its traceback if it fails, so that other forms are shown."""
    try:
        return make()
    except NotImplementedError:
        return None
    except Exception:  # noqa: BLE001  code of the user's; what it raised is shown
        import traceback

        traceback.print_exc()
        return None


def _ipythons_formatter() -> Any:
    if not _formatter:
        _formatter.append(_made_formatter())
    return _formatter[0]


def _made_formatter() -> Any:
    try:
        from IPython.core.formatters import DisplayFormatter
    except ImportError:
        return None
    made: Any = DisplayFormatter()
    images = made.formatters["image/png"]
    images.for_type_by_name("matplotlib.figure", "Figure", png_of)
    return made


def png_of(figure: Any) -> bytes | None:
    """Return a figure of matplotlib as an image, without its empty margins."""
    import io

    if not (figure.axes or figure.lines or figure.texts or figure.images):
        return None
    data = io.BytesIO()
    figure.savefig(data, format="png", bbox_inches="tight", dpi=figure.dpi)
    return data.getvalue()


# --------------------------------------------------------------------- IPython


class _Finder:
    """Puts our functions in the place of IPython's when that is imported.

    IPython's would print, as there is no shell of it in this process.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return how to import IPython's module; nothing for any other."""
        if name != _IPYTHONS:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_replace(module: Any) -> None:
            execute(module)
            for ours in (display, publish_display_data, update_display, clear_output):
                setattr(module, ours.__name__, ours)
            module.DisplayHandle = Handle

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec
