"""A web site on the loopback address that serves the panel's own files to a page."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import mpreg_nb
from mpreg_nb.notebook import widgets

JUPYTERLAB = find_spec("jupyterlab")
assert JUPYTERLAB is not None
assert JUPYTERLAB.origin is not None
THEMES = Path(JUPYTERLAB.origin).parent / "themes" / "@jupyterlab"

# First part of a path -> the folder that it serves.
FOLDERS = {
    "page": Path(__file__).parents[1] / "browser" / "page",
    "static": Path(mpreg_nb.__file__).parent / "notebook" / "static",
    "themes": THEMES,
}


STYLE = "/style.css"
"""The panel's style sheet as the widget sends it, with its colours."""


class _Files(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != STYLE:
            super().do_GET()
            return
        style = widgets.style_source().encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/css")
        self.send_header("Content-Length", str(len(style)))
        self.end_headers()
        self.wfile.write(style)

    def translate_path(self, path: str) -> str:
        first, _, rest = path.lstrip("/").partition("?")[0].partition("/")
        folder = FOLDERS.get(first)
        if folder is None or ".." in rest.split("/"):
            return str(FOLDERS["page"] / HTTPStatus.NOT_FOUND.phrase)
        return str(folder / rest)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a missing file shows as an error of the page."""


@contextmanager
def panel_site() -> Iterator[str]:
    """Serve until the block ends; gives the site's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files))
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
