"""`volcrypt principal`: who may ask this home's KMS for something, and with which access keys.

With --json every command answers as IAM's operation does that it stands for.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from volcrypt.cli.kms_options import as_typed
from volcrypt.cli.pin import read_secret
from volcrypt.cli.session import Command, Group, Session, pass_session, print_fields
from volcrypt.cli.text import format_time
from volcrypt.errors import (
    AccessDeniedError,
    DeleteConflictError,
    InvalidArgumentError,
    KmsValidationError,
)

_NAME = click.argument("name", metavar="NAME")
_POLICY_NAME = click.option(
    "--policy-name", metavar="P", default="default", show_default=True, help="Name of the policy."
)
_KEY_ID = click.option("--access-key-id", metavar="ID", required=True, help="AKIA...")
_FOR_VOLUMES = click.option(
    "--for-volumes",
    is_flag=True,
    help="For a host whose volcrypt has the keys of its volumes here (kms:ViaService).",
)
_MAX_POLICY_BYTES = 2**17


@click.group(cls=Group)
def principal() -> None:
    """Users of the KMS, their policies and access keys."""


@principal.command(cls=Command)
@_NAME
@pass_session
def create(session: Session, name: str) -> None:
    """Make the user NAME, who may do nothing yet. (CreateUser)"""
    response = _call(session, "CreateUser", UserName=name)
    user = response["User"]
    session.show_created(user["Arn"], response, _fields(user))


@principal.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List the users of the account. (ListUsers)"""
    from volcrypt.operations.principals import list_principals

    users = list_principals(session.key_home, "ListUsers", "Users", {})
    session.show_table(
        {"Users": users, "IsTruncated": False},
        ["NAME", "ARN", "CREATED"],
        [[user["UserName"], user["Arn"], format_time(user["CreateDate"])] for user in users],
    )


@principal.command(cls=Command)
@_NAME
@pass_session
def delete(session: Session, name: str) -> None:
    """Delete the user NAME, who must have no access key or policy any more. (DeleteUser)"""
    try:
        response = _call(session, "DeleteUser", UserName=name)
    except DeleteConflictError as error:
        with suppress(AccessDeniedError):
            if ids := [key["AccessKeyId"] for key in _access_keys(session, name)]:
                error.hint = (
                    f"'volcrypt principal delete-access-key {name} --access-key-id ID' for each: "
                    f"{', '.join(ids)}"
                )
            elif names := _policy_names(session, name):
                error.hint = (
                    f"'volcrypt principal delete-policy {name} --policy-name P' for each: "
                    f"{', '.join(names)}"
                )
        raise
    session.show(response, lambda: print(f"{name} is deleted"))


@principal.command(cls=Command)
@_NAME
@click.argument("policy", metavar="FILE|-")
@_POLICY_NAME
@pass_session
def put_policy(session: Session, name: str, policy: str, policy_name: str) -> None:
    """Say what the user NAME may do, by the policy document in FILE. (PutUserPolicy)

    It counts for a key only where the key's policy lets the account decide.
    """
    response = _call(
        session,
        "PutUserPolicy",
        UserName=name,
        PolicyName=policy_name,
        PolicyDocument=_read_policy(policy),
    )
    session.show(response, lambda: print(f"{name} has the policy {policy_name}"))


@principal.command(cls=Command)
@_NAME
@_POLICY_NAME
@pass_session
def get_policy(session: Session, name: str, policy_name: str) -> None:
    """Show a policy of the user NAME. (GetUserPolicy)"""
    response = _call(session, "GetUserPolicy", UserName=name, PolicyName=policy_name)
    session.show(response, lambda: print(json.dumps(response["PolicyDocument"], indent=2)))


@principal.command(cls=Command)
@_NAME
@pass_session
def list_policies(session: Session, name: str) -> None:
    """List the names of the policies of the user NAME. (ListUserPolicies)"""
    names = _policy_names(session, name)
    session.show_table(
        {"PolicyNames": names, "IsTruncated": False}, ["POLICY"], [[text] for text in names]
    )


