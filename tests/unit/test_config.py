from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from mmsearch.config import Settings, find_library_folder, load_settings, user_config_file
from mmsearch.errors import ConfigError


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine reach the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MMSEARCH_{name.upper()}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def write_user_config(text: str) -> None:
    user_config_file().parent.mkdir(parents=True, exist_ok=True)
    user_config_file().write_text(text)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.model, settings.store, settings.device, settings.decode_timeout_s) == (
        "mini",
        "faiss",
        None,
        120.0,
    )
    assert settings.model_fields_set == set()


def test_option_over_environment_over_library_over_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_user_config('model = "user"\nstore = "exact"\nmax_pages = 1\ndecode_timeout_s = 9')
    (tmp_path / "config.toml").write_text('model = "library"\nmax_pages = 2\ndecode_timeout_s = 8')
    monkeypatch.setenv("MMSEARCH_MODEL", "environment")
    monkeypatch.setenv("MMSEARCH_MAX_PAGES", "3")
    settings = load_settings(tmp_path, model="option", device=None)
    assert settings.model == "option"
    assert settings.max_pages == 3
    assert settings.decode_timeout_s == 8
    assert settings.store == "exact"
    assert load_settings(tmp_path).model == "environment"
    assert load_settings().decode_timeout_s == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PAGES", "many"),
        ("STORE", "milk"),
        ("JOBS", "0"),
        ("DECODE_TIMEOUT_S", "-1"),
        ("DECODE_MEMORY_BYTES", str(1 << 63)),
    ],
)
def test_an_unusable_value_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MMSEARCH_{name}", value)
    with pytest.raises(ConfigError, match=rf"{name.lower()}.*{value}"):
        load_settings()


def test_an_unknown_name_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("modle = 'mini'")
    with pytest.raises(ConfigError, match="modle"):
        load_settings(tmp_path)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("model mini")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings(tmp_path)


def test_where_the_library_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_library_folder() == platformdirs.user_data_path("mmsearch") / "index_data"

    write_user_config(f'library = "{tmp_path}/configured"')
    assert find_library_folder() == tmp_path / "configured"

    (tmp_path / "index_data").mkdir()
    assert find_library_folder() == tmp_path / "index_data"
    (tmp_path / "a" / "index_data").mkdir()
    assert find_library_folder() == tmp_path / "a" / "index_data", "the nearest one"

    monkeypatch.setenv("MMSEARCH_LIBRARY", "named")
    assert find_library_folder() == deep / "named"
    assert find_library_folder(Path("../option")) == tmp_path / "a" / "option"
