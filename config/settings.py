"""Typed settings, merged from defaults.toml, a TOML file, secret files and the environment."""

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bgpipe.config.layers import EnvironmentLayer, Layer, SecretsLayer, TomlLayer
from bgpipe.config.output import NamedOutput, OutputName
from bgpipe.config.presets import Preset
from bgpipe.config.problems import validate_settings
from bgpipe.config.sweeps import Sweep, SweepName, WebhookSecret
from bgpipe.pipeline.logging import LogFormat

DEFAULTS = Path(__file__).with_name("defaults.toml")
PRESETS = Path(__file__).with_name("presets.toml")
USER_FILE = Path("bgpipe.toml")
CONFIG = "BGPIPE_CONFIG"
"""Variable with the path of the settings file; `--config` sets it for child processes too."""
SECRETS = "BGPIPE_SECRETS_DIR"
"""Variable with a folder of one file per setting: `redis_url`, `sweeps__products__secret`."""

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Address = Annotated[str, Field(pattern=r"^([^\s:]+:\d{1,5})?$", description="HOST:PORT or empty")]
QueueName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="1 to 64 letters, digits, '.', '_', '-'"),
]


class Precision(StrEnum):
    """Number format of the network's arithmetic."""

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"
    FLOAT32 = "float32"


class Section(BaseModel):
    """A table; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Section):
    name: str
    cache_dir: str
    hub_timeout: Seconds
    accept_licences: list[str]


class RefineSettings(Section):
    preset: str


class MattingSettings(Section):
    model: str
    band: Annotated[float, Field(gt=0, le=0.1)]


class ImageSettings(Section):
    max_pixels: PositiveInt
    max_side: PositiveInt
    max_bytes: PositiveInt


class ReviewSettings(Section):
    """Shares are of the image's area, except `border` (of the border) and `soft` (of the subject)."""

    least_subject: Share
    most_subject: Share
    border: Share
    confidence: Share
    most_pieces: PositiveInt
    least_piece: Share
    filled: Share
    soft: Share
    below: Share
    out: str


class QueueSettings(Section):
    name: QueueName
    high_water: PositiveInt
    visibility_timeout: PositiveInt
    max_attempts: PositiveInt
    retry_delay: Seconds


class DispatchSettings(Section):
    poll: Seconds
    lease: Annotated[float, Field(ge=0.5)]
    keep_days: Seconds
    sweep_messages: PositiveInt
    sweep_retry: Seconds


class WorkerSettings(Section):
    lanes: Count
    batch: Count
    batch_wait: Annotated[float, Field(ge=0)]
    cpu_threads: Count
    memory: Count
    model_memory: Count
    drain_timeout: PositiveInt
    restart_delay: Seconds
    start_attempts: PositiveInt
    stuck_limit: PositiveInt
    places: tuple[str, ...]


class MetricsSettings(Section):
    dispatch: Address
    worker: Address


class LogSettings(Section):
    format: LogFormat


class EngineSettings(Section):
    precision: Precision
    compile: bool
    graphs: bool
    kernels: bool


class LimitSettings(Section):
    """The first two limit the device, the others the stages of an image."""

    load: Seconds
    step: Seconds
    read: Seconds
    measure: Seconds
    room: Seconds
    decode: Seconds
    resize: Seconds
    infer: Seconds
    edges: Seconds
    refine: Seconds
    encode: Seconds
    write: Seconds


class PruneSettings(Section):
    most: Share


class EstimateSettings(Section):
    images_per_second: Annotated[float, Field(ge=0)]
    price_per_hour: Annotated[float, Field(ge=0)]


class ServeSettings(Section):
    """Settings of the HTTP service. `uploads` and `sources` are folders or `s3://bucket/prefix`."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    keys: Literal["auto", "required"]
    """When requests need an API key; auto: unless it listens on the loopback only."""
    public_url: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/?)?$")]
    uploads: str
    sources: tuple[str, ...]
    origins: tuple[str, ...]
    docs: bool
    webhook_hosts: tuple[str, ...]
    webhook_secret: WebhookSecret
    request_bytes: PositiveInt
    files: PositiveInt
    queue_mark: PositiveInt
    open_jobs: PositiveInt
    quota_bytes: PositiveInt
    requests_per_minute: PositiveInt
    address_requests_per_minute: PositiveInt
    client_timeout: PositiveInt
    keep_days: Seconds

    @property
    def needs_keys(self) -> bool:
        """Whether the loopback needs an API key too."""
        return self.keys == "required" or bool(self.public_url)


class S3Settings(Section):
    endpoint_url: str
    region: str
    profile: str
    addressing: Literal["auto", "path", "virtual"]
    """Position of the bucket's name in a URL."""
    timeout: Seconds
    encryption: Literal["", "AES256", "aws:kms"]
    """On the server's side; empty leaves it to the bucket."""
    kms_key: str
    storage_class: str
    requester_pays: bool


class ComfySettings(Section):
    models: dict[str, str]


class Settings(Section):
    """The settings of a process; defaults.toml documents each."""

    redis_url: str
    state_dir: str
    model: ModelSettings
    refine: RefineSettings
    matting: MattingSettings
    images: ImageSettings
    review: ReviewSettings
    queue: QueueSettings
    dispatch: DispatchSettings
    worker: WorkerSettings
    engine: EngineSettings
    limits: LimitSettings
    metrics: MetricsSettings
    log: LogSettings
    prune: PruneSettings
    estimate: EstimateSettings
    s3: S3Settings
    serve: ServeSettings
    comfyui: ComfySettings
    sweeps: dict[SweepName, Sweep]
    outputs: dict[OutputName, NamedOutput]
    presets: dict[str, Preset]

    @property
    def embedded(self) -> bool:
        """Whether this process starts its own Redis server and worker."""
        return not self.redis_url

    @property
    def state_folder(self) -> Path:
        return Path(self.state_dir) if self.state_dir else _xdg("XDG_STATE_HOME", ".local/state")

    @property
    def model_folder(self) -> Path:
        if self.model.cache_dir:
            return Path(self.model.cache_dir)
        return _xdg("XDG_DATA_HOME", ".local/share") / "models"


def user_file() -> Path:
    """Return the path of the user's TOML file, which may not exist."""
    return Path(os.environ.get(CONFIG, USER_FILE))


def parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def load_settings() -> Settings:
    """Read the settings from every source; SettingsError with a line for each that is wrong."""
    return load_with_layers()[0]


def load_with_layers() -> tuple[Settings, Sequence[Layer]]:
    """Read the settings and their sources, the strongest one first. Raises as `load_settings`."""
    secrets, file = secrets_folder(), user_file()
    # The user's file must exist only if BGPIPE_CONFIG names it.
    has_file = file.is_file() or CONFIG in os.environ
    layers: list[Layer] = [
        EnvironmentLayer(Settings),
        *([SecretsLayer(Settings, secrets)] if secrets else []),
        *([TomlLayer(file)] if has_file else []),
        TomlLayer(PRESETS, PRESETS.name),
        TomlLayer(DEFAULTS, "default"),
    ]
    return validate_settings(Settings, layers), layers


def secrets_folder() -> Path | None:
    """Return the folder named by BGPIPE_SECRETS_DIR, as containers and systemd mount one."""
    folder = os.environ.get(SECRETS)
    return Path(folder) if folder else None


def _xdg(variable: str, fallback: str) -> Path:
    """Return bgpipe's folder below an XDG base directory."""
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / fallback) / "bgpipe"
