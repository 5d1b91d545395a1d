"""`scripts/install-host` below another root: what it puts where, again, and away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("volcrypt")


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "scripts" / "install-host", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """All files and links, with their modes and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = (0, os.readlink(path))
        elif path.is_file() and not name.endswith("-"):  # of passwd, before the last change
            found[name] = (path.stat().st_mode & 0o777, path.read_text())
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def test_its_help_names_every_option() -> None:
    shown = install("--help").stdout
    for option in ("--program", "--root", "--uninstall"):
        assert option in shown
    assert "set -" not in shown


def test_all_is_put_in_place_and_taken_away(root: Path) -> None:
    done = install("--root", root, "--program", PROGRAM)
    assert (done.returncode, "volcrypt is installed" in done.stdout) == (0, True), done.stderr
    installed = tree(root)
    library = "usr/local/lib"
    for unit in (REPOSITORY / "systemd").glob("volcrypt*"):
        mode, text = installed[f"{library}/systemd/system/{unit.name}"]
        assert (mode, text) == (0o644, unit.read_text())
    assert installed["usr/local/bin/volcrypt"][1] == str(PROGRAM)
    assert installed[f"{library}/volcrypt/scrub"][0] == 0o755
    assert "volcrypt-kms:" in installed["etc/passwd"][1]
    assert "usr/local/share/man/man1/volcrypt-attach.1" in installed
    for name in ("bash-completion/completions/volcrypt", "zsh/site-functions/_volcrypt"):
        assert f"usr/local/share/{name}" in installed
    wants = "etc/systemd/system/multi-user.target.wants/volcrypt-volumes.target"
    assert installed[wants][1] == "/usr/local/lib/systemd/system/volcrypt-volumes.target"
    assert (root / "var/lib/volcrypt").stat().st_mode & 0o777 == 0o700

    # Again, over an earlier release that had one file more and another text.
    more = root / library / "systemd/system/volcrypt-old.service"
    more.write_text("")
    (root / library / "systemd/system/volcrypt-kms.socket").write_text("old")
    with (root / library / "volcrypt/installed").open("a") as file:
        file.write(f"/{library}/systemd/system/volcrypt-old.service\n")
    (root / "var/lib/volcrypt/home").write_text("mine")
    assert install("--root", root, "--program", PROGRAM).returncode == 0
    again = tree(root)
    assert again.pop("var/lib/volcrypt/home") == (0o644, "mine")
    assert again == installed

    assert install("--root", root, "--uninstall").returncode == 0
    left = tree(root)
    assert all(name.startswith(("etc/", "var/lib/volcrypt/")) for name in left)
    assert not any("volcrypt" in name for name in left if name.startswith("etc/"))
    assert left["var/lib/volcrypt/home"][1] == "mine"
    assert install("--root", root, "--uninstall").returncode == 1


def test_a_unit_that_would_go_before_ours_is_named(root: Path) -> None:
    other = root / "etc/systemd/system/volcrypt-volume@.service"
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\n")
    done = install("--root", root, "--program", PROGRAM)
    assert done.returncode == 1
    assert "/etc/systemd/system/volcrypt-volume@.service goes before" in done.stderr
    assert "systemctl edit" in done.stderr
    assert not (root / "usr").exists()


@pytest.mark.parametrize(
    "arguments", [["--other"], ["--root", "/nowhere"], ["--program", "/nowhere"], ["--root"]]
)
def test_usage(arguments: list[str]) -> None:
    done = install(*arguments)
    assert (done.returncode, done.stderr.startswith("error: ")) == (2, True)


def test_help_says_what_it_does() -> None:
    done = install("--help")
    assert (done.returncode, "--uninstall" in done.stdout) == (0, True)
