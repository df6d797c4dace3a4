from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpipe.pipeline.planning.targets import sorted_by_target
from bgpipe.pipeline.types import ObjectInfo

TEXTS = st.text(max_size=4)


@given(st.lists(st.tuples(TEXTS, st.integers(0), TEXTS, TEXTS), max_size=30), st.integers(1, 9))
def test_pairs_come_back_whole_and_in_the_order_of_their_targets_bytes(
    rows: list[tuple[str, int, str, str]], piece: int
) -> None:
    pairs = [(ObjectInfo(key, size, identity), target) for key, size, identity, target in rows]
    expected = sorted(pairs, key=lambda pair: pair[1].encode("utf-8", "surrogatepass"))
    assert list(sorted_by_target(pairs, piece)) == expected
