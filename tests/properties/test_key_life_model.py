"""The life of keys against a model: whatever is done to them, and however the clock jumps.

The model counts days: a key that waits for its deletion has a date, and days that are still to be
observed, at most one a look. It knows nothing of rows, seconds, indexes and materials, but that
every blob of whatever age decrypts while its key can be used.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tests.fakes.keystore import MemoryKeyStore
from tests.fakes.kms import NOW, ROOT, MemoryKms, memory_kms
from volcrypt.errors import (
    AccessDeniedError,
    InvalidStateError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsError,
    LimitExceededError,
)
from volcrypt.kms.model import DAY_SECONDS
from volcrypt.kms.rotation_operations import MAX_ON_DEMAND_ROTATIONS

Refusal = type[KmsError] | None


@dataclass(eq=False)
class Key:
    """`rotation` is the period and the day of the next one, `waits` the day of the deletion and how
    many days are still to be observed until then."""

    id: str
    state: str = "Enabled"
    rotation: tuple[int, int] | None = None
    rotations: list[tuple[int, str]] = field(default_factory=list)
    waits: tuple[int, int] | None = None
    blobs: list[tuple[str, str]] = field(default_factory=list)

    def why_not(self, *, in_state: str) -> Refusal:
        """What a request is answered that needs the key in one of these states (first letters)."""
        if self.state == "Gone":
            return KeyNotFoundError
        if self.state[0] in in_state:
            return None
        return KeyDisabledError if self.state == "Disabled" else InvalidStateError


class KeyLife(RuleBasedStateMachine):
    keys: Bundle[Key] = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.outer = ExitStack()
        self.path = Path(self.outer.enter_context(TemporaryDirectory(dir="/dev/shm")))
        self.keystore = MemoryKeyStore()
        self.known: list[Key] = []
        self.day = 0
        self.open()

    def open(self) -> None:
        self.stack = ExitStack()
        self.kms: MemoryKms = self.stack.enter_context(memory_kms(self.path / "kms", self.keystore))
        self.kms.now = NOW + self.day * DAY_SECONDS

    def teardown(self) -> None:
        self.stack.close()
        self.outer.close()

    def call(self, operation: str, refusal: Refusal, **members: Any) -> dict[str, Any] | None:
        """What a request is answered, which must be refused if the model says so."""
        refused: KmsError | None = None
        answer: dict[str, Any] | None = None
        try:
            answer = self.kms.service.call(ROOT, operation, members)
        except KmsError as error:
            refused = error
        wanted = type(None) if refusal is None else refusal
        assert type(refused) is wanted, f"{operation}: {refused or answer}"
        return answer

    @initialize(target=keys)
    def first(self) -> Key:
        return self.new_key()

    @rule(target=keys)
    def create(self) -> Key:
        return self.new_key()

    def new_key(self) -> Key:
        answer = self.call("CreateKey", None)
        assert answer is not None
        key = Key(answer["KeyMetadata"]["KeyId"])
        self.known.append(key)
        return key

    @rule(key=keys, operation=st.sampled_from(["EnableKey", "DisableKey"]))
    def switch(self, key: Key, operation: str) -> None:
        refusal = key.why_not(in_state="ED")
        self.call(operation, refusal, KeyId=key.id)
        if refusal is None:
            key.state = "Enabled" if operation == "EnableKey" else "Disabled"

    @rule(key=keys, window=st.integers(7, 30))
    def schedule(self, key: Key, window: int) -> None:
        refusal = key.why_not(in_state="ED")
        self.call("ScheduleKeyDeletion", refusal, KeyId=key.id, PendingWindowInDays=window)
        if refusal is None:
            key.state, key.waits = "PendingDeletion", (self.day + window, window)

    @rule(key=keys)
    def cancel(self, key: Key) -> None:
        refusal = key.why_not(in_state="P")
        if refusal is KeyDisabledError:
            refusal = InvalidStateError
        self.call("CancelKeyDeletion", refusal, KeyId=key.id)
        if refusal is None:
            key.state, key.waits = "Disabled", None

    @rule(key=keys, days=st.integers(90, 100))
    def rotate_every(self, key: Key, days: int) -> None:
        refusal = key.why_not(in_state="E")
        self.call("EnableKeyRotation", refusal, KeyId=key.id, RotationPeriodInDays=days)
        if refusal is None and (key.rotation is None or key.rotation[0] != days):
            key.rotation = (days, self.day + days)

    @rule(key=keys)
    def rotate_no_more(self, key: Key) -> None:
        refusal = key.why_not(in_state="E")
        self.call("DisableKeyRotation", refusal, KeyId=key.id)
        if refusal is None:
            key.rotation = None

    @rule(key=keys)
    def rotate_now(self, key: Key) -> None:
        refusal = key.why_not(in_state="E")
        on_demand = sum(kind == "ON_DEMAND" for _, kind in key.rotations)
        if refusal is None and on_demand == MAX_ON_DEMAND_ROTATIONS:
            refusal = LimitExceededError
        self.call("RotateKeyOnDemand", refusal, KeyId=key.id)
        if refusal is None:
            key.rotations.append((self.day, "ON_DEMAND"))

    @rule(key=keys, secret=st.sampled_from(["AA==", "AQI="]))
    def encrypt(self, key: Key, secret: str) -> None:
        refusal = key.why_not(in_state="E")
        answer = self.call("Encrypt", refusal, KeyId=key.id, Plaintext=secret)
        if answer is not None:
            key.blobs.append((answer["CiphertextBlob"], secret))

    @rule(key=keys)
    def decrypt_all(self, key: Key) -> None:
        refusal = key.why_not(in_state="E")
        if refusal is KeyNotFoundError:
            refusal = AccessDeniedError  # to a blob, a key that is gone is one that never was
        for blob, secret in key.blobs:
            answer = self.call("Decrypt", refusal, CiphertextBlob=blob)
            assert answer is None or answer["Plaintext"] == secret

    @rule(days=st.integers(1, 40))
    def live(self, days: int) -> None:
        for _ in range(days):
            self.look(1)

    @rule(days=st.integers(-400, 400))
    def jump(self, days: int) -> None:
        self.look(days)

    @rule()
    def reopen(self) -> None:
        self.stack.close()
        self.open()

    def look(self, days: int) -> None:
        """The clock shows another day, and somebody looks."""
        self.day += days
        self.kms.now = NOW + self.day * DAY_SECONDS
        self.kms.service.maintain()
        for key in self.known:
            if key.waits is not None:
                date, left = key.waits
                key.waits = (date, left - min(max(days, 0), 1))
                if self.day >= date and key.waits[1] <= 0:
                    key.state, key.waits = "Gone", None
            elif key.state == "Enabled" and key.rotation is not None:
                period, next_day = key.rotation
                if next_day <= self.day:
                    key.rotations.append((self.day, "AUTOMATIC"))
                    following = next_day + period
                    key.rotation = (
                        period,
                        following if following > self.day else self.day + period,
                    )

    @invariant()
    def the_states_are_those_of_the_model(self) -> None:
        listed = self.call("ListKeys", None, Limit=1000)
        assert listed is not None
        there = {key.id: key for key in self.known if key.state != "Gone"}
        assert {entry["KeyId"] for entry in listed["Keys"]} == there.keys()
        for key in self.known:
            refusal = key.why_not(in_state="EDP")
            answer = self.call("DescribeKey", refusal, KeyId=key.id)
            if answer is None:
                continue
            metadata = answer["KeyMetadata"]
            assert metadata["KeyState"] == key.state
            date = None if key.waits is None else NOW + key.waits[0] * DAY_SECONDS
            assert metadata.get("DeletionDate") == date

    @rule(key=keys)
    def rotations_are_those_of_the_model(self, key: Key) -> None:
        refusal = key.why_not(in_state="EDP")
        answer = self.call("ListKeyRotations", refusal, KeyId=key.id)
        status = self.call("GetKeyRotationStatus", refusal, KeyId=key.id)
        if answer is None or status is None:
            return
        assert [(r["RotationDate"], r["RotationType"]) for r in answer["Rotations"]] == [
            (NOW + day * DAY_SECONDS, kind) for day, kind in key.rotations
        ]
        is_on = key.rotation is not None and key.state != "PendingDeletion"
        assert status["KeyRotationEnabled"] == is_on
        if key.rotation is not None and is_on:
            assert status["RotationPeriodInDays"] == key.rotation[0]
            assert status["NextRotationDate"] == NOW + key.rotation[1] * DAY_SECONDS


TestKeyLife = KeyLife.TestCase
TestKeyLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
