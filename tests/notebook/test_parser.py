import pytest

from mpreg_nb.notebook.parser import Misuse
from mpreg_nb.notebook.verbs import CELL_VERBS, LINE_VERBS, overview, split_verb


def read(line: str, *, of_cell: bool = False) -> dict[str, object]:
    verb, rest = split_verb(line, of_cell=of_cell)
    return vars(verb.parser.read(rest))


def test_a_line_alone_asks_for_the_status() -> None:
    verb, rest = split_verb("  ")

    assert (verb.name, rest) == ("status", "")


def test_nodes_are_given_by_name_with_their_resources() -> None:
    options = read("up gpu-1:gpu,big 'cpu 1' --workers 2 --keep  # two of them")

    assert options == {
        "nodes": ["gpu-1:gpu,big", "cpu 1"],
        "count": None,
        "workers": 2,
        "slots": None,  # as configured
        "keep": True,
        "fresh": False,
        "ssh": [],
        "slurm": [],
        "sbatch": "",
        "via": None,
        "install": False,
        "packages": (),
        "python": "",
    }


def test_resources_are_read_as_a_set() -> None:
    assert read("register f --resources gpu,big")["resources"] == {"gpu", "big"}
    assert read("remote --on gpu", of_cell=True)["on"] == {"gpu"}
    assert read("remote", of_cell=True)["on"] == frozenset()


def test_the_two_sides_of_a_partition_are_read() -> None:
    options = read("partition 'n 1',n2|n3 2.5")

    assert options == {"sides": (("n 1", "n2"), ("n3",)), "seconds": 2.5}


def test_a_comment_alone_is_an_empty_line() -> None:
    verb, rest = split_verb("# look")

    assert (verb.name, rest) == ("status", "")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("down a  # don't wait", "a"),
        ("down a # as in f(n=1)", "a"),
        ("down a#1", "a#1"),
        ("down '# a'", "# a"),
        ('down "it\'s # a"', "it's # a"),
        ("down a;", "a"),
        ('down a ;  # "quiet', "a"),
        ("down 'a;'", "a;"),
        ("down\ta", "a"),
    ],
)
def test_quotes_say_what_is_a_comment_or_silences_a_line(line: str, word: str) -> None:
    assert read(line) == {"names": [word]}


def test_the_semicolon_of_a_cell_belongs_to_its_last_line() -> None:
    assert split_verb("remote ;", of_cell=True)[1] == ";"


@pytest.mark.parametrize(
    ("line", "of_cell", "said"),
    [
        ("upp -n 3", False, "no verb 'upp'. Did you mean %mpreg up?"),
        ("xyzzy", False, "It has: up, down, ps"),
        ("remote", False, "but %%mpreg has: %%mpreg remote"),
        ("up", True, "but %mpreg has: %mpreg up"),
        ("", True, "%%mpreg needs a verb: register, remote"),
        ("up -n many", False, "invalid int value: 'many'. Usage: %mpreg up [-n 3]"),
        ("up --bad", False, "unrecognized arguments: --bad. Usage: %mpreg up"),
        ("up --kep n1", False, "arguments: --kep. Did you mean --keep? Usage: %mpreg"),
        ("remote --no n1", True, "Did you mean --node? Usage: %%mpreg remote"),
        ("nodes n1", False, "unrecognized arguments: n1"),
        ("register", False, "required: NAME"),
        ("latency --by moon", False, "'moon' is not function, node or both"),
        ("register f --isolation moon", False, "invalid choice: 'moon'"),
        ("up 'gpu-1", False, "No closing quotation, in: 'gpu-1"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_what_would(
    line: str, of_cell: bool, said: str
) -> None:
    with pytest.raises(Misuse) as refused:
        read(line, of_cell=of_cell)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_verb_is_in_the_overview_and_explains_itself() -> None:
    text = overview()

    for mark, verbs in (("%mpreg", LINE_VERBS), ("%%mpreg", CELL_VERBS)):
        for verb in verbs.values():
            assert f"{mark} {verb.name}" in text
            assert verb.title in text
            assert f"usage: {mark} {verb.name}" in verb.help
            assert f"{mark} {verb.examples[-1]}" in verb.help
            assert verb.twin in verb.help


def test_every_example_is_a_line_that_is_understood() -> None:
    for of_cell, verbs in ((False, LINE_VERBS), (True, CELL_VERBS)):
        for verb in verbs.values():
            for example in verb.examples:
                assert example.split()[0] == verb.name
                if "(" not in example:  # that is Python, read by itself
                    read(example, of_cell=of_cell)
