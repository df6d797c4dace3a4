from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpipe.pipeline.planning.targets import key_bytes, sort_rows

TEXTS = st.text(max_size=4)


@given(st.lists(st.tuples(TEXTS, st.integers(0), TEXTS, TEXTS), max_size=30), st.integers(1, 9))
def test_rows_come_back_whole_and_in_the_order_of_their_keys_bytes(
    rows: list[tuple[str, int, str, str]], piece: int
) -> None:
    def order(row: tuple[str, int, str, str]) -> bytes:
        return key_bytes(row[3])

    assert list(sort_rows(rows, order, piece)) == sorted(rows, key=order)
