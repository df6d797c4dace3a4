"""The widths of a BiRefNet, and the named configurations.

The released networks differ only in their Swin; the defaults are theirs.
"""

from dataclasses import dataclass

Stages = tuple[int, ...]
"""A value for each of the backbone's stages, shallowest first; of a Swin and its maps, four."""


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    embed: int  # channels of the first stage; each of the next three doubles them
    depths: Stages
    heads: Stages
    window: int

    def __post_init__(self) -> None:
        if any(dim % heads for dim, heads in zip(self.stages, self.heads, strict=True)):
            raise ValueError(f"channels are not multiples of heads: {self.stages}, {self.heads}")

    @property
    def stages(self) -> Stages:
        """Channels of the maps, shallowest first."""
        return (self.embed, 2 * self.embed, 4 * self.embed, 8 * self.embed)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """An EfficientNet-Lite: channels and blocks of its seven stages."""

    widths: Stages
    depths: Stages
    stem: int = 32

    @property
    def stages(self) -> Stages:
        """Channels of the maps, shallowest first."""
        _, a, b, _, c, _, d = self.widths
        return (a, b, c, d)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    backbone: SwinConfig | EfficientNetConfig
    inner: int = 64  # channels inside a decoder block
    branch: int = 256  # channels of each of the five ASPP branches
    kernels: tuple[int, ...] = (1, 3, 7)  # sides of the ASPP's kernels after the first 1x1
    deformable: bool = True  # whether these kernels have learned offsets
    image_inner: int = 64  # channels between the two convolutions of an image branch
    image_divisor: int = 8  # of a stage's channels, gives those of its image branch
    gate: int = 16  # channels of a gradient attention head

    @property
    def features(self) -> Stages:
        """Channels of the decoder's inputs, shallowest first: both scales of the backbone."""
        return tuple(2 * channels for channels in self.backbone.stages)


CONFIGS: dict[str, ModelConfig] = {
    "swin_v1_l": ModelConfig(
        backbone=SwinConfig(embed=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
    ),
    "swin_v1_t": ModelConfig(
        backbone=SwinConfig(embed=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
    ),
    # FeyNobg (feyninc/FeyNobg): six more blocks at stride 16.
    "swin_v1_l_24": ModelConfig(
        backbone=SwinConfig(embed=192, depths=(2, 2, 24, 2), heads=(6, 12, 24, 48), window=12)
    ),
    # Small enough for the package: an EfficientNet-Lite0.
    "birefnet_nano": ModelConfig(
        backbone=EfficientNetConfig(
            widths=(16, 24, 40, 80, 112, 192, 320), depths=(1, 2, 2, 3, 3, 4, 1)
        ),
        inner=64,
        branch=64,
        kernels=(3,),
        deformable=False,
        image_inner=8,
    ),
}
