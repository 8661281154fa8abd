"""A thread that waits for something, while the test ends what it waits for."""

import threading
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 60


class Asking:
    """Asks in a thread of its own; has the answer, or the error."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._answer: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at
            self._answer = error

    def answer(self) -> Any:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "it still waits"
        return self._answer
