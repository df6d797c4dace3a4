"""An evaluation as a process of its own: an order on stdin, a result a line on stdout.

`bgpipe eval` starts it (infra/docs/decisions/). It takes the way of a worker's lane, without
queue and storage, so that what is scored is what a job would write.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import TypeAdapter

from bgpipe.pipeline.errors import BgpipeError, Code, ItemError, PermanentError
from bgpipe.pipeline.evaluation.protocol import (
    EdgeMatting,
    EvaluatedModel,
    EvaluationRequest,
    EvaluationResult,
    ImagePair,
    ResultImages,
)
from bgpipe.pipeline.evaluation.scores import score
from bgpipe.pipeline.images import png
from bgpipe.pipeline.images.color import to_viewed_srgb
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import DecodedImage, Matte, Preset

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

    Predict = Callable[[DecodedImage, Pixels], Matte]
    """From a picture and the true cutout."""
    Sharpen = Callable[[DecodedImage, Matte], Matte]


def evaluate(order: EvaluationRequest) -> Iterator[EvaluationResult]:
    """Score every source and preset on every pair; a pair that cannot be read is a result too."""
    threads = order.threads or os.cpu_count() or 1
    sharpen = _sharpener(order.edges, threads)
    for source in order.sources:
        predict = _predictor(source, threads)
        for pair in order.pairs:
            try:
                yield from _results(order, source, pair, predict, sharpen)
            except ItemError as error:
                for preset in order.presets:
                    yield EvaluationResult(source.name, preset, pair.name, error=str(error))


def _predictor(source: EvaluatedModel, threads: int) -> Predict:
    if source.model is None:
        return lambda _, truth: _through(source.size, truth)
    engine = BiRefNetEngine(source.model, _device(), batch=1, threads=threads)

    def predict(picture: DecodedImage, _: Pixels) -> Matte:
        pixels = to_viewed_srgb(preprocess(picture.rgb, source.size), picture.icc)
        return engine.infer([pixels])[0]

    return predict


def _sharpener(edges: EdgeMatting | None, threads: int) -> Sharpen:
    if edges is None:
        return lambda _, matte: matte
    from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine  # and with it transformers

    engine = VitMatteEngine(edges.model, _device(), batch=1, threads=threads)

    def sharpen(picture: DecodedImage, matte: Matte) -> Matte:
        rgb = to_viewed_srgb(picture.rgb, picture.icc)
        return Matte(solve_edges(rgb, matte.alpha, edges.matting, engine.infer))

    return sharpen


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _through(size: tuple[int, int], truth: Pixels) -> Matte:
    """The best matte that a network of this size could give."""
    return Matte(resize(truth[..., 3].astype(np.float32) / np.float32(255), *size))


def _results(
    order: EvaluationRequest,
    source: EvaluatedModel,
    pair: ImagePair,
    predict: Predict,
    sharpen: Sharpen,
) -> Iterator[EvaluationResult]:
    limits = Limits(**order.limits)
    picture = decode(_read(pair.image), limits)
    truth = _true_cutout(picture, decode(_read(pair.truth), limits))
    matte = sharpen(picture, predict(picture, truth))
    for name, preset in order.presets.items():
        cutout = cut_out(picture, matte, preset).rgba
        shown = _pictures(order, pair, truth, cutout) if order.thumbnail else None
        yield EvaluationResult(source.name, name, pair.name, score(cutout, truth), shown)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(Code.ACCESS, f"cannot be read: {path}: {error.strerror}") from error


def _true_cutout(picture: DecodedImage, truth: DecodedImage) -> Pixels:
    """The truth's own colours where it has an alpha; else those that its matte gives the picture."""
    if truth.rgb.shape != picture.rgb.shape:
        raise PermanentError(
            Code.UNSUPPORTED, f"the truth has another size: {truth.rgb.shape} {picture.rgb.shape}"
        )
    if truth.alpha is not None:
        return np.dstack([truth.rgb, truth.alpha])
    grey = truth.rgb[..., 0]
    if not (truth.rgb == grey[..., None]).all():
        raise PermanentError(Code.UNSUPPORTED, "the truth is neither grey nor has it an alpha")
    return cut_out(picture, Matte(grey.astype(np.float32) / np.float32(255)), Preset()).rgba


def _pictures(
    order: EvaluationRequest, pair: ImagePair, truth: Pixels, cutout: Pixels
) -> ResultImages:
    limits = Limits(**order.limits)
    files = (_read(pair.image), png.encode(truth, text={}), png.encode(cutout, text={}))
    shown = (base64.b64encode(render_thumbnail(file, limits, order.thumbnail)) for file in files)
    return ResultImages(*(each.decode() for each in shown))


def main() -> int:
    order = TypeAdapter(EvaluationRequest).validate_json(sys.stdin.buffer.read())
    line = TypeAdapter(EvaluationResult)
    try:
        for result in evaluate(order):
            sys.stdout.buffer.write(line.dump_json(result) + b"\n")
            sys.stdout.buffer.flush()
    except BgpipeError as error:
        sys.stderr.write(f"bgpipe: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
