"""What `scripts/mutation` names is there, and what it leaves out is wording and nothing else."""

import pytest

from scripts.mutation import MODULES, ROOT, Survivor
from scripts.mutation_explained import EXPLAINED


def test_modules_and_their_tests_exist() -> None:
    for module, tests in MODULES.items():
        assert all((ROOT / path).is_file() for path in (module, *tests)), module


@pytest.mark.parametrize("module", EXPLAINED)
def test_what_is_explained_is_still_in_the_module(module: str) -> None:
    assert module in MODULES
    source = " ".join((ROOT / module).read_text().split())
    for change, why in EXPLAINED[module].items():
        removed, _, added = change.partition(" -> ")
        assert removed in source
        assert added not in source
        assert Survivor(module, removed, added).is_explained
        assert why


@pytest.mark.parametrize(
    ("removed", "added", "expected"),
    [
        ('raise E("no such key")', 'raise E("XXno such keyXX")', True),
        ('raise E("No such key")', 'raise E("no such key")', True),
        ('raise E("no such key")', "raise E(None)", False),
        ('kind = "key"', 'kind = "XXkeyXX"', False),
        ('x = a(b, "no such key")', 'x = a("no such key")', False),
        ("a <= b", "a < b", False),
    ],
)
def test_wording(removed: str, added: str, *, expected: bool) -> None:
    assert Survivor("volcrypt/names.py", removed, added).is_wording == expected
