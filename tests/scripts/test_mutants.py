"""The list of mutants keeps up with the engine: each can be planted, and its tests are there."""

import ast

import pytest

from scripts.mutant import Mutant
from scripts.mutant_list import MUTANTS
from scripts.mutants import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    mutated = mutant.mutate(source)
    assert mutated != source
    if not mutant.is_compiled:
        ast.parse(mutated)


def test_their_tests_exist() -> None:
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(), test


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_a_mutant_that_does_not_fit_says_so() -> None:
    mutant = Mutant(name="odd", file="x.py", changes=[("a", "b")], tests=[])
    with pytest.raises(LookupError, match="odd: found 2 times: 'a'"):
        mutant.mutate("a a")
