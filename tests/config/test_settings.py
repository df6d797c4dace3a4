from __future__ import annotations

from pathlib import Path

import pytest

from bgpipe.config.celery import celery_config
from bgpipe.config.settings import load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_any_file_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.model.name == "auto"
    assert {"balanced", "portraits", "products", "raw"} <= set(settings.presets)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bgpipe.toml").write_text("[worker]\nlanes = 5\nbatch = 6\n")
    monkeypatch.setenv("BGPIPE_WORKER__LANES", "7")
    worker = load_settings().worker
    assert (worker.lanes, worker.batch, worker.cpu_threads) == (7, 6, 0)


def test_a_preset_of_the_users_own_joins_the_named_ones(tmp_path: Path) -> None:
    (tmp_path / "bgpipe.toml").write_text("[presets.mine]\ncontrast = 1.2\n")
    presets = load_settings().presets
    assert presets["mine"].contrast == 1.2
    assert presets["products"].contrast == 1.3


def test_celery_takes_json_only_and_gives_messages_back_late() -> None:
    config = celery_config(load_settings(), "redis://localhost")
    assert config["accept_content"] == ["json"]
    assert config["task_acks_late"]
    assert config["broker_transport_options"]["visibility_timeout"] == 180


def test_a_setting_may_be_a_file_of_the_folder_for_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "redis_url").write_text("redis://bgpipe:pass@redis:6379/0\n")
    (folder / "sweeps__products__secret").write_text("signs\n")
    (folder / "of_another_program").write_text("unread\n")
    (tmp_path / "bgpipe.toml").write_text(
        "redis_url = 'redis://overruled'\n[sweeps.products]\nsource = '/a'\ntarget = '/b'\n"
    )
    monkeypatch.setenv("BGPIPE_SECRETS_DIR", str(folder))
    settings = load_settings()
    assert settings.redis_url == "redis://bgpipe:pass@redis:6379/0"
    assert settings.sweeps["products"].secret.get_secret_value() == "signs"
    monkeypatch.setenv("BGPIPE_REDIS_URL", "redis://wins")
    assert load_settings().redis_url == "redis://wins"


def test_the_links_of_a_kubernetes_secret_are_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    (folder / "..2024").mkdir(parents=True)
    (folder / "..2024/redis_url").write_text("redis://kubernetes")
    (folder / "..data").symlink_to("..2024")
    (folder / "redis_url").symlink_to("..data/redis_url")
    monkeypatch.setenv("BGPIPE_SECRETS_DIR", str(folder))
    assert load_settings().redis_url == "redis://kubernetes"
