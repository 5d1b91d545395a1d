"""Formats are frozen: every one that the code knows has golden bytes, and none is forgotten."""

import hashlib
from pathlib import Path

import pytest

from tests.frozen_formats import FROZEN, NOT_STORED, VERSIONS, WITHOUT_VERSION, Value, constants
from tests.golden import GOLDEN

TESTS = Path(__file__).parent
RULE = 'see "Golden files" in tests/README.md'


def released_files() -> dict[str, str]:
    """SHA-256 of what was released, by path below golden/, from golden/SHA256SUMS."""
    lines = (GOLDEN / "SHA256SUMS").read_text().splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def problems(found: dict[str, Value], golden: Path = GOLDEN) -> list[str]:
    """What is wrong with the constants of the code."""
    wrong = []
    for name, value in found.items():
        if name in NOT_STORED:
            continue
        if name in VERSIONS:
            known = VERSIONS[name]
            number = int.from_bytes(value) if isinstance(value, bytes) else value
            if number != known.last:
                wrong.append(f"{name} is {number}, and golden bytes are of {known.last}: {RULE}")
            wrong += [
                f"{name}: golden/v{version}/{file} is missing"
                for version in range(known.first, known.last + 1)
                for file in known.files
                if not (golden / f"v{version}" / file).is_file()
            ]
        elif name not in FROZEN:
            wrong.append(f"{name} has no golden bytes: {RULE}")
        elif FROZEN[name] != value:
            wrong.append(f"{name} is frozen as {FROZEN[name]!r}")
    known_names = [*VERSIONS, *FROZEN, *NOT_STORED]
    return wrong + [f"{name} is gone" for name in known_names if name not in found]


@pytest.fixture(scope="module")
def found() -> dict[str, Value]:
    return constants()


def test_every_format_has_golden_bytes(found: dict[str, Value]) -> None:
    assert problems(found) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("formats.manifest.VERSION", 2, "is 2, and golden bytes are of 1"),
        ("formats.something.VERSION", 1, "has no golden bytes"),
        ("formats.pin.KIND", "pins", "is frozen as 'pin'"),
        ("operations.home: b'volcrypt volumes\\x00'", b"volcrypt volumes\0", "has no golden bytes"),
    ],
)
def test_one_without_is_noticed(
    found: dict[str, Value], name: str, value: Value, said: str
) -> None:
    (problem,) = problems(found | {name: value})
    assert said in problem


def test_what_is_gone_is_noticed(found: dict[str, Value], tmp_path: Path) -> None:
    fewer = {name: value for name, value in found.items() if name != "formats.manifest.VERSION"}
    assert problems(fewer) == ["formats.manifest.VERSION is gone"]
    assert len(problems(found, tmp_path)) >= len(VERSIONS)


def test_the_code_is_searched_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "new.py").write_text(
        '"""volcrypt new 1"""\nfrom typing import Final\nVERSION: Final = 3\n_MAGIC = b"NEWF"\n'
        'def f() -> bytes:\n    return b"volcrypt new thing\\0" + g("volcrypt other 1")\n'
    )
    assert constants(tmp_path) == {
        "formats.new.VERSION": 3,
        "formats.new._MAGIC": b"NEWF",
        "formats.new: 'volcrypt new 1'": "volcrypt new 1",
        "formats.new: b'volcrypt new thing\\x00'": b"volcrypt new thing\0",
        "formats.new: 'volcrypt other 1'": "volcrypt other 1",
    }


def test_every_golden_file_is_of_a_format() -> None:
    files = {
        str(path.relative_to(version))
        for version in GOLDEN.glob("v*")
        for path in version.rglob("*")
        if path.is_file()
    }
    named = {file for known in VERSIONS.values() for file in known.files}
    assert files == named | set(WITHOUT_VERSION)


def test_every_golden_file_is_named_in_a_test() -> None:
    sources = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    files = [path for version in GOLDEN.glob("v*") for path in version.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if f'"{path.name}"' not in sources] == []


def test_what_was_released_is_as_it_was() -> None:
    released = released_files()
    stored = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("v*/**/*", "release-*/*")
        for path in GOLDEN.glob(pattern)
        if path.is_file()
    }
    assert stored == released, f"a golden file is for ever: {RULE}"
