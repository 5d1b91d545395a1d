"""The catalogue against a dictionary: changes by two processes, reopening, old files put back."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.keystore import MemoryKeyStore
from volcrypt.errors import NameTakenError, RollbackError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.catalog import FIRST_COUNTER, Catalog
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.sealing import Item

MACS = MemoryKeyStore()
KINDS = st.sampled_from(["key", "grant"])
IDS = st.sampled_from([f"{group}/{number}" for group in "ab" for number in range(6)])
NAMES = st.sampled_from([None, "one", "two", "three"])
OWNERS = st.sampled_from([None, "alice", "bob"])
SIDES = st.integers(0, 1)
ITEMS = st.builds(
    lambda kind, id_, name, owner, body: Item(kind=kind, id=id_, name=name, owner=owner, body=body),
    *(KINDS, IDS, NAMES, OWNERS, st.binary(max_size=4)),
)
Model = dict[tuple[str, str], Item]


class CatalogModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.home = Path(self.stack.enter_context(TemporaryDirectory(dir="/dev/shm")))
        self.opened: list[ExitStack | None] = [None, None]
        self.catalogs: list[Catalog | None] = [None, None]
        self.model: Model = {}
        self.counter = FIRST_COUNTER
        self.sequence = 0
        self.saved: tuple[int, int] | None = None

    @initialize()
    def create(self) -> None:
        HeadFile.create(self.home / "head", macs=MACS, catalogue=FIRST_COUNTER)
        Catalog.create(self.home / "catalog", macs=MACS, items=[])
        for side in (0, 1):
            self.open(side)

    def open(self, side: int) -> None:
        with ExitStack() as stack:
            lock = stack.enter_context(closing(WriterLock(self.home / "lock")))
            heads = stack.enter_context(closing(HeadFile(self.home / "head", macs=MACS)))
            self.catalogs[side] = stack.enter_context(
                closing(Catalog(self.home / "catalog", lock=lock, macs=MACS, heads=heads))
            )
            self.opened[side] = stack.pop_all()

    def catalog(self, side: int) -> Catalog:
        found = self.catalogs[side]
        assert found is not None
        return found

    def close(self, side: int) -> None:
        stack = self.opened[side]
        assert stack is not None
        stack.close()
        self.opened[side] = None

    @rule(side=SIDES, puts=st.lists(ITEMS, max_size=4), deletes=st.lists(st.tuples(KINDS, IDS)))
    def change(self, side: int, puts: list[Item], deletes: list[tuple[str, str]]) -> None:
        wanted = dict(self.model)
        for place in deletes:
            wanted.pop(place, None)
        wanted |= {(item.kind, item.id): item for item in puts}
        named = [(item.kind, item.name) for item in wanted.values() if item.name is not None]
        is_possible = len(named) == len(set(named))

        def apply() -> None:
            with self.catalog(side).changing() as change:
                for place in deletes:
                    change.delete(*place)
                for item in puts:
                    change.put(item)
                for item in wanted.values():
                    assert change.get(item.kind, item.id) == item

        if not is_possible:
            with pytest.raises(NameTakenError):
                apply()
            return
        apply()
        self.model = wanted
        self.counter += bool(puts or deletes)

    @rule(side=SIDES)
    def append_to_the_log(self, side: int) -> None:
        self.sequence += 1
        with self.catalog(side).changing() as change:
            assert change.audit_head.sequence == self.sequence - 1
            change.set_audit_head(AuditHead(sequence=self.sequence, hash="ab" * 32, end=1))

    @rule(side=SIDES, item=ITEMS)
    def fail(self, side: int, item: Item) -> None:
        def apply() -> None:
            with self.catalog(side).changing() as change:
                change.put(item)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            apply()

    @rule(side=SIDES)
    def reopen(self, side: int) -> None:
        self.close(side)
        self.open(side)

    @rule()
    def save_files(self) -> None:
        shutil.copy(self.home / "catalog", self.home / "old-catalog")
        shutil.copy(self.home / "head", self.home / "old-head")
        self.saved = self.counter, self.sequence

    @precondition(lambda self: self.saved is not None and self.saved[0] < self.counter)
    @rule()
    def put_the_old_catalogue_back(self) -> None:
        self.put_back("catalog", lambda: pytest.raises(RollbackError, match="catalogue"))

    @precondition(lambda self: self.saved is not None and self.saved[0] < self.counter - 1)
    @rule()
    def put_the_old_head_back(self) -> None:
        self.put_back("head", lambda: pytest.raises(RollbackError, match="audit log"))

    def put_back(self, name: str, refused: Callable[[], pytest.RaisesExc[RollbackError]]) -> None:
        for side in (0, 1):
            self.close(side)
        shutil.copy(self.home / name, self.home / "current")
        shutil.copy(self.home / f"old-{name}", self.home / name)
        with refused():
            self.open(0)
        shutil.copy(self.home / "current", self.home / name)
        for side in (0, 1):
            self.open(side)

    @invariant()
    def both_sides_see_the_model(self) -> None:
        for catalog in self.catalogs:
            if catalog is None:
                continue
            with catalog.reading() as view:
                assert view.counter == self.counter
                assert view.audit_head.sequence == self.sequence
                for kind in ("key", "grant"):
                    of_kind = {id_: item for (k, id_), item in self.model.items() if k == kind}
                    ordered = [of_kind[id_] for id_ in sorted(of_kind)]
                    assert view.items(kind) == ordered
                    for owner in ("alice", "bob"):
                        owned = [item for item in ordered if item.owner == owner]
                        assert view.items(kind, owner=owner) == owned
                        assert view.count(kind, owner=owner) == len(owned)
                    in_b = [item for item in ordered if item.id.startswith("b/")]
                    assert view.items(kind, prefix="b/") == in_b
                    assert (
                        view.items(kind, prefix="b/", after="b/2", limit=2)
                        == [item for item in in_b if item.id > "b/2"][:2]
                    )
                    for name in ("one", "two", "three"):
                        named = [item for item in ordered if item.name == name]
                        assert view.find(kind, name) == (named[0] if named else None)

    def teardown(self) -> None:
        for stack in self.opened:
            if stack is not None:
                stack.close()
        self.stack.close()


TestCatalogModel = CatalogModel.TestCase
TestCatalogModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
