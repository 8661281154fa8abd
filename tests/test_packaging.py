"""What is declared, pinned and shipped is the same everywhere."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "mpreg_nb"
PROJECT: dict[str, Any] = tomllib.loads(
    (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[a-z0-9.+]+( ; [a-z_]+ [^/:@]+)?")


def packages(requirements: list[str]) -> set[str]:
    """Names of what is required, as indexes spell them, without versions."""
    names = (re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0] for text in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def required(*extras: str) -> set[str]:
    lists = [PROJECT["optional-dependencies"][extra] for extra in extras]
    return packages(sum(lists, PROJECT["dependencies"])) - {"mpreg-nb"}


def test_conda_environment_names_the_packages_of_the_project() -> None:
    listed = yaml.safe_load(
        (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    )["dependencies"]
    from_conda = [entry for entry in listed if isinstance(entry, str)]
    (from_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))

    named = packages([*from_conda, *from_pip]) - {"python", "pip", "-e"}

    assert named == required("demo", "lab")


def test_everything_required_is_pinned() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()

    pinned = packages([line for line in lines if not line.startswith("#")])

    assert required(*PROJECT["optional-dependencies"]) <= pinned


def test_constraints_are_pins_and_name_no_host_and_no_path() -> None:
    heading, *lines = (
        (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )

    others = [line for line in lines if not PIN.fullmatch(line)]

    assert others == []
    assert "/" not in heading


def test_every_package_that_is_imported_is_declared() -> None:
    homes = packages_distributions()
    declared = required("dask", "demo", "joblib", "ssh", "tls")
    imported = {
        name.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
    }

    foreign = imported - sys.stdlib_module_names - {"mpreg_nb"}
    undeclared = {
        name for name in foreign if not packages(homes.get(name, [])) & declared
    }

    assert undeclared == set()


def imported_names(node: ast.AST) -> list[str]:
    """Modules that this statement imports; relative imports are our own."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_file_of_the_package(shipped: set[str]) -> None:
    present = {
        path.relative_to(REPOSITORY).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert present <= shipped
    assert "mpreg_nb/py.typed" in shipped


def test_wheel_holds_nothing_but_the_package_and_its_license(
    shipped: set[str],
) -> None:
    others = {name for name in shipped if not name.startswith("mpreg_nb/")}

    assert all(".dist-info/" in name for name in others)
    assert any(name.endswith("licenses/LICENSE") for name in others)


def test_the_commands_for_contributors_are_the_targets() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")

    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))

    assert set(re.findall(r"`make ([a-z]+)`", guide)) == targets


def test_the_error_on_windows_names_what_is_missing_and_the_cure() -> None:
    code = "import sys; sys.platform = 'win32'; import mpreg_nb"

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert ended.returncode == 1
    assert "mpreg_nb runs on Linux and macOS" in ended.stderr
    assert "wsl --install" in ended.stderr


def test_version_is_the_same_in_every_place() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    recipe = (REPOSITORY / "docs" / "conda" / "meta.yaml").read_text(encoding="utf-8")

    version = PROJECT["version"]

    assert citation["version"] == version
    assert re.search(r"^## (.+)$", changelog, flags=re.MULTILINE)[1] == version  # type: ignore[index]
    assert f'{{% set version = "{version}" %}}' in recipe


def test_conda_recipe_requires_what_the_project_requires() -> None:
    recipe = (REPOSITORY / "docs" / "conda" / "meta.yaml").read_text(encoding="utf-8")
    run = recipe.partition("  run:")[2].partition("\ntest:")[0]

    listed = packages(re.findall(r"^    - (.+)$", run, flags=re.MULTILINE))

    assert listed - {"python"} == required()
