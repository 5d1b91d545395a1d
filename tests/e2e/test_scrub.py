"""What the weekly timer runs: everything of a home is looked at, and damage makes it fail."""

import subprocess
from pathlib import Path

from tests.command import VOLCRYPT, disposable_home

SCRUB = Path(__file__).parents[2] / "systemd/scrub"


def test_all_is_looked_at_and_damage_is_found(tmp_path: Path) -> None:
    script = SCRUB.read_text()
    program = "/usr/local/bin/volcrypt"
    assert program in script
    (tmp_path / "scrub").write_text(script.replace(program, str(VOLCRYPT)))
    with disposable_home(tmp_path / "home") as command:

        def scrub() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["sh", tmp_path / "scrub", "--home", command.home],
                check=False,
                capture_output=True,
                text=True,
            )

        command.run("init")
        (tmp_path / "image").write_bytes(bytes(range(256)) * 4096)
        command.run("volume", "import", tmp_path / "image", "--name", "data")
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        command.run("store", "create", "away", "--url", (tmp_path / "away").as_uri())
        done = scrub()
        assert (done.returncode, done.stderr) == (0, "")
        looked = [line for line in done.stdout.splitlines() if line.startswith("== ")]
        (volume,) = command.json("volume", "list")["Volumes"]
        home = f"volcrypt --home {command.home}"
        assert looked == [
            f"== {home} audit verify",
            f"== {home} volume check {volume['VolumeId']}",
            f"== {home} snapshot verify --store local",
            f"== {home} snapshot verify --store away",
        ]
        chunk = next(each for each in command.home.glob("**/chunks/**/*") if each.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-1])
        assert scrub().returncode == 6
