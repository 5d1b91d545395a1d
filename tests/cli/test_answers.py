"""Who is asked before something cannot be undone, and the codes of commands that find something."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click
import pytest

from tests.cli.line import PUBLIC, Line, all_modules, line
from volcrypt.errors import InvalidArgumentError, NotConfirmedError, SnapshotNotFoundError

__all__ = ["all_modules", "line"]


def asked_on_a_terminal(line: Line, answer: bool) -> list[str]:
    """Questions that are asked from now on."""
    questions: list[str] = []

    def confirm(question: str, **_: Any) -> bool:
        questions.append(question)
        return answer

    for module in ("confirmation", "volume", "snapshot"):
        line.stand_in(f"cli.{module}:has_terminal", lambda: True)
    line.patch.setattr(click, "confirm", confirm)
    return questions


DELETING = [
    ("operations.volume_deletion:delete_volume", "volume delete v", "delete volume vol-1 (v)"),
    ("operations.snapshot_deletion:delete_snapshot", "snapshot delete s", "delete snapshot s?"),
]
EXPORTING = [
    ("operations.volume_export:export_volume", "volume export v {dir}/new", "plaintext of v"),
    ("operations.snapshot_export:export_snapshot", "snapshot export s {dir}/new", "plaintext of s"),
]


@pytest.fixture
def found(line: Line) -> SimpleNamespace:
    """What is there: a volume and a snapshot."""
    there = SimpleNamespace(is_encrypted=True, id="vol-1", name="v")
    for place in (
        "operations.records:find_entry",
        "operations.records:load_record",
        "operations.snapshot_lookup:load_snapshot",
    ):
        line.stand_in(place, lambda *_: there)
    return there


@pytest.mark.parametrize(("place", "words", "question"), [*DELETING, *EXPORTING])
@pytest.mark.usefixtures("found")
def test_who_sits_at_a_terminal_is_asked_and_may_say_no(
    line: Line, place: str, words: str, question: str
) -> None:
    questions = asked_on_a_terminal(line, answer=False)
    with pytest.raises(NotConfirmedError):
        line.asked(place, words)
    (said,) = questions
    assert question in said
    line.asked(place, f"{words} --yes")
    assert len(questions) == 1
    questions = asked_on_a_terminal(line, answer=True)
    line.asked(place, words)
    assert len(questions) == 1


def test_what_is_not_deleted_or_is_not_there_is_not_asked_for(line: Line) -> None:
    def missing(*_: Any) -> None:
        raise SnapshotNotFoundError("s")

    questions = asked_on_a_terminal(line, answer=False)
    line.asked("operations.volume_deletion:delete_volume", "volume delete v --keep-data")
    line.stand_in("operations.snapshot_lookup:load_snapshot", missing)
    with pytest.raises(SnapshotNotFoundError):
        line.run("snapshot delete s")
    assert questions == []


@pytest.mark.parametrize(("place", "words", "_question"), EXPORTING)
def test_where_nobody_can_be_asked_plaintext_takes_a_word(
    line: Line, found: SimpleNamespace, place: str, words: str, _question: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="needs a confirmation") as caught:
        line.asked(place, words)
    assert caught.value.hint == "add --yes"
    found.is_encrypted = False
    line.asked(place, words)  # that is plaintext already


@pytest.mark.parametrize(("place", "words", "_question"), DELETING)
def test_where_nobody_can_be_asked_a_deletion_is_the_word(
    line: Line, place: str, words: str, _question: str
) -> None:
    line.asked(place, words)


@pytest.mark.parametrize(
    ("words", "twice"),
    [("backup {dir}/new", True), ("restore {dir}/file", False)],
)
def test_a_passphrase_that_nobody_can_see_is_typed_twice_where_it_is_made(
    line: Line, words: str, twice: bool
) -> None:
    asked: list[bool] = []

    def type_secret(_prompt: str, *, twice: bool) -> bytearray:
        asked.append(twice)
        return bytearray(b"word")

    def restore_home(*_: Any, secret: Callable[[Any], Any]) -> None:
        secret(SimpleNamespace(passphrase=object()))

    line.stand_in("cli.backup:type_secret", type_secret)
    line.stand_in("operations.backups:back_up", lambda *_, **__: None)
    line.stand_in("operations.home_restore:restore_home", restore_home)
    line.stand_in("formats.backup:stretch_passphrase", lambda *_: b"")
    with pytest.raises(AttributeError):  # of what these operations do not answer
        line.run(words)
    assert asked == [twice]


def test_a_process_that_stays_wipes_what_it_frees_and_needs_no_pin_that_is_kept(
    line: Line,
) -> None:
    calls: list[str] = []
    line.stand_in("confinement:wipe_what_is_freed", lambda: calls.append("wipes"))
    line.stand_in("operations.home_directory:make_runtime_directory", lambda _, home: None)
    line.stand_in("cli.serve:find_pin", lambda *_: bytearray(b"pin"))
    for keeps, pin in ((True, None), (False, bytearray(b"pin"))):
        line.stand_in("kms.home:keeps_pin", lambda _, keeps=keeps: keeps)
        assert line.asked("daemons.kms:serve", "kms serve")["pin"] == pin
    assert calls == ["wipes", "wipes"]


@pytest.mark.parametrize(("given", "is_trusted"), [(PUBLIC, True), ("cd" * 32, False)])
def test_a_store_is_trusted_by_the_key_that_was_given(
    line: Line, given: str, is_trusted: bool
) -> None:
    words = f"store trust n --url file:///d --public-key {given}"
    confirm = line.asked("operations.store_admin:trust_store", words)["confirm"]
    assert confirm(bytes.fromhex(PUBLIC)) is is_trusted


def test_both_keys_of_a_store_are_told_apart(
    line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    line.stand_in("operations.store_admin:public_keys", lambda *_: (b"\x01", b"\x02"))
    line.run("store public-key n")
    line.run("store public-key n --signer")
    assert capsys.readouterr().out == "01\n02\n"


def test_what_is_found_is_in_the_code(line: Line) -> None:
    line.session.as_json = True
    damage = SimpleNamespace(kind=SimpleNamespace(value="x"), what="", name="", snapshots=())
    verified = SimpleNamespace(
        damages=[damage], snapshots=[], chunk_count=0, freshness_checked=True, heads=[]
    )
    line.stand_in("operations.verification:verify_snapshots", lambda *_, **__: verified)
    line.stand_in("operations.stores:known_stores", lambda _: [])
    assert line.run("snapshot verify") == 6
    line.stand_in(
        "operations.encryption_report:report_encryption",
        lambda _: SimpleNamespace(findings=[damage]),
    )
    line.stand_in("cli.report_view:encryption_document", lambda *_: {})
    line.stand_in("cli.home:embedded_warning", lambda _: "")
    assert line.run("report encryption") == 8
    skipped = SimpleNamespace(offset=0, length=1, reason="")
    manifest = SimpleNamespace(snapshot_id="s", size_bytes=1)
    line.stand_in(
        "operations.snapshot_export:export_snapshot", lambda *_, **__: (manifest, [skipped])
    )
    assert line.run("snapshot export s {dir}/new --yes --skip-damaged") == 6
