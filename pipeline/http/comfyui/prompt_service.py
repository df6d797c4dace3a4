"""The prompts and input images of one owner.

A prompt's record in Redis never changes: its progress is that of its jobs.
"""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import NamedTuple, cast

from pydantic import TypeAdapter
from redis.client import Pipeline

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import ItemError, UsageError
from bgpipe.pipeline.http.comfyui.prompts import OutputFile, Prompt, PromptState, PromptStatus
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.http.files import new_upload_id, validate_name
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.types import JobId, ObjectInfo

HISTORY = 1000
"""Maximum number of prompts listed, the newest ones."""
CHECKED_PROMPTS = 20
"""Open prompts checked when they are counted; the oldest end first."""
PENDING_PER_CLIENT = 100
"""Prompts of one client whose events are kept until it connects."""
LISTENER_SECONDS = 3
"""After its last read of events, a client counts as connected for this long."""
INPUT_MARK = " [input]"
"""An optional ending of a name in a graph."""
SAME_NAME = 1000
"""Maximum number of images with the same name but for a number."""
MAX_NAMES = 1000
"""Maximum number of image names listed, the newest ones."""

_FILE, _PROMPT = TypeAdapter(OutputFile), TypeAdapter(Prompt)


class PromptService:
    """The prompts and images of one owner. Its calls block: endpoints that use it are plain `def`."""

    def __init__(self, state: AppState, owner: str) -> None:
        self.state, self.owner, self.client = state, owner, state.session.client
        self.images = InputImages(state, owner)
        self._jobs, self._seconds = state.jobs, state.keep_seconds
        self._listed_key, self._open_key = keys.prompts_of(owner), keys.open_prompts_of(owner)

    def next_number(self) -> int:
        """Return the number of the next prompt; counts from 0 for all owners."""
        return self.client.incr(keys.PROMPT_NUMBERS) - 1

    def next_count(self, prefix: str) -> int:
        """Return the number of the next file with this prefix; counts from 1."""
        name = keys.prompt_names_of(self.owner)
        count = self.client.hincrby(name, prefix, 1)
        self.client.expire(name, self._seconds)
        return count

    def exists(self, prompt_id: str) -> bool:
        """Whether any owner has a prompt of this id."""
        return bool(self.client.exists(keys.of_prompt(prompt_id)))

    def add(self, prompt: Prompt) -> None:
        """Store a prompt whose jobs are open."""
        pending = self._pending_key(prompt.client)
        indices = {self._listed_key: prompt.created, self._open_key: prompt.number}
        if prompt.client:
            indices[pending] = prompt.number

        def write(pipeline: Pipeline) -> None:
            pipeline.set(keys.of_prompt(prompt.id), json.dumps(asdict(prompt)), ex=self._seconds)
            for file in prompt.kept:
                pipeline.set(self._file_key(file), json.dumps(asdict(file)), ex=self._seconds)
            for key, score in indices.items():
                pipeline.zadd(key, {prompt.id: score})
                pipeline.expire(key, self._seconds)
            pipeline.zremrangebyscore(self._listed_key, "-inf", prompt.created - self._seconds)
            pipeline.zremrangebyrank(pending, 0, -PENDING_PER_CLIENT - 1)

        self.client.run_pipeline(write)

    def find(self, prompt_id: str) -> PromptState | None:
        """Return the owner's prompt of this id, or None."""
        return next(iter(self._states(self._read([prompt_id]))), None)

    def open(self, maximum: int = 0) -> list[PromptState]:
        """Return the prompts that have not ended, by number; `maximum` of them are checked, or all."""
        states = self._states(self._list(self._open_key, 0, maximum - 1))
        return [state for state in states if not state.has_ended]

    def ended(self) -> list[PromptState]:
        """Return the newest prompts that have ended, oldest first."""
        states = self._states(self._list(self._listed_key, -HISTORY, -1))
        return [state for state in states if state.has_ended]

    def count_open(self) -> int:
        self.open(CHECKED_PROMPTS)
        return self.client.zcard(self._open_key)

    def mark_ended(self, prompt_id: str) -> None:
        self.client.zrem(self._open_key, prompt_id)

    def unreported(self, client_id: str) -> list[PromptState]:
        """Return the newest prompts whose end was not yet reported to this client, by number.

        The client counts as connected from now on.
        """
        self.client.set(self._listener_key(client_id), 1, ex=LISTENER_SECONDS)
        prompts = self._list(self._pending_key(client_id), -PENDING_PER_CLIENT, -1)
        return [*filter(None, (PromptState.read(self._jobs, prompt) for prompt in prompts))]

    def mark_notified(self, client_id: str, prompt_id: str) -> None:
        """Record that this client has received the prompt's end."""
        self.client.zrem(self._pending_key(client_id), prompt_id)

    def cancel(self, prompt: Prompt) -> None:
        """Cancel the prompt's jobs; images in progress are finished and not shown."""
        for job in prompt.jobs:
            with suppress(UsageError):  # it has ended
                self._jobs.cancel(job)

    def forget(self, prompt: Prompt) -> None:
        """Remove the record; files and jobs stay until they expire."""
        self.client.delete(keys.of_prompt(prompt.id))
        for index in (self._listed_key, self._pending_key(prompt.client), self._open_key):
            self.client.zrem(index, prompt.id)

    def find_file(self, type_: str, name: str) -> OutputFile | None:
        """Return the output file of this name, which may have folders."""
        subfolder, _, filename = name.rpartition("/")
        reference = OutputFile("", filename, subfolder, type_, JobId(""))
        record = cast("bytes | None", self.client.get(self._file_key(reference)))
        return _FILE.validate_python(json.loads(record)) if record else None

    def _list(self, index: str, first: int, last: int) -> list[Prompt]:
        members = cast("list[bytes]", self.client.zrange(index, first, last))
        ids = [member.decode() for member in members]
        prompts = self._read(ids) if ids else []
        if expired := set(ids) - {prompt.id for prompt in prompts}:
            self.client.zrem(index, *expired)
        return prompts

    def _read(self, ids: list[str]) -> list[Prompt]:
        records = self.client.mget([keys.of_prompt(prompt_id) for prompt_id in ids])
        prompts = [_PROMPT.validate_python(json.loads(record)) for record in records if record]
        return [prompt for prompt in prompts if prompt.owner == self.owner]

    def _states(self, prompts: Iterable[Prompt]) -> list[PromptState]:
        """Return the states of `prompts`, without those whose jobs were forgotten.

        A prompt whose client is connected runs until its websocket has announced it: clients look
        here at its first event, and take what has ended for a cached result without events.
        """
        states = []
        for prompt in prompts:
            state = PromptState.read(self._jobs, prompt)
            if state and state.has_ended and self._is_withheld(prompt):
                state = replace(state, status=PromptStatus.RUNNING)
            if state:
                states.append(state)
            if not state or state.has_ended:
                self.mark_ended(prompt.id)
        return states

    def _is_withheld(self, prompt: Prompt) -> bool:
        """Whether the prompt's client is connected and has not received its end."""
        if not prompt.client:
            return False

        def read(pipeline: Pipeline) -> None:
            pipeline.zscore(self._open_key, prompt.id)
            pipeline.zscore(self._pending_key(prompt.client), prompt.id)
            pipeline.get(self._listener_key(prompt.client))

        return None not in self.client.run_pipeline(read)

    def _pending_key(self, client: str) -> str:
        return keys.unreported_prompts_of(self.owner, digest_of(client))

    def _listener_key(self, client: str) -> str:
        return keys.listener_of(self.owner, digest_of(client))

    def _file_key(self, file: OutputFile) -> str:
        reference = json.dumps(file.reference, sort_keys=True)
        return keys.prompt_file_of(self.owner, digest_of(reference))


