"""A Hugging Face hub: the commit of a file, and its download.

`huggingface_hub` is imported at the first request, which most runs never make.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from bgpipe.config.settings import ModelSettings
from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.logging import Notify

SHA256 = re.compile(r"[0-9a-f]{64}")
NEWEST = "main"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at a commit; sha256 and bytes are None if the hub does not state them."""

    commit: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Hub:
    """A source of models.

    `timeout` is in seconds without a response; `endpoint` defaults to HF_ENDPOINT, or else to
    huggingface.co. `notify` gets a line before anything slow; without it there is no progress bar.
    `accepted` are the models whose terms a user has accepted.
    """

    timeout: float
    endpoint: str | None = None
    notify: Notify | None = None
    accepted: Collection[str] = ()

    @classmethod
    def from_settings(cls, settings: ModelSettings, notify: Notify | None = None) -> Self:
        return cls(settings.hub_timeout, notify=notify, accepted=settings.accept_licences)

    @property
    def host(self) -> str:
        from huggingface_hub import constants

        return urlsplit(self.endpoint or constants.ENDPOINT).netloc.rpartition("@")[2]

    def find_file(self, repo: str, file: str, revision: str) -> HubFile:
        """Request a file's metadata once, without retries, to fail soon on a machine without internet.

        Raises ModelUnavailable if the hub does not respond or does not have the file.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with _translate_errors(repo):
            url = hf_hub_url(repo, file, revision=revision, endpoint=self.endpoint)
            metadata = get_hf_file_metadata(url, timeout=self.timeout, endpoint=self.endpoint)
        if metadata.commit_hash is None:
            raise ModelUnavailable(f"not a model hub: {url}: set HF_ENDPOINT to one")
        is_sha256 = metadata.etag is not None and SHA256.fullmatch(metadata.etag)
        return HubFile(metadata.commit_hash, metadata.etag if is_sha256 else None, metadata.size)

    def download(self, repo: str, file: str, commit: str, folder: Path) -> Path:
        """Download one file of `commit` into `folder` and return its path.

        Raises ModelUnavailable if the download is incomplete or cannot be written.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if self.notify is None:
            disable_progress_bars()
        with _translate_errors(repo):
            path = hf_hub_download(
                repo,
                file,
                revision=commit,
                cache_dir=folder,
                etag_timeout=self.timeout,
                endpoint=self.endpoint,
            )
        return Path(path)


def find_cached(repo: str, file: str, commit: str, folder: Path) -> Path | None:
    """Return the path of an earlier `download`, by the documented layout of the hub's cache."""
    path = folder / f"models--{repo.replace('/', '--')}" / "snapshots" / commit / file
    return path if path.is_file() else None


@contextmanager
def _translate_errors(repo: str) -> Iterator[None]:
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError

    try:
        yield
    except GatedRepoError as error:
        remedy = "accept its terms on its page of the hub, and set HF_TOKEN"
        raise ModelUnavailable(f"{repo} is gated: {remedy}") from error
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError is hf_xet's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelUnavailable(f"cannot pull {repo}: {reason}") from error
