"""What the documents say of this repository is true."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "mpreg_nb"


def named_files(text: str) -> set[str]:
    """Return the paths in backticks that have a folder."""
    return set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+(?:\.[a-z]+)?)`", text))


def test_every_file_that_the_map_names_exists() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")

    named = named_files(text)

    missing = {
        name
        for name in named
        if not (PACKAGE / name).exists() and not (REPOSITORY / name).exists()
    }
    assert len(named) > 40
    assert missing == set()


def test_every_room_is_on_the_map() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")

    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert {room for room in rooms if not re.search(rf"\b{room}\b", text)} == set()


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "docs/how-to/other-machines.md"],
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    folder = (REPOSITORY / document).parent

    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)

    assert targets
    assert [name for name in targets if not (folder / name).exists()] == []
