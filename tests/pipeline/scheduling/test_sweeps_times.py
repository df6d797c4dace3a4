from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.scheduling.sweeps import deadline_of, last_start, next_start


def nightly(**changes: object) -> Sweep:
    declared = {
        "source": "s3://shop/photos",
        "target": "s3://shop/cutouts",
        "schedule": "0 1 * * *",
        "time_zone": "Europe/Berlin",
        "deadline": "06:00",
    }
    return Sweep.model_validate(declared | changes)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_start_is_due_from_its_second_on() -> None:
    start = at("2026-07-02T01:00:00+02:00")
    assert last_start(nightly(), at("2026-07-01T22:59:59.9+00:00")) == at("2026-07-01T01:00+02:00")
    assert last_start(nightly(), at("2026-07-01T23:00:00+00:00")) == start
    assert last_start(nightly(), at("2026-07-01T23:00:00.5+00:00")) == start
    assert next_start(nightly(), at("2026-07-01T22:59:59+00:00")) == start
    assert next_start(nightly(), start) == at("2026-07-03T01:00:00+02:00")


def test_without_a_schedule_nothing_is_ever_due() -> None:
    by_hand = nightly(schedule="")
    assert last_start(by_hand, datetime.now(UTC)) is None
    assert next_start(by_hand, datetime.now(UTC)) is None


@pytest.mark.parametrize(
    ("start", "deadline"),
    [
        ("2026-07-02T01:00:00+02:00", "2026-07-02T06:00:00+02:00"),
        ("2026-07-02T05:59:59+02:00", "2026-07-02T06:00:00+02:00"),
        ("2026-07-02T06:00:00+02:00", "2026-07-03T06:00:00+02:00"),
        ("2026-07-01T20:00:00+00:00", "2026-07-02T06:00:00+02:00"),
    ],
)
def test_the_deadline_is_the_next_time_the_clock_shows_it(start: str, deadline: str) -> None:
    assert deadline_of(nightly(), at(start)) == at(deadline)
    assert deadline_of(nightly(deadline=None), at(start)) is None


def test_the_clocks_hour_counts_where_summer_time_begins_or_ends() -> None:
    # The night is one hour shorter, then one longer.
    assert deadline_of(nightly(), at("2026-03-29T01:00+01:00")) == at("2026-03-29T06:00+02:00")
    assert deadline_of(nightly(), at("2026-10-25T01:00+02:00")) == at("2026-10-25T06:00+01:00")
    # 02:30 does not exist; the start is not lost.
    skipped = nightly(schedule="30 2 * * *")
    assert next_start(skipped, at("2026-03-28T12:00+01:00")) == at("2026-03-29T03:00+02:00")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "every night"}, "minute, hour"),
        ({"schedule": "61 1 * * *"}, "minute"),
        ({"time_zone": "Europe/Atlantis"}, "unknown time zone"),
        ({"deadline": "25:00"}, "deadline"),
        ({"on_finish": "ftp://host/x"}, "http"),
        ({"on_finish": "https://"}, "http"),
        ({"source": ""}, "source"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_a_declaration_gets_wrong_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nightly(**changes)


def test_a_secret_is_not_shown() -> None:
    assert "hush" not in repr(nightly(secret="hush"))
