"""What the KMS does of its own accord: rotations, deletions and expiries that are due.

    RotateKey                  a key's next rotation has come, by the clock of the host
    DeleteKey                  the window of a scheduled deletion is over
    DeleteExpiredKeyMaterial   imported material is over its date

Each is a transaction of its own and an event of the service in the audit log; it is looked at once
more inside of the transaction, so that several processes may do this at a time. What is due is
found by the *due* items of the `keyring`: a look costs the same with one key or 100,000.

Rotation destroys nothing, and goes by the clock of the host; a clock that jumps forward makes one
material more. What destroys needs both: the date is over by the host's clock, and the time until it
was observed (`clock`). Until then a key that waits for its deletion stays as it is, and can still
be saved. Expired material is another matter: its date says until when it may be *used*. So the key
cannot be used from its date on, by the host's clock alone (`lifecycle.current_state`), and that
costs nothing: where the clock was wrong and is put right, the key can be used again. Where the
clock was put back, a key that has expired and is not yet destroyed can be used again as well, until
the date comes once more; its material goes when the time has passed.

When material was removed it is gone from the catalogue, but not from older copies of it; that these
revive nothing is what `rewrap` does, at the end of the same look: one for all that was removed.
Forgotten as well, by the host's clock, are imports that were begun a day ago and not ended.

A process remembers when to look next, `LOOK_SECONDS` at most: others may have changed keys in the
meantime.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from volcrypt.errors import InvalidStateError, VolcryptError
from volcrypt.formats.audit_record import Resource
from volcrypt.kms.clock import is_over, is_to_be_recorded, observe, observed_time
from volcrypt.kms.custom_key_store import KEY_STORES, decode_key_store
from volcrypt.kms.import_operations import remove_expired_imports
from volcrypt.kms.keyring import (
    DESTROY,
    IMPORTS,
    KEYS,
    ROTATE,
    decode_key,
    delete_key,
    first_due,
    keys_due,
    put_key,
)
from volcrypt.kms.keystore import MaterialStore
from volcrypt.kms.model import (
    DAY_SECONDS,
    Deadline,
    KeyMaterial,
    KeyState,
    KmsKey,
    Rotation,
    RotationType,
)
from volcrypt.kms.rewrap import HOME, is_rewrap_due, mark_rewrap_due, rewrap_all
from volcrypt.kms.rotation_operations import rotated_key
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import Change, View

LOOK_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _Time:
    """By the clock of the host, and observed; see `clock`."""

    now: float
    observed: float

    def is_over(self, deadline: Deadline | None) -> bool:
        return deadline is not None and is_over(deadline, now=self.now, observed=self.observed)


@dataclass(frozen=True, slots=True)
class _Task:
    """Something that may be due for a key. `effect` gives the key as it is afterwards, None when
    there is none."""

    event: str
    due: str
    is_due: Callable[[KmsKey, _Time], bool]
    effect: Callable[[KmsKey, _Time], KmsKey | None]


class Maintenance(Scope):
    """The part of the service that nobody asks for."""

    _last_look = math.inf
    _next_look = -math.inf

    def maintain(self) -> None:
        """Do what is due in all accounts and regions of the home; costs nothing if nothing is.

        Raises VolcryptError for the first thing that could not be done, after all that could; the
        next call tries again.
        """
        now = self._clock()
        if self._last_look <= now < self._next_look:
            return
        failures = list(self._carry_out_all(now))
        failures += self._attempted(self.rewrap_all)
        with self._catalog.reading() as view:
            dates = [first_due(view, what, after=now) for what in (ROTATE, DESTROY)]
            is_watching = first_due(view, DESTROY, after=0) is not None
            is_late = is_watching and is_to_be_recorded(view, now)
            has_imports = bool(view.items(IMPORTS, limit=1))
        if is_late or has_imports:
            with self._catalog.changing() as change:
                remove_expired_imports(change, now=now)
                if is_late:
                    observe(change, now)
        if failures:
            raise failures[0]
        self._last_look = now
        self._next_look = min([now + LOOK_SECONDS, *(d for d in dates if d is not None)])

    def rewrap_all(self) -> None:
        """Make removals of key material final that are not yet (`rewrap`): those that somebody
        asked for, and those before a process was killed; nothing if all are.

        Raises HsmUnavailableError, and what `perform` raises when nothing can be recorded.
        """
        with self._catalog.reading() as view:
            is_due = is_rewrap_due(view)
        if is_due:
            self._check_hsm()
            rewrap_all(self._catalog, self._performer, self._token_of_mark)

    def _token_of_mark(self, token: str) -> MaterialStore | None:
        if token == HOME:
            return self._keystore
        with self._catalog.reading() as view:
            item = view.get(KEY_STORES, token)
        if item is None:
            return None
        store = decode_key_store(item)
        if not store.is_connected:
            raise InvalidStateError(f"custom key store {store.id} is not connected")
        return self._key_stores.material_store(store, self._keystore)

    def _carry_out_all(self, now: float) -> Iterator[VolcryptError]:
        """Yields why something could not be done."""
        tasks = (
            _Task("RotateKey", ROTATE, _is_to_rotate, self._rotated),
            _Task("DeleteKey", DESTROY, _is_to_delete, lambda key, time: None),
            _Task("DeleteExpiredKeyMaterial", DESTROY, _has_expired, _without_expired),
        )
        for task in tasks:
            with self._catalog.reading() as view:
                ids = keys_due(view, task.due, now)
            if ids and task.due == ROTATE:
                dead = self._attempted(self._check_hsm)
                yield from dead
                ids = [] if dead else ids
            for id_ in ids:
                yield from self._attempted(partial(self._carry_out, task, id_, now))

    def _check_hsm(self) -> None:
        """Raises HsmUnavailableError, before an event says that something was done."""
        self._keystore.random(1)

    def _attempted(self, work: Callable[[], object]) -> list[VolcryptError]:
        """Why it could not be done; nothing if it could."""
        try:
            work()
        except VolcryptError as error:
            return [error]
        return []

    def _carry_out(self, task: _Task, id_: str, now: float) -> None:
        """Do it for the key of that item, if it is due."""

        def due_key(view: View) -> KmsKey | None:
            item = view.get(KEYS, id_)
            key = None if item is None else decode_key(item)
            return key if key is not None and task.is_due(key, _time(view, now)) else None

        def effect(change: Change) -> None:
            key = due_key(change)
            assert key is not None, "internal error: something is due for no key"
            after = task.effect(key, _time(change, now))
            if after is None:
                delete_key(change, key)
            else:
                put_key(change, after)
            if task.due == DESTROY:
                mark_rewrap_due(change, key)

        with self._catalog.reading() as view:
            key = due_key(view)
        if key is not None:
            self._performer.perform_by_service(
                task.event,
                Resource(arn=key.arn, account_id=key.account),
                effect,
                account=key.account,
                region=key.region,
                is_due=lambda view: due_key(view) is not None,
            )

    def _rotated(self, key: KmsKey, time: _Time) -> KmsKey:
        material = self._generate_material()
        rotated = rotated_key(key, material, RotationType.AUTOMATIC, now=time.now)
        return replace(rotated, rotation=_next_rotation(key, time.now))


def _time(view: View, now: float) -> _Time:
    return _Time(now, observed_time(view, now))


def _is_to_rotate(key: KmsKey, time: _Time) -> bool:
    is_enabled = key.state is KeyState.ENABLED
    return is_enabled and key.rotation is not None and key.rotation.next_at <= time.now


def _next_rotation(key: KmsKey, now: float) -> Rotation:
    """A period after the last date, or after now if that is over as well: a key that was disabled
    for years is rotated once."""
    assert key.rotation is not None, "internal error: a key that is not rotated"
    period = key.rotation.period_days * DAY_SECONDS
    next_at = key.rotation.next_at + period
    return replace(key.rotation, next_at=next_at if next_at > now else now + period)


def _is_to_delete(key: KmsKey, time: _Time) -> bool:
    return time.is_over(key.deletion)


def _has_expired(key: KmsKey, time: _Time) -> bool:
    waiting = key.pending_material
    return any(_is_expired(m, time) for m in (*key.materials, *((waiting,) if waiting else ())))


def _is_expired(material: KeyMaterial, time: _Time) -> bool:
    return material.wrapped is not None and time.is_over(material.expiry)


def _without_expired(key: KmsKey, time: _Time) -> KmsKey:
    """Its materials keep their ids, so that the same can be imported again; one that waits to be
    rotated to does not belong to the key yet, and goes altogether."""
    waiting = key.pending_material
    return replace(
        key,
        materials=tuple(
            replace(m, wrapped=None, expiry=None) if _is_expired(m, time) else m
            for m in key.materials
        ),
        pending_material=None if waiting is None or _is_expired(waiting, time) else waiting,
    )
