"""Evaluation in its own process (infra/docs/decisions/0003): EvaluationRequest on stdin, JSON lines on stdout.

It calls what a worker's lane calls, without queue and storage, so that scores are those of a job.
"""

import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from bgpipe.pipeline.errors import Code, ItemError, PermanentError
from bgpipe.pipeline.evaluation.dataset import ImagePair
from bgpipe.pipeline.evaluation.metrics import score
from bgpipe.pipeline.evaluation.protocol import (
    EvaluatedModel,
    EvaluationRequest,
    EvaluationResult,
    ResultImages,
)
from bgpipe.pipeline.images import png
from bgpipe.pipeline.images.color import to_viewed_srgb
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.inference.engine import BiRefNetEngine, Engine
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.resample import resize, to_unit
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.processes import serve_lines
from bgpipe.pipeline.types import DecodedImage, Matte, Pixels, Preset


def evaluate(request: EvaluationRequest) -> Iterator[EvaluationResult]:
    """Score every model and preset on every pair; an unreadable pair yields results with an error."""
    threads = request.threads or os.cpu_count() or 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    solver = None
    if request.edges:
        from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine  # imports transformers

        solver = VitMatteEngine(request.edges.model, device, batch=1, threads=threads)
    for model in request.sources:
        engine = None
        if model.model:
            engine = BiRefNetEngine(model.model, device, batch=1, threads=threads)
        for pair in request.pairs:
            try:
                yield from _evaluate_pair(request, model, pair, engine, solver)
            except ItemError as error:
                for preset in request.presets:
                    yield EvaluationResult(model.name, preset, pair.name, error=str(error))


def _evaluate_pair(
    request: EvaluationRequest,
    model: EvaluatedModel,
    pair: ImagePair,
    engine: Engine | None,
    solver: Engine | None,
) -> Iterator[EvaluationResult]:
    image = decode(_read(pair.image), request.limits)
    truth = _true_cutout(image, decode(_read(pair.truth), request.limits))
    if engine:
        inputs = to_viewed_srgb(preprocess(image.rgb, model.size), image.icc)
        (matte,) = engine.infer([inputs])
    else:  # the best possible matte of a network with this output size
        matte = Matte(resize(to_unit(truth[..., 3]), *model.size))
    if request.edges and solver:
        rgb = to_viewed_srgb(image.rgb, image.icc)
        matte = Matte(solve_edges(rgb, matte.alpha, request.edges.matting, solver.infer))
    for name, preset in request.presets.items():
        cutout = cut_out(image, matte, preset).rgba
        images = _encode_images(request, pair, truth, cutout) if request.thumbnail else None
        yield EvaluationResult(model.name, name, pair.name, score(cutout, truth), images)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(Code.ACCESS, f"cannot be read: {path}: {error.strerror}") from error


def _true_cutout(image: DecodedImage, truth: DecodedImage) -> Pixels:
    """Return the truth itself if it has an alpha, else the image cut out by the truth as a matte."""
    if truth.rgb.shape != image.rgb.shape:
        sizes = (f"{shape[1]}x{shape[0]}" for shape in (truth.rgb.shape, image.rgb.shape))
        detail = f"truth and image differ in size: {', '.join(sizes)}"
        raise PermanentError(Code.UNSUPPORTED, detail)
    if truth.alpha is not None:
        return np.dstack([truth.rgb, truth.alpha])
    gray = truth.rgb[..., 0]
    if not (truth.rgb == gray[..., None]).all():
        raise PermanentError(Code.UNSUPPORTED, "the truth is neither grey nor has an alpha channel")
    return cut_out(image, Matte(to_unit(gray)), Preset()).rgba


def _encode_images(
    request: EvaluationRequest, pair: ImagePair, truth: Pixels, cutout: Pixels
) -> ResultImages:
    files = (_read(pair.image), png.encode(truth, text={}), png.encode(cutout, text={}))
    thumbnails = (render_thumbnail(file, request.limits, request.thumbnail) for file in files)
    return ResultImages(*(base64.b64encode(webp).decode() for webp in thumbnails))


if __name__ == "__main__":
    sys.exit(serve_lines(TypeAdapter(EvaluationRequest), TypeAdapter(EvaluationResult), evaluate))
