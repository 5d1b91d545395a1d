"""The catalogue: transactions, seals, and everything that somebody may do to its file."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MalformedError,
    NameTakenError,
    RollbackError,
    SealError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.database import Database
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.sealing import Item, Macs

MACS = MemoryKeyStore()


def item(id_: str, body: bytes = b"body", kind: str = "key", **columns: str) -> Item:
    return Item(kind=kind, id=id_, body=body, **columns)


@contextmanager
def opened(path: Path, macs: Macs = MACS) -> Iterator[Catalog]:
    with (
        closing(WriterLock(path.with_name("lock"))) as lock,
        closing(HeadFile(path.with_name("head"), macs=macs)) as heads,
        closing(Catalog(path, lock=lock, macs=macs, heads=heads)) as catalog,
    ):
        yield catalog


def put(catalog: Catalog, *items: Item) -> None:
    with catalog.changing() as change:
        for one in items:
            change.put(one)


def get(catalog: Catalog, id_: str, kind: str = "key") -> Item | None:
    with catalog.reading() as view:
        return view.get(kind, id_)


@pytest.fixture
def path(memory_path: Path) -> Path:
    HeadFile.create(memory_path / "head", macs=MACS, catalogue=FIRST_COUNTER)
    Catalog.create(memory_path / "catalog.sqlite3", macs=MACS, items=[item("first")])
    return memory_path / "catalog.sqlite3"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with opened(path) as one:
        yield one


def test_what_was_put_is_there_after_opening_again(path: Path) -> None:
    second = item("second", name="name", owner="owner")
    with opened(path) as catalog:
        put(catalog, second)
    with opened(path) as catalog:
        assert get(catalog, "first") == item("first")
        assert get(catalog, "second") == second
        assert get(catalog, "third") is None
        with catalog.reading() as view:
            assert view.find("key", "name") == second
            assert view.find("key", "other") is None
            assert view.items("key", owner="owner") == [second]
            assert view.count("key") == 2
            assert view.count("key", owner="owner") == 1
            assert view.count("alias") == 0


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir() if p.name.startswith("catalog")] == [path.name]


def test_pages_are_in_the_order_of_ids(catalog: Catalog) -> None:
    put(catalog, item("b", kind="x"), item("a", kind="x"), item("c", kind="x"))
    with catalog.reading() as view:
        assert [i.id for i in view.items("x", limit=2)] == ["a", "b"]
        assert [i.id for i in view.items("x", after="b", limit=2)] == ["c"]
        assert view.items("x", after="c") == []


def test_prefixes_and_owners_narrow_the_lists(catalog: Catalog) -> None:
    ids = ["a", "a:", "a:1", "a:2", "a;", "b:1", "a:\U0010ffff", "a:\U0010ffffz"]
    put(catalog, *[item(id_, kind="x", owner=id_[0]) for id_ in ids])
    with catalog.reading() as view:

        def found(**options: Any) -> list[str]:
            return [i.id for i in view.items("x", **options)]

        assert found() == sorted(ids)
        assert found(prefix="a:") == ["a:", "a:1", "a:2", "a:\U0010ffff", "a:\U0010ffffz"]
        assert found(prefix="a:\U0010ffff") == ["a:\U0010ffff", "a:\U0010ffffz"]
        assert found(prefix="a:", after="a:1", limit=1) == ["a:2"]
        assert found(prefix="a:", after="a:2", owner="b") == []
        assert found(owner="b") == ["b:1"]
        assert found(prefix="c") == found(owner="c") == []
        assert found(prefix="a:", after="b") == []
        assert view.count("x", prefix="a:") == 5
        assert view.count("x", prefix="a:", owner="b") == 0
        assert view.count("x", owner="a") == 7


def test_a_change_finds_by_name_what_is_pending(catalog: Catalog) -> None:
    put(catalog, item("a", name="one"), item("b", name="two"))
    with catalog.changing() as change:
        change.put(item("a", name="new"))
        change.delete("key", "b")
        change.put(item("c", name="two"))
        found = {name: change.find("key", name) for name in ("one", "new", "two", "none")}
        assert {n: i.id if i else None for n, i in found.items()} == {
            "one": None,
            "new": "a",
            "two": "c",
            "none": None,
        }


def test_what_waits_for_a_durable_change_is_called_or_not(catalog: Catalog) -> None:
    called: list[str] = []
    with catalog.changing() as change:
        change.put(item("second"))
        change.when_durable.append(lambda: called.append("yes"))
        assert called == []
    assert called == ["yes"]

    def fail() -> None:
        with catalog.changing() as change:
            change.put(item("third", name="n"))
            change.put(item("fourth", name="n"))
            change.when_durable.append(lambda: called.append("no"))

    with pytest.raises(NameTakenError):
        fail()
    assert called == ["yes"]


def test_a_body_is_decoded_once(catalog: Catalog) -> None:
    put(catalog, item("list", b"[1,2]"))
    first, again = get(catalog, "list"), get(catalog, "list")
    assert first is not None
    assert again is not None
    assert first.decoded(list) == [1, 2]
    assert again.decoded(list) is first.decoded(list)
    assert first.decoded(tuple) == (1, 2)


def test_an_error_inside_a_change_leaves_nothing(catalog: Catalog) -> None:
    with catalog.reading() as view:
        before = view.counter

    def fail_half_way() -> None:
        with catalog.changing() as change:
            change.put(item("second"))
            change.delete("key", "first")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with catalog.reading() as view:
        assert view.counter == before
        assert view.get("key", "first") is not None
        assert view.get("key", "second") is None


def test_a_change_sees_what_it_put(catalog: Catalog) -> None:
    with catalog.changing() as change:
        change.put(item("second"))
        assert change.get("key", "second") == item("second")
        change.delete("key", "first")
        assert change.get("key", "first") is None


def test_a_change_without_content_does_not_count(catalog: Catalog) -> None:
    with catalog.reading() as view:
        before = view.counter
    with catalog.changing():
        pass
    with catalog.reading() as view:
        assert view.counter == before


def test_names_are_unique_within_their_kind(catalog: Catalog) -> None:
    put(catalog, item("a", kind="register/volume", name="n"), item("a", kind="other", name="n"))
    with pytest.raises(NameTakenError, match="a volume named n exists already"):
        put(catalog, item("b", kind="register/volume", name="n"))
    assert get(catalog, "b", "register/volume") is None


def test_two_items_can_swap_names(catalog: Catalog) -> None:
    put(catalog, item("a", name="one"), item("b", name="two"))
    put(catalog, item("a", name="two"), item("b", name="one"))
    with catalog.reading() as view:
        found = view.find("key", "one")
    assert found is not None
    assert found.id == "b"


def test_another_connection_sees_changes(path: Path) -> None:
    with opened(path) as one, opened(path) as other:
        assert get(other, "second") is None
        put(one, item("second"))
        assert get(other, "second") is not None
        put(other, item("second", b"changed"))
        assert get(one, "second") == item("second", b"changed")


def test_a_busy_lock_is_worth_another_try(memory_path: Path) -> None:
    one, other = WriterLock(memory_path / "lock"), WriterLock(memory_path / "lock")
    try:
        with (
            one.held(),
            pytest.raises(TryAgainError),
            other.held(patience_seconds=0.01),
        ):
            pass
        with other.held(patience_seconds=0):
            pass
    finally:
        one.close()
        other.close()


def edit(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


def swap_bodies(path: Path) -> None:
    a, b = rows(path, "SELECT body, mac FROM item WHERE kind = 'key' ORDER BY id")
    edit(path, "UPDATE item SET body = ?, mac = ? WHERE id = 'first'", *b)
    edit(path, "UPDATE item SET body = ?, mac = ? WHERE id = 'second'", *a)


TAMPERING: dict[str, Callable[[Path], None]] = {
    "change a body": lambda p: edit(p, "UPDATE item SET body = x'00' WHERE id = 'first'"),
    "body of another type": lambda p: edit(p, "UPDATE item SET body = 7 WHERE id = 'first'"),
    "body as text": lambda p: edit(p, "UPDATE item SET body = 'body' WHERE id = 'first'"),
    "change a mac": lambda p: edit(p, "UPDATE item SET mac = x'00' WHERE id = 'first'"),
    "mac of another type": lambda p: edit(p, "UPDATE item SET mac = 'x' WHERE id = 'first'"),
    "swap two items": swap_bodies,
    "delete an item": lambda p: edit(p, "DELETE FROM item WHERE id = 'first'"),
    "delete another item": lambda p: edit(p, "DELETE FROM item WHERE id = 'second'"),
    "add an item": lambda p: edit(
        p, "INSERT INTO item SELECT kind, bucket, 'third', NULL, owner, body, mac FROM item LIMIT 1"
    ),
    "rename": lambda p: edit(p, "UPDATE item SET id = 'x' WHERE id = 'second'"),
    "give a name": lambda p: edit(p, "UPDATE item SET name = 'x' WHERE id = 'first'"),
    "give an owner": lambda p: edit(p, "UPDATE item SET owner = 'x' WHERE id = 'first'"),
    "change the kind": lambda p: edit(p, "UPDATE item SET kind = 'alias' WHERE id = 'first'"),
    "id that is no text": lambda p: edit(p, "UPDATE item SET id = x'ff' WHERE id = 'second'"),
    "id that is no UTF-8": lambda p: edit(
        p, "UPDATE item SET id = CAST(x'ff' AS TEXT) WHERE id = 'second'"
    ),
    "change the seal": lambda p: edit(p, "UPDATE seal SET body = x'7b7d'"),
    "seal of another type": lambda p: edit(p, "UPDATE seal SET body = 1"),
    "delete the seal": lambda p: edit(p, "DELETE FROM seal"),
    "change the hash of a bucket": lambda p: edit(p, "UPDATE bucket SET hash = zeroblob(32)"),
    "hash of another type": lambda p: edit(p, "UPDATE bucket SET hash = 'x'"),
    "hash of another length": lambda p: edit(p, "UPDATE bucket SET hash = x'00'"),
    "delete the hash of a bucket": lambda p: edit(p, "DELETE FROM bucket"),
    "move a bucket": lambda p: edit(p, "UPDATE bucket SET number = number + 1"),
    "a bucket beyond the last": lambda p: edit(
        p, "INSERT INTO bucket SELECT kind, 1024, hash FROM bucket LIMIT 1"
    ),
    "a bucket that is no number": lambda p: edit(
        p, "INSERT INTO bucket SELECT kind, 'x', hash FROM bucket LIMIT 1"
    ),
    "move an item to another bucket": lambda p: edit(
        p, "UPDATE item SET bucket = bucket + 1 WHERE id = 'second'"
    ),
    "drop a table": lambda p: edit(p, "DROP TABLE item"),
    "drop the seal": lambda p: edit(p, "DROP TABLE seal"),
}


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING.keys())
def test_what_was_changed_from_outside_is_refused(
    path: Path, tamper: Callable[[Path], None]
) -> None:
    with opened(path) as catalog:
        put(catalog, item("second", b"other body"))
    tamper(path)
    with pytest.raises((IntegrityError, FormatError)):
        look_at_everything(path)


def look_at_everything(path: Path) -> None:
    with opened(path) as catalog, catalog.reading() as view:
        view.get("key", "first")
        view.get("key", "second")
        # An item that was added or renamed is in nobody's way until somebody counts.
        view.count("key")


@pytest.mark.parametrize(
    "name", ["delete an item", "delete another item", "add an item", "rename", "give an owner"]
)
def test_a_list_alone_finds_what_was_added_or_taken_away(path: Path, name: str) -> None:
    with opened(path) as catalog:
        put(catalog, item("second", b"other body"))
    TAMPERING[name](path)
    with (
        opened(path) as catalog,
        catalog.reading() as view,
        pytest.raises(SealError, match="the list of its items of kind key"),
    ):
        view.items("key", owner="x")


def test_an_older_version_of_an_item_is_refused(path: Path) -> None:
    old = rows(path, "SELECT body, mac FROM item WHERE id = 'first'")[0]
    with opened(path) as catalog:
        put(catalog, item("first", b"disabled"))
    edit(path, "UPDATE item SET body = ?, mac = ? WHERE id = 'first'", *old)
    with opened(path) as catalog, pytest.raises(SealError, match="items of kind key"):
        get(catalog, "first")


def test_an_older_bucket_is_refused(path: Path) -> None:
    """The item, and the hash of its bucket; the root is not so easily had."""
    body = rows(path, "SELECT body, mac FROM item WHERE id = 'first'")[0]
    digest = rows(path, "SELECT hash FROM bucket WHERE kind = 'key'")[0]
    with opened(path) as catalog:
        put(catalog, item("first", b"disabled"))
    edit(path, "UPDATE item SET body = ?, mac = ? WHERE id = 'first'", *body)
    edit(path, "UPDATE bucket SET hash = ? WHERE kind = 'key'", *digest)
    with opened(path) as catalog, pytest.raises(SealError, match="items of kind key"):
        get(catalog, "first")


def test_an_older_seal_is_refused(path: Path) -> None:
    old = rows(path, "SELECT body, mac FROM seal")[0]
    with opened(path) as catalog:
        put(catalog, item("second"))
    edit(path, "UPDATE seal SET body = ?, mac = ?", *old)
    with pytest.raises(RollbackError), opened(path):
        pass


def test_a_catalogue_of_another_token_is_refused(path: Path) -> None:
    with pytest.raises(SealError), opened(path, MemoryKeyStore(b"another")):
        pass


def test_every_truncation_is_a_clear_error(path: Path) -> None:
    data = path.read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(data), 1009)]:
        path.write_bytes(data[:size])
        with pytest.raises((FormatError, IntegrityError)), opened(path) as catalog:
            get(catalog, "first")


def test_damage_anywhere_is_found_or_harmless(path: Path) -> None:
    data = path.read_bytes()
    for place in range(0, len(data), 61):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            with opened(path) as catalog:
                found = get(catalog, "first")
        except (FormatError, IntegrityError):
            continue
        assert found == item("first")


def test_what_is_no_catalogue_says_so(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    with pytest.raises(BadMagicError), opened(path):
        pass
    path.write_bytes(b"")
    with pytest.raises(MalformedError, match="truncated or empty"), opened(path):
        pass


ENDLESS = (
    "CREATE VIEW item AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT 'key' AS kind, x AS bucket, 'first' AS id, NULL AS name, NULL AS owner, "
    "x'00' AS body, x'00' AS mac FROM n"
)
OTHER_SCHEMAS = {
    "an endless view for the items": ["DROP TABLE item", ENDLESS],
    "an endless view for the seal": [
        "DROP TABLE seal",
        ENDLESS.replace("VIEW item", "VIEW seal"),
    ],
    "one more table": ["CREATE TABLE other (x)"],
    "one more view": ["CREATE VIEW other AS SELECT 1"],
    "an index": ["CREATE INDEX other ON item (name)"],
    "a trigger": ["CREATE TRIGGER other AFTER INSERT ON item BEGIN DELETE FROM seal; END"],
    "one more column": ["ALTER TABLE item ADD COLUMN other"],
    "a generated column": ["ALTER TABLE item ADD COLUMN other AS (body || body)"],
}


@pytest.mark.parametrize("statements", OTHER_SCHEMAS.values(), ids=OTHER_SCHEMAS.keys())
def test_a_schema_that_is_not_ours_is_refused(path: Path, statements: list[str]) -> None:
    for statement in statements:
        edit(path, statement)
    with pytest.raises(IntegrityError, match="other tables than volcrypt made"), opened(path):
        pass


def test_other_applications_and_versions_are_refused(path: Path) -> None:
    for version in (1, 3):
        edit(path, f"PRAGMA user_version = {version}")
        with pytest.raises(UnsupportedVersionError, match=f"version {version} is"), opened(path):
            pass
    edit(path, "PRAGMA application_id = 7")
    with pytest.raises(BadMagicError), opened(path):
        pass


def test_secrets_of_items_are_not_shown() -> None:
    assert "body" not in repr(item("a"))


@pytest.mark.parametrize("overwrites", [True, False])
def test_what_is_deleted_is_in_no_free_page(
    path: Path, monkeypatch: pytest.MonkeyPatch, overwrites: bool
) -> None:
    """Nor between rows, where an item became another. The control: where
    SQLite is told not to."""
    if not overwrites:
        execute = Database._execute

        def without(self: Database, sql: str, *values: object) -> None:
            execute(self, sql.replace("secure_delete = ON", "secure_delete = OFF"), *values)

        monkeypatch.setattr(Database, "_execute", without)
    bodies = {name: f"{name} material ".encode() * 1000 for name in ("gone", "changed", "other")}
    with opened(path) as catalog:
        put(catalog, *(item(name, body) for name, body in bodies.items()))
        assert all(body[:64] in path.read_bytes() for body in bodies.values())
        with catalog.changing() as change:
            change.delete("key", "gone")
            change.put(item("changed", b"new"))
    files = [each.read_bytes() for each in path.parent.glob(f"{path.name}*") if each != path]
    assert len(files) == 1, "a journal, and no WAL"
    content = path.read_bytes()
    left = {name for name, body in bodies.items() if body[1000:1064] in content}
    assert left == ({"other"} if overwrites else set(bodies))
