"""Kills at enumerated steps of a rewrapping: what survives is usable, what was deleted goes.

The steps are those of `test_crashes`. After each kill the next process goes on where the killed one
stopped: nothing that was not deleted is lost at any moment, and in the end the deleted key's
material opens with no copy of the catalogue.
"""

import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.kms import ACCOUNT, REGION
from tests.kms.test_crashes import CALLS, run, steps
from tests.kms.test_rewrap import (
    decrypted_by,
    delete_key,
    encrypted_by,
    files_with,
    is_due,
    new_key,
    rewrap,
    wrapped_of,
)
from volcrypt.errors import IntegrityError
from volcrypt.kms.home import create_kms, open_kms
from volcrypt.kms.model import WrappedMaterial


class Template(NamedTuple):
    """A home with a key, and with a deleted one whose rewrapping is due."""

    path: Path
    blob_of_kept: bytes
    deleted: WrappedMaterial


@pytest.fixture
def template(memory_path: Path) -> Template:
    path = memory_path / "template"
    path.mkdir()
    create_kms(path / "kms", path / "run", account=ACCOUNT, region=REGION, pin=None)
    with open_kms(path / "kms", path / "run", account=ACCOUNT, region=REGION) as service:
        kept, deleted = new_key(service), new_key(service)
        blob, wrapped = encrypted_by(service, kept), wrapped_of(service, deleted)
        delete_key(service, deleted)
    return Template(path, blob, wrapped)


def check(home: Path, template: Template, *, was_acknowledged: bool) -> None:
    with open_kms(home / "kms", home / "run", account=ACCOUNT, region=REGION) as service:
        assert not (was_acknowledged and is_due(service))
        assert decrypted_by(service, template.blob_of_kept) == b"text"
        # Also what is made in between survives.
        blob = encrypted_by(service, new_key(service))
        rewrap(service)
        assert not is_due(service)
        with pytest.raises(IntegrityError, match="which it does not have"):
            service._keystore.encrypt(template.deleted, plaintext=bytearray(1), aad=b"")
        for each in (blob, template.blob_of_kept):
            assert decrypted_by(service, each) == b"text"
    assert files_with(home / "kms", [template.deleted]) == set()


def test_a_kill_at_any_step_loses_nothing_but_the_deleted(
    memory_path: Path, template: Template
) -> None:
    def fresh(number: int) -> Path:
        return Path(shutil.copytree(template.path, memory_path / f"home-{number:03}"))

    assert files_with(template.path / "kms", [template.deleted])
    kill_steps = steps("rewrap", fresh(0))

    def kill(number: int) -> tuple[Path, subprocess.CompletedProcess[str]]:
        home = fresh(number + 1)
        name, count = kill_steps[number]
        inject = f"--inject={name}:signal=KILL:when={count}"
        return home, run("rewrap", home, f"--trace={CALLS}", inject)

    killed = 0
    with ThreadPoolExecutor(2) as pool:
        for home, done in pool.map(kill, range(len(kill_steps))):
            killed += done.returncode == -signal.SIGKILL
            check(home, template, was_acknowledged="rewrapped" in done.stdout)
            shutil.rmtree(home)
    assert killed >= 0.9 * len(kill_steps)
