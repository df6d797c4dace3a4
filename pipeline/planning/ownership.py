"""Distinguish cutouts that bgpipe made from foreign objects, which only --overwrite replaces."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import provenance
from bgpipe.pipeline.storage.base import Store

RECIPE_METADATA = "bgpipe-recipe"
"""Object metadata that workers write with a cutout."""
FOREIGN = "exists and was not made by bgpipe: pass --overwrite or choose another --out"


@dataclass(frozen=True, slots=True)
class ProvenanceText:
    """`text` is empty unless the file is complete; `ours` holds for a truncated cutout too."""

    text: Mapping[str, str]
    ours: bool

    def matches(self, recipe: str, identity: str) -> bool:
        """Whether the recipe of this hash made the object from the source of this `identity`."""
        try:
            made_by = json.loads(self.text["bgpipe:recipe"])["hash"], self.text["bgpipe:source"]
        except (ValueError, LookupError, TypeError):
            return False
        return made_by == (recipe, identity)


def read_provenance(store: Store, key: str) -> ProvenanceText:
    """Read how the object at `key` was made, from its content, else from its metadata.

    Raises ItemError if it is missing or cannot be read.
    """
    head = store.read_range(key, 0, provenance.HEAD)
    tail = store.read_range(key, -provenance.TAIL, provenance.TAIL)
    ours = provenance.is_ours(head, tail) or RECIPE_METADATA in store.metadata(key)
    return ProvenanceText(provenance.read(head, tail), ours)


def check_replaceable(target: Store, key: str) -> ProvenanceText | None:
    """Refuse to replace an object that bgpipe did not make; return how one was made, if that is known.

    Raises:
        PermanentError: TARGET: the object is foreign or cannot be read.
        TransientError: the store is unavailable.
    """
    try:
        provenance = read_provenance(target, key)
    except PermanentError as error:
        if error.code is Code.ACCESS and not target.is_remote:
            raise PermanentError(Code.TARGET, f"{FOREIGN}: {key}") from error
        # A missing object, or a folder, which the write reports. A bucket may deny reads to workers:
        # then the listing has checked its objects.
        return None
    if not provenance.ours:
        raise PermanentError(Code.TARGET, f"{FOREIGN}: {key}")
    return provenance


def refuse_cutout(data: bytes) -> None:
    """Refuse a file that bgpipe made as a source; raises PermanentError: UNSUPPORTED."""
    if provenance.is_ours(data[: provenance.HEAD], data[-provenance.TAIL :]):
        raise PermanentError(Code.UNSUPPORTED, "a cutout made by bgpipe is not taken as a source")
