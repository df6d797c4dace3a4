"""The state of a prompt in ComfyUI's terms: its entry in the history, its events on the websocket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.types import JobState

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json
    from bgpipe.pipeline.http.comfyui.prompt_store import OutputFile, Prompt
    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.types import Failure, JobSummary

Event = tuple[str, dict[str, "Json"]]
"""The event's type and data."""


class PromptStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "in_progress"
    DONE = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        return self not in {PromptStatus.PENDING, PromptStatus.RUNNING}


@dataclass(frozen=True, slots=True)
class PromptState:
    """A prompt and its status. Times are Unix time in milliseconds."""

    prompt: Prompt
    status: PromptStatus
    ended: int
    failure: Failure | None = None

    @property
    def history_entry(self) -> dict[str, Json]:
        is_done = self.status is PromptStatus.DONE
        files = self.prompt.kept if is_done else ()
        events = [*self.start_events(), *self._failure_events(), *self._success_events()]
        messages = [[kind, data] for kind, data in events if kind.startswith("execution_")]
        return {
            "prompt": self.prompt.queue_item,
            "outputs": _outputs_by_node(files),
            "status": {
                "status_str": "success" if is_done else "error",
                "completed": is_done,
                "messages": messages,
            },
            "meta": {
                file.node: {
                    "node_id": file.node,
                    "display_node": file.node,
                    "parent_node": None,
                    "real_node_id": file.node,
                }
                for file in files
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
        """Yield the events of a prompt that has ended; clients wait for the last one."""
        base = {"prompt_id": self.prompt.id}
        if self.status is PromptStatus.DONE:
            yield "progress", base | {"node": self._slowest_node, "value": 1, "max": 1}
            for node, output in _outputs_by_node(self.prompt.kept).items():
                yield "executing", base | {"node": node, "display_node": node}
                yield "executed", base | {"node": node, "display_node": node, "output": output}
        yield from self._failure_events()
        yield from self._success_events()
        yield "executing", base | {"node": None}

    def _success_events(self) -> Iterator[Event]:
        if self.status is PromptStatus.DONE:
            yield "execution_success", {"prompt_id": self.prompt.id, "timestamp": self.ended}

    def _failure_events(self) -> Iterator[Event]:
        node = self._slowest_node
        base = {
            "prompt_id": self.prompt.id,
            "node_id": node,
            "node_type": self.prompt.graph[node]["class_type"],
            "executed": [],
            "timestamp": self.ended,
        }
        if self.status is PromptStatus.CANCELLED:
            yield "execution_interrupted", base
        if self.status is PromptStatus.FAILED:
            error = {
                "exception_message": self.failure.detail if self.failure else "",
                "exception_type": self.failure.code if self.failure else "",
                "traceback": [],
                "current_inputs": {},
                "current_outputs": [],
            }
            yield "execution_error", base | error

    @property
    def _slowest_node(self) -> str:
        """The node that removes the background."""
        graph = self.prompt.graph
        nodes = (name for name in graph if graph[name]["class_type"] == node_types.REMOVE)
        return next(nodes, next(iter(graph)))


def read_prompt_state(jobs: JobStore, prompt: Prompt) -> PromptState | None:
    """Return the state of `prompt`, or None if its jobs were forgotten."""
    try:
        summaries = [jobs.summary(job) for job in prompt.jobs]
        status = _status_of(summaries)
        failure = _first_failure(jobs, summaries) if status is PromptStatus.FAILED else None
    except JobNotFound:
        return None
    seconds = max(summary.seconds for summary in summaries)
    return PromptState(prompt, status, int(1000 * (prompt.created + seconds)), failure)


def _outputs_by_node(files: Sequence[OutputFile]) -> dict[str, Json]:
    images: dict[str, list[dict[str, str]]] = {}
    for file in files:
        images.setdefault(file.node, []).append(file.reference)
    return {node: {"images": references} for node, references in images.items()}


def _status_of(summaries: Sequence[JobSummary]) -> PromptStatus:
    states = {summary.state for summary in summaries}
    if JobState.CANCELLED in states:
        return PromptStatus.CANCELLED
    has_failed = any(summary.failed for summary in summaries)
    if states == {JobState.FINISHED}:
        return PromptStatus.FAILED if has_failed else PromptStatus.DONE
    has_started = has_failed or any(summary.running or summary.done for summary in summaries)
    return PromptStatus.RUNNING if has_started else PromptStatus.PENDING


def _first_failure(jobs: JobStore, summaries: Sequence[JobSummary]) -> Failure | None:
    failures = (failure for summary in summaries for failure in jobs.items.failures(summary.job))
    return next(failures, None)
