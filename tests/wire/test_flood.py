"""Requests of nobody: limits, counts, and bounds of memory."""

from volcrypt.wire.flood import FloodGuard, network_of


def test_a_bucket_empties_and_fills_again() -> None:
    guard = FloodGuard(burst=3, per_second=1)
    assert [guard.note_failure("10.0.0.1", "X", 0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not guard.is_open("10.0.0.1", 0.5)
    assert guard.is_open("10.0.0.2", 0.5)
    assert guard.is_open("10.0.0.1", 1)
    assert guard.note_failure("10.0.0.1", "X", 1)
    assert not guard.note_failure("10.0.0.1", "X", 1.5)


def test_a_bucket_is_never_fuller_than_full() -> None:
    guard = FloodGuard(burst=2, per_second=1)
    assert guard.note_failure("a", "X", 0)
    assert [guard.note_failure("a", "X", 1000) for _ in range(3)] == [True, True, False]


def test_the_table_is_bounded_and_the_counts_are_whole() -> None:
    guard = FloodGuard(max_addresses=10)
    for number in range(1000):
        guard.note_failure(f"10.0.{number // 250}.{number % 250}", f"Code{number % 3}", number)
    assert guard.address_count == 10
    summary = guard.take_summary()
    assert summary is not None
    assert summary["requests"] == 1000
    assert sum(summary["byErrorCode"].values()) == 1000
    assert sum(summary["byAddress"].values()) + summary["fromOtherAddresses"] == 1000
    assert len(summary["byAddress"]) == 10
    assert guard.take_summary() is None


def test_a_summary_counts_from_the_last_one() -> None:
    guard = FloodGuard(burst=1, per_second=0)
    guard.note_failure("a", "X", 0)
    guard.note_failure("a", "Y", 0)
    assert guard.take_summary() == {
        "requests": 2,
        "throttled": 1,
        "byErrorCode": {"X": 1, "Y": 1},
        "byAddress": {"a": 2},
        "fromOtherAddresses": 0,
    }
    guard.note_failure("a", "X", 0)
    summary = guard.take_summary()
    assert summary is not None
    assert (summary["requests"], summary["throttled"]) == (1, 1)


def test_who_counts_as_one_sender() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("localhost") == "localhost"
