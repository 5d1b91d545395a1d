"""Two homes of one host and the names in /dev/volcrypt, which they share: a link leads to the
volume of who made it, nobody takes it from him, and no false one is believed for ever."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home, kill_and_wait
from tests.e2e.test_attach import MIB, check_nothing_is_left, links_of, loops_of, partitioned
from volcrypt.volume.device_links import DEVICE_DIRECTORY

_LOSETUP = """#!/bin/bash
meanwhile() {{
    echo done > {said}
    PATH='{path}' {volcrypt} --home {home} attach {name} > {said} 2>&1
    echo $? > {code}
}}
[[ ! -e {said} && {when} == before ]] && meanwhile
{real} "$@"
result=$?
[[ ! -e {said} && {when} == after ]] && meanwhile
exit $result
"""


class Meanwhile:
    """The other home attaches a volume around the first `losetup` that this one runs."""

    def __init__(self, directory: Path, other: Command, name: str, *, when: str) -> None:
        self._code = directory / "code"
        real = shutil.which("losetup")
        assert real is not None
        bin_directory = directory / "bin"
        bin_directory.mkdir()
        script = bin_directory / "losetup"
        script.write_text(
            _LOSETUP.format(
                said=directory / "said",
                code=self._code,
                path=os.environ["PATH"],
                volcrypt=VOLCRYPT,
                home=other.home,
                name=name,
                real=real,
                when=when,
            )
        )
        script.chmod(0o755)
        self.search_path = f"{bin_directory}:{os.environ['PATH']}"

    @property
    def code(self) -> int:
        """Of the other's `attach`."""
        return int(self._code.read_text())


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "one") as made:
        made.run("init")
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "other") as made:
        made.run("init")
        yield made


@pytest.fixture
def name() -> str:
    return f"v{secrets.token_hex(5)}"


@pytest.mark.parametrize("suffix", ["", "-part1"], ids=["volume", "partition"])
def test_one_of_two_homes_gets_a_name(
    one: Command,
    other: Command,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    """The other takes it after this one has looked and before it makes its link."""
    one.run("volume", "import", partitioned(tmp_path / "image"), "--name", name)
    taken = f"{name}{suffix}"
    other.run("volume", "create", "--size", "1MiB", "--name", taken)
    meanwhile = Meanwhile(tmp_path, other, taken, when="before")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", meanwhile.search_path)
        said = one.fails(4, "attach", name)
    assert meanwhile.code == 0
    assert f"volume {taken} is in use by another volume, or home" in said
    volume_id = other.json("volume", "show", taken)["VolumeId"]
    assert f"volcrypt detach {volume_id}" in said
    # Its own is undone, and nothing of the other's.
    [loop] = loops_of(other)
    assert links_of(name) == {taken: f"/dev/{loop}"}
    assert loops_of(one) == []
    assert one.processes() == []
    other.run("detach", taken)
    one.run("attach", name)
    one.run("detach", name)
    check_nothing_is_left(one, name)
    check_nothing_is_left(other, name)


def test_a_detach_leaves_a_link_that_is_anothers_by_now(
    one: Command, other: Command, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perhaps to the very loop device that it has just detached."""
    for home in (one, other):
        home.run("volume", "create", "--size", "1MiB", "--name", name)
    one.run("attach", name)
    meanwhile = Meanwhile(tmp_path, other, name, when="after")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", meanwhile.search_path)
        one.run("detach", name)
    assert meanwhile.code == 0
    [loop] = loops_of(other)
    assert links_of(name) == {name: f"/dev/{loop}"}
    other.run("detach", name)
    check_nothing_is_left(one, name)
    check_nothing_is_left(other, name)


@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_a_link_to_a_volume_of_another_name_is_false(
    one: Command, other: Command, name: str, verb: str
) -> None:
    """As a killed `detach` leaves it when another volume gets the loop device."""
    strange = f"w{name}"
    one.run("volume", "create", "--size", "1MiB", "--name", name)
    other.run("volume", "create", "--size", "1MiB", "--name", strange)
    if verb == "detach":
        one.run("attach", name)
    loop = other.json("attach", strange)["Loop"]
    (DEVICE_DIRECTORY / name).unlink(missing_ok=True)
    (DEVICE_DIRECTORY / name).symlink_to(loop)
    (DEVICE_DIRECTORY / f"{name}-part3").symlink_to(loop)
    one.run(verb, name)
    expected = {} if verb == "detach" else {name: f"/dev/{loops_of(one)[0]}"}
    assert links_of(name) == expected
    assert links_of(strange) == {strange: loop}
    if verb == "attach":
        one.run("detach", name)
    other.run("detach", strange)
    check_nothing_is_left(one, name)
    check_nothing_is_left(other, strange)


def test_a_link_of_a_killed_process_is_anothers_until_he_detaches(
    one: Command, other: Command, name: str
) -> None:
    """Nobody can be asked what it is; the way out is said."""
    for home in (one, other):
        home.run("volume", "create", "--size", f"{MIB}", "--name", name)
    attached = other.json("attach", name)
    kill_and_wait(attached["Pid"])
    assert f"volcrypt detach {attached['VolumeId']}" in one.fails(4, "attach", name)
    assert links_of(name) == {name: attached["Loop"]}
    other.try_run("detach", attached["VolumeId"])
    one.run("attach", name)
    one.run("detach", name)
    check_nothing_is_left(one, name)
    check_nothing_is_left(other, name)


@pytest.mark.parametrize("way", ["mount", "attach"])
def test_a_restored_home_leaves_alone_what_the_first_one_serves(
    one: Command, name: str, tmp_path: Path, way: str
) -> None:
    """As who rehearses the loss of a host on that very host: the volumes have the same ids."""
    (tmp_path / "passphrase").write_text("correct horse battery staple")
    passphrase = ("--passphrase-file", tmp_path / "passphrase")
    (tmp_path / "point").mkdir()
    one.run("volume", "create", "--size", "1MiB", "--name", name)
    one.run("backup", tmp_path / "backup", *passphrase)
    with disposable_home(tmp_path / "restored") as restored:
        restored.run("restore", tmp_path / "backup", *passphrase)
        one.run(way, name, *([tmp_path / "point"] if way == "mount" else []))
        [use] = one.json("status")["InUse"]
        assert "process is gone" not in str(restored.json("status")["Warnings"])
        for wish in (["unmount", name], ["unmount", use["MountPoint"]], ["volume", "delete", name]):
            said = restored.fails(4, *wish)
            assert f"in use by the process that serves it at {use['MountPoint']}" in said
            assert "hint: detach or unmount it in its home" in said
        assert one.json("status")["InUse"] == [use]
        assert Path(use["MountPoint"], "volume").stat().st_size == MIB
        one.run("detach" if way == "attach" else "unmount", name)
        restored.run("volume", "delete", name)
