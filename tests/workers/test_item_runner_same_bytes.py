"""The same image gives the same bytes, whatever is beside it and however many lanes there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.types import JobId

if TYPE_CHECKING:
    from .conftest import Cluster

PHOTO = "photo.png"
OTHERS = [f"{'x' * n}.png" for n in range(1, 8)]


def test_an_image_gives_the_same_bytes_alone_in_company_again_and_on_more_lanes(
    cluster: Cluster,
) -> None:
    for name in (PHOTO, *OTHERS):
        cluster.photo(name)

    def cutout(names: list[str]) -> bytes:
        job: JobId = cluster.submit(names)
        assert cluster.finished(job).done == len(names)
        return (cluster.out / f"{PHOTO}.png").read_bytes()

    made = []
    for lanes in ("1", "8"):
        settings = {"BGPIPE_WORKER__LANES": lanes, "BGPIPE_WORKER__BATCH": "4"}
        with cluster.supervisor("--device", "cpu", **settings):
            made += [cutout([PHOTO]), cutout([PHOTO]), cutout([PHOTO, *OTHERS])]
            made += [cutout([PHOTO, *OTHERS[3:]])]
    assert len(set(made)) == 1
    assert len({path.read_bytes() for path in cluster.out.iterdir()}) == 1 + len(OTHERS)
