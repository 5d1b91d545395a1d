"""The systemd units, as systemd itself reads them."""

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = Path(__file__).parents[2] / "systemd" / "volcrypt-volume@.service"
HIDES_MOUNTS = (
    "ProtectSystem=",
    "PrivateTmp=",
    "ProtectHome=",
    "PrivateDevices=",
    "PrivateMounts=",
)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("volcrypt-volume@.service", "volcrypt-volume@books.service"),
        ("volcrypt-kms.service", "volcrypt-kms.service"),
    ],
)
def test_the_unit_is_clean(tmp_path: Path, file: str, name: str) -> None:
    """With another program in its place: systemd complains about one that is not installed."""
    text = (UNITS / file).read_text().replace("/usr/local/bin/volcrypt", "/bin/true")
    unit = tmp_path / name
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_has_no_mount_namespace_of_its_own() -> None:
    settings = [line for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    assert not any(line.startswith(HIDES_MOUNTS) for line in settings)
