"""`config check`: what the file names, and the home does not have."""

import json
from pathlib import Path

import pytest

from tests.command import Command

CHECK = ("config", "check")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    made = Command(tmp_path / "home", forked=False)
    made.run("init")
    return made


def written(command: Command, text: str) -> str:
    path = command.home / "config.toml"
    path.write_text(text)
    return str(path)


def complaints(command: Command, *arguments: str) -> list[str]:
    done = command.try_run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr.splitlines()


def problems(command: Command) -> list[tuple[str, str]]:
    done = command.try_run("--json", "doctor")
    assert done.returncode == 8
    found = json.loads(done.stdout)["Findings"]
    return [(each["Check"], each["Text"]) for each in found if each["State"] == "problem"]


def test_what_the_home_does_not_have_is_told_with_its_line(command: Command) -> None:
    path = written(
        command,
        '[profiles.a]\nregion = "mars-9"\ndefault_kms_key = "alias/none"\n'
        '[profiles.b]\nprincipal = "ghost"\ndefault_kms_key = "/ /"\n'
        '[profiles.c]\naccount = "999999999999"\n',
    )
    made = "'volcrypt principal create' makes it"
    ghost = "arn:aws:iam::000000000000:user/ghost"
    assert [line.removeprefix(f"error: {path}: ") for line in complaints(command, *CHECK)] == [
        "line 2: profiles.a.region: this home serves us-east-1; others stand in [kms] regions",
        "line 3: profiles.a.default_kms_key: alias/none does not exist in this home",
        f"line 5: profiles.b.principal: {ghost} does not exist; {made}",
        "line 6: profiles.b.default_kms_key: '/ /': Invalid keyId '/ /'",
        "line 8: profiles.c.account: this home serves 000000000000; others stand in [kms] accounts",
    ]


def test_what_is_there_is_in_order(command: Command) -> None:
    command.run("principal", "create", "alice")
    key = command.run("kms", "create-key").strip()
    command.run("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)
    names = (
        key,
        "alias/mine",
        "alias/volcrypt/ebs",
        f"arn:aws:kms:us-east-1:000000000000:key/{key}",
    )
    profiles = "".join(
        f'[profiles.p{number}]\nprincipal = "alice"\ndefault_kms_key = "{name}"\n'
        for number, name in enumerate(names)
    )
    written(
        command,
        profiles + '[profiles.root]\nprincipal = "arn:aws:iam::000000000000:root"\n'
        'region = "eu-west-1"\n[kms]\nregions = ["eu-west-1"]\n',
    )
    assert command.json("config", "check")["Notes"] == []


def test_without_a_home_it_says_what_was_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[profiles.a]\nprincipal = "ghost"\n')
    (note,) = Command(tmp_path, forked=False).json("config", "check")["Notes"]
    assert "were not looked at: no volcrypt home at" in note


def test_each_mistake_is_told_once_by_every_command(command: Command) -> None:
    path = written(command, "[kms]\nfoo = 3\nregions = 1\n")
    for arguments in (("config", "check"), ("volume", "list")):
        first, second = complaints(command, *arguments)
        assert first.startswith(f"error: {path}: line 2: kms.foo: there is no such option")
        assert second == f"error: {path}: line 3: kms.regions: it must be a list, and is a number"
    assert [check for check, text in problems(command) if path in text] == ["configuration"] * 2


def test_doctor_tells_what_the_home_does_not_have(command: Command) -> None:
    path = written(command, '[profiles.a]\nprincipal = "ghost"\n')
    ((check, text),) = [each for each in problems(command) if path in each[1]]
    assert check == "configuration"
    assert "line 2: profiles.a.principal" in text


def test_another_user_is_told_whose_home_it_is(command: Command) -> None:
    other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = Command(command.home).try_run("volume", "list", prefix=other)
    assert done.returncode == 5
    assert f"error: no permission to read {command.home}" in done.stderr
    assert "hint: run volcrypt as the user that the home belongs to" in done.stderr
