"""What the documents cite exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
CITED = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


def missing(text: str) -> list[str]:
    """Tests that ``text`` cites and that are not there."""
    found = []
    for file, name in CITED.findall(text):
        path = ROOT / file
        if not path.is_file() or (name and f"def {name}(" not in path.read_text()):
            found.append(f"{file}::{name}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_cited_tests_exist(document: str) -> None:
    assert missing((ROOT / document).read_text()) == []


def test_a_wrong_citation_is_found() -> None:
    text = (
        "`tests/test_documents.py::test_cited_tests_exist` `tests/test_documents.py::test_nothing`"
    )
    assert missing(text) == ["tests/test_documents.py::test_nothing"]
    assert missing("tests/no_such_file.py") == ["tests/no_such_file.py::"]


def test_the_page_of_pytorchs_tests_cites_a_test_in_nearly_every_row() -> None:
    rows = [line for line in (ROOT / "docs/pytorch_tests.md").read_text().splitlines()
            if line.startswith("| ") and not line.startswith("| PyTorch")]  # fmt: skip
    uncited = [row for row in rows if not CITED.search(row)]
    assert len(rows) > 40
    assert len(uncited) <= 4, uncited  # what does not apply
