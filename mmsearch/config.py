"""Settings: option > `MMSEARCH_*` > `<library>/config.toml` > the user's `config.toml` > default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mmsearch.errors import ConfigError

ENV_PREFIX = "MMSEARCH_"
CONFIG_NAME = "config.toml"
LIBRARY_NAME = "index_data"


class Settings(BaseSettings):
    """Every setting, with its default. Made by `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    library: Path | None = Field(None, description="folder of the library")
    model: str = Field("mini", min_length=1, description="checkpoint: mini, toy, a folder, or a cached hub name")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, …; chosen by itself if empty")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="the model's arithmetic; if empty, bfloat16 where the device has it, else float32"
    )
    store: Literal["faiss", "exact"] = Field("faiss", description="vector store")
    jobs: int | None = Field(None, ge=1, description="decoding processes; half of the cores if empty")
    decode_timeout_s: float = Field(120.0, gt=0, description="deadline for decoding one item")
    decode_memory_bytes: int = Field(
        4 << 30, ge=256 << 20, lt=1 << 63, description="memory limit of a decoding process"
    )
    max_image_pixels: int | None = Field(
        None,
        ge=1,
        description="larger pictures are refused by their header; if empty, 100 to 400 million by the machine's memory",
    )
    max_pages: int = Field(5000, ge=1, description="longer documents are refused")
    ocr: bool = Field(True, description="read the print of pages and pictures without a text layer")
    ocr_languages: str = Field("eng", min_length=1, description="languages that Tesseract reads, as eng+deu")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="of the messages on stderr")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def user_config_file() -> Path:
    """Where the user's own settings lie; the file need not exist."""
    return platformdirs.user_config_path("mmsearch") / CONFIG_NAME


def load_settings(library_folder: Path | None = None, **options: Any) -> Settings:
    """Gather the settings; `options` that are None count as not given.

    Raises:
        ConfigError: a value that cannot be used, or a file that is not TOML; the message names it.
    """
    files = [user_config_file()]
    if library_folder is not None:
        files.insert(0, library_folder / CONFIG_NAME)

    class WithFiles(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
            return (
                init_settings,
                env_settings,
                *(TomlConfigSettingsSource(settings_cls, file) for file in files),
            )

    try:
        found = WithFiles(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"setting {name!r}: {first['msg']} (given: {first.get('input')!r})") from None
    except ValueError as error:  # tomllib's error is one
        raise ConfigError(f"{' or '.join(str(file) for file in files if file.exists())}: {error}") from None
    return found


def find_library_folder(option: Path | None = None) -> Path:
    """Where the library lies: `option` > `MMSEARCH_LIBRARY` > the nearest `index_data/` in the working folder or a parent
    > `library` in the user's config file > the user's data folder. The folder need not exist."""
    if option is not None:
        return Path(os.path.abspath(option.expanduser()))  # noqa: PTH100  (resolve() would follow links)
    if named := os.environ.get(f"{ENV_PREFIX}LIBRARY"):
        return Path(os.path.abspath(Path(named).expanduser()))  # noqa: PTH100
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / LIBRARY_NAME).is_dir():
            return folder / LIBRARY_NAME
    if (configured := load_settings().library) is not None:
        return Path(os.path.abspath(configured.expanduser()))  # noqa: PTH100
    return platformdirs.user_data_path("mmsearch") / LIBRARY_NAME
