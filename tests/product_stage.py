"""A home with a second store, keys and a user, that comes back as it was at once, and commands on
it: in this process, where they take a tenth of the time, or in one that is killed at some call."""

import errno
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.command import Command, disposable_home, on_data_plane
from tests.storage_calls import TROUBLE, trouble_at
from volcrypt.cli.main import run as run_command
from volcrypt.geometry import CHUNK_BYTES

USER = "arn:aws:iam::000000000000:user/alice"
KMS_KEYS = ("first", "second")


@dataclass(frozen=True)
class Trouble:
    """What befalls a command at its `call`th storage call: SIGKILL, or an errno."""

    call: int
    code: int | None = None

    def __str__(self) -> str:
        return f"{errno.errorcode[self.code] if self.code else 'SIGKILL'} at call {self.call}"


@dataclass(frozen=True, slots=True)
class Done:
    """`code` is None for a command that was killed; `came` says whether trouble came to it."""

    code: int | None
    out: str
    err: str
    came: bool = False


class Stage:
    """`root` has the home, the shared store, customer-provided keys and room for plaintext; `out`
    is where exports go."""

    def __init__(self, root: Path, command: Command) -> None:
        self.root, self.command = root, command
        self.out = root / "out"
        self.other_key = root / "customer-2"
        self.keys: dict[str, str] = {}
        self._copy = root / "copy"
        self._build()

    def _build(self) -> None:
        for name in ("customer", "customer-2"):
            (self.root / name).write_bytes(os.urandom(32))
        self.ok("init")
        self.ok("store", "create", "away", "--url", (self.root / "away").as_uri())
        for name in KMS_KEYS:
            self.keys[name] = self.ok("--json", "kms", "create-key")["KeyMetadata"]["Arn"]
        self.keys["default"] = self.ok(
            "--json", "kms", "describe-key", "--key-id", "alias/volcrypt/ebs"
        )["KeyMetadata"]["Arn"]
        self.ok("principal", "create", "alice")
        (self.command.home / "config.toml").write_text("[profiles.alice]\nprincipal = 'alice'\n")
        allowed = {"Effect": "Allow", "Action": "volcrypt:*", "Resource": "*"}
        (self.root / "policy").write_text(
            json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        )
        self.ok("principal", "put-policy", "alice", self.root / "policy")
        (self.root / "passphrase").write_text("correct horse battery staple")
        self._copy.mkdir()
        for part in ("home", "away"):
            _copy_tree(self.root / part, self._copy)

    def reset(self) -> None:
        """All as it was first; nothing is mounted, and nobody works."""
        self.end_mounts()
        self.command.forget_runtime()
        for part in ("home", "away"):
            shutil.rmtree(self.root / part)
            _copy_tree(self._copy / part, self.root)
        for path in self.root.glob("point-*"):
            path.rmdir()
        self.out.unlink(missing_ok=True)

    def end_mounts(self) -> None:
        """As a power cut ends them: processes, and what they served."""
        self.command.kill_processes()
        for point in self.root.glob("point-*"):
            while os.path.ismount(point):
                self.command.clear_dead_mount(point)

    def run(self, *arguments: str | Path, trouble: Trouble | None = None) -> Done:
        """A command, to its end."""
        if trouble is not None:
            return self._run_in_trouble(trouble, *arguments)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run_command(
                ["--home", *map(str, (self.command.home, *on_data_plane(*arguments)))]
            )
        return Done(code, out.getvalue(), err.getvalue())

    def _run_in_trouble(self, trouble: Trouble, *arguments: str | Path) -> Done:
        """In a process of its own: what it holds is let go, however it ends."""
        note = self.root / "trouble"
        note.unlink(missing_ok=True)
        said = trouble_at(trouble.call, trouble.code, note)
        with patch.dict(os.environ, {TROUBLE: said}):
            done = self.command.try_run(*arguments)
        is_killed = done.returncode in (-9, 137)
        code = None if is_killed else done.returncode
        return Done(code, done.stdout, done.stderr, note.exists())

    def ok(self, *arguments: str | Path) -> Any:
        """What a command printed that must succeed: with --json, its document."""
        done = self.run(*arguments)
        assert done.code == 0, f"{arguments}: {done.code}\n{done.err}"
        return json.loads(done.out) if "--json" in arguments else done.out.strip()

    def files(self, *, below: str) -> Iterator[Path]:
        """All files of the home (`home`), or part of it, or of the other store (`away`)."""
        for path in (self.root / below).rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path


def _copy_tree(source: Path, directory: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", source, directory], check=True)


@contextmanager
def stage() -> Iterator[Stage]:
    """In memory: what is durable is others' matter, and a sync takes no time."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="volcrypt-test-") as root,
        disposable_home(Path(root, "home")) as command,
    ):
        made = Stage(Path(root), command)
        try:
            yield made
        finally:
            made.end_mounts()


SIZES = (2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 4096, 5 * CHUNK_BYTES)
