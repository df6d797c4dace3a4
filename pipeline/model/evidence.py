"""What the colours of a picture say about its subject, added to what the network says.

A subject rarely lies along the border, and its colours are not those of the border (Wei et al. 2012,
Geodesic Saliency Using Background Priors; Cheng et al. 2011, Global Contrast Based Salient Region
Detection). And what has the colours of that which was found, and not those of the rest, was found too,
which is how GrabCut goes on from a first guess (Rother et al. 2004). Both are told by comparing each
pixel with seeds that stand for subject or ground.

These hold for any subject, also for kinds that a network trained on few photos has never seen, and
where it is sure of its own they change little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.model.resize import DEVIATION, MEAN

BANDWIDTHS = (6.0, 15.0)  # of the kernels, in CIELAB units
STRIDE = 4  # pixels of the image to one of the maps, before these are enlarged
SEEDS = 16  # per side: the colours that every pixel is compared with
ROUNDS = 3
MIDDLE = 0.22  # deviation of the Gaussian that stands for the subject at first, of the side
BORDER = 0.04  # distance from the border at which a seed counts 1/e for it, of the side
LEARNED = 0.3  # weight of seeds inside that were found to be no subject, against the border's
FLOOR = 1e-4  # likelihood of a colour that is found nowhere
UNDECIDED = 1e-3  # of each seed stands for subject and for ground, whatever the matte says


@dataclass(frozen=True)
class Likeness:
    """How alike colours are by a kernel of one bandwidth: seeds to each other [B,N,N], and pixels,
    one for each STRIDE x STRIDE of the image, to the seeds [B,P,N]; all in [0,1].
    """

    seeds: Tensor
    pixels: Tensor


class ColourEvidence(nn.Module):
    """Logits [B,1,H,W] of an image [B,3,H,W] to better ones.

    Likelihoods multiply, so what they say is added as logarithms. `gain` [2] is how much the border and
    the agreement with what was found count; 1 where each is independent of what the network knows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        """image: RGB normalised with ImageNet's statistics; H and W are multiples of 4."""
        border, found = self.gain.unbind()
        likenesses = likenesses_of(image)
        logits = logits + border * against_border(likenesses, logits)
        return logits + found * agreement(likenesses, logits)


@torch.no_grad()
def likenesses_of(image: Tensor) -> list[Likeness]:
    """One for each of BANDWIDTHS."""
    with torch.autocast(image.device.type, enabled=False):
        colours = to_lab(F.avg_pool2d(image.float(), STRIDE))  # [B,3,h,w]
        seeds = F.adaptive_avg_pool2d(colours, SEEDS)  # [B,3,16,16]
        among, across = _squares(seeds, seeds), _squares(colours, seeds)
        return [Likeness(_kernel(among, width), _kernel(across, width)) for width in BANDWIDTHS]


@torch.no_grad()
def against_border(likenesses: list[Likeness], logits: Tensor) -> Tensor:
    """The logarithm of each pixel's likelihood by the colours of the middle against that by those of the
    border, like `logits` [B,1,H,W]; 0 where the colours tell nothing.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _on_average([_stands_out(one) for one in likenesses], logits)


@torch.no_grad()
def agreement(likenesses: list[Likeness], logits: Tensor) -> Tensor:
    """The same by the colours of what `logits` [B,1,H,W] take for the subject against the rest."""
    with torch.autocast(logits.device.type, enabled=False):
        subject = F.adaptive_avg_pool2d(logits.float().sigmoid(), SEEDS).flatten(1)  # [B,N]
        subject, ground = subject + UNDECIDED, 1 - subject + UNDECIDED
        return _on_average([_ratio(one.pixels, subject, ground) for one in likenesses], logits)


def to_lab(image: Tensor) -> Tensor:
    """Normalised RGB [B,3,H,W] to CIELAB under D65, its lightness in [0,100]."""
    r, g, b = (
        _linear((image[:, i] * DEVIATION[i] + MEAN[i]).clamp(0, 1)) for i in range(3)
    )  # numbers, not tensors: a CUDA graph may hold no copies from the host
    x = _cube_root((0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.950456)
    y = _cube_root(0.212671 * r + 0.715160 * g + 0.072169 * b)
    z = _cube_root((0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.088754)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _linear(encoded: Tensor) -> Tensor:
    """Light from sRGB's encoding of it, both in [0,1]."""
    return torch.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)


def _cube_root(x: Tensor) -> Tensor:
    """As CIELAB has it: straight near zero."""
    return torch.where(x > 0.008856, x ** (1 / 3), 7.787 * x + 16 / 116)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [B,P,N] of colours [B,3,*] with P places and [B,3,*] with N."""
    a, b = a.flatten(2).mT, b.flatten(2).mT
    # By differences: by products, as TensorFloat-32 has them, near colours would be far apart.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _kernel(squares: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(squares / (-2 * bandwidth**2))


def _stands_out(likeness: Likeness) -> Tensor:
    """In rounds, as the first answer tells better which seeds are the subject's: [B,P]."""
    middle, border = _places(likeness.seeds.device)
    subject, ground = middle, border  # [N] or [B,N]: how much each seed stands for either
    for _ in range(ROUNDS - 1):
        share = _ratio(likeness.seeds, subject, ground).sigmoid()
        subject = middle * share**2
        ground = border + LEARNED * (1 - share) ** 2 * (1 - middle)
    return _ratio(likeness.pixels, subject, ground)


def _ratio(alike: Tensor, subject: Tensor, ground: Tensor) -> Tensor:
    """Logarithm [B,P] of each colour's likelihood as the subject's against that as the ground's, by its
    likeness to the seeds [B,P,N].
    """
    both = torch.stack([one / one.sum(-1, keepdim=True) for one in (subject, ground)], dim=-1)
    inside, outside = (alike @ both + FLOOR).log().unbind(-1)
    return inside - outside


def _places(device: torch.device) -> tuple[Tensor, Tensor]:
    """How central and how close to the border each seed lies, [N] each, in [0,1]."""
    at = (torch.arange(SEEDS, device=device) + 0.5) / SEEDS
    y, x = at[:, None], at[None, :]
    middle = torch.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * MIDDLE**2))
    inside = torch.minimum(torch.minimum(y, 1 - y), torch.minimum(x, 1 - x)) - 0.5 / SEEDS
    return middle.flatten(), torch.exp(-inside / BORDER).flatten()


def _on_average(maps: list[Tensor], logits: Tensor) -> Tensor:
    """The mean of maps [B,P], as large as `logits`."""
    height, width = logits.shape[2:]
    mean = torch.stack(maps).mean(dim=0).view(-1, 1, height // STRIDE, width // STRIDE)
    return F.interpolate(mean, size=(height, width), mode="bilinear").to(logits.dtype)
