"""Functions by version."""

from mpreg_nb.node.registry import KEPT_VERSIONS, Registry, ShippedFunction, own_version


def shipped(number: int, name: str = "f") -> ShippedFunction:
    return ShippedFunction(name, f"{number:032x}", (b"code",))


def test_old_versions_stay_callable() -> None:
    registry = Registry()
    registry.add(shipped(1))
    registry.add(shipped(2))

    assert registry.get(f"{1:032x}") == shipped(1)
    assert f"{2:032x}" in registry


def test_oldest_version_of_a_name_goes_when_there_are_too_many() -> None:
    registry = Registry()
    registry.add(shipped(9999, name="other"))
    gone = [old for n in range(KEPT_VERSIONS + 2) for old in registry.add(shipped(n))]

    assert gone == [f"{0:032x}", f"{1:032x}"]
    assert f"{9999:032x}" in registry


def test_version_that_is_added_again_counts_as_the_newest() -> None:
    registry = Registry()
    for number in range(KEPT_VERSIONS):
        registry.add(shipped(number))
    registry.add(shipped(0))

    gone = registry.add(shipped(5000))

    assert gone == [f"{1:032x}"]


def test_equal_names_on_two_nodes_are_two_functions() -> None:
    assert own_version("f", "n1") != own_version("f", "n2")
    assert len(own_version("f", "n1")) == 32
