"""Records of prompts and their files, and a prompt's state, history and events in ComfyUI's terms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import Graph, Json
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.types import Failure, JobId, JobState, JobSummary

Event = tuple[str, dict[str, Json]]
"""The event's type and data."""
CLIENT_ID_LENGTH = 200
"""Maximum; the rest is cut off."""


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


class PromptStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "in_progress"
    DONE = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PromptState:
    """A prompt and its status. Times are Unix time in milliseconds."""

    prompt: Prompt
    status: PromptStatus
    ended: int
    failure: Failure | None = None

    @classmethod
    def read(cls, jobs: JobStore, prompt: Prompt) -> Self | None:
        """Return the state of `prompt`, or None if its jobs were forgotten."""
        failure = None
        try:
            summaries = [jobs.summary(job) for job in prompt.jobs]
            status = _status_of(summaries)
            if status is PromptStatus.FAILED:
                failed = (failure for job in prompt.jobs for failure in jobs.items.failures(job))
                failure = next(failed, None)
        except JobNotFound:
            return None
        seconds = max(summary.seconds for summary in summaries)
        return cls(prompt, status, int(1000 * (prompt.created + seconds)), failure)

    @property
    def has_ended(self) -> bool:
        return self.status not in {PromptStatus.PENDING, PromptStatus.RUNNING}

    @property
    def history_entry(self) -> dict[str, Json]:
        """The entry of a prompt that has ended."""
        is_done = self.status is PromptStatus.DONE
        messages = [event for event in self.start_events() if event[0].startswith("execution_")]
        outputs = self._outputs_by_node()
        return {
            "prompt": self.prompt.queue_item,
            "outputs": outputs,
            "status": {
                "status_str": "success" if is_done else "error",
                "completed": is_done,
                "messages": [*messages, self._final_event()],
            },
            "meta": {
                node: dict.fromkeys(("node_id", "display_node", "real_node_id"), node)
                | {"parent_node": None}
                for node in outputs
            },
        }

    def start_events(self) -> Iterator[Event]:
        """Yield the events of a prompt that is running."""
        base = {"prompt_id": self.prompt.id}
        started = int(1000 * self.prompt.created)
        yield "execution_start", base | {"timestamp": started}
        yield "execution_cached", base | {"nodes": [], "timestamp": started}
        node = self._slowest_node
        yield "executing", base | {"node": node, "display_node": node}
        yield "progress", base | {"node": node, "value": 0, "max": 1}

    def end_events(self) -> Iterator[Event]:
        """Yield the events of a prompt that has ended.

        Clients stop at `executing` without a node: an error has to come before, and a success may follow.
        """
        base = {"prompt_id": self.prompt.id}
        if self.status is PromptStatus.DONE:
            yield "progress", base | {"node": self._slowest_node, "value": 1, "max": 1}
        for node, output in self._outputs_by_node().items():
            yield "executing", base | {"node": node, "display_node": node}
            yield "executed", base | {"node": node, "display_node": node, "output": output}
        final: list[Event] = [self._final_event(), ("executing", base | {"node": None})]
        yield from reversed(final) if self.status is PromptStatus.DONE else final

    def _final_event(self) -> Event:
        base = {"prompt_id": self.prompt.id, "timestamp": self.ended}
        if self.status is PromptStatus.DONE:
            return "execution_success", base
        node = self._slowest_node
        kind = self.prompt.graph[node]["class_type"]
        base |= {"node_id": node, "node_type": kind, "executed": []}
        if self.status is PromptStatus.CANCELLED:
            return "execution_interrupted", base
        return "execution_error", base | {
            "exception_message": self.failure.detail if self.failure else "",
            "exception_type": self.failure.code if self.failure else "",
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
        }

    @property
    def _slowest_node(self) -> str:
        """The node that removes the background."""
        graph = self.prompt.graph
        nodes = (name for name in graph if graph[name]["class_type"] in node_types.REMOVERS)
        return next(nodes, next(iter(graph)))

    def _outputs_by_node(self) -> dict[str, Json]:
        outputs: dict[str, Json] = {}
        # Some clients take the first output, so saved ones come before previews.
        kept = sorted(self.prompt.kept, key=lambda file: file.type == "temp")
        for file in kept if self.status is PromptStatus.DONE else ():
            outputs.setdefault(file.node, {"images": []})["images"].append(file.reference)
        return outputs


def _status_of(summaries: Sequence[JobSummary]) -> PromptStatus:
    states = {summary.state for summary in summaries}
    if JobState.CANCELLED in states:
        return PromptStatus.CANCELLED
    has_failed = any(summary.failed for summary in summaries)
    if states == {JobState.FINISHED}:
        return PromptStatus.FAILED if has_failed else PromptStatus.DONE
    has_started = has_failed or any(summary.running or summary.done for summary in summaries)
    return PromptStatus.RUNNING if has_started else PromptStatus.PENDING
