"""Engines: model inputs in, mattes out. Here the main model's, and what every engine shares.

Micro-batches have a fixed shape: an incomplete one is padded, so that the matte of an image depends
neither on its neighbors nor on its position. Only the size of the batch may change the last bits.

Weights are cast once; autocast would cost Swin about half its speed. Sampling points, normalization
and the last sigmoid are float32 in every precision.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest

import numpy as np
import torch
from torch import Tensor, nn

from bgpipe.config.settings import Precision
from bgpipe.pipeline.errors import Code, DeviceLost, Refused, TransientError, UsageError
from bgpipe.pipeline.inference.devices import is_out_of_memory
from bgpipe.pipeline.inference.kernel_choice import choose_kernels
from bgpipe.pipeline.inference.transfer import CudaTransfer, Outputs, Step, capture_graph
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.networks.birefnet.fused import fuse, move
from bgpipe.pipeline.networks.preprocess import Normalizer, stack_images
from bgpipe.pipeline.types import Matte, Pixels, Plane, ResolvedModel

PASSES_IN_FLIGHT = {"cuda": 2, "cpu": 1}
"""On a GPU, one is copied and read while the other is computed."""
DTYPES = {
    Precision.FLOAT16: torch.float16,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.TF32: torch.float32,
    Precision.FLOAT32: torch.float32,
}
TENSOR_CORES = (7, 0)  # compute capability from which float16 is many times as fast as float32
AMPERE = (8, 0)  # compute capability from which TensorFloat-32 and bfloat16 are

log = EventLogger(__name__)

LaunchedPass = Callable[[], list[Matte]]
"""Waits for a pass, and returns its mattes or raises its error. To be called once."""


class Engine(ABC):
    """A network on one device, cpu or cuda. For one thread, as its buffers are reused."""

    _network: nn.Module

    def __init__(self, device: str, batch: int, threads: int) -> None:
        """`threads` of the CPU run one forward pass."""
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._normalize = Normalizer(self._device)
        self.batch = batch
        """Images in one forward pass, halved whenever the device runs out of memory."""
        self.passes_in_flight = PASSES_IN_FLIGHT[self._device.type]
        """Passes worth launching before the first is read."""

    @property
    def memory(self) -> int:
        """Bytes that the weights take on the device."""
        tensors = chain(self._network.parameters(), self._network.buffers())
        return sum(tensor.nbytes for tensor in tensors)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Return a matte for each image, uint8 [h, w, C] of one size.

        Raises:
            Refused: a single image does not fit in the device's memory.
            TransientError: its matte contains NaN or infinity.
            DeviceLost: the device fails and will not recover within this process.
        """
        mattes: list[Matte] = []
        launched: deque[LaunchedPass] = deque()
        start = 0
        try:
            while start < len(images):
                piece = images[start : start + self.batch]
                launched.append(self.launch(piece))
                start += len(piece)
                if len(launched) == self.passes_in_flight:
                    mattes += launched.popleft()()
            while launched:
                mattes += launched.popleft()()
        finally:  # a pass that is given up still uses its buffers
            for read in launched:
                with suppress(TransientError):
                    read()
        return mattes

    def launch(self, images: Sequence[Pixels]) -> LaunchedPass:
        """Start a pass over images, at most `batch`, and return without waiting for a GPU.

        Out of memory, `batch` is halved and the images take several passes, which are waited for. Raises
        as `infer` does, except for what only the result shows.
        """
        while True:
            try:
                return self._guard(self._launch(images))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    if isinstance(error, torch.AcceleratorError):
                        raise _lost(error) from error
                    raise
            # Repeated outside the handler, which would keep the tensors alive.
            if self.batch == 1:
                full = "out of device memory at a single image: free it of other programs"
                raise Refused(Code.DEVICE, full)
            self.batch //= 2
            log.warning("out of device memory", batch=self.batch)
            if len(images) > self.batch:
                mattes = self.infer(images)
                return lambda: mattes

    def _guard(self, launched: LaunchedPass) -> LaunchedPass:
        def read() -> list[Matte]:
            try:
                return launched()
            except torch.AcceleratorError as error:
                raise _lost(error) from error

        return read

    @abstractmethod
    def _launch(self, images: Sequence[Pixels]) -> LaunchedPass:
        """Start a pass over at most `batch` images."""


