"""What `pip install` gets: an sdist with all that is needed, and a wheel that runs by itself."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from volcrypt import __version__

ROOT = Path(__file__).parents[2]
GENERATED = ("door.c", "xts.c")
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"


def built(kind: str, source: Path, target: Path) -> Path:
    """An sdist or wheel of a source tree, with the build tools of this environment."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), target],
        cwd=source,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    """Of the files that are kept, and none that a build left here."""
    kept = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    tree = tmp_path / "tree"
    for name in kept.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return built("sdist", tree, tmp_path)


def test_the_sdist_has_what_is_needed_and_no_more(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "/" in name}
        archive.extractall(tmp_path)
    kept = [path.relative_to(tmp_path / "tree") for path in (tmp_path / "tree").rglob("*")]
    wanted = {
        str(path)
        for path in kept
        if path.parts[0] in {"volcrypt", "systemd"}
        and path.name not in GENERATED
        and (tmp_path / "tree" / path).is_file()
    }
    assert len(wanted) > 300
    assert wanted | {"setup.py", "pyproject.toml", "README.md", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts"))]
    assert not [name for name in names if name.endswith((".so", *GENERATED))]
    told = (tmp_path / f"volcrypt-{__version__}" / "PKG-INFO").read_text()
    assert f"\nVersion: {__version__}\n" in told


@pytest.mark.soak
def test_the_wheel_runs_in_a_fresh_environment(sdist: Path, tmp_path: Path) -> None:
    """Made of the sdist, installed without a network; libraries are those of this environment."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    wheel = built("wheel", tmp_path / f"volcrypt-{__version__}", tmp_path)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], check=True
    )
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [environment / "bin/volcrypt", "--home", tmp_path / "home"]
    where = subprocess.run(
        [python, "-c", "import volcrypt.volume.plane.door as d; print(d.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert where.stdout.startswith(str(site))
    for arguments in (["--help"], ["--version"], ["init"], ["volume", "list"]):
        done = subprocess.run(
            [*map(str, command), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
