"""The one rule for names."""

import pytest

from mpreg_nb.names import check_name, check_resources, nearest


@pytest.mark.parametrize("name", ["n", "gpu-1", "größe", "a b", "名前", "x" * 128])
def test_printable_names_are_accepted(name: str) -> None:
    assert check_name("node", name) == name


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a,b", "a:b", "../x", "a\nb", "a\x00b", "\u202eabc", "x" * 129],
)
def test_other_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 128 printable characters"):
        check_name("node", name)


@pytest.mark.parametrize("name", [None, 3, b"gpu", ["gpu"]])
def test_what_is_no_string_is_no_name(name: object) -> None:
    with pytest.raises(TypeError, match="must be a string"):
        check_name("resource", name)


def test_what_is_shown_in_many_lines_is_named_by_its_type_alone() -> None:
    class Card:
        def __repr__(self) -> str:
            return "train 3f2a91\n  train v1"

    with pytest.raises(TypeError, match=r"must be a string, not Card$"):
        check_name("step", Card())


def test_single_string_is_one_resource() -> None:
    assert check_resources("gpu") == {"gpu"}
    assert check_resources(["gpu", "big"]) == {"gpu", "big"}


def test_nearest_name_is_the_one_that_was_meant() -> None:
    assert nearest("trian", ["train", "test"]) == "train"
    assert nearest("zzz", ["train"]) is None
