from __future__ import annotations

import time

from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease, is_held

from ...support.threads import kill_thread

SECONDS = 0.5


def lease(client: RedisClient, name: str = "lead") -> Lease:
    return Lease(client, name, SECONDS)


def test_one_process_holds_a_lease_and_keeps_its_token(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    token = first.acquire()
    assert token > 0
    assert second.acquire() == 0
    assert first.acquire() == token
    assert is_held(client, "lead")


def test_leases_of_different_names_are_independent(client: RedisClient) -> None:
    assert lease(client, "a").acquire()
    assert lease(client, "b").acquire()


def test_the_next_holder_has_a_higher_token(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    tokens = [first.acquire()]
    first.release()
    assert not is_held(client, "lead")
    tokens.append(second.acquire())
    second.release()
    tokens.append(first.acquire())
    assert tokens == sorted(set(tokens))


def test_a_process_cannot_release_the_lease_of_another(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    first.acquire()
    second.release()
    assert second.acquire() == 0


def test_a_lease_expires_without_renewal(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    first.acquire()
    time.sleep(1.5 * SECONDS)
    assert second.acquire()


def test_a_thread_renews_a_lease_until_its_block_ends(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    token = first.acquire()
    with first.renewing():
        time.sleep(3 * SECONDS)
        assert second.acquire() == 0
        assert first.acquire() == token
    assert second.acquire()


def test_a_lease_that_another_process_holds_is_acquired_once_it_expires(
    client: RedisClient,
) -> None:
    first, second = lease(client), lease(client)
    token = first.acquire()
    assert second.acquire(timeout=0.1) == 0
    assert second.acquire(timeout=4 * SECONDS) > token


def test_waiting_for_a_lease_ends_when_the_time_is_over(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    first.acquire()
    start = time.monotonic()
    with first.renewing():
        assert second.acquire(timeout=2 * SECONDS) == 0
    assert 2 * SECONDS <= time.monotonic() - start < 4 * SECONDS


def test_a_renewal_that_is_killed_renews_on(client: RedisClient) -> None:
    first, second = Lease(client, "lead", 3.0), lease(client)
    token = first.acquire()
    with first.renewing():
        kill_thread("lease")
        time.sleep(5)
        assert second.acquire() == 0
        assert first.acquire() == token
