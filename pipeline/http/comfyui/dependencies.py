"""What the routes work with: the caller's prompts and photos, and the shapes of ComfyUI's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection, Request

from bgpipe.pipeline.comfyui.graph import no_prompt
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.comfyui.history import PromptState, PromptStatus, prompt_state
from bgpipe.pipeline.http.comfyui.input_images import InputImages
from bgpipe.pipeline.http.comfyui.prompt_store import Prompt, PromptStore
from bgpipe.pipeline.http.dependencies import AppState, get_caller, get_state
from bgpipe.pipeline.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgpipe.pipeline.comfyui.graph import Json

LARGEST = 1_000_000
"""Bytes of a request that is JSON: Redis keeps what was posted."""
HISTORY = 1000
"""Prompts of one caller, the last ones, that are listed."""
LOOKS = 20
"""Open prompts that are looked at to count how many there are: the oldest end first."""


@dataclass(frozen=True, slots=True)
class PromptService:
    """Of one caller. Its calls block: endpoints that use it are plain `def`."""

    backend: AppState
    owner: str

    @property
    def prompts(self) -> PromptStore:
        days = self.backend.settings.serve.keep_days
        return PromptStore(self.backend.session.client, self.owner, days)

    @property
    def photos(self) -> InputImages:
        return InputImages(self.backend, self.owner)

    def status(self, prompts: Iterable[Prompt]) -> list[PromptState]:
        """How they stand, without those that the ledger has forgotten."""
        found = []
        for prompt in prompts:
            progress = prompt_state(self.backend.jobs, prompt)
            if progress:
                found.append(progress)
            if progress is None or progress.status.has_ended:
                self.prompts.ended(prompt.id)
        return found

    def find(self, prompt: str) -> PromptState | None:
        """How the caller's prompt of this id stands."""
        found = self.prompts.get(prompt)
        return next(iter(self.status([found])), None) if found else None

    def open(self) -> list[PromptState]:
        """The prompts that have not ended, by their numbers."""
        return [found for found in self.status(self.prompts.open()) if not found.status.has_ended]

    def remaining(self) -> int:
        """How many have not ended."""
        prompts = self.prompts
        self.status(prompts.oldest_open(LOOKS))
        return prompts.open_count()

    def cancel(self, progress: PromptState) -> None:
        """Let nothing more of the prompt be begun; what is in flight ends, and is not shown."""
        for job in progress.prompt.jobs:
            try:
                self.backend.jobs.cancel(job)
            except UsageError:  # it ended meanwhile
                continue

    def all(self) -> list[PromptState]:
        """The last prompts, the oldest first."""
        return self.status(self.prompts.newest(HISTORY))

    def ended(self) -> list[PromptState]:
        """Those of them that have ended."""
        return [found for found in self.all() if found.status.has_ended]


def get_service(connection: HTTPConnection) -> PromptService:
    return PromptService(get_state(connection), get_caller(connection).name)


async def read_json(request: Request) -> Json:
    """The body, whatever its type is said to be: many clients name none.

    Raises:
        Refused: it is no JSON, or could not be told again: NaN, half a character.
        Problem: it is too large.

    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Problem(413, "too-large", f"more than {LARGEST} bytes of JSON")
    try:
        found = json.loads(body) if body else {}
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise no_prompt() from error
    return found


def status(remaining: int) -> dict[str, Json]:
    """The answer of GET /prompt, and a part of the event `status`."""
    return {"exec_info": {"queue_remaining": remaining}}


def running_and_pending(found: list[PromptState]) -> tuple[list[PromptState], list[PromptState]]:
    running = [progress for progress in found if progress.status is PromptStatus.RUNNING]
    return running, [progress for progress in found if progress.status is PromptStatus.PENDING]


Service = Annotated[PromptService, Depends(get_service)]
Body = Annotated[object, Depends(read_json)]
