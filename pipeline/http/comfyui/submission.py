"""A posted prompt becomes jobs: one for each different thing that its outputs keep."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bgpipe.pipeline.comfyui import CutoutSpec, OutputNode, Workflow, WorkflowError, read_workflow
from bgpipe.pipeline.comfyui.graph import no_prompt
from bgpipe.pipeline.comfyui.ui_format import is_ui_format
from bgpipe.pipeline.errors import BgpipeError, ModelUnavailable, UsageError
from bgpipe.pipeline.http.comfyui.input_images import InputImages
from bgpipe.pipeline.http.comfyui.prompt_store import OutputFile, Prompt, PromptStore
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.submission import check_open_jobs, check_queue_capacity, submit
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.types import Job, JobId, Recipe
from bgpipe.pipeline.types import Output as FileFormat

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Json
    from bgpipe.pipeline.http.dependencies import AppState

CLIENT = 200
"""Characters of a client's id."""
PREVIEWS = "ComfyUI_temp"
MOST = 1e15
"""A number that a client may give its prompt, up or down."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptedPrompt:
    """A prompt that was taken, and what is wrong with some of its previews."""

    prompt: Prompt
    errors: dict[str, Json]


def submit_prompt(backend: AppState, owner: str, body: Json) -> AcceptedPrompt:
    """Take what was posted to /prompt: {"prompt": graph, ...}, or a document in UI format.

    Raises:
        Refused: it cannot be done.
        Problem: the id is taken, or the queue is full.

    """
    document, asked = _document(body)
    prompts = PromptStore(backend.session.client, owner, backend.settings.serve.keep_days)
    name = _id(asked, prompts)
    check_queue_capacity(backend)
    check_open_jobs(backend, owner)
    photos = InputImages(backend, owner)
    models = backend.settings.comfyui.models
    workflow = read_workflow(document, models, lambda photo: photos.find(photo) is not None)
    outputs = _requested(workflow, asked.get("partial_execution_targets"))
    views = _specs(outputs)
    jobs = {
        view: _job(backend, owner, JobId(f"{name}.{n}" if n else name), view, photos)
        for n, view in enumerate(dict.fromkeys(views.values()))
    }
    _open(backend, list(jobs.values()))
    prompt = Prompt(
        id=name,
        number=_number(asked, prompts),
        owner=owner,
        client=str(asked.get("client_id") or "")[:CLIENT],
        graph=workflow.graph,
        extra_data=_extra(asked),
        outputs=tuple(output.node for output in outputs),
        kept=tuple(_output_files(prompts, output, views[output], jobs) for output in outputs),
        created=next(iter(jobs.values())).created,
    )
    prompts.add(prompt)
    return AcceptedPrompt(prompt, dict(workflow.errors))


def _document(body: Json) -> tuple[Json, dict[str, Json]]:
    """The workflow, and what was asked for beside it."""
    if is_ui_format(body):
        return body, {}
    if not isinstance(body, dict) or "prompt" not in body:
        raise no_prompt()
    return body["prompt"], body


def _id(asked: dict[str, Json], prompts: PromptStore) -> str:
    name = asked.get("prompt_id")
    if name is None:
        return str(uuid.uuid4())
    if not isinstance(name, str) or not _UUID.fullmatch(name):
        raise WorkflowError(
            "invalid_prompt_id", "The prompt_id is no UUID in small letters", str(name)
        )
    if prompts.exists(name):
        raise Problem(409, "conflict", "prompt_id already exists")
    return name


def _number(asked: dict[str, Json], prompts: PromptStore) -> float:
    """By which the queue is sorted. It is worked on in the order in which it came all the same."""
    given = asked.get("number")
    if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < MOST:
        return float(given)
    number = prompts.next_number()
    return -number if asked.get("front") else number


def _extra(asked: dict[str, Json]) -> dict[str, Json]:
    extra = asked.get("extra_data")
    kept = dict(extra) if isinstance(extra, dict) else {}
    return kept | ({"client_id": asked["client_id"]} if asked.get("client_id") else {})


def _requested(workflow: Workflow, targets: Json) -> tuple[OutputNode, ...]:
    if not isinstance(targets, list):
        return workflow.outputs
    outputs = tuple(output for output in workflow.outputs if output.node in targets)
    if not outputs:
        raise WorkflowError("prompt_no_outputs", "Prompt has no outputs")
    return outputs


def _specs(outputs: tuple[OutputNode, ...]) -> dict[OutputNode, CutoutSpec]:
    """What each output is taken from.

    A preview shows what is saved of its photo: to show what lies before it would take the network a
    second time.
    """
    saved = [output.spec for output in outputs if output.is_saved]
    return {
        output: output.spec
        if output.is_saved
        else next((view for view in saved if _shows(view, output.spec)), output.spec)
        for output in outputs
    }


def _shows(saved: CutoutSpec, preview: CutoutSpec) -> bool:
    if saved.photo != preview.photo:
        return False
    return saved.is_mask is preview.is_mask or (preview.is_mask and not saved.preset.background)


def _job(backend: AppState, owner: str, name: JobId, view: CutoutSpec, photos: InputImages) -> Job:
    photo = photos.find(view.photo)
    if photo is None:  # it went away since the graph was checked
        raise Problem(404, "unknown-photo", f"the photo is gone: {view.photo}")
    photos.use(photo.upload)
    return Job(
        name,
        backend.uploads.source(owner, photo.upload),
        backend.uploads.results(owner, name),
        _recipe(backend, view),
        time.time(),
        owner=owner,
    )


def _recipe(backend: AppState, view: CutoutSpec) -> Recipe:
    """The settings choose the model, so that it may be a path; nothing is pulled for a caller."""
    try:
        weights, degraded = recipe.choose_model(backend.settings, view.model, pull=False)
        edges = backend.settings.matting.model
        matting = recipe.choose_matting(backend.settings, edges, pull=False)
    except (ModelUnavailable, UsageError) as error:
        raise WorkflowError(
            "prompt_outputs_failed_validation", "The model is not here", str(error)
        ) from error
    if degraded:
        log.warning("the bundled model takes the default's place")
    preset = replace(view.preset, background="", foreground=False) if view.is_mask else view.preset
    output = FileFormat(format="mask") if view.is_mask else FileFormat()
    return Recipe(weights.name, weights.sha256, weights.size, preset, output, matting)


def _open(backend: AppState, jobs: list[Job]) -> None:
    """Open all jobs, or none."""
    opened: list[Job] = []
    try:
        for job in jobs:
            submit(backend, job)
            opened.append(job)
    except BgpipeError:
        for job in opened:
            backend.jobs.cancel(job.id)
        raise


def _output_files(
    prompts: PromptStore, output: OutputNode, view: CutoutSpec, jobs: dict[CutoutSpec, Job]
) -> OutputFile:
    folder, _, beginning = (output.prefix or PREVIEWS).rpartition("/")
    count = prompts.next_count(output.prefix or PREVIEWS)
    return OutputFile(
        node=output.node,
        filename=f"{beginning}_{count:05}_.png",
        subfolder=folder,
        type="output" if output.is_saved else "temp",
        job=jobs[view].id,
        is_mask=output.spec.is_mask and not view.is_mask,
    )
