"""The data plane's C under ThreadSanitizer and AddressSanitizer, without Python (`plane_stress.c`).

The quick runs take longer than others, since each compiles the plane anew.
"""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANE = ROOT / "volcrypt/volume/plane"
STRESS = ROOT / "tests/volume/plane_stress.c"


def build(directory: Path, sanitizers: str, *, broken: Path | None = None) -> Path:
    """With `broken` in place of the file of its name."""
    program = directory / "plane_stress"
    command = ["gcc", "-std=gnu11", "-g", "-O1"]
    command += [f"-fsanitize={sanitizers}"] if sanitizers else []
    command += ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    command += [f"-I{PLANE}", f"-I{ROOT / 'volcrypt/crypto'}"]
    sources = {path.name: path for path in sorted(PLANE.glob("*.c")) if path.name != "door.c"}
    if broken is not None:
        sources[broken.name] = broken
    command += map(str, (STRESS, *sources.values()))
    command += ["-o", str(program), "-lcrypto", "-lpthread", "-Wl,--wrap=pwrite,--wrap=preadv2"]
    subprocess.run(command, check=True)
    return program


def run(program: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    # ThreadSanitizer knows no addresses as random as some kernels make them.
    command = ["setarch", "-R", str(program), str(program.with_name("data")), str(seconds), "4"]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        env={"TSAN_OPTIONS": "halt_on_error=1"},
    )


def is_noticed(program: Path) -> bool:
    """Whether one of some runs fails: what two threads do at once is a matter of luck."""
    return any(run(program, 1).returncode != 0 for _ in range(12))


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_no_race_and_no_bad_access(tmp_path: Path, sanitizers: str, seconds: int) -> None:
    done = run(build(tmp_path, sanitizers), seconds)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fast" in done.stdout


def test_control_a_race_is_found(tmp_path: Path) -> None:
    """With a mutex that who begins does not take."""
    text = (PLANE / "ownership.c").read_text()
    before, begin, after = text.partition("bool plane_begin(")
    body, end, after = after.partition("\n}\n")
    for call in ("pthread_mutex_lock", "pthread_mutex_unlock"):
        assert body.count(call) == 1
        body = body.replace(f"{call}(", "(void)(")
    broken = tmp_path / "ownership.c"
    broken.write_text(before + begin + body + end + after)
    done = run(build(tmp_path, "thread", broken=broken), 1)
    assert done.returncode != 0
    assert "data race" in done.stderr


def test_control_a_bad_shift_and_a_bad_access_are_found(tmp_path: Path) -> None:
    """At the beginning of each request."""
    text = (PLANE / "ownership.c").read_text()
    before, begin, after = text.partition("bool plane_begin(")
    arguments, opening, body = after.partition("\n{\n")
    planted = (
        "    volatile int places = 40;\n    places = 1 << places;\n"
        "    volatile char *one = malloc(1);\n    one[places & 1] = one[1];\n"
    )
    broken = tmp_path / "ownership.c"
    broken.write_text(f"#include <stdlib.h>\n{before}{begin}{arguments}{opening}{planted}{body}")
    done = run(build(tmp_path, "address,undefined", broken=broken), 1)
    assert done.returncode != 0
    assert "shift exponent 40 is too large" in done.stderr
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_control_a_lane_that_does_not_wait_for_its_helper_is_found(tmp_path: Path) -> None:
    text = (PLANE / "helper.c").read_text()
    for wait in ("helper->joined == lane)\n        pthread_cond_wait", "SPINS = 1000"):
        assert wait in text
    broken = tmp_path / "helper.c"
    text = text.replace("SPINS = 1000", "SPINS = 0")
    broken.write_text(text.replace("while (helper->joined == lane)", "while (false)"))
    assert is_noticed(build(tmp_path, "", broken=broken))


PLANTED = {
    "no lane looks at the clock": ("now.tv_nsec < plane->write_until", "now.tv_nsec > 0"),
    "a lane that was given up answers": (
        "is_open = !lane->is_given_up;\n    lane",
        "is_open = true;\n    lane",
    ),
    "a revoked write goes on": ("            grant->write_epoch = 0;", "            {}"),
}
"""Bugs of `ownership.c`."""


@pytest.mark.parametrize("bug", PLANTED)
def test_control_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    text = (PLANE / "ownership.c").read_text()
    old, new = PLANTED[bug]
    assert text.count(old) == 1
    broken = tmp_path / "ownership.c"
    broken.write_text(text.replace(old, new))
    assert is_noticed(build(tmp_path, "", broken=broken))