@principal.command(cls=Command)
@_NAME
@_POLICY_NAME
@pass_session
def delete_policy(session: Session, name: str, policy_name: str) -> None:
    """Take a policy from the user NAME. (DeleteUserPolicy)"""
    response = _call(session, "DeleteUserPolicy", UserName=name, PolicyName=policy_name)
    session.show(response, lambda: print(f"{name} has no policy {policy_name} any more"))


@principal.command(cls=Command)
@_NAME
@_FOR_VOLUMES
@pass_session
def create_access_key(session: Session, name: str, for_volumes: bool) -> None:
    """Make an access key for NAME, and show its secret, this once. (CreateAccessKey)"""
    response = _call(session, "CreateAccessKey", UserName=name, ForVolumes=for_volumes)
    _show_access_key(session, response)


@principal.command(cls=Command)
@_NAME
@pass_session
def list_access_keys(session: Session, name: str) -> None:
    """List the access keys of the user NAME, without their secrets. (ListAccessKeys)"""
    keys = _access_keys(session, name)
    session.show_table(
        {"AccessKeyMetadata": keys, "IsTruncated": False},
        ["ID", "STATUS", "CREATED"],
        [[key["AccessKeyId"], key["Status"], format_time(key["CreateDate"])] for key in keys],
    )


@principal.command(cls=Command)
@_NAME
@_KEY_ID
@click.option(
    "--secret-file",
    metavar="F|-",
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="File with the secret access key, or - for standard input; never an argument.",
)
@_FOR_VOLUMES
@pass_session
def import_access_key(
    session: Session, name: str, access_key_id: str, secret_file: Path, for_volumes: bool
) -> None:
    """Give NAME an access key that exists elsewhere. (ImportAccessKey)"""
    secret = read_secret(secret_file, "secret access key")
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError("the secret access key is not text") from None
    response = _call(
        session,
        "ImportAccessKey",
        UserName=name,
        AccessKeyId=access_key_id,
        SecretAccessKey=text,
        ForVolumes=for_volumes,
    )
    session.show(response, lambda: print(f"{name} has the access key {access_key_id}"))


@principal.command(cls=Command)
@_NAME
@_KEY_ID
@pass_session
def delete_access_key(session: Session, name: str, access_key_id: str) -> None:
    """Take an access key from NAME; requests signed with it are refused. (DeleteAccessKey)"""
    response = _call(session, "DeleteAccessKey", UserName=name, AccessKeyId=access_key_id)
    session.show(response, lambda: print(f"{access_key_id} is deleted"))


def _call(session: Session, operation: str, /, **members: Any) -> dict[str, Any]:
    from volcrypt.operations.principals import call_principals

    try:
        return call_principals(session.key_home, operation, members)
    except KmsValidationError as error:
        raise KmsValidationError(as_typed(str(error), names={"userName": "NAME"})) from error


def _access_keys(session: Session, name: str) -> list[dict[str, Any]]:
    from volcrypt.operations.principals import list_principals

    return list_principals(
        session.key_home, "ListAccessKeys", "AccessKeyMetadata", {"UserName": name}
    )


def _policy_names(session: Session, name: str) -> list[str]:
    from volcrypt.operations.principals import list_principals

    return list_principals(session.key_home, "ListUserPolicies", "PolicyNames", {"UserName": name})


def _show_access_key(session: Session, response: dict[str, Any]) -> None:
    session.show(response, lambda: print_fields(_fields(response["AccessKey"])))


def _fields(members: dict[str, Any]) -> dict[str, str]:
    return {
        name: format_time(value) if name == "CreateDate" else str(value)
        for name, value in members.items()
    }


def _read_policy(source: str) -> str:
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_POLICY_BYTES)
        else:
            data = Path(source.removeprefix("file://")).read_bytes()[:_MAX_POLICY_BYTES]
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{source} is not text in UTF-8") from None
