"""Posted prompts in Redis: records that never change; their progress is that of their jobs."""

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import cast

from pydantic import TypeAdapter
from redis.client import Pipeline

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.comfyui.graph import Graph, Json
from bgpipe.pipeline.types import DAY_SECONDS, JobId

PENDING_PER_CLIENT = 100
"""Prompts of one client whose events are kept until it connects."""
LISTENER_SECONDS = 3
"""After its last read of events, a client counts as connected for this long."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of an output node: the cutout of `job`, or its alpha. Stored as JSON in Redis."""

    node: str
    filename: str
    subfolder: str
    type: str
    """`output`, or `temp` for a preview."""
    job: JobId
    is_mask: bool = False

    @property
    def reference(self) -> dict[str, str]:
        """The file as ComfyUI names it."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A posted prompt, stored as JSON in Redis. `created` is Unix time.

    `client`, if not empty, gets events; `kept` are the output files.
    """

    id: str
    number: int | float
    owner: str
    client: str
    graph: Graph
    extra_data: dict[str, Json]
    outputs: tuple[str, ...]
    kept: tuple[OutputFile, ...]
    created: float

    @property
    def jobs(self) -> list[JobId]:
        return list(dict.fromkeys(file.job for file in self.kept))

    @property
    def queue_item(self) -> list[Json]:
        """The prompt as ComfyUI lists it in queue and history."""
        return [self.number, self.id, self.graph, self.extra_data, list(self.outputs)]


_FILE, _PROMPT = TypeAdapter(OutputFile), TypeAdapter(Prompt)


class PromptStore:
    """The prompts of one owner."""

    def __init__(self, client: RedisClient, owner: str, keep_days: float) -> None:
        self._client = client
        self._owner = owner
        self._seconds = max(1, int(keep_days * DAY_SECONDS))

    def next_number(self) -> int:
        """Return the number of the next prompt; counts from 0 for all owners."""
        return self._client.incr(keys.PROMPT_NUMBERS) - 1

    def next_count(self, prefix: str) -> int:
        """Return the number of the next file with this prefix; counts from 1."""
        name = keys.prompt_names_of(self._owner)
        count = self._client.hincrby(name, prefix, 1)
        self._client.expire(name, self._seconds)
        return count

    def exists(self, prompt_id: str) -> bool:
        """Whether any owner has a prompt of this id."""
        return bool(self._client.exists(keys.of_prompt(prompt_id)))

    def add(self, prompt: Prompt) -> None:
        """Store a prompt whose jobs are open."""
        listed, pending = keys.prompts_of(self._owner), self._pending_key(prompt.client)
        indices = {listed: prompt.created, keys.open_prompts_of(self._owner): prompt.number}
        if prompt.client:
            indices[pending] = prompt.number

        def write(pipeline: Pipeline) -> None:
            pipeline.set(keys.of_prompt(prompt.id), json.dumps(asdict(prompt)), ex=self._seconds)
            for file in prompt.kept:
                pipeline.set(self._file_key(file), json.dumps(asdict(file)), ex=self._seconds)
            for key, score in indices.items():
                pipeline.zadd(key, {prompt.id: score})
                pipeline.expire(key, self._seconds)
            pipeline.zremrangebyscore(listed, "-inf", prompt.created - self._seconds)
            pipeline.zremrangebyrank(pending, 0, -PENDING_PER_CLIENT - 1)

        self._client.run_pipeline(write)

    def read(self, ids: list[str]) -> list[Prompt]:
        """Return the owner's prompts among these; `ids` must not be empty."""
        records = self._client.mget([keys.of_prompt(prompt_id) for prompt_id in ids])
        prompts = [_PROMPT.validate_python(json.loads(record)) for record in records if record]
        return [prompt for prompt in prompts if prompt.owner == self._owner]

    def newest(self, maximum: int) -> list[Prompt]:
        """Return the newest prompts, oldest first."""
        return self._list(keys.prompts_of(self._owner), -maximum, -1)

    def open(self, maximum: int = 0) -> list[Prompt]:
        """Return the prompts not marked as ended, by number; at most `maximum` unless it is 0."""
        return self._list(keys.open_prompts_of(self._owner), 0, maximum - 1)

    def open_count(self) -> int:
        return self._client.zcard(keys.open_prompts_of(self._owner))

    def mark_ended(self, prompt_id: str) -> None:
        self._client.zrem(keys.open_prompts_of(self._owner), prompt_id)

    def is_withheld(self, prompt: Prompt) -> bool:
        """Whether the prompt's client is connected and has not received its end.

        Until it has, the prompt counts as running.
        """
        if not prompt.client:
            return False

        def read(pipeline: Pipeline) -> None:
            pipeline.zscore(keys.open_prompts_of(self._owner), prompt.id)
            pipeline.zscore(self._pending_key(prompt.client), prompt.id)
            pipeline.get(self._listener_key(prompt.client))

        return None not in self._client.run_pipeline(read)

    def pending_events(self, client: str) -> list[Prompt]:
        """Return the newest prompts whose end was not yet reported to this client, by number.

        The client counts as connected from now on.
        """
        self._client.set(self._listener_key(client), 1, ex=LISTENER_SECONDS)
        return self._list(self._pending_key(client), -PENDING_PER_CLIENT, -1)

    def mark_notified(self, client: str, prompt_id: str) -> None:
        """Record that this client has received the prompt's end."""
        self._client.zrem(self._pending_key(client), prompt_id)

    def forget(self, prompt: Prompt) -> None:
        """Remove the record; files and jobs stay until they expire."""
        self._client.delete(keys.of_prompt(prompt.id))
        self._client.zrem(keys.prompts_of(self._owner), prompt.id)
        self._client.zrem(self._pending_key(prompt.client), prompt.id)
        self.mark_ended(prompt.id)

    def find_file(self, type_: str, name: str) -> OutputFile | None:
        """Return the output file of this name, which may have folders."""
        subfolder, _, filename = name.rpartition("/")
        reference = OutputFile("", filename, subfolder, type_, JobId(""))
        record = cast("bytes | None", self._client.get(self._file_key(reference)))
        return _FILE.validate_python(json.loads(record)) if record else None

    def _list(self, index: str, first: int, last: int) -> list[Prompt]:
        members = cast("list[bytes]", self._client.zrange(index, first, last))
        ids = [member.decode() for member in members]
        prompts = self.read(ids) if ids else []
        if expired := set(ids) - {prompt.id for prompt in prompts}:
            self._client.zrem(index, *expired)
        return prompts

    def _pending_key(self, client: str) -> str:
        return keys.unreported_prompts_of(self._owner, digest_of(client))

    def _listener_key(self, client: str) -> str:
        return keys.listener_of(self._owner, digest_of(client))

    def _file_key(self, file: OutputFile) -> str:
        reference = json.dumps(file.reference, sort_keys=True)
        return keys.prompt_file_of(self._owner, digest_of(reference))


def digest_of(name: str) -> str:
    """Return a key's part for a name that clients choose."""
    return blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()
