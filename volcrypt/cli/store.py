"""`volcrypt store`: create, list, show, check, trust, public-key."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from volcrypt.cli.session import Command, Group, JsonValue, Session, pass_session

if TYPE_CHECKING:
    from volcrypt.operations.store_admin import StoreDescription

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def place_options(function: Wrapped) -> Wrapped:
    """--region, --endpoint and --sse."""
    for option in (
        click.option(
            "--sse",
            metavar="s3|kms[:KEY]|customer:FILE",
            help="Have the service encrypt again: SSE-S3, SSE-KMS, or SSE-C with the 32 bytes in "
            "FILE, which stays yours and is only sent over TLS.",
        ),
        click.option(
            "--endpoint",
            metavar="URL",
            help="An S3-compatible service [default: $AWS_ENDPOINT_URL_S3, or AWS].",
        ),
        click.option("--region", help="Region of bucket and store [default: the home's]."),
    ):
        function = option(function)
    return function


def store_document(store: "StoreDescription") -> dict[str, JsonValue]:
    return {
        "StoreName": store.name,
        "StoreId": store.document.store_id,
        "Url": store.url,
        "Region": store.document.region,
        "Endpoint": store.place.endpoint if store.place else None,
        "Encryption": store.place.encryption if store.place else None,
        "Digest": store.document.digest.value,
        "PublicKey": store.document.root_public_key.hex(),
        "MadeHere": store.made_here,
        "SignerId": store.signer,
        "SignerPublicKey": store.signer_public_key.hex(),
        "MayWrite": store.may_write,
    }


def store_fields(store: "StoreDescription") -> dict[str, str]:
    place = store.place
    return {
        "store": store.name,
        "id": store.document.store_id,
        "url": store.url,
        "region": store.document.region,
        "endpoint": (place.endpoint or "") if place else "",
        "encrypted again by": (place.encryption or "") if place else "",
        "digest": store.document.digest.value,
        "public key": store.document.root_public_key.hex(),
        "made by": "this home" if store.made_here else "another home",
        "this home signs as": f"{store.signer}, public key {store.signer_public_key.hex()}",
        "this home may write": "yes" if store.may_write else "no, its signer is not trusted there",
    }


@click.group(cls=Group)
def store() -> None:
    """Where snapshots are kept: the home's own directory `local`, and shared ones in S3-compatible
    buckets or directories. Credentials for S3 come from where the aws command takes them, and are
    never kept."""


@store.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.option("--url", help="s3://BUCKET/PREFIX or file:///DIRECTORY; not for 'local'.")
@place_options
@click.option("--digest", type=click.Choice(["blake3", "sha256"]), help="[default: blake3]")
@pass_session
def create(
    session: Session,
    name: str,
    url: str | None,
    region: str | None,
    endpoint: str | None,
    sse: str | None,
    digest: str | None,
) -> None:
    """Make a store NAME in a bucket that is there, or in a directory. This home can then say who
    else may write to it.

    `store create local` makes the home's own store anew where it is lost, as after 'restore' on
    another machine. Its snapshots are gone from this home's lists. Should it be found, it is not
    put back: `store trust` joins it under another name.
    """
    if name == "local":
        if any((url, region, endpoint, sse, digest)):
            raise click.UsageError("'local' is a directory of the home, and takes no options")
        _recreate_local(session)
        return
    if url is None:
        raise click.UsageError("--url says where the store is to be")
    from volcrypt.crypto.digest import DigestAlgorithm
    from volcrypt.operations.store_admin import create_store

    made = create_store(
        session.home,
        name,
        url=url,
        region=region,
        endpoint=endpoint,
        encryption=sse,
        digest=DigestAlgorithm(digest or "blake3"),
    )
    session.show_created(made.document.store_id, store_document(made), store_fields(made))


def _recreate_local(session: Session) -> None:
    from volcrypt.operations.store_admin import recreate_local_store

    made, lost = recreate_local_store(session.home)
    if lost is not None:
        print(
            f"note: store {lost.id}, which was lost, is not the local one any more; if it is found:"
            f" volcrypt store trust NAME --url file:///DIRECTORY --public-key {lost.digest.hex()}",
            file=sys.stderr,
        )
    session.show_created(made.document.store_id, store_document(made), store_fields(made))


@store.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List the stores that this home knows, without asking them."""
    from volcrypt.operations.store_admin import store_url
    from volcrypt.operations.stores import store_names

    found = {
        store_id: (name, store_url(session.home, name))
        for store_id, name in store_names(session.home).items()
    }
    session.show_table(
        {
            "Stores": [
                {"StoreName": name, "StoreId": store_id, "Url": url}
                for store_id, (name, url) in found.items()
            ]
        },
        ["STORE", "ID", "URL"],
        [[name, store_id, url] for store_id, (name, url) in found.items()],
    )


