"""Versions that differ between the notebook and the nodes."""

import asyncio
import platform
import warnings
from collections.abc import Iterator

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster import versions
from mpreg_nb.cluster.versions import VersionsDiffer

pytestmark = pytest.mark.live


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True) as cluster:
        yield cluster


def test_equal_versions_are_not_worth_a_word(cluster: mp.Cluster) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = mp.connect(*cluster.urls)

    found = other.versions()
    other.down()

    assert list(found["node"]) == ["this process", "n1", "n2"]
    assert set(found["python"]) == {platform.python_version()}
    assert set(found["differs"]) == {""}
    assert len(set(found["numpy"])) == len(set(found["cloudpickle"])) == 1


def test_a_table_shows_other_versions_when_connecting(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = versions.used_here() | {"python": "3.99.1", "numpy": "0.1"}
    monkeypatch.setattr(versions, "used_here", lambda: here)

    with pytest.warns(VersionsDiffer) as caught:
        other = mp.connect(*cluster.urls)

    found = other.versions().set_index("node")
    other.down()
    [warning] = caught
    lines = str(warning.message).splitlines()
    assert warning.filename == __file__
    assert lines[2].split() == ["node", "python", "numpy"]
    assert lines[3].split() == ["this", "process", "3.99.1", "0.1"]
    assert lines[4].split()[:2] == ["n1", platform.python_version()]
    assert "do not run on n1, n2" in lines[7]
    assert "pip install numpy==0.1" in lines[8]
    assert list(found["differs"]) == ["", "python, numpy", "python, numpy"]


def test_warning_that_is_an_error_leaves_no_connection(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = versions.used_here() | {"cloudpickle": "0.1"}
    monkeypatch.setattr(versions, "used_here", lambda: here)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(VersionsDiffer):
            mp.connect(*cluster.urls)

    assert mp.current() is cluster


def test_node_that_cannot_be_asked_is_known_by_its_python(
    cluster: mp.Cluster,
) -> None:
    other = mp.connect(cluster.urls[0], direct=False)

    found = other.versions().set_index("node")
    other.down()

    pickles = found["cloudpickle"].to_dict()
    assert pickles["n1"] == pickles["this process"] != ""
    assert pickles["n2"] == ""
    assert found["python"].to_dict()["n2"] == platform.python_version()
    assert set(found["differs"]) == {""}


def test_package_that_was_reinstalled_since_its_import_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cloudpickle

    monkeypatch.setattr(cloudpickle, "__version__", "0.1")

    with pytest.warns(VersionsDiffer, match="restart the kernel") as caught:
        cluster = mp.up(1, fresh=True)

    cluster.down()
    assert caught[0].filename == __file__


def test_async_code_is_warned_too(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = versions.used_here() | {"numpy": "0.1"}
    monkeypatch.setattr(versions, "used_here", lambda: here)

    async def scene() -> object:
        async with mp.connect_async(*cluster.urls) as other:
            return await other.call("echo", 1)

    with pytest.warns(VersionsDiffer, match="numpy") as caught:
        assert asyncio.run(scene()) == 1

    assert caught[0].filename == __file__
