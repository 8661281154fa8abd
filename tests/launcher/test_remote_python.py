"""Which packages an environment on another machine gets."""

import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest

from mpreg_nb.launcher.remote_python import Environment, wanted_packages


def importing() -> Any:
    import cloudpickle

    return cloudpickle.dumps(1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def test_packages_of_the_kernel_are_those_that_its_functions_import(
    kernel: ModuleType,
) -> None:
    kernel.__dict__.update(importing=importing, psutil=__import__("psutil"))

    assert wanted_packages("kernel") == (
        f"cloudpickle=={version('cloudpickle')}",
        f"psutil=={version('psutil')}",
    )


def test_one_package_may_be_given_as_a_word() -> None:
    assert wanted_packages("scikit-learn") == ("scikit-learn",)
    assert wanted_packages(["a==1", "b"]) == ("a==1", "b")


def test_environments_differ_by_their_packages_in_any_order() -> None:
    first = Environment(packages=("a", "b"))

    assert first.key == Environment(packages=("b", "a")).key
    assert first.key != Environment(packages=("a",)).key
