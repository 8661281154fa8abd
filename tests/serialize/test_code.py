import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mpreg_nb.serialize import code
from mpreg_nb.serialize.code import Census, is_own, mark


def module_at(path: Path | str | None, name: str = "thing") -> ModuleType:
    module = ModuleType(name)
    vars(module)["__file__"] = None if path is None else str(path)
    return module


def test_the_standard_library_and_what_is_installed_are_not_the_users_own() -> None:
    for module in (json, np, pytest, sys, code):
        assert not is_own(module.__name__, module)


def test_a_file_anywhere_else_is_the_users_own(tmp_path: Path) -> None:
    assert is_own("thing", module_at(tmp_path / "thing.py"))
    assert is_own("lib.thing", module_at(tmp_path / "lib" / "thing.py", "lib.thing"))


@pytest.mark.parametrize(
    "path",
    [None, "/nowhere/thing.so", "/opt/venv/lib/python3.11/site-packages/thing.py"],
    ids=["built in", "compiled", "other environment"],
)
def test_what_cannot_be_or_need_not_be_shipped_is_not(path: str | None) -> None:
    assert not is_own("thing", module_at(path))


def test_a_folder_that_an_install_points_to_holds_more_than_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    monkeypatch.setattr(code, "named_roots", lambda: (str(project),))

    assert not is_own("package", module_at(project / "package" / "__init__.py"))
    assert not is_own("package.a", module_at(project / "package" / "a.py"))
    assert is_own("helpers", module_at(project / "notebooks" / "helpers.py"))
    assert is_own("pack", module_at(project / "other" / "pack.py"))


def test_pth_files_name_folders(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "a.pth").write_text(
        f"{project}\n# comment\nimport sys; sys.exit()\n/gone\n"
    )

    assert list(code._named_by_pth(str(tmp_path))) == [str(project)]
    assert list(code._named_by_pth(str(tmp_path / "gone"))) == []


def test_what_pip_put_into_a_folder_of_the_path_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, own, here = (tmp_path / name for name in ("filled", "own", "here"))
    for folder in (filled, own, here):
        folder.mkdir()
    for folder in (filled, here):
        (folder / "thing-1.0.dist-info").mkdir()
    monkeypatch.chdir(here)

    path = os.pathsep.join(map(str, (filled, own, here, "", tmp_path / "gone")))

    assert list(code._targets(path)) == [str(filled)]


def test_a_folder_without_init_is_known_by_its_place(tmp_path: Path) -> None:
    package = module_at(None, "space")
    vars(package)["__path__"] = [str(tmp_path / "space")]

    assert is_own("space", package)


def test_the_census_sees_modules_that_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    census = Census()
    before = census.look()

    module = module_at(tmp_path / "later.py", "module_of_this_test")
    monkeypatch.setitem(sys.modules, "module_of_this_test", module)

    assert mark("module_of_this_test") not in before
    assert mark("module_of_this_test") in census.look()
    assert census.owns("module_of_this_test")
