"""The compiled modules are built hardened and without warnings, from dependencies that are locked.

For a warning, or a flag that is missing, see HARDENING in `setup.py`.
"""

import ast
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "volcrypt").rglob("*.so"))
SWITCHES = {"-O2", "-fPIC", "-fstack-protector-strong", "-fstack-clash-protection"}

CHECKED_COPY = """
#include <string.h>
char kept[16];
void copy(const char *from, size_t length);
void copy(const char *from, size_t length) { memcpy(kept, from, length); }
"""
UNUSED = "int answer(int question);\nint answer(int question) { return 42; }\n"


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing(module: Path) -> set[str]:
    """What a hardened module has and this one has not."""
    headers, dynamic = run("readelf", "-lW", module), run("readelf", "-dW", module)
    symbols = run("readelf", "--dyn-syms", "-W", module)
    switches = set(run("readelf", "-p", ".GCC.command.line", module).split())
    stack = re.search(r"GNU_STACK .* (R\S*) +0x", headers)
    found = {
        "RELRO": "GNU_RELRO" in headers,
        "BIND_NOW": "BIND_NOW" in dynamic and "NOW" in dynamic.partition("FLAGS_1")[2],
        "a stack that is not executable": stack is not None and stack[1] == "RW",
        "no segment both writable and executable": not re.search(r" RWE +0x", headers),
        "position independence": "TEXTREL" not in dynamic,
        "no search path of its own": not re.search(r"\((RPATH|RUNPATH)\)", dynamic),
        "stack protector": "__stack_chk_fail" in symbols,
    }
    return {name for name, is_there in found.items() if not is_there} | (SWITCHES - switches)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name.partition(".")[0])
def test_a_compiled_module_is_hardened(module: Path) -> None:
    assert missing(module) == set()


def test_there_is_no_other_module() -> None:
    assert {module.name.partition(".")[0] for module in MODULES} == {"xts", "door"}


def compiled(directory: Path, text: str, *flags: str) -> Path:
    """Raises CalledProcessError where the compiler refuses."""
    (directory / "it.c").write_text(text)
    run("gcc", "-shared", "-fPIC", *flags, "-o", directory / "it.so", directory / "it.c")
    return directory / "it.so"


def test_control_what_is_not_hardened_is_noticed(tmp_path: Path) -> None:
    loose = compiled(
        tmp_path,
        CHECKED_COPY,
        "-fno-stack-protector",
        "-frecord-gcc-switches",
        *("-Wl,-z,norelro", "-Wl,-z,lazy", "-Wl,-z,execstack", "-Wl,-rpath,/tmp"),
    )
    assert missing(loose) == {
        "RELRO",
        "BIND_NOW",
        "a stack that is not executable",
        "no segment both writable and executable",
        "no search path of its own",
        "stack protector",
        *SWITCHES - {"-fPIC"},
    }


def flags() -> list[str]:
    """HARDENING of `setup.py`."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HARDENING":
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    raise AssertionError("there is no HARDENING in setup.py")


def test_the_flags_check_lengths_and_show_warnings(tmp_path: Path) -> None:
    """What the compiler does not write down in what it makes."""
    assert "__memcpy_chk" in run(
        "readelf", "--dyn-syms", "-W", compiled(tmp_path, CHECKED_COPY, *flags())
    )
    compiled(tmp_path, UNUSED, *flags())  # an sdist builds with any compiler
    with pytest.raises(subprocess.CalledProcessError) as raised:
        compiled(tmp_path, UNUSED, *flags(), "-Werror")
    assert "unused parameter" in raised.value.stderr


@pytest.mark.parametrize("strict", [True, False])
def test_a_warning_ends_the_build_of_what_is_tested_alone(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `scripts/setup --test` builds, and who builds an sdist does not."""
    found: list[Any] = []
    monkeypatch.setattr("setuptools.setup", lambda *, ext_modules: found.extend(ext_modules))
    monkeypatch.setattr("Cython.Build.cythonize", lambda extensions, **_: extensions)
    monkeypatch.delenv("VOLCRYPT_STRICT", raising=False)
    if strict:
        monkeypatch.setenv("VOLCRYPT_STRICT", "1")
    runpy.run_path(str(ROOT / "setup.py"))
    assert ["-Werror" in each.extra_compile_args for each in found] == [strict] * len(MODULES)
    assert all(set(flags()) <= set(each.extra_compile_args) for each in found)
    stamp = ROOT / ".venv/volcrypt-built"
    assert not stamp.exists() or stamp.read_text().endswith("strict\n"), "scripts/setup --test"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_each_locked_dependency_has_its_digest(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", "")
    pinned = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert pinned
    assert [
        line for line in pinned if not re.match(r"\S+==\S+.*--hash=sha256:[0-9a-f]{64}", line)
    ] == []


def test_nothing_is_installed_without_a_digest() -> None:
    """But this package itself, from where it lies."""
    setup = (ROOT / "scripts/setup").read_text()
    installs = [line for line in setup.splitlines() if '"${pip[@]}" install' in line]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or line.endswith("--editable .")
