"""Start of a worker: `python -P -m mpreg_nb.worker SOCKET CANCELS PAGE BESIDE PARENT`.

The first four are file descriptors that the node left open, the last is its
process id. See `protocol.worker`.
"""

import sys

# msgspec takes what it needs from `typing` where there is no typing_extensions,
# whose import would be a third of the time and a fifth of the memory of this one.
_ABSENT = "typing_extensions"

if __name__ == "__main__":
    if sys.version_info >= (3, 11) and _ABSENT not in sys.modules:
        sys.modules[_ABSENT] = None  # type: ignore[assignment]
        import msgspec  # noqa: F401

        del sys.modules[_ABSENT]

    from mpreg_nb.worker.main import main

    main(*map(int, sys.argv[1:]))
