"""Each word of the command line reaches the operation that it is for, and nothing else does: what
the operations are asked is caught before they begin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tests.cli.line import PUBLIC, Asked, Line, all_modules, line
from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import InvalidArgumentError
from volcrypt.operations.verification import parse_head
from volcrypt.volume.launch import exec_daemon, spawn_daemon

__all__ = ["all_modules", "line"]

MIB = 2**20
HEAD = f"signer:7:{PUBLIC}"


def each_alone(place: str, words: str, defaults: Asked, given: Asked) -> list[Any]:
    """The command without options, and with each of `given` alone: the others stay as they are."""
    cases = [(place, words, dict(defaults))]
    for options, changed in given.items():
        assert set(changed) <= set(defaults), options
        cases.append((place, f"{words} {options}", {**defaults, **changed}))
    return [pytest.param(*case, id=case[1].replace("{dir}/", "")) for case in cases]


CHOICE: Asked = {"encrypted": True, "kms_key": None, "customer_key": None, "keys": []}
PLACE = {
    "data": None,
    "preallocate": False,
    "force": False,
    "assume_zeroed": False,
    "lease": None,
    "single_host": False,
}
GIVEN_KEY = {"--customer-key-file {dir}/own": {"keys": ["own"]}}
GIVEN_CHOICE = {
    "--kms-key-id k": {"kms_key": "k"},
    "--unencrypted": {"encrypted": False},
    "--customer-key-file {dir}/own": {"customer_key": "own", "keys": ["own"]},
}
GIVEN_PLACE = {
    "--data /d": {"data": Path("/d")},
    "--preallocate": {"preallocate": True},
    "--force": {"force": True},
    "--assume-zeroed": {"assume_zeroed": True},
    "--lease s": {"lease": "s"},
    "--single-host": {"single_host": True},
}
SERVING: Asked = {
    "launch": spawn_daemon,
    "fill_rate": None,
    "data_plane": "native",
    "keys": [],
}
SERVING_VOLUME = {
    **SERVING,
    "read_only": False,
    "key": False,
    "requests": False,
    "zeros": False,
    "profile": "default",
    "region": None,
    "interval_seconds": 17,
}
GIVEN_SERVING: Asked = {
    "--fill-rate 0": {"fill_rate": 0},
    "--fill-rate 3MiB": {"fill_rate": 3 * MIB},
    "--data-plane python": {"data_plane": "python"},
    **GIVEN_KEY,
}
GIVEN_SERVING_VOLUME = {
    **GIVEN_SERVING,
    "--read-only": {"read_only": True},
    "--on-key-loss fence": {"key": True},
    "--on-key-loss keep": {},
    "--discard": {"requests": True},
    "--discard-zeros": {"zeros": True},
}
STORE_PLACE = {"region": None, "endpoint": None, "encryption": None}
GIVEN_STORE_PLACE = {
    "--region r": {"region": "r"},
    "--endpoint e": {"endpoint": "e"},
    "--sse s3": {"encryption": "s3"},
}

ASKED = [
    *each_alone(
        "operations.volumes:create_volume",
        "volume create --size 1MiB",
        {"size_bytes": MIB, "name": None, **CHOICE, **PLACE},
        {"--name n": {"name": "n"}, **GIVEN_CHOICE, **GIVEN_PLACE},
    ),
    *each_alone(
        "operations.restore:volume_from_snapshot",
        "volume create --snapshot-id s",
        {"0": "s", "size_bytes": None, "name": None, "choice": None, "keys": [], **PLACE}
        | {"fill_rate": None},
        {
            "--size 2MiB": {"size_bytes": 2 * MIB},
            "--name n": {"name": "n"},
            "--fill-rate 0": {"fill_rate": 0},
            "--fill-rate 3MiB": {"fill_rate": 3 * MIB},
            "--source-customer-key-file {dir}/source": {"keys": ["source"]},
            **GIVEN_PLACE,
        },
    ),
    *each_alone(
        "operations.restore:volume_from_snapshot",
        "volume create --snapshot-id s --kms-key-id k",
        {**CHOICE, "kms_key": "k"},
        {},
    ),
    *each_alone(
        "operations.restore:volume_from_snapshot",
        "volume create --snapshot-id s --customer-key-file {dir}/own",
        {**CHOICE, "customer_key": "own", "keys": ["own"]},
        {"--source-customer-key-file {dir}/source": {"keys": ["own", "source"]}},
    ),
    *each_alone(
        "operations.images:import_volume",
        "volume import {dir}/file",
        {"name": None, "expect_sha256": None, "luks": None, **CHOICE},
        {
            "--name n": {"name": "n"},
            f"--expect-sha256 {PUBLIC.upper()}": {"expect_sha256": PUBLIC},
            **GIVEN_CHOICE,
        },
    ),
    *each_alone(
        "operations.images:import_volume",
        "volume import {dir}/file --luks-passphrase-file {dir}/word",
        # With the end of its line: cryptsetup takes that for a part of it.
        {"passphrase": bytearray(b"correct horse\n"), "header": None},
        {},
    ),
    *each_alone("operations.images:abort_import", "volume import f --abort", {"0": "f"}, {}),
    *each_alone(
        "operations.volume_export:export_volume",
        "volume export v {dir}/new --yes",
        {"0": "v", "skip_damaged": False, "keys": []},
        {"--skip-damaged": {"skip_damaged": True}, **GIVEN_KEY},
    ),
    *each_alone(
        "operations.header_export:export_header",
        "volume export-header v {dir}/new --passphrase-file {dir}/word",
        {"0": "v", "passphrase": bytearray(b"correct horse"), "keys": []},
        GIVEN_KEY,
    ),
    *each_alone(
        "operations.registration:register_volume",
        "volume register --data /d",
        {
            "0": Path("/d"),
            "record": None,
            "store": None,
            "volume_id": None,
            "name": None,
            "kms_key": None,
            "force": False,
            "keys": [],
        },
        {
            "--record r": {"record": Path("r")},
            "--store s": {"store": "s"},
            "--volume-id vol-0123456789abcdef0": {"volume_id": "vol-0123456789abcdef0"},
            "--name n": {"name": "n"},
            "--kms-key-id k": {"kms_key": "k"},
            "--force": {"force": True},
            **GIVEN_KEY,
        },
    ),
    *each_alone(
        "operations.grow:grow_volume",
        "volume grow v --size 2MiB",
        {"0": "v", "size_bytes": 2 * MIB, "resize_fs": False, "keys": []},
        {"--resize-fs": {"resize_fs": True}, **GIVEN_KEY},
    ),
    *each_alone(
        "operations.volume_deletion:delete_volume",
        "volume delete v",
        {"0": "v", "keep_data": False},
        {"--keep-data": {"keep_data": True}},
    ),
    *each_alone(
        "operations.volumes:check_volume", "volume check v", {"0": "v", "keys": []}, GIVEN_KEY
    ),
    *each_alone(
        "operations.lazy_fetch:assume_whole", "volume check v --assume-whole", {"0": "v"}, {}
    ),
    *each_alone(
        "operations.mounts:mount_volume",
        "mount v /m",
        {"0": "v", "1": Path("/m"), **SERVING_VOLUME},
        {"--foreground": {"launch": exec_daemon}, **GIVEN_SERVING_VOLUME},
    ),
    *each_alone(
        "operations.snapshot_mounts:mount_snapshot",
        "mount snapshot /m",
        {"0": "snapshot", "1": Path("/m"), **SERVING},
        {"--foreground": {"launch": exec_daemon}, **GIVEN_SERVING},
    ),
    *each_alone(
        "operations.mounts:unmount_volume",
        "unmount v",
        {"0": "v", "stop_snapshot": False},
        {"--stop-snapshot": {"stop_snapshot": True}},
    ),
    *each_alone(
        "operations.attachments:attach_volume",
        "attach v",
        {"0": "v", "mkfs": None, "mount_directory": None, "keeper": None, "handed": None}
        | {name: value for name, value in SERVING_VOLUME.items() if name != "launch"},
        {
            "--mkfs ext4": {"mkfs": "ext4"},
            "--mount /m": {"mount_directory": Path("/m")},
            **GIVEN_SERVING_VOLUME,
        },
    ),
    *each_alone(
        "operations.detachment:detach_volume",
        "detach v",
        {"0": "v", "stop_snapshot": False},
        {"--stop-snapshot": {"stop_snapshot": True}},
    ),
    *each_alone(
        "operations.snapshot_creation:create_snapshots",
        "snapshot create v w --wait",
        {"volumes": ("v", "w"), "name": None, "store": None, "freeze": [], "rate": None},
        {
            "--name n": {"name": "n"},
            "--store s": {"store": "s"},
            "--freeze /a --freeze /b": {"freeze": [Path("/a"), Path("/b")]},
            "--rate 3MiB": {"rate": 3 * MIB},
        },
    ),
    *each_alone("cli.background:begin_snapshots", "snapshot create v", {"volumes": ("v",)}, {}),
    *each_alone(
        "operations.snapshot_waiting:wait_for_snapshots",
        "snapshot wait s t",
        {"0": ("s", "t"), "timeout_seconds": None},
        {"--timeout 2.5": {"timeout_seconds": 2.5}},
    ),
    *each_alone(
        "operations.snapshot_lookup:list_snapshots",
        "snapshot list",
        {"0": None},
        {"--store s": {"0": "s"}},
    ),
    *each_alone(
        "operations.snapshot_deletion:delete_snapshot", "snapshot delete s", {"0": "s"}, {}
    ),
    *each_alone(
        "operations.copy_creation:copy_snapshot",
        "snapshot copy s --wait",
        {"0": "s", "name": None, "store": None, "region": None, "begun": None, **CHOICE},
        {
            "--name n": {"name": "n"},
            "--store t": {"store": "t"},
            "--region r": {"region": "r"},
            "--source-customer-key-file {dir}/source": {"keys": ["source"]},
            **GIVEN_CHOICE,
        },
    ),
    *each_alone(
        "operations.copy_creation:copy_snapshot",
        "snapshot copy s --wait --customer-key-file {dir}/own "
        "--source-customer-key-file {dir}/source",
        {**CHOICE, "customer_key": "own", "keys": ["own", "source"]},
        {},
    ),
    *each_alone("cli.background:begin_copy", "snapshot copy s", {}, {}),
    *each_alone(
        "operations.verification:verify_snapshots",
        "snapshot verify",
        {"0": None, "store": None, "heads": []},
        {
            "s": {"0": "s"},
            "--store t": {"store": "t"},
            f"--expect-head {HEAD}": {"heads": [parse_head(HEAD)]},
        },
    ),
    *each_alone(
        "operations.verification:verify_by_public_key",
        f"snapshot verify s --store-url file:///d --public-key {PUBLIC}",
        {"1": bytes.fromhex(PUBLIC), "2": "s", "url": "file:///d", "heads": []}
        | STORE_PLACE
        | {"region": "us-east-1"},
        {f"--expect-head {HEAD}": {"heads": [parse_head(HEAD)]}, **GIVEN_STORE_PLACE},
    ),
    *each_alone(
        "operations.snapshot_diff:diff_snapshots", "snapshot diff a b", {"0": "a", "1": "b"}, {}
    ),
    *each_alone(
        "operations.snapshot_export:export_snapshot",
        "snapshot export s {dir}/new --yes",
        {"0": "s", "skip_damaged": False, "keys": []},
        {"--skip-damaged": {"skip_damaged": True}, **GIVEN_KEY},
    ),
    *each_alone(
        "operations.encrypt:encrypt_volume",
        "encrypt v",
        {
            "0": "v",
            "keep_old": False,
            "delete_plain_snapshots": False,
            "rate": None,
            "only_resume": False,
            **CHOICE,
        },
        {
            "--keep-old": {"keep_old": True},
            "--delete-plain-snapshots": {"delete_plain_snapshots": True},
            "--rate 3MiB": {"rate": 3 * MIB},
            "--resume": {"only_resume": True},
            "--kms-key-id k": {"kms_key": "k"},
            "--customer-key-file {dir}/own": {"customer_key": "own", "keys": ["own"]},
        },
    ),
    *each_alone(
        "operations.encrypt:plan_of_encryption",
        "encrypt v --dry-run",
        {"0": "v", "keep_old": False, "delete_plain_snapshots": False, "kms_key": None},
        {
            "--keep-old": {"keep_old": True},
            "--delete-plain-snapshots": {"delete_plain_snapshots": True},
            "--kms-key-id k": {"kms_key": "k"},
        },
    ),
    *each_alone(
        "operations.online:migrate_volume",
        "encrypt v --online",
        {
            "0": "v",
            "rekeys": False,
            "delete_plain_snapshots": False,
            "rate": None,
            "only_resume": False,
            # Who serves the volume from then on gives up a key that is taken away.
            "key": True,
            **CHOICE,
        },
        {
            "--delete-plain-snapshots": {"delete_plain_snapshots": True},
            "--rate 3MiB": {"rate": 3 * MIB},
            "--resume": {"only_resume": True},
            "--kms-key-id k": {"kms_key": "k"},
            "--customer-key-file {dir}/own": {"customer_key": "own", "keys": ["own"]},
        },
    ),
    *each_alone(
        "operations.online:plan_of_migration",
        "encrypt v --online --dry-run",
        {"0": "v", "rekeys": False, "delete_plain_snapshots": False, "kms_key": None},
        {
            "--delete-plain-snapshots": {"delete_plain_snapshots": True},
            "--kms-key-id k": {"kms_key": "k"},
        },
    ),
    *each_alone("operations.encrypt:abort_encryption", "encrypt v --abort", {"0": "v"}, {}),
    *each_alone(
        "operations.migration_orders:abort_migration", "encrypt v --online --abort", {"0": "v"}, {}
    ),
    *each_alone("operations.migration_orders:pause_migration", "encrypt v --pause", {"0": "v"}, {}),
    *each_alone(
        "operations.online:migrate_volume",
        "rekey v",
        {"0": "v", "rekeys": True, "choice": None, "rate": None, "only_resume": False, "keys": []},
        {"--rate 3MiB": {"rate": 3 * MIB}, **GIVEN_KEY},
    ),
    *each_alone(
        "operations.online:migrate_volume",
        "rekey v --kms-key-id k",
        {**CHOICE, "kms_key": "k", "rekeys": True},
        {},
    ),
    *each_alone(
        "operations.online:plan_of_migration",
        "rekey v --dry-run",
        {"0": "v", "rekeys": True, "choice": None},
        {},
    ),
    *each_alone(
        "operations.store_admin:create_store",
        "store create n --url file:///d",
        {"0": "n", "url": "file:///d", "digest": DigestAlgorithm.BLAKE3, **STORE_PLACE},
        {"--digest sha256": {"digest": DigestAlgorithm.SHA256}, **GIVEN_STORE_PLACE},
    ),
    *each_alone("operations.store_admin:recreate_local_store", "store create local", {}, {}),
    *each_alone(
        "operations.store_admin:trust_store",
        f"store trust n --url file:///d --public-key {PUBLIC}",
        {"0": "n", "url": "file:///d", **STORE_PLACE},
        GIVEN_STORE_PLACE,
    ),
    *each_alone(
        "operations.store_admin:certify_signer",
        f"store trust n --signer {PUBLIC}",
        {"0": "n", "1": bytes.fromhex(PUBLIC)},
        {},
    ),
    *each_alone("operations.store_admin:check_store", "store check n", {"0": "n"}, {}),
    *each_alone(
        "operations.volume_settings:set_encryption_by_default",
        "settings set encryption-by-default on",
        {"on": True},
        {},
    ),
    *each_alone(
        "operations.volume_settings:set_encryption_by_default",
        "settings set encryption-by-default off",
        {"on": False},
        {},
    ),
    *each_alone(
        "operations.volume_settings:set_default_key",
        "settings set default-kms-key k",
        {"0": "k"},
        {},
    ),
    *each_alone(
        "operations.volume_settings:set_default_key",
        "settings set default-kms-key none",
        {"0": None},
        {},
    ),
    *each_alone(
        "operations.audit:list_audit",
        "audit list",
        {
            "key": None,
            "principal": None,
            "operation": None,
            "outcome": None,
            "since": None,
            "until": None,
            "volume": None,
            "last": None,
        },
        {
            "--key k": {"key": "k"},
            "--principal p": {"principal": "p"},
            "--operation Decrypt": {"operation": "Decrypt"},
            "--outcome allowed": {"outcome": "allowed"},
            "--outcome denied": {"outcome": "failed"},
            "--outcome DisabledException": {"outcome": "DisabledException"},
            "--denied": {"outcome": "failed"},
            "--denied --outcome denied": {"outcome": "failed"},
            "--since 2026-01-31": {"since": "2026-01-31T00:00:00Z"},
            "--until 2026-01-31T12:00:00+02:00": {"until": "2026-01-31T10:00:00Z"},
            "--volume v": {"volume": "v"},
            "--last 3": {"last": 3},
        },
    ),
    *each_alone(
        "operations.audit:verify_audit",
        "audit verify",
        {"expected": None},
        {"--expect-head 7:x": {"expected": "7:x"}},
    ),
    *each_alone(
        "operations.backups:back_up",
        "backup {dir}/new --kms-key-id k",
        {"passphrase": None, "kms_key": "k"},
        {},
    ),
    *each_alone(
        "operations.backups:back_up",
        "backup {dir}/new --passphrase-file {dir}/word",
        {"passphrase": bytearray(b"correct horse"), "kms_key": None},
        {},
    ),
    *each_alone("operations.key_report:report_key", "report key k", {"0": "k"}, {}),
    *each_alone(
        "daemons.kms:serve",
        "kms serve",
        {
            "listen": None,
            "socket": None,
            "tls_certificate": None,
            "tls_key": None,
            "metrics": None,
            "regions": frozenset({"here", "there"}),
        },
        {
            "--listen 127.0.0.1:0": {"listen": "127.0.0.1:0"},
            "--socket /s": {"socket": Path("/s")},
            "--metrics m": {"metrics": "m"},
            "--serve-region there": {"regions": frozenset({"there"})},
        },
    ),
]


@pytest.mark.parametrize(("place", "words", "expected"), ASKED)
def test_words_reach_their_operation(line: Line, place: str, words: str, expected: Asked) -> None:
    line.stand_in("operations.mounts:is_volume", lambda _home, target: target != "snapshot")
    line.stand_in("operations.online:has_migration", lambda *_: False)
    line.stand_in("kms.home:keeps_pin", lambda _: True)
    line.stand_in("operations.home_directory:make_runtime_directory", lambda _, home: None)
    asked = line.asked(place, words)
    assert {name: asked.get(name, "nothing") for name in expected} == expected


def test_who_takes_a_lease_over_has_looked_first_whether_it_is_of_use(line: Line) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *_, **__: calls.append(name)

    for place in (
        "operations.mounts:check_mountable",
        "operations.attachments:check_attachable",
        "operations.leases:check_not_used_here",
        "operations.leases:take_over_lease",
    ):
        line.stand_in(place, noted(place.partition(":")[2]))
    line.stand_in("operations.mounts:is_volume", lambda *_: True)
    line.asked("operations.mounts:mount_volume", "mount v /m --take-over")
    assert calls == ["check_mountable", "check_not_used_here", "take_over_lease"]
    calls.clear()
    line.asked("operations.attachments:attach_volume", "attach v --take-over")
    assert calls == ["check_attachable", "check_not_used_here", "take_over_lease"]
    calls.clear()
    line.asked("operations.mounts:mount_volume", "mount v /m")
    line.asked("operations.attachments:attach_volume", "attach v")
    assert calls == []


EXCLUDED = [
    "volume create",
    "volume create --size 1MiB --kms-key-id k --unencrypted",
    "volume create --size 1MiB --unencrypted --customer-key-file {dir}/own",
    "volume create --size 1MiB --kms-key-id k --customer-key-file {dir}/own",
    "volume create --size 1MiB --source-customer-key-file {dir}/source",
    "volume create --size 1MiB --fill-rate 0",
    "volume create --snapshot-id s --customer-key-file - --source-customer-key-file -",
    "volume import {dir}/missing",
    "volume import {dir}/point",
    "volume import {dir}/file --expect-sha256 abc",
    "volume import {dir}/file --luks-header {dir}/file",
    "volume import {dir}/file --customer-key-file - --luks-passphrase-file -",
    "volume export-header v {dir}/new --customer-key-file - --passphrase-file -",
    "snapshot copy s --kms-key-id k --unencrypted",
    "snapshot copy s --customer-key-file - --source-customer-key-file -",
    f"snapshot verify --store-url file:///d --public-key {PUBLIC} --store t",
    "snapshot verify --store-url file:///d",
    f"snapshot verify --public-key {PUBLIC}",
    "snapshot verify --region r",
    "snapshot verify --endpoint e",
    "snapshot verify --sse s3",
    "encrypt v --dry-run --resume",
    "encrypt v --pause --abort",
    "encrypt v --online --keep-old",
    "encrypt v --kms-key-id k --customer-key-file {dir}/own",
    "store create n",
    "store create local --url file:///d",
    "store create local --digest sha256",
    f"store trust n --url file:///d --signer {PUBLIC}",
    "store trust n",
    "store trust n --url file:///d",
    "settings set encryption-by-default yes",
    "audit list --denied --outcome allowed",
    "backup {dir}/new --passphrase-file {dir}/word --kms-key-id k",
    "kms serve --tls-cert {dir}/word",
    "kms serve --tls-key {dir}/word",
    "kms serve --listen 127.0.0.1:0 --socket /s",
    "kms serve --serve-region nowhere",
    "status --watch --metrics -",
    "--json status --metrics -",
    "--json status --watch",
    "man volume --write {dir}/point",
    "man no such command",
]


@pytest.mark.parametrize("words", EXCLUDED)
def test_words_that_do_not_go_together_are_refused_before_anything_is_done(
    line: Line, words: str
) -> None:
    """The home would raise AttributeError at whoever asks it."""
    line.stand_in("operations.online:has_migration", lambda *_: False)
    with pytest.raises((click.UsageError, InvalidArgumentError)):
        line.run(words)
