"""How a prompt stands, as ComfyUI tells it: in its history, and in the events of its websocket."""

from __future__ import annotations

from collections.abc import Iterator
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


class PromptStatus(StrEnum):
    """The words are those of /api/jobs."""

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
    """A prompt and how it stands. Times are in milliseconds of Unix time."""

    prompt: Prompt
    status: PromptStatus
    ended: int
    failure: Failure | None = None

    @property
    def started(self) -> int:
        return int(1000 * self.prompt.created)

    @property
    def entry(self) -> dict[str, Json]:
        """Of the history."""
        done = self.status is PromptStatus.DONE
        kept = self.prompt.kept if done else ()
        messages = [
            *self.beginning(),
            *([] if done else self._failure_events()),
            *self._success_events(),
        ]
        shown = [[kind, data] for kind, data in messages if kind.startswith("execution_")]
        return {
            "prompt": self.prompt.item,
            "outputs": outputs_of(kept),
            "status": {
                "status_str": "success" if done else "error",
                "completed": done,
                "messages": shown,
            },
            "meta": {
                entry.node: {
                    "node_id": entry.node,
                    "display_node": entry.node,
                    "parent_node": None,
                    "real_node_id": entry.node,
                }
                for entry in kept
            },
        }

    def beginning(self) -> Iterator[Event]:
        """The events once it runs."""
        about = {"prompt_id": self.prompt.id}
        yield "execution_start", about | {"timestamp": self.started}
        yield "execution_cached", about | {"nodes": [], "timestamp": self.started}
        node = self._worker_node
        yield "executing", about | {"node": node, "display_node": node}
        yield "progress", about | {"node": node, "value": 0, "max": 1}

    def end(self) -> Iterator[Event]:
        """The events once it has ended; the last one is what clients wait for."""
        about = {"prompt_id": self.prompt.id}
        if self.status is PromptStatus.DONE:
            yield "progress", about | {"node": self._worker_node, "value": 1, "max": 1}
            for node, output in outputs_of(self.prompt.kept).items():
                yield "executing", about | {"node": node, "display_node": node}
                yield "executed", about | {"node": node, "display_node": node, "output": output}
        yield from self._failure_events()
        yield from self._success_events()
        yield "executing", about | {"node": None}

    def _success_events(self) -> Iterator[Event]:
        if self.status is PromptStatus.DONE:
            about = {"prompt_id": self.prompt.id, "timestamp": self.ended}
            yield "execution_success", about

    def _failure_events(self) -> Iterator[Event]:
        node = self._worker_node
        about = {
            "prompt_id": self.prompt.id,
            "node_id": node,
            "node_type": self.prompt.graph[node]["class_type"],
            "executed": [],
            "timestamp": self.ended,
        }
        if self.status is PromptStatus.CANCELLED:
            yield "execution_interrupted", about
        if self.status is PromptStatus.FAILED:
            yield (
                "execution_error",
                about
                | {
                    "exception_message": self.failure.detail if self.failure else "",
                    "exception_type": self.failure.code if self.failure else "",
                    "traceback": [],
                    "current_inputs": {},
                    "current_outputs": [],
                },
            )

    @property
    def _worker_node(self) -> str:
        """The node that removes the background: the one that takes its time."""
        graph = self.prompt.graph
        removing = (name for name in graph if graph[name]["class_type"] == node_types.REMOVE)
        return next(removing, next(iter(graph)))


def prompt_state(job_store: JobStore, prompt: Prompt) -> PromptState | None:
    """How the prompt stands; None if the ledger has forgotten its jobs."""
    try:
        summary = [job_store.summary(job) for job in prompt.jobs]
        stage = _status(summary)
        failure = _failure(job_store, summary) if stage is PromptStatus.FAILED else None
    except JobNotFound:
        return None
    seconds = max(book.seconds for book in summary)
    return PromptState(prompt, stage, int(1000 * (prompt.created + seconds)), failure)


def outputs_of(kept: tuple[OutputFile, ...]) -> dict[str, Json]:
    """Node -> its files."""
    files: dict[str, list[dict[str, str]]] = {}
    for entry in kept:
        files.setdefault(entry.node, []).append(entry.shown)
    return {node: {"images": images} for node, images in files.items()}


def _status(summary: list[JobSummary]) -> PromptStatus:
    states = {book.state for book in summary}
    if JobState.CANCELLED in states:
        return PromptStatus.CANCELLED
    if states == {JobState.FINISHED}:
        return PromptStatus.FAILED if any(book.failed for book in summary) else PromptStatus.DONE
    touched = any(book.running or book.done or book.failed for book in summary)
    return PromptStatus.RUNNING if touched else PromptStatus.PENDING


def _failure(job_store: JobStore, summary: list[JobSummary]) -> Failure | None:
    failures = (failure for book in summary for failure in job_store.items.failures(book.job))
    return next(failures, None)
