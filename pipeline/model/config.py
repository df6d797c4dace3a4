"""Every width of a BiRefNet, and the named configurations.

The released networks differ only in their Swin; what they have in common are the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

Stages = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    embed: int  # channels of the first stage; they double at each of the three next
    depths: Stages
    heads: Stages
    window: int

    def __post_init__(self) -> None:
        if any(dim % heads for dim, heads in zip(self.stages, self.heads, strict=True)):
            raise ValueError(f"channels {self.stages} cannot be shared by heads {self.heads}")

    @property
    def stages(self) -> Stages:
        """Channels of the maps, shallowest first."""
        return (self.embed, 2 * self.embed, 4 * self.embed, 8 * self.embed)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    stem: int  # channels between the two convolutions before the first stage
    stages: Stages  # channels of the maps, shallowest first
    depths: Stages


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    backbone: SwinConfig | ResNetConfig
    inner: int = 64  # channels inside a decoder block
    branch: int = 256  # channels of each of the five ASPP branches
    kernels: tuple[int, ...] = (1, 3, 7)  # sides of the deformable kernels after the first 1x1
    image_inner: int = 64  # channels between the two convolutions of an image branch
    image_divisor: int = 8  # an image branch ends in 1 / image_divisor of its stage's channels
    gate: int = 16  # channels of a gradient attention head
    evidence: bool = False  # whether what the colours say is added to the logits

    @property
    def features(self) -> Stages:
        """Channels the decoder sees, shallowest first: both scales of the backbone together."""
        a, b, c, d = self.backbone.stages
        return (2 * a, 2 * b, 2 * c, 2 * d)


CONFIGS: dict[str, ModelConfig] = {
    "swin_v1_l": ModelConfig(
        backbone=SwinConfig(embed=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
    ),
    "swin_v1_t": ModelConfig(
        backbone=SwinConfig(embed=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
    ),
    # Small enough to travel inside the package, for 192x192.
    "birefnet_nano": ModelConfig(
        backbone=ResNetConfig(stem=24, stages=(32, 64, 128, 192), depths=(2, 2, 2, 2)),
        inner=48,
        branch=64,
        kernels=(3,),
        image_inner=8,
        evidence=True,
    ),
}
