"""Grants against a model: whatever was given, passed on, retired, revoked - who may use a key?

The model knows nothing of ids, digests, prefixes and tokens: it is a list of what was given.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.fakes.kms import ROOT, MemoryKms, memory_kms
from tests.kms.people import add_user
from volcrypt.errors import AccessDeniedError, KeyNotFoundError
from volcrypt.kms.messages.data import EncryptRequest
from volcrypt.kms.messages.grants import (
    CreateGrantRequest,
    GrantConstraints,
    ListGrantsRequest,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.kms.model import Caller

NAMES = ("alice", "bob", "carol")
Pairs = Mapping[str, str]

users = st.sampled_from(NAMES)
operations = st.frozensets(
    st.sampled_from(["Encrypt", "DescribeKey", "CreateGrant", "RetireGrant"]), min_size=1
).filter(lambda chosen: chosen != {"CreateGrant"})
contexts = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
bounds = st.tuples(st.sampled_from(["none", "equals", "subset"]), contexts)


@dataclass(eq=False)
class Given:
    """A grant, as the model has it. `bound` is the kind of constraint and its pairs."""

    key: int
    grantee: str
    operations: frozenset[str]
    bound: tuple[str, dict[str, str]]
    retiring: str | None
    name: str | None
    id: str
    tokens: list[str]
    is_there: bool = True

    def lets_through(self, context: Pairs) -> bool:
        kind, pairs = self.bound
        if kind == "none" or not pairs:
            return True
        if kind == "equals":
            return dict(context) == pairs
        return all(context.get(key) == value for key, value in pairs.items())


ALL_CONTEXTS = [
    {key: value for key, value in (("a", a), ("b", b), ("c", c)) if value is not None}
    for a in (None, "1", "2")
    for b in (None, "1", "2")
    for c in (None, "1")
]
"""Every context that the constraints of the model can tell apart."""


class GrantModel(RuleBasedStateMachine):
    grants: Bundle[Given] = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        path = Path(self.stack.enter_context(TemporaryDirectory(dir="/dev/shm")))
        self.kms: MemoryKms = self.stack.enter_context(memory_kms(path / "kms"))
        self.callers = {name: add_user(self.kms, name) for name in NAMES}
        self.keys = [self.kms.new_key() for _ in range(2)]
        self.given: list[Given] = []

    def teardown(self) -> None:
        self.stack.close()

    def create(self, by: Caller, given: Given, tokens: list[str]) -> bool:
        """Whether it was allowed; then `given` has its id and a token."""
        kind, pairs = given.bound
        constraints = {
            "none": None,
            "equals": GrantConstraints(encryption_context_equals=pairs),
            "subset": GrantConstraints(encryption_context_subset=pairs),
        }[kind]
        request = CreateGrantRequest(
            key_id=self.keys[given.key],
            grantee_principal=self.callers[given.grantee].arn,
            retiring_principal=None if given.retiring is None else self.callers[given.retiring].arn,
            operations=sorted(given.operations),
            constraints=constraints,
            name=given.name,
            grant_tokens=tokens,
        )
        try:
            response = self.kms.service.perform(by, request)
        except AccessDeniedError:
            return False
        given.id, given.tokens = response.grant_id, [response.grant_token]
        return True

    def there(self, key: int, grantee: str) -> list[Given]:
        return [g for g in self.given if g.is_there and (g.key, g.grantee) == (key, grantee)]

    def may(self, by: str, request: Any) -> bool:
        try:
            self.kms.service.perform(self.callers[by], request)
        except AccessDeniedError:
            return False
        return True

    @rule(
        target=grants,
        key=st.integers(0, 1),
        grantee=users,
        operations=operations,
        bound=bounds,
        retiring=st.none() | users,
        name=st.none() | st.sampled_from(["n", "m"]),
    )
    def give(
        self,
        key: int,
        grantee: str,
        operations: frozenset[str],
        bound: tuple[str, dict[str, str]],
        retiring: str | None,
        name: str | None,
    ) -> Given:
        given = Given(key, grantee, operations, bound, retiring, name, "", [])
        assert self.create(ROOT, given, [])
        known = [g for g in self.given if g.is_there and g.id == given.id]
        if known:
            # The same name and all else the same: the grant that there was.
            (old,) = known
            assert name is not None
            assert (old.key, old.grantee, old.operations, old.retiring, old.name) == (
                *(key, grantee, operations, retiring, name),
            )
            old.tokens += given.tokens
            return old
        same = [g for g in self.there(key, grantee) if name is not None and _is_same(g, given)]
        assert same == []
        self.given.append(given)
        return given

    @rule(
        target=grants,
        source=grants,
        grantee=users,
        operations=operations,
        bound=bounds,
        with_token=st.booleans(),
    )
    def pass_on(
        self,
        source: Given,
        grantee: str,
        operations: frozenset[str],
        bound: tuple[str, dict[str, str]],
        with_token: bool,
    ) -> Given:
        given = Given(source.key, grantee, operations, bound, None, None, "", [])
        parents = self.there(source.key, source.grantee)
        expected = any(
            "CreateGrant" in parent.operations
            and operations <= parent.operations
            and all(
                parent.lets_through(context)
                for context in ALL_CONTEXTS
                if given.lets_through(context)
            )
            for parent in parents
        )
        tokens = source.tokens[:1] if with_token else []
        allowed = self.create(self.callers[source.grantee], given, tokens)
        assert allowed == expected
        if not allowed:
            return source
        self.given.append(given)
        return given

    @rule(key=st.integers(0, 1), by=users, context=contexts, source=st.none() | grants)
    def use(self, key: int, by: str, context: dict[str, str], source: Given | None) -> None:
        request = EncryptRequest(
            key_id=self.keys[key],
            plaintext=bytearray(1),
            encryption_context=context,
            grant_tokens=[] if source is None else source.tokens,
        )
        mine = self.there(key, by)
        assert self.may(by, request) == any(
            "Encrypt" in g.operations and g.lets_through(context) for g in mine
        )
        describe = DescribeKeyRequest(key_id=self.keys[key])
        assert self.may(by, describe) == any("DescribeKey" in g.operations for g in mine)

    @rule(grant=grants, by=users, by_token=st.booleans())
    def retire(self, grant: Given, by: str, by_token: bool) -> None:
        request = (
            RetireGrantRequest(grant_token=grant.tokens[-1])
            if by_token
            else RetireGrantRequest(key_id=self.keys[grant.key], grant_id=grant.id)
        )
        try:
            allowed = self.may(by, request)
        except KeyNotFoundError:
            assert not grant.is_there
            return
        assert grant.is_there
        is_grantee = by == grant.grantee and "RetireGrant" in grant.operations
        assert allowed == (is_grantee or by == grant.retiring)
        grant.is_there = not allowed

    @rule(grant=consumes(grants))
    def revoke(self, grant: Given) -> None:
        try:
            self.kms.service.perform(
                ROOT, RevokeGrantRequest(key_id=self.keys[grant.key], grant_id=grant.id)
            )
        except KeyNotFoundError:
            assert not grant.is_there
        else:
            assert grant.is_there
            grant.is_there = False

    @invariant()
    def the_lists_show_what_there_is(self) -> None:
        for key, key_id in enumerate(self.keys):
            listed = self.kms.service.perform(ROOT, ListGrantsRequest(key_id=key_id, limit=100))
            assert not listed.truncated
            there = sorted(g.id for g in self.given if g.is_there and g.key == key)
            assert sorted(entry.grant_id for entry in listed.grants) == there

    @rule(name=users)
    def list_retirable(self, name: str) -> None:
        request = ListRetirableGrantsRequest(retiring_principal=self.callers[name].arn, limit=100)
        listed = self.kms.service.perform(ROOT, request).grants
        there = sorted(g.id for g in self.given if g.is_there and g.retiring == name)
        assert sorted(entry.grant_id for entry in listed) == there


def _is_same(one: Given, two: Given) -> bool:
    def parameters(given: Given) -> tuple[Any, ...]:
        kind, pairs = given.bound
        bound = (kind, sorted(pairs.items())) if pairs and kind != "none" else None
        return given.operations, bound, given.retiring, given.name

    return parameters(one) == parameters(two)


TestGrantModel = GrantModel.TestCase
TestGrantModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
