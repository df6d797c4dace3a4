from __future__ import annotations

import time

from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.lease import Lease, is_held

SECONDS = 0.5


def lease(client: Connection, name: str = "lead") -> Lease:
    return Lease(client, name, SECONDS)


def test_one_holds_it_and_keeps_its_token(client: Connection) -> None:
    first, second = lease(client), lease(client)
    token = first.take()
    assert token > 0
    assert second.take() == 0
    assert first.take() == token
    assert is_held(client, "lead")


def test_leases_of_different_names_are_apart(client: Connection) -> None:
    assert lease(client, "a").take()
    assert lease(client, "b").take()


def test_the_next_holder_has_a_higher_token(client: Connection) -> None:
    first, second = lease(client), lease(client)
    tokens = [first.take()]
    first.free()
    assert not is_held(client, "lead")
    tokens.append(second.take())
    second.free()
    tokens.append(first.take())
    assert tokens == sorted(set(tokens))


def test_nobody_frees_what_another_one_holds(client: Connection) -> None:
    first, second = lease(client), lease(client)
    first.take()
    second.free()
    assert second.take() == 0


def test_without_renewal_it_is_free_again(client: Connection) -> None:
    first, second = lease(client), lease(client)
    first.take()
    time.sleep(1.5 * SECONDS)
    assert second.take()


def test_a_thread_renews_it_meanwhile_and_frees_it_at_the_end(client: Connection) -> None:
    first, second = lease(client), lease(client)
    token = first.take()
    with first.renewed():
        time.sleep(3 * SECONDS)
        assert second.take() == 0
        assert first.take() == token
    assert second.take()
