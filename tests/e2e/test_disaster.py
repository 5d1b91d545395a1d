"""The host is gone: the README's own lines bring its volumes back on a new one, from a store and a
backup of the KMS."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.command import VOLCRYPT, disposable_home

README = Path(__file__).parents[2] / "README.md"


def shell(text: str, directory: Path, home: Path) -> str:
    """What the lines print; each must succeed."""
    done = subprocess.run(
        ["bash", "-euc", text],
        check=False,
        cwd=directory,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "VOLCRYPT_HOME": str(home),
            "PATH": f"{VOLCRYPT.parent}:{os.environ['PATH']}",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_volumes_come_back_on_a_new_machine(tmp_path: Path) -> None:
    before, after = re.findall(r"```sh recovery\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "passphrase").write_text("correct horse battery staple")
    plain = os.urandom(3 * 2**20) + bytes(2**20)
    (tmp_path / "image").write_bytes(plain)
    with disposable_home(tmp_path / "home") as old, disposable_home(tmp_path / "new") as new:
        old.run("init")
        old.run("volume", "import", tmp_path / "image", "--name", "orders")
        old.run("store", "create", "archive", "--url", (tmp_path / "archive").as_uri())
        kept = shell(f'{before}\necho "kept $SNAPSHOT $HEAD"', tmp_path, old.home)
        snapshot, head = kept.splitlines()[-1].split()[1:]
        shutil.rmtree(old.home)
        shell(f"SNAPSHOT={snapshot} HEAD={head}\n{after}", tmp_path, new.home)
        new.run("volume", "export", "--yes", "orders", tmp_path / "exported")
        # The new machine keeps snapshots of its own, and has names for them and for older ones.
        new.run("snapshot", "create", "orders", "--name", "first", "--wait")
        names = [each["StoreName"] for each in new.json("snapshot", "list")["Snapshots"]]
        assert sorted(names) == ["archive", "local"]
        assert (tmp_path / "exported").read_bytes() == plain
        # An older backup, or another's, would have been found out.
        later = f"{int(head.partition(':')[0]) + 1000}:{head.partition(':')[2]}"
        assert "audit" in new.fails(6, "audit", "verify", "--expect-head", later)
