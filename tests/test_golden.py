"""No golden file is forgotten: each is named by a test that reads it."""

from pathlib import Path

from tests.golden import GOLDEN

TESTS = Path(__file__).parent


def test_every_golden_file_is_named_in_a_test() -> None:
    sources = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    files = [path for version in GOLDEN.glob("v*") for path in version.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if f'"{path.name}"' not in sources] == []
