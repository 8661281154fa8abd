"""Records the errors of pages, and the hosts that they send requests to."""

from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, WebError

LOCAL = {"127.0.0.1", "localhost", ""}  # "": data and blob addresses


class Ear:
    """Listens to all pages of a context from its first moment on."""

    def __init__(self, context: BrowserContext) -> None:
        """Start to record."""
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", self._request)

    def forget_complaints(self) -> None:
        """Discard what the front end logged while it opened."""
        self.complaints.clear()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location['url']})")

    def _error(self, error: WebError) -> None:
        self.complaints.append(str(error.error))

    def _request(self, request: Request) -> None:
        if (urlsplit(request.url).hostname or "") not in LOCAL:
            self.foreign.append(request.url)
