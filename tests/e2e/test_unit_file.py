"""The systemd units, as systemd itself reads them; `test_boot.py` starts them."""

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
FILES = sorted(
    path.name
    for path in UNITS.iterdir()
    if path.suffix in (".service", ".socket", ".timer", ".target")
)
SERVICES = [name for name in FILES if name.endswith(".service")]
# Each gives a service a mount namespace of its own (systemd.exec(5)).
HIDES_MOUNTS = (
    "BindPaths=",
    "InaccessiblePaths=",
    "PrivateDevices=",
    "PrivateTmp=",
    "ProcSubset=",
    "ProtectControlGroups=",
    "ProtectHome=",
    "ProtectKernelLogs=",
    "ProtectKernelModules=",
    "ProtectKernelTunables=",
    "ProtectProc=",
    "ProtectSystem=",
    "ReadOnlyPaths=",
    "ReadWritePaths=",
    "TemporaryFileSystem=",
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All of them, with other programs in their place: systemd complains about one that is not
    installed."""
    for name in FILES:
        text = (UNITS / name).read_text()
        for program in ("/usr/local/bin/volcrypt", "/usr/local/lib/volcrypt/scrub"):
            text = text.replace(f"={program}", "=/bin/true")
        (tmp_path / name).write_text(text)
    return tmp_path


def settings(name: str) -> list[str]:
    return [line for line in (UNITS / name).read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", FILES)
def test_the_unit_is_clean(units: Path, name: str) -> None:
    unit = units / name.replace("@", "@books")
    if "@" in name:
        (units / name).rename(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def exposure(unit: Path) -> int:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Overall exposure level" in done.stdout
    return done.returncode


@pytest.mark.parametrize("name", SERVICES)
def test_little_is_left_to_whoever_takes_a_service_over(units: Path, name: str) -> None:
    assert exposure(units / name) == 0


def test_the_measure_finds_a_service_that_may_do_all(units: Path) -> None:
    bare = units / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) == 1


def test_a_volume_has_no_mount_namespace_of_its_own() -> None:
    assert not any(line.startswith(HIDES_MOUNTS) for line in settings("volcrypt-volume@.service"))


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_can_be_in_an_environment(name: str) -> None:
    text = (UNITS / name).read_text()
    assert "Environment=" not in text
    assert "EnvironmentFile=" not in text
    assert not any("LoadCredential=" in line for line in settings(name))  # in the clear
