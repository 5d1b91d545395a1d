"""Programs of the host that fail when they are told to: each call is counted, and one of them fails
instead of doing anything, or kills who called it."""

import os
import shutil
from pathlib import Path

_SCRIPT = """#!/bin/bash
n=$(($(cat {state}/count) + 1))
echo $n > {state}/count
echo {name} >> {state}/calls
if [[ $n == $(cat {state}/fail-at) ]]; then
    [[ $(cat {state}/how) == kill ]] && kill -9 $PPID
    echo "{name}: told to fail" >&2
    exit 1
fi
exec {real} "$@"
"""


class FailingPrograms:
    """In `directory`, for PATH: stand-ins for `names`, which do what the real ones do."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.path = directory / "bin"
        self._state = directory / "state"
        self.path.mkdir(parents=True)
        self._state.mkdir()
        for name in names:
            real = shutil.which(name)
            assert real is not None, f"{name} is missing"
            script = self.path / name
            script.write_text(_SCRIPT.format(state=self._state, name=name, real=real))
            script.chmod(0o755)
        self.work()

    @property
    def search_path(self) -> str:
        return f"{self.path}:{os.environ['PATH']}"

    def work(self) -> None:
        """None fails; the count begins again."""
        self.fail(0)

    def fail(self, number: int, *, kill: bool = False) -> None:
        """The `number`th call from now on fails, or kills the command that makes it."""
        for name, content in (
            ("count", "0"),
            ("calls", ""),
            ("fail-at", str(number)),
            ("how", "kill" if kill else "fail"),
        ):
            (self._state / name).write_text(content)

    @property
    def calls(self) -> list[str]:
        """The programs that were called, in order."""
        return (self._state / "calls").read_text().split()
