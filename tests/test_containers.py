"""The image and the compose file in docs/containers fit the program and each other."""

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from mpreg_nb.node.options import NodeOptions, dialled_at, read_options, tls_files
from mpreg_nb.transport.tls import read_tls
from mpreg_nb.transport.token import read_token
from tests.support.leaks import own_folders

FOLDER = Path(__file__).parent.parent / "docs" / "containers"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return dict(found["services"])


def test_the_nodes_of_the_compose_file_have_what_they_need_and_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folders(tmp_path, monkeypatch)
    script = tmp_path / "prepare.sh"
    script.write_bytes((FOLDER / "prepare.sh").read_bytes())
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", script], env={**os.environ, "PATH": programs}, check=True)
    secrets = tmp_path / "secrets"

    nodes: dict[str, NodeOptions] = {}
    for name, service in services().items():
        for volume in service["volumes"]:
            source, target, mode = volume.split(":")
            assert (tmp_path / source).exists()
            assert target in service["command"]
            assert mode == "ro"
        command = service["command"].replace("/secrets", str(secrets))
        nodes[name] = read_options(command.split())

    for name, options in nodes.items():
        files = tls_files(options)
        assert files is not None
        assert options.settings.name == name
        assert dialled_at(options) == (name,)
        assert read_tls(files, node=name, hosts=dialled_at(options)).certificate
        assert read_token(Path(options.token_file)).path == secrets / "token"
        assert set(options.settings.join) <= {"wss://n1:7400"}
    assert sorted(nodes) == ["n1", "n2", "n3"]


def test_the_image_installs_only_requirements_of_the_package_and_starts_a_node() -> (
    None
):
    text = (FOLDER / "Dockerfile").read_text()
    declared = {Requirement(line).name for line in requires("mpreg_nb") or ()}

    [installed] = re.findall(
        r"^RUN pip install --no-cache-dir ([\w ]+) \\$", text, re.M
    )

    assert set(installed.split()) <= declared
    assert {"cloudpickle", "hdrhistogram", "msgspec"} <= set(installed.split())
    assert 'ENTRYPOINT ["mpreg-nb", "node"]' in text
    assert "\nUSER node\n" in text
