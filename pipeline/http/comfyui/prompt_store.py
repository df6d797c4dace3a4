"""The prompts that were posted, in Redis; how they stand, the ledger knows.

A prompt is one job for each thing that it makes. Its record is written after its jobs were opened, and
never changed: what becomes of it is read from the books of its jobs. So any server of a cluster can
answer for any prompt, and none has to live for one to end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.types import JobId

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient
    from bgpipe.pipeline.comfyui.graph import Graph, Json

CLIENTS_PROMPTS = 100
"""Prompts whose end is told to a client that comes back."""
DAY = 86_400


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a prompt's output node: the cutout of `job`, or its alpha."""

    node: str
    filename: str
    subfolder: str
    type: str
    """`output`, or `temp` for a preview."""
    job: JobId
    is_mask: bool = False

    @property
    def shown(self) -> dict[str, str]:
        """As ComfyUI names a file."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was posted. `created` is Unix time; `client` waits for events if it is not empty."""

    id: str
    number: float
    owner: str
    client: str
    graph: Graph
    extra_data: dict[str, Json]
    outputs: tuple[str, ...]
    kept: tuple[OutputFile, ...]
    created: float

    @property
    def jobs(self) -> list[JobId]:
        return list(dict.fromkeys(kept.job for kept in self.kept))

    @property
    def item(self) -> list[Json]:
        """As ComfyUI lists it in queue and history."""
        return [self.number, self.id, self.graph, self.extra_data, list(self.outputs)]


class PromptStore:
    """Those of one caller."""

    def __init__(self, client: RedisClient, owner: str, keep_days: float) -> None:
        self._client = client
        self._owner = owner
        self._seconds = max(1, int(keep_days * DAY))

    def next_number(self) -> int:
        """Of a prompt; counts from 0 for all callers."""
        return self._client.incr(keys.PROMPT_NUMBERS) - 1

    def next_count(self, prefix: str) -> int:
        """Of the files that begin so; counts from 1."""
        name = keys.prompt_names_of(self._owner)
        count = self._client.hincrby(name, prefix, 1)
        self._client.expire(name, self._seconds)
        return count

    def exists(self, prompt: str) -> bool:
        """Whether anybody's prompt has this id."""
        return bool(self._client.exists(keys.of_prompt(prompt)))

    def add(self, prompt: Prompt) -> None:
        """Note a prompt whose jobs are open."""
        files = {_file(self._owner, kept): json.dumps(asdict(kept)) for kept in prompt.kept}
        indices = {
            keys.prompts_of(self._owner): prompt.created,
            keys.open_prompts_of(self._owner): prompt.number,
        }
        if prompt.client:
            indices[self._pending_key(prompt.client)] = prompt.number
        with self._client.pipeline() as all_at_once:
            record = json.dumps(asdict(prompt))
            for name, text in {keys.of_prompt(prompt.id): record, **files}.items():
                all_at_once.set(name, text, ex=self._seconds)
            for name, score in indices.items():
                all_at_once.zadd(name, {prompt.id: score})
                all_at_once.expire(name, self._seconds)
            expired = prompt.created - self._seconds
            all_at_once.zremrangebyscore(keys.prompts_of(self._owner), "-inf", expired)
            if prompt.client:
                all_at_once.zremrangebyrank(
                    self._pending_key(prompt.client), 0, -CLIENTS_PROMPTS - 1
                )
            all_at_once.execute()

    def get(self, prompt: str) -> Prompt | None:
        """The caller's prompt of this id."""
        return next(iter(self._read([prompt])), None)

    def newest(self, most: int) -> list[Prompt]:
        """The last `most`, the oldest first."""
        return self._listed(keys.prompts_of(self._owner), -most, -1)

    def open(self) -> list[Prompt]:
        """Those that were not seen to end, by their numbers."""
        return self._listed(keys.open_prompts_of(self._owner), 0, -1)

    def open_count(self) -> int:
        return self._client.zcard(keys.open_prompts_of(self._owner))

    def oldest_open(self, most: int) -> list[Prompt]:
        return self._listed(keys.open_prompts_of(self._owner), 0, most - 1)

    def ended(self, prompt: str) -> None:
        """Note that it was seen to end."""
        self._client.zrem(keys.open_prompts_of(self._owner), prompt)

    def pending_events(self, client: str) -> list[Prompt]:
        """The last ones whose end this client was not told, by their numbers."""
        return self._listed(self._pending_key(client), -CLIENTS_PROMPTS, -1)

    def mark_notified(self, client: str, prompt: str) -> None:
        """Note that this client knows how the prompt ended."""
        self._client.zrem(self._pending_key(client), prompt)

    def forget(self, prompt: Prompt) -> None:
        """Remove the record; files and jobs stay until they expire."""
        self._client.delete(keys.of_prompt(prompt.id))
        self._client.zrem(keys.prompts_of(self._owner), prompt.id)
        self._client.zrem(self._pending_key(prompt.client), prompt.id)
        self.ended(prompt.id)

    def file(self, type_: str, subfolder: str, filename: str) -> OutputFile | None:
        """The file that ComfyUI's names mean, if a prompt has one."""
        wanted = OutputFile("", filename, subfolder, type_, JobId(""))
        record = cast("bytes | None", self._client.get(_file(self._owner, wanted)))
        return _kept(json.loads(record)) if record else None

    def _listed(self, index: str, first: int, last: int) -> list[Prompt]:
        names = cast("list[bytes]", self._client.zrange(index, first, last))
        found = self._read([name.decode() for name in names])
        if len(found) < len(names):  # the others have expired
            gone = {name.decode() for name in names} - {prompt.id for prompt in found}
            self._client.zrem(index, *gone)
        return found

    def _read(self, names: list[str]) -> list[Prompt]:
        if not names:
            return []
        records = self._client.mget([keys.of_prompt(name) for name in names])
        found = [_prompt(json.loads(record)) for record in records if record]
        return [prompt for prompt in found if prompt.owner == self._owner]

    def _pending_key(self, client: str) -> str:
        return keys.unreported_prompts_of(self._owner, _digest(client))


def _file(owner: str, kept: OutputFile) -> str:
    return keys.prompt_file_of(owner, _digest(json.dumps(kept.shown, sort_keys=True)))


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


def _prompt(values: dict[str, Json]) -> Prompt:
    lists = {
        "outputs": tuple(values["outputs"]),
        "kept": tuple(_kept(entry) for entry in values["kept"]),
    }
    return Prompt(**values | lists)


def _kept(values: dict[str, Json]) -> OutputFile:
    return OutputFile(**values | {"job": JobId(values["job"])})
