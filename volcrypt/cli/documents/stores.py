"""Documents of snapshot stores."""

from volcrypt.cli.documents.shape import Shape


class Store(Shape, frozen=True):
    store_name: str
    store_id: str
    url: str
    region: str
    endpoint: str | None
    encryption: str | None
    digest: str
    public_key: str
    made_here: bool
    signer_id: str
    signer_public_key: str
    may_write: bool


class StoreLine(Shape, frozen=True):
    store_name: str
    store_id: str
    url: str


class Stores(Shape, frozen=True):
    stores: list[StoreLine]


class StoreChecks(Shape, frozen=True):
    store_name: str
    checks: dict[str, str]


class StoreKey(Shape, frozen=True):
    store_name: str
    public_key: str
