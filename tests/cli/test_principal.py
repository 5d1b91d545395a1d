"""`volcrypt principal`, the scopes of keys, and the deletion of a key by hand's way."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.command import Command, disposable_home
from tests.softhsm import CLUSTER_PIN, make_cluster
from volcrypt.cli.kms_texts import OPTION_HELP, SUMMARIES
from volcrypt.kms.protocol import OPERATIONS

POLICY = {"Version": "2012-10-17", "Statement": []}
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with disposable_home(tmp_path_factory.mktemp("principal") / "home") as made:
        made.run("init")
        yield made


def test_every_operation_and_option_says_what_it_is() -> None:
    assert OPERATIONS.keys() <= SUMMARIES.keys()
    members = {
        field.name
        for operation in OPERATIONS.values()
        for field in msgspec.structs.fields(operation.request)
    }
    assert members - OPTION_HELP.keys() <= UNSAID


UNSAID = {
    "alias_name",
    "customer_master_key_spec",
    "destination_encryption_algorithm",
    "encryption_algorithm",
    "grantee_service_principal",
    "multi_region",
    "retiring_service_principal",
    "source_encryption_algorithm",
}
"""What their name says, or what has one value only."""


def test_a_user_from_making_to_deleting(command: Command, tmp_path: Path) -> None:
    user = command.json("principal", "create", "alice")["User"]
    assert user["Arn"] == "arn:aws:iam::000000000000:user/alice"
    command.fails(4, "principal", "create", "alice")
    assert [u["UserName"] for u in command.json("principal", "list")["Users"]] == ["alice"]
    (tmp_path / "policy").write_text(json.dumps(POLICY | {"Statement": []}))
    (tmp_path / "policy").write_text(
        json.dumps(
            POLICY | {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
        )
    )
    command.run("principal", "put-policy", "alice", str(tmp_path / "policy"))
    found = command.json("principal", "get-policy", "alice")
    assert found["PolicyDocument"]["Statement"][0]["Action"] == "kms:*"
    assert json.loads(command.run("principal", "get-policy", "alice"))
    key = command.json("principal", "create-access-key", "alice")["AccessKey"]
    assert len(key["SecretAccessKey"]) == 40
    for path in command.home.rglob("*"):
        assert not path.is_file() or key["SecretAccessKey"].encode() not in path.read_bytes()
    (listed,) = command.json("principal", "list-access-keys", "alice")["AccessKeyMetadata"]
    assert listed == {name: text for name, text in key.items() if name != "SecretAccessKey"}
    assert key["AccessKeyId"] in command.run("principal", "list-access-keys", "alice")
    listed = command.json("principal", "list-policies", "alice")
    assert listed == {"PolicyNames": ["default"], "IsTruncated": False}
    assert "default" in command.run("principal", "list-policies", "alice")
    command.fails(3, "principal", "list-access-keys", "nobody")
    assert key["AccessKeyId"] in command.fails(4, "principal", "delete", "alice")
    command.run("principal", "delete-access-key", "alice", "--access-key-id", key["AccessKeyId"])
    assert "delete-policy alice" in command.fails(4, "principal", "delete", "alice")
    command.run("principal", "delete-policy", "alice")
    command.run("principal", "delete", "alice")
    command.fails(3, "principal", "delete", "alice")


def test_a_secret_is_no_argument(command: Command, tmp_path: Path) -> None:
    command.run("principal", "create", "bob")
    import_ = ("principal", "import-access-key", "bob", "--access-key-id", "AKIAIOSFODNN7EXAMPLE")
    command.fails(2, *import_)
    command.run(*import_, "--secret-file", "-", stdin=f"{SECRET}\n".encode())
    (tmp_path / "secret").write_text("too short")
    command.fails(2, *import_, "--secret-file", tmp_path / "secret")


def test_keys_of_another_region(command: Command) -> None:
    config = command.home / "config.toml"
    assert "does not serve" in command.fails(2, "--region", "eu-west-1", "kms", "create-key")
    config.write_text("[kms]\nregions = ['eu-west-1']\n")
    key = command.json("--region", "eu-west-1", "kms", "create-key")["KeyMetadata"]
    assert ":eu-west-1:" in key["Arn"]
    command.fails(3, "kms", "describe-key", "--key-id", key["KeyId"])
    command.fails(2, "--region", "eu-west-1", "volume", "list")
    config.unlink()


def test_the_deletion_of_a_key_says_what_dies(command: Command) -> None:
    key = command.run("kms", "create-key")
    command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key, "--name", "doomed")
    command.run("snapshot", "create", "--wait", "doomed", "--name", "doomed-too")
    schedule = ("kms", "schedule-key-deletion", "--key-id", key)
    complaint = command.fails(2, *schedule)
    assert "hint: add --yes" in complaint
    assert "doomed dies with the key" in complaint
    assert "doomed-too dies with the key" in complaint
    state = command.json("kms", "describe-key", "--key-id", key)["KeyMetadata"]["KeyState"]
    assert state == "Enabled"
    done = command.try_run(*schedule, "--yes", "--pending-window-in-days", "7")
    assert done.returncode == 0
    assert "doomed dies with the key" in done.stderr
    state = command.json("kms", "describe-key", "--key-id", key)["KeyMetadata"]["KeyState"]
    assert state == "PendingDeletion"
    command.run("kms", "cancel-key-deletion", "--key-id", key)


def test_the_deletion_of_material_says_what_cannot_be_read(command: Command) -> None:
    key = command.run("kms", "create-key", "--origin", "EXTERNAL")
    delete = ("kms", "delete-imported-key-material", "--key-id", key)
    complaint = command.fails(2, *delete)
    assert "no volume or snapshot of this home is under" in complaint
    assert "hint: add --yes" in complaint
    key = command.run("kms", "create-key")
    command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key, "--name", "blocked")
    complaint = command.fails(2, "kms", "delete-imported-key-material", "--key-id", key)
    assert "blocked cannot be read until the same material is imported again" in complaint
    assert command.try_run(*delete, "--yes").returncode != 2


def test_the_help_tells_where_an_alias_is_taken(command: Command) -> None:
    for operation in ("encrypt", "describe-key"):
        assert "alias ARN" in command.run("kms", operation, "--help")
    for operation in ("tag-resource", "create-grant", "schedule-key-deletion", "put-key-policy"):
        text = command.run("kms", operation, "--help")
        assert "Key id or key ARN." in text
        assert "alias ARN" not in text


def test_a_denial_points_to_the_policy_that_decides(command: Command) -> None:
    key = command.run("kms", "create-key")
    command.run("principal", "create", "carol")
    config = command.home / "config.toml"
    config.write_text("[profiles.carol]\nprincipal = 'carol'\n")
    carol = ("--profile", "carol")
    try:
        for words in (["kms", "list-keys"], ["kms", "create-key"], ["principal", "list"]):
            complaint = command.fails(5, *carol, *words)
            assert "'volcrypt principal put-policy'" in complaint
            assert "get-key-policy" not in complaint
        complaint = command.fails(5, *carol, "kms", "describe-key", "--key-id", key)
        assert "'volcrypt principal put-policy'" in complaint
        assert "'volcrypt kms get-key-policy'" in complaint
    finally:
        config.unlink()


def test_options_as_in_the_aws_command_line(command: Command) -> None:
    key = command.json("kms", "create-key", "--tags", "TagKey=a,TagValue=b", "TagKey=c,TagValue=d")
    key_id = key["KeyMetadata"]["KeyId"]
    tags = command.json("kms", "list-resource-tags", "--key-id", key_id)["Tags"]
    assert tags == [{"TagKey": "a", "TagValue": "b"}, {"TagKey": "c", "TagValue": "d"}]
    command.run("kms", "untag-resource", "--key-id", key_id, "--tag-keys", "a", "c")
    assert command.json("kms", "list-resource-tags", "--key-id", key_id)["Tags"] == []
    command.fails(2, "kms", "list-keys", "--marker", "nonsense")


def test_a_key_store_of_config_toml(command: Command, tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path / "cluster", trust_anchor_certificate="anchor")
    (tmp_path / "anchor").write_text("anchor")
    (tmp_path / "pin").write_text(f"{CLUSTER_PIN}\n")
    config = command.home / "config.toml"
    config.write_text(
        f"[kms.clusters.cluster-secondtoken]\nmodule = '{cluster.module}'\n"
        f"token_label = '{cluster.token_label}'\ntrust_anchor = '{tmp_path}/anchor'\n"
        f"softhsm_configuration = '{cluster.softhsm_configuration}'\n"
    )
    try:
        command.run("config", "check")
        create = (
            *("kms", "create-custom-key-store", "--custom-key-store-name", "second"),
            *("--cloud-hsm-cluster-id", "cluster-secondtoken"),
            *("--trust-anchor-certificate", f"file://{tmp_path}/anchor"),
        )
        command.fails(2, *create, "--key-store-password", CLUSTER_PIN)
        made = command.json(*create, "--key-store-password", f"file://{tmp_path}/pin")
        store = made["CustomKeyStoreId"]
        command.run("kms", "connect-custom-key-store", "--custom-key-store-id", store)
        (found,) = command.json("kms", "describe-custom-key-stores")["CustomKeyStores"]
        assert (found["CustomKeyStoreId"], found["ConnectionState"]) == (store, "CONNECTED")
        command.run("kms", "disconnect-custom-key-store", "--custom-key-store-id", store)
        command.run("kms", "delete-custom-key-store", "--custom-key-store-id", store)
        (tmp_path / "anchor").unlink()
        assert "trust_anchor" in command.fails(1, "config", "check")
    finally:
        config.unlink()
