"""The settings of the tests; environment variables do not change them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mpreg_nb.cluster.config import CONFIG, KEYS


@contextmanager
def default_settings() -> Iterator[None]:
    """Have the defaults here and in nodes: for tests of the fast ways themselves."""
    with pytest.MonkeyPatch.context() as patch:
        for key in KEYS.values():
            patch.delenv(key.variable, raising=False)
        CONFIG.reset()
        yield
    CONFIG.reset()