@store.command(cls=Command)
@click.argument("name", metavar="NAME")
@pass_session
def show(session: Session, name: str) -> None:
    """Show everything about a store."""
    from volcrypt.operations.store_admin import describe_store

    found = describe_store(session.home, name)
    session.show_fields(store_document(found), store_fields(found))


@store.command(cls=Command)
@click.argument("name", metavar="NAME")
@pass_session
def check(session: Session, name: str) -> None:
    """Try whether a store can be reached, is the trusted one, and can be read and written."""
    from volcrypt.operations.store_admin import check_store

    found = check_store(session.home, name)
    session.show_fields({"StoreName": name, "Checks": dict(found)}, dict(found))


@store.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.option("--url", help="Where the store of the other home is.")
@place_options
@click.option("--public-key", metavar="HEX", help="The public key that it must have.")
@click.option("--signer", metavar="HEX", help="The signing key of a home that may write from now.")
@pass_session
def trust(
    session: Session,
    name: str,
    url: str | None,
    region: str | None,
    endpoint: str | None,
    sse: str | None,
    public_key: str | None,
    signer: str | None,
) -> None:
    """Join the store of another home, or let another home join.

    With --url, the store there is known to this home as NAME from now on, if it has the given
    public key (on a terminal: if you say so), which `store public-key` prints on the home that made
    it. With --signer, another home may write to NAME, which was made here; its key is what `store
    public-key NAME --signer` prints there.
    """
    from volcrypt.operations.store_admin import certify_signer, trust_store
    from volcrypt.operations.verification import parse_public_key

    if (url is None) == (signer is None):
        raise click.UsageError("give --url to join a store, or --signer to let another home join")
    if signer is not None:
        found = certify_signer(session.home, name, parse_public_key(signer))
        session.show(store_document(found), lambda: print(f"that home may write to {name} now"))
        return
    expected = None if public_key is None else parse_public_key(public_key)
    if expected is None and not sys.stdin.isatty():
        raise click.UsageError("--public-key is needed where nobody can be asked")

    def confirm(found: bytes) -> bool:
        if expected is not None:
            return found == expected
        return click.confirm(f"the store has the public key {found.hex()}: trust it?", err=True)

    assert url is not None
    joined = trust_store(
        session.home,
        name,
        url=url,
        region=region,
        endpoint=endpoint,
        encryption=sse,
        confirm=confirm,
    )
    session.show_created(joined.document.store_id, store_document(joined), store_fields(joined))


@store.command("public-key", cls=Command)
@click.argument("name", metavar="NAME")
@click.option("--signer", is_flag=True, help="The key by which this home signs, instead.")
@pass_session
def public_key(session: Session, name: str, signer: bool) -> None:
    """Print the public key by which a store is known: all that is needed to verify it."""
    from volcrypt.operations.store_admin import public_keys

    root, own = public_keys(session.home, name)
    key = (own if signer else root).hex()
    session.show({"StoreName": name, "PublicKey": key}, lambda: print(key))
