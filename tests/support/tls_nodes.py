"""Local clusters whose nodes have certificates and are reached over TLS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mpreg_nb.launcher.process import NodeProcess
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.transport.certificates import Authority


@contextmanager
def local_nodes_over_tls(folder: Path) -> Iterator[None]:
    """Give each node that this process starts a certificate; their URLs are wss://."""
    authority = Authority.make()
    ca = folder / "ca"
    authority.write(ca)
    plain = NodeProcess.start.__func__  # type: ignore[attr-defined]

    def start(
        cls: type[NodeProcess], /, options: NodeOptions, **rest: Any
    ) -> NodeProcess:
        name = options.settings.name
        files = authority.issue(name).write(folder / name, "node")
        secured = replace(
            options, tls_cert=files.certificate, tls_key=files.key, ca=files.ca
        )
        return plain(cls, secured, **rest)  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NodeProcess, "start", classmethod(start))
        patch.setenv("MPREG_NB_CA", str(ca / "ca.pem"))
        yield
