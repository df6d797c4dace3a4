from __future__ import annotations

from datetime import UTC, datetime, timedelta

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


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("day", ["2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24"])
@pytest.mark.parametrize(
    "schedule",
    ["0 * * * *", "*/30 * * * *", "0 */2 * * *", "30 2 * * *", "15 2,3 * * *", "45 1 * * 0"],
)
def test_each_start_that_is_announced_comes_and_no_other(
    zone: str, day: str, schedule: str
) -> None:
    """Also where the clock is set back, by an hour or half of one, or forward."""
    sweep = nightly(schedule=schedule, time_zone=zone)
    began, end = at(f"{day}T00:00Z"), at(f"{day}T00:00Z") + timedelta(hours=48)
    announced = [began]
    while announced[-1].timestamp() <= end.timestamp():
        announced.append(next_start(sweep, announced[-1]))
    moments = (began + timedelta(minutes=5 * step) for step in range(12 * 48 + 1))
    came = [start for start in (last_start(sweep, moment) for moment in moments) if start]
    stamps = sorted({start.timestamp() for start in came if start.timestamp() > began.timestamp()})
    assert stamps == [start.timestamp() for start in announced[1:-1]]
    assert [start.timestamp() for start in came] == sorted(start.timestamp() for start in came)


def test_an_hour_that_the_clock_shows_twice_has_two_hourly_starts_and_one_daily() -> None:
    hourly, daily = nightly(schedule="30 * * * *"), nightly(schedule="30 2 * * *")
    for text in ("2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"):
        assert last_start(hourly, at(text)) == next_start(hourly, at(text) - timedelta(1e-5))
        assert last_start(hourly, at(text)).timestamp() == at(text).timestamp()
        assert last_start(daily, at(text)).timestamp() == at("2026-10-25T02:30+02:00").timestamp()
    assert next_start(daily, at("2026-10-25T02:10+01:00")) == at("2026-10-26T02:30+01:00")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "every night"}, "minute, hour"),
        ({"schedule": "61 1 * * *"}, "minute"),
        ({"schedule": "0 30 2 * * *"}, "fields; write minute, hour"),
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
