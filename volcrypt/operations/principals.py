"""Principals and access keys of the home, by IAM's operations.

They are the home's own: another KMS has its own users.
"""

from collections.abc import Mapping
from typing import Any

from volcrypt.operations.home import Home
from volcrypt.operations.vault import call


def call_principals(home: Home, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """An operation by IAM's name, in the account of the caller; members as in JSON, in and out.

    Raises EntityExistsError, NoSuchEntityError, DeleteConflictError, AccessDeniedError, ...
    """
    kms = home.vault.scope(home.caller.account, home.region)
    return call(kms, home.caller, operation, members)


def list_principals(home: Home, operation: str, rows: str, members: Mapping[str, Any]) -> list[Any]:
    """All pages of a list; `rows` is the member that has them."""
    found: list[Any] = []
    marker: dict[str, str] = {}
    while True:
        page = call_principals(home, operation, {**members, **marker})
        found += page[rows]
        if not page.get("IsTruncated"):
            return found
        marker = {"Marker": page["Marker"]}