class InputImage(NamedTuple):
    upload: str
    info: ObjectInfo


class InputImages:
    """The images of one owner for `LoadImage`: each is an upload by itself, to which a name refers."""

    def __init__(self, state: AppState, owner: str) -> None:
        self._client, self._uploads = state.session.client, state.uploads
        self._owner, self._seconds = owner, state.keep_seconds
        self._index = keys.input_images_of(owner)

    def find(self, name: str) -> InputImage | None:
        try:
            plain = validate_name(name.removesuffix(INPUT_MARK))
        except ItemError:
            return None
        reference = cast("bytes | None", self._client.get(self._key(plain)))
        if reference is None:
            return None
        upload, _, key = reference.decode().partition("/")
        info = self._uploads.open(self._owner, upload).head(key)
        return InputImage(upload, info) if info else None

    def names(self) -> list[str]:
        """Return the names of the newest images, sorted."""
        names = cast("list[bytes]", self._client.zrange(self._index, -MAX_NAMES, -1))
        return sorted(name.decode() for name in names)

    def write(self, name: str, data: bytes, *, overwrite: bool) -> str:
        """Store an image as `UploadStore.write` does; return its name, numbered if another has it.

        Problem 409 if too many images have this name.
        """
        requested = validate_name(name)
        path = PurePosixPath(requested)
        upload = new_upload_id()
        key = self._uploads.write(self._owner, upload, path.name, data)
        for number in range(SAME_NAME):
            numbered = str(path.with_stem(f"{path.stem} ({number})")) if number else requested
            if self._assign(numbered, f"{upload}/{key}", overwrite=overwrite):
                return numbered
            if other := self.find(numbered):
                store = self._uploads.open(self._owner, other.upload)
                if store.read(other.info.key, self._uploads.limits.max_bytes) == data:
                    return numbered
        raise Problem(409, "too-many-names", f"too many images of this name: {requested}")

    def _assign(self, name: str, reference: str, *, overwrite: bool) -> bool:
        """Let `name` refer to an image; returns False if it refers to another one that exists."""
        key, seconds = self._key(name), self._seconds
        if not overwrite and not self._client.set(key, reference, nx=True, ex=seconds):
            other = cast("bytes | None", self._client.get(key))
            if other != reference.encode() and self.find(name):
                return False
        self._client.set(key, reference, ex=seconds)
        self._client.zadd(self._index, {name: time.time()})
        self._client.zremrangebyscore(self._index, "-inf", time.time() - seconds)
        self._client.expire(self._index, seconds)
        return True

    def _key(self, name: str) -> str:
        return keys.input_image_of(self._owner, digest_of(name))


def digest_of(name: str) -> str:
    """Return a key's part for a name that clients choose."""
    return blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()
