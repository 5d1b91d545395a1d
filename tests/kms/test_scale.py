"""What the catalogue costs with many items: operations counted, not timed.

5,000 keys and 50,000 items like the grants of one key. What a request reads, hashes and has the HSM
compute must not grow with them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.kms import sealing
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.database import Database
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.sealing import BUCKETS, HASH_BYTES, Item

KEYS: Final = 5_000
GRANTS: Final = 50_000
ROOT_BYTES: Final = BUCKETS * HASH_BYTES


def key(number: int, body: bytes = b"{}") -> Item:
    return Item(kind="key", id=f"us-east-1:0:{number:08}", body=body)


def grant(number: int, body: bytes = b"{}") -> Item:
    return Item(
        kind="grant",
        id=f"key/{number % 100:016x}/{number:08}",
        name=f"{number:08}",
        owner=f"retiring-{number % 1000}",
        body=body,
    )


class Costs(MemoryKeyStore):
    """Counts rows that SQLite gives, MACs that the HSM computes, bytes that are hashed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.macs = self.hashed_bytes = self.written = 0

    def mac(self, data: bytes) -> bytes:
        self.macs += 1
        return super().mac(data)

    def reset(self) -> None:
        self.rows = self.macs = self.hashed_bytes = self.written = 0

    @contextmanager
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        real_all = Database._all

        def counting_all(database: Database, sql: str, *values: object) -> list[tuple[Any, ...]]:
            rows = real_all(database, sql, *values)
            self.rows += len(rows)
            self.written += sql.startswith(("INSERT", "DELETE"))
            return rows

        def counting_sha256(data: bytes) -> Any:
            self.hashed_bytes += len(data)
            return hashlib.sha256(data)

        with monkeypatch.context() as patch:
            patch.setattr(Database, "_all", counting_all)
            patch.setattr(sealing, "sha256", counting_sha256)
            self.reset()
            yield


@pytest.fixture(scope="module")
def filled() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        macs = MemoryKeyStore()
        HeadFile.create(Path(directory) / "head", macs=macs, catalogue=FIRST_COUNTER)
        items = [key(n) for n in range(KEYS)] + [grant(n) for n in range(GRANTS)]
        Catalog.create(Path(directory) / "catalog", macs=macs, items=items)
        yield Path(directory)


@contextmanager
def opened(directory: Path, costs: Costs) -> Iterator[Catalog]:
    with (
        closing(WriterLock(directory / "lock")) as lock,
        closing(HeadFile(directory / "head", macs=costs)) as heads,
        closing(Catalog(directory / "catalog", lock=lock, macs=costs, heads=heads)) as catalog,
    ):
        yield catalog


def test_a_fresh_process_reads_one_bucket_for_one_key(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs()
    with costs.counted(monkeypatch), opened(filled, costs) as catalog, catalog.reading() as view:
        assert view.get("key", key(77).id) == key(77)
        assert costs.rows < BUCKETS + 50
        # The two slots of the head, the seal, the item.
        assert costs.macs <= 4
        assert costs.hashed_bytes < 3 * ROOT_BYTES


def test_one_change_costs_its_buckets_and_the_root(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs()
    with opened(filled, costs) as catalog:
        with catalog.reading() as view:
            assert view.count("grant") == GRANTS
            assert view.count("key") == KEYS
        with costs.counted(monkeypatch), catalog.changing() as change:
            change.put(grant(123, b'{"changed":true}'))
        assert costs.rows <= 10
        assert costs.written == 3  # the item, its bucket, the seal
        assert costs.macs == 3  # the item, the seal, the head
        # Twice the root (for the seal, and in memory), and a bucket of about fifty entries.
        assert costs.hashed_bytes < 2 * ROOT_BYTES + 20_000
        with costs.counted(monkeypatch), catalog.changing() as change:
            change.put(key(KEYS + 1))
            change.delete("grant", grant(124).id)
        assert (costs.written, costs.macs) == (5, 3)
        assert costs.hashed_bytes < 4 * ROOT_BYTES + 40_000
        with catalog.changing() as change:
            change.delete("key", key(KEYS + 1).id)
            change.put(grant(124))


def test_questions_cost_what_their_answer_is_long(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs()
    with opened(filled, costs) as catalog:
        with catalog.reading() as view:
            assert view.count("grant") == GRANTS
            assert view.count("key") == KEYS
        grantee = f"key/{7:016x}/"
        with costs.counted(monkeypatch), catalog.reading() as view:
            assert view.count("grant", prefix=grantee) == GRANTS // 100
            assert view.count("grant", owner="retiring-7") == GRANTS // 1000
            assert view.count("key", prefix="us-east-1:0:") == KEYS
            assert (costs.rows, costs.macs) == (1, 0)
            found = view.items("grant", prefix=grantee, after=f"{grantee}00001", limit=5)
            assert len(found) == 5
            assert view.find("grant", grant(9_999).name or "") is not None
            assert (costs.rows, costs.macs) == (7, 6)
        with costs.counted(monkeypatch), catalog.reading() as view:
            # Verified items stay, whatever happens to others.
            assert view.items("grant", prefix=grantee, after=f"{grantee}00001", limit=5) == found
            assert (costs.rows, costs.macs) == (1, 0)


def test_another_process_that_changed_something_costs_its_buckets(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = Costs(), Costs()
    with opened(filled, mine) as catalog, opened(filled, theirs) as other:
        with catalog.reading() as view:
            assert view.count("grant") == GRANTS
            found = view.items("grant", owner="retiring-8", limit=3)
        with other.changing() as change:
            change.put(grant(GRANTS + 1))
        with mine.counted(monkeypatch), catalog.reading() as view:
            assert view.count("grant") == GRANTS + 1
            assert view.items("grant", owner="retiring-8", limit=3) == found
            assert mine.rows < BUCKETS + 100
            assert mine.macs <= 3  # the head's slots, the seal
        with other.changing() as change:
            change.delete("grant", grant(GRANTS + 1).id)
        with catalog.reading() as view:
            assert view.count("grant") == GRANTS
