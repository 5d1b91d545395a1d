"""Any history of the whole product, by its commands, against a model (`tests/product.py`).

A failure is printed as the commands of the shortest history that hypothesis finds. The quick
histories are the same in every run, so that nothing new is found by whoever changes something else;
new ones are for the long run.
"""

import errno
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.product import Product
from tests.product_core import CHOICES, DEFAULT
from tests.product_stage import KMS_KEYS, Stage, Trouble, stage

WHICH = st.integers(0, 5)
CHOICE = st.sampled_from(CHOICES)
TROUBLES = st.builds(
    Trouble,
    st.integers(1, 120),
    st.sampled_from([None, None, errno.EIO, errno.ENOSPC]),
)
TROUBLE = st.none() | st.none() | TROUBLES


class ProductModel(RuleBasedStateMachine):
    stage: ClassVar[Stage]

    @initialize()
    def begin(self) -> None:
        self.product = Product(self.stage)
        self.product.begin()

    @rule(choice=CHOICE, size=st.integers(0, 2), trouble=TROUBLE)
    def create(self, choice: str, size: int, trouble: Trouble | None) -> None:
        self.product.create(choice, size, trouble)

    @rule(choice=CHOICE, seed=st.integers(1, 9), trouble=TROUBLE)
    def import_(self, choice: str, seed: int, trouble: Trouble | None) -> None:
        self.product.import_(choice, seed, trouble)

    @rule(
        which=WHICH, place=st.integers(0, 17), seed=st.integers(0, 9), length=st.integers(0, 600000)
    )
    def write(self, which: int, place: int, seed: int, length: int) -> None:
        self.product.write(which, place, seed, length)

    @rule(which=WHICH)
    def unmount(self, which: int) -> None:
        self.product.unmount(which)

    @rule()
    def kill(self) -> None:
        self.product.kill()

    @rule()
    def restart(self) -> None:
        self.product.restart()

    @rule(which=WHICH, trouble=TROUBLE)
    def grow(self, which: int, trouble: Trouble | None) -> None:
        self.product.grow(which, trouble)

    @rule(which=WHICH, trouble=TROUBLE)
    def delete_volume(self, which: int, trouble: Trouble | None) -> None:
        self.product.delete_volume(which, trouble)

    @rule(which=WHICH)
    def read(self, which: int) -> None:
        self.product.read(which)

    @rule(which=WHICH, several=st.booleans(), store=st.integers(0, 1), trouble=TROUBLE)
    def snapshot(self, which: int, several: bool, store: int, trouble: Trouble | None) -> None:
        self.product.snapshot(which, several, store, trouble)

    @rule(which=WHICH, choice=CHOICE, store=st.integers(0, 1), trouble=TROUBLE)
    def copy(self, which: int, choice: str, store: int, trouble: Trouble | None) -> None:
        self.product.copy(which, choice, store, trouble)

    @rule(which=WHICH, choice=CHOICE, trouble=TROUBLE)
    def volume_from(self, which: int, choice: str, trouble: Trouble | None) -> None:
        self.product.volume_from(which, choice, trouble)

    @rule(which=WHICH, trouble=TROUBLE)
    def delete_snapshot(self, which: int, trouble: Trouble | None) -> None:
        self.product.delete_snapshot(which, trouble)

    @rule(which=WHICH)
    def export(self, which: int) -> None:
        self.product.export(which)

    @rule(which=WHICH)
    def diff(self, which: int) -> None:
        self.product.diff(which)

    @rule(which=WHICH)
    def disable(self, which: int) -> None:
        self.product.disable(which)

    @rule(which=WHICH)
    def enable(self, which: int) -> None:
        self.product.enable(which)

    @rule(which=WHICH)
    def rotate(self, which: int) -> None:
        self.product.rotate(which)

    @rule(which=WHICH)
    def schedule(self, which: int) -> None:
        self.product.schedule(which)

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        self.product.cancel(which)

    @rule(count=st.sampled_from([3, 8]))
    def days(self, count: int) -> None:
        self.product.days(count)

    @rule(which=WHICH)
    def permit(self, which: int) -> None:
        self.product.permit(which)

    @rule(which=WHICH, is_denied=st.booleans())
    def deny(self, which: int, is_denied: bool) -> None:
        self.product.deny(which, is_denied)

    @rule(which=WHICH)
    def read_as_user(self, which: int) -> None:
        self.product.read_as_user(which)

    @rule(which=WHICH)
    def export_as_user(self, which: int) -> None:
        self.product.export_as_user(which)

    @rule(is_on=st.booleans())
    def set_by_default(self, is_on: bool) -> None:
        self.product.set_by_default(is_on)

    @rule(name=st.sampled_from([DEFAULT, *KMS_KEYS]))
    def set_default_key(self, name: str) -> None:
        self.product.set_default_key(name)

    @rule(which=WHICH, choice=CHOICE, keeps=st.booleans(), trouble=TROUBLE)
    def encrypt(self, which: int, choice: str, keeps: bool, trouble: Trouble | None) -> None:
        self.product.encrypt(which, choice, keeps, trouble)

    @rule(which=WHICH, choice=CHOICE, trouble=TROUBLE)
    def encrypt_online(self, which: int, choice: str, trouble: Trouble | None) -> None:
        self.product.encrypt_online(which, choice, trouble)

    @rule(which=WHICH, choice=CHOICE, trouble=TROUBLE)
    def rekey(self, which: int, choice: str, trouble: Trouble | None) -> None:
        self.product.rekey(which, choice, trouble)

    @rule()
    def back_up_and_restore(self) -> None:
        self.product.back_up_and_restore()

    @invariant()
    def check(self) -> None:
        if hasattr(self, "product"):
            self.product.check()

    def teardown(self) -> None:
        if hasattr(self, "product"):
            self.product.check_all()
            self.product.stage.end_mounts()


