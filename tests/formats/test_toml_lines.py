"""Lines of options in a TOML text."""

import pytest

from volcrypt.formats.toml_lines import line_of

TEXT = """# a comment

top = 1
"quo ted".inner = '''
two = 2
'''
[a]
b = [
  1,  # = 3
  2,
]
c.d = { e = 5, f.g = 6 }

[a.x."y.z"]
k = "[a]"
[[list]]
n = 1
[[list]]
m = 2
[last] # comment
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("top", 3),
        ("quo ted/inner", 4),
        ("quo ted", 4),
        ("a", 7),
        ("a/b", 8),
        ("a/c", 12),
        ("a/c/d/e", 12),
        ("a/c/d/f/g", 12),
        ("a/x/y.z", 14),
        ("a/x/y.z/k", 15),
        ("a/x/y.z/missing", 14),
        ("a/missing", 7),
        ("list", 16),
        ("list/m", 19),
        ("last", 20),
        ("last/missing/deep", 20),
        ("missing", None),
        ("two", None),
    ],
)
def test_where_it_stands(path: str, line: int | None) -> None:
    assert line_of(TEXT, path.split("/")) == line


def test_other_ends_of_lines() -> None:
    assert line_of("a = 1\r\n[t]\r\nb = 2\r\n", ["t", "b"]) == 3
    assert line_of("", ["a"]) is None
