"""Launchers of other packages are found, as the docs show it."""

import os
import re
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.launcher import launchers
from mpreg_nb.launcher.node_spec import NodeSpec
from tests.support.leaks import nothing_left

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "other-launchers.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def _package_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = blocks("py")
    [entry] = re.findall(r"^nice = \"(.*)\"$", blocks("toml")[0], re.MULTILINE)
    place = tmp_path / "site"
    about = place / "nice_nodes-1.dist-info"
    about.mkdir(parents=True)
    (place / "nice_nodes.py").write_text(module)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nice_nodes\nVersion: 1\n"
    )
    (about / "entry_points.txt").write_text(f"[mpreg_nb.launchers]\nnice = {entry}\n")
    monkeypatch.syspath_prepend(place)


@pytest.mark.live
@pytest.mark.usefixtures("_package_of_a_stranger")
def test_a_launcher_of_another_package_starts_nodes_beside_those_of_this_machine(
    tmp_path: Path,
) -> None:
    with nothing_left(tmp_path):
        nice = {"nice": {"night": {"batch"}}}
        # On a machine that is busy, a nice node takes long to start.
        with mp.up({"lab": "cpu"}, launchers=nice, timeout=90) as cluster:
            night, lab = (cluster.on(name).call(niceness) for name in ("batch", "cpu"))
            cluster.kill("night")
            cluster.wait_for("night", state="dead", timeout=30)

    assert night == lab + 10
    assert len(blocks("py")[0].splitlines()) <= 40


def niceness() -> int:
    return os.nice(0)


@pytest.mark.usefixtures("_package_of_a_stranger")
def test_a_launcher_that_is_not_there_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="Did you mean 'nice'") as refused:
        mp.up(launchers={"nise": 1})

    assert "There are: nice, slurm, ssh" in str(refused.value)


def test_nodes_of_all_places_have_names_of_their_own() -> None:
    here = (NodeSpec("gpu-1"),)

    with pytest.raises(ValueError, match="node 'gpu-1' is given twice"):
        launchers.read_places(here, {"ssh": {"ada@gpu-1": "gpu"}})
