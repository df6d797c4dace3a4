"""A Hugging Face hub: which commit it offers, and one file of it.

`huggingface_hub` is imported when a hub is really asked, which most runs never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.logging import Notify

SHA256 = re.compile(r"[0-9a-f]{64}")
NEWEST = "main"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a hub has: the commit, and sha256 and bytes of the file where the hub says so."""

    commit: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models are pulled from.

    `timeout` is in seconds without an answer; without `endpoint` HF_ENDPOINT decides, or else
    huggingface.co. `notify` gets a line about what takes long; without it there is no progress bar.
    """

    timeout: float
    endpoint: str | None = None
    notify: Notify | None = None

    @property
    def host(self) -> str:
        from huggingface_hub import constants

        return urlsplit(self.endpoint or constants.ENDPOINT).netloc.rpartition("@")[2]

    def offer(self, repo: str, file: str, revision: str) -> Offer:
        """Ask once, without retries, so that a machine without internet hears it soon.

        Raises ModelUnavailable when no hub answers or it has no such file.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with _translated(repo):
            url = hf_hub_url(repo, file, revision=revision, endpoint=self.endpoint)
            found = get_hf_file_metadata(url, timeout=self.timeout, endpoint=self.endpoint)
        if found.commit_hash is None:
            raise ModelUnavailable(f"no model hub: {url}; set HF_ENDPOINT to one")
        known = found.etag is not None and SHA256.fullmatch(found.etag)
        return Offer(found.commit_hash, found.etag if known else None, found.size)

    def download(self, repo: str, file: str, commit: str, folder: Path) -> Path:
        """Fetch one file of `commit` into `folder` and return where it lies.

        Raises ModelUnavailable when it does not arrive whole or the disk cannot take it.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if self.notify is None:
            disable_progress_bars()
        with _translated(repo):
            return Path(
                hf_hub_download(
                    repo,
                    file,
                    revision=commit,
                    cache_dir=folder,
                    etag_timeout=self.timeout,
                    endpoint=self.endpoint,
                )
            )


def cached(repo: str, file: str, commit: str, folder: Path) -> Path | None:
    """Where `download` put the file earlier, by the documented layout of the hub's cache."""
    path = folder / f"models--{repo.replace('/', '--')}" / "snapshots" / commit / file
    return path if path.is_file() else None


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    from httpx2 import HTTPError

    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError is hf_xet's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelUnavailable(f"cannot pull {repo}: {reason}") from error
