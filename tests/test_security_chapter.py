"""Each test that the security chapter of DESIGN.md names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
DESIGN = TESTS.parent / "volcrypt" / "DESIGN.md"


def named(text: str) -> list[tuple[str, str]]:
    """Files and, where they are given, tests; `::NAME` is of the file before it."""
    found, file = [], ""
    for path, name in re.findall(r"`((?:\w+/)*test_\w+\.py)?(?:::(\w+))?`", text):
        file = path or file
        if path or name:
            found.append((file, name))
    return found


def missing(text: str) -> list[tuple[str, str]]:
    return [
        (file, name)
        for file, name in named(text)
        if not (TESTS / file).is_file()
        or (name and not re.search(rf"(?m)^ *(async )?def {name}\(", (TESTS / file).read_text()))
    ]


def test_the_tests_of_the_security_chapter_are_there() -> None:
    chapter = DESIGN.read_text().partition("\n## 7. Security")[2].partition("\n## ")[0]
    assert len(named(chapter)) > 20
    assert missing(chapter) == []
    rows = [line for line in chapter.splitlines() if line.startswith("| **")]
    assert all(named(row) for row in rows), "each adversary has a test"


def test_control_what_is_not_there_is_missed() -> None:
    text = "`wire/test_app.py::test_no_such`, `wire/test_nothing.py`, `test_errors.py`, `::test_x`"
    assert missing(text) == [
        ("wire/test_app.py", "test_no_such"),
        ("wire/test_nothing.py", ""),
        ("test_errors.py", "test_x"),
    ]