def run_histories(made: Stage, *, count: int, steps: int, is_random: bool) -> None:
    class Model(ProductModel):
        stage = made

    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=count,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not is_random,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_a_history_of_everything(scene: Stage) -> None:
    """Each thing once at least, in an order in which each matters; the planted bugs of
    `scripts/mutants` are found here."""
    product = Product(scene)
    product.begin()
    done: list[Callable[[], None]] = [
        # v1 is not encrypted, v2 is under the first key.
        lambda: product.write(1, 1, 1, 300_000),
        lambda: product.snapshot(0, True, 0, None),  # a set; v2 is in use
        lambda: product.write(1, 4, 3, 5_000),
        lambda: product.write(1, 0, 0, 600_000),  # a hole
        lambda: product.snapshot(1, False, 0, Trouble(80)),
        lambda: product.diff(1),
        lambda: product.copy(2, "second", 1, Trouble(30)),
        lambda: product.delete_snapshot(0, None),
        lambda: product.kill(),
        lambda: product.write(1, 7, 5, 100_000),
        lambda: product.restart(),
        lambda: product.grow(1, Trouble(9, errno.EIO)),
        lambda: product.read_as_user(1),
        lambda: product.permit(0),
        lambda: product.read_as_user(1),
        lambda: product.deny(0, True),
        lambda: product.read_as_user(1),
        lambda: product.export_as_user(0),
        lambda: product.deny(0, False),
        lambda: product.permit(0),
        lambda: product.export_as_user(0),
        lambda: product.rotate(0),
        lambda: product.rekey(0, "second", None),
        lambda: product.read(1),
        lambda: product.volume_from(1, "customer", None),
        lambda: product.read(2),
        lambda: product.volume_from(2, "first", Trouble(35)),
        lambda: product.disable(1),
        lambda: product.read(1),
        lambda: product.write(3, 1, 2, 9_000),
        lambda: product.enable(1),
        lambda: product.write(3, 1, 2, 9_000),
        lambda: product.write(1, 3, 7, 70_000),
        lambda: product.snapshot(1, False, 0, None),
        lambda: product.encrypt(0, "customer", True, Trouble(70)),
        lambda: product.read(0),
        lambda: product.set_by_default(True),
        lambda: product.create("plain", 0, None),
        lambda: product.delete_volume(2, None),
        lambda: product.delete_volume(2, Trouble(6)),
        lambda: product.set_default_key("second"),
        lambda: product.import_("unsaid", 4, Trouble(50)),
        lambda: product.schedule(1),
        lambda: product.read(1),
        lambda: product.days(3),
        lambda: product.cancel(1),
        lambda: product.enable(1),
        lambda: product.back_up_and_restore(),
        lambda: product.schedule(1),
        lambda: product.kill(),
        lambda: product.days(8),
        lambda: product.cancel(1),
    ]
    for each in done:
        each()
        product.check()
    product.check_all()


def test_any_history(scene: Stage) -> None:
    run_histories(scene, count=2, steps=5, is_random=False)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(20))
def test_for_long(scene: Stage, part: int) -> None:
    """`part` only says how far it is."""
    run_histories(scene, count=10, steps=40, is_random=True)