class BiRefNetEngine(Engine):
    """The main model, whose images are RGB of the model's size."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        precision: Precision = Precision.AUTO,
        compiled: bool = False,
        graphs: bool = True,
        kernels: bool = True,
        load: Callable[[ResolvedModel], nn.Module] = lambda model: fuse(load(model), model.size),
    ) -> None:
        """Put `model` on `device`.

        `compiled`: torch.compile, code made for this network and device. On a GPU, `graphs`: a forward
        pass is launched as a whole, if it can be captured; `kernels`: Triton's where they are better.
        All cost time at the start. `load` returns the network, float32: normalized RGB [B, 3, h, w] to
        logits [B, 1, h, w] and coarse ones [B, 1, h / 8, w / 8].

        Raises:
            ModelUnavailable: the file does not hold the weights of a BiRefNet.
            Refused: a single image does not fit in the device's memory.
            UsageError: the device does not have this precision.
        """
        super().__init__(device, batch, threads)
        self._on_gpu = self._device.type == "cuda"
        self._graphs = graphs
        self.size = model.size
        self.precision = choose_precision(precision, self._device)
        # Only algorithms of convolution that give the same bits every time.
        torch.backends.cudnn.deterministic = True
        self._network = cast_network(load(model), self.precision, self._device)
        self._allocated = 0
        self._free: list[CudaTransfer] = []
        self._step: Step = self._forward
        if kernels and self._on_gpu:
            shape = (1, *self.size, 3)
            with torch.inference_mode():
                pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)
                choose_kernels(self._network, lambda: self._forward(pixels))
        if compiled:
            self._network.compile(dynamic=False)
            log.info("compiling the model: takes minutes the first time, is cached then")
        if compiled or self._on_gpu:  # compile, capture and allocate before the first image arrives
            self.infer([np.zeros((*self.size, 3), np.uint8)])

    @torch.inference_mode()
    def _launch(self, images: Sequence[Pixels]) -> LaunchedPass:
        count = len(images)
        if not self._on_gpu:
            outputs = self._forward(stack_images(images, self.batch))
            return lambda: _read_mattes(outputs, count)
        if self._allocated != self.batch:
            self._allocate()
        free = self._free
        transfer = free.pop() if free else CudaTransfer(self.batch, self.size, self._device)
        try:
            transfer.launch(images, self._step)
        except BaseException:
            free.append(transfer)  # its copy may still run
            raise

        def read() -> list[Matte]:
            try:
                outputs = transfer.outputs()
            finally:
                free.append(transfer)
            return _read_mattes(outputs, count)

        return read

    def _allocate(self) -> None:
        """Replace the buffers, and the graph if there is one, by those of the batch's size."""
        torch.cuda.synchronize(self._device)  # passes in flight use the old ones
        self._free, self._step = [], self._forward
        torch.cuda.empty_cache()
        if self._graphs:
            self._step = self._capture_graph()
        self._allocated = self.batch

    def _capture_graph(self) -> Step:
        """Return the forward pass as a graph, or itself if it cannot be captured."""
        try:
            return capture_graph(self._forward, (self.batch, *self.size, 3), self._device)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # If the device is lost, the next pass raises as well.
            log.warning("no CUDA graph, launching each operation", error=str(error))
            return self._forward

    def _forward(self, pixels: Tensor) -> Outputs:
        """Return mattes [B, h, w] and coarse ones of uint8 [B, h, w, 3], and whether each is finite [B]."""
        image = self._normalize(pixels.permute(0, 3, 1, 2))  # [B, 3, h, w], channels last
        outputs = self._network(image.to(DTYPES[self.precision]))
        logits, coarse = (output.float().squeeze(1) for output in outputs)
        is_finite = logits.isfinite().flatten(1).all(dim=1)
        return torch.sigmoid(logits), torch.sigmoid(coarse), is_finite


def _read_mattes(outputs: Outputs, count: int) -> list[Matte]:
    """Return the first `count` mattes of `_forward`'s outputs, on the host."""
    alphas, coarse, is_finite = (output[:count] for output in outputs)
    return make_mattes(alphas, is_finite, [plane.numpy() for plane in coarse])


def make_mattes(alphas: Tensor, is_finite: Tensor, coarse: Sequence[Plane] = ()) -> list[Matte]:
    """Return alphas of the host, float32 [N, h, w], as mattes; `is_finite` [N]: judged by the device."""
    if not is_finite.all():
        raise TransientError(Code.DEVICE, "model output contains NaN or infinity")
    return [Matte(alpha.numpy(), plane) for alpha, plane in zip_longest(alphas, coarse)]


def _lost(error: torch.AcceleratorError) -> DeviceLost:
    return DeviceLost(Code.DEVICE, f"device failed: {error}")


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision itself, or for `auto` the one that suits the device.

    Raises UsageError if the device does not have it.
    """
    if device.type != "cuda":
        if precision is Precision.TF32:
            raise UsageError("precision not available on a CPU: tf32: choose float32")
        return Precision.FLOAT32 if precision is Precision.AUTO else precision
    capability = torch.cuda.get_device_capability(device)
    if precision is Precision.AUTO:
        # Released weights are float16 or are used so, and it is eight times as exact as bfloat16.
        return Precision.FLOAT16 if capability >= TENSOR_CORES else Precision.FLOAT32
    if precision in (Precision.TF32, Precision.BFLOAT16) and capability < AMPERE:
        gpu = f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}"
        raise UsageError(
            f"precision not available on {gpu}: {precision}: choose float16 or float32"
        )
    return precision


def cast_network(network: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Put the network on the device, and set how torch multiplies float32 in this process.

    In half precision float32 is left to the sampling points, whose inputs TF32 holds exactly.
    """
    multiply = "ieee" if precision is Precision.FLOAT32 else "tf32"
    torch.backends.cuda.matmul.fp32_precision = multiply
    torch.backends.cudnn.fp32_precision = multiply
    move(network, device, DTYPES[precision])
    return network
