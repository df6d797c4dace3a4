from __future__ import annotations

import time

from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease, is_held

SECONDS = 0.5


def lease(client: RedisClient, name: str = "lead") -> Lease:
    return Lease(client, name, SECONDS)


def test_one_holds_it_and_keeps_its_token(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    token = first.try_acquire()
    assert token > 0
    assert second.try_acquire() == 0
    assert first.try_acquire() == token
    assert is_held(client, "lead")


def test_leases_of_different_names_are_apart(client: RedisClient) -> None:
    assert lease(client, "a").try_acquire()
    assert lease(client, "b").try_acquire()


def test_the_next_holder_has_a_higher_token(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    tokens = [first.try_acquire()]
    first.release()
    assert not is_held(client, "lead")
    tokens.append(second.try_acquire())
    second.release()
    tokens.append(first.try_acquire())
    assert tokens == sorted(set(tokens))


def test_nobody_frees_what_another_one_holds(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    first.try_acquire()
    second.release()
    assert second.try_acquire() == 0


def test_without_renewal_it_is_free_again(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    first.try_acquire()
    time.sleep(1.5 * SECONDS)
    assert second.try_acquire()


def test_a_thread_renews_it_meanwhile_and_frees_it_at_the_end(client: RedisClient) -> None:
    first, second = lease(client), lease(client)
    token = first.try_acquire()
    with first.renewing():
        time.sleep(3 * SECONDS)
        assert second.try_acquire() == 0
        assert first.try_acquire() == token
    assert second.try_acquire()
