"""Every command of the README's tour is run, in order, and does what the README says."""

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.command import VOLCRYPT, Command, disposable_home
from volcrypt.cli.exits import Exit
from volcrypt.cli.exits import __doc__ as exits_doc

README = Path(__file__).parents[2] / "README.md"


def tour() -> str:
    return "\n".join(re.findall(r"```sh tour\n(.*?)```", README.read_text(), re.DOTALL))


def test_the_tour_runs(tmp_path: Path) -> None:
    with ExitStack() as homes:
        for name in ("home", "elsewhere", "other"):
            homes.enter_context(disposable_home(tmp_path / name))
        try:
            done = subprocess.run(
                ["bash", "-euxo", "pipefail", "-c", tour()],
                check=False,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                env=os.environ | {"PATH": f"{VOLCRYPT.parent}:{os.environ['PATH']}"},
            )
        finally:
            subprocess.run(["umount", tmp_path / "mnt"], check=False, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "refused, exit code 5" in done.stdout
        assert "is disabled" in done.stderr
        # The last listing is of the file system on the encrypted volume.
        assert "openssl.cnf" in done.stdout
        legacy = Command(tmp_path / "home").json("volume", "show", "legacy")
        assert legacy["Encrypted"] is True


def test_every_exit_code_is_in_the_readme() -> None:
    assert exits_doc is not None
    rows = [line for line in exits_doc.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(Exit)
    for row in rows:
        assert row in README.read_text()
