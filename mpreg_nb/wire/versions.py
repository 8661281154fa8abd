"""The data lane: what two processes must have alike to read each other's objects."""

import sys

from mpreg_nb.wire.message import Message, Name, RequestId

PACKAGES = ("mpreg_nb", "cloudpickle", "msgspec", "numpy", "pandas")
"""Those that write pickles, and whose objects are most often in them."""


class VersionsAsk(
    Message, frozen=True, kw_only=True, array_like=True, tag="versions_ask"
):
    """Tell which versions you have; answered by Versions."""

    id: RequestId


class Versions(Message, frozen=True, kw_only=True, array_like=True, tag="versions"):
    """The version of Python and of each of `PACKAGES`; "" where it is not there."""

    id: RequestId
    node: Name
    versions: tuple[tuple[str, str], ...]


def installed() -> dict[str, str]:
    """Return name -> version of what this interpreter would import, Python first.

    This package is left out where it was not installed, and so has no version.
    """
    import importlib.metadata
    import platform

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package != "mpreg_nb":
                found[package] = ""
    return found


def minor_of(version: str) -> str:
    """Return the minor version, to which compiled code of Python is bound.

    >>> minor_of("3.12.1"), minor_of("3.13.0rc2"), minor_of("")
    ('3.12', '3.13', '')
    """
    return ".".join(version.split(".")[:2])


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The minor version of this process."""
