"""Model configurations for the tests of this folder, read from the shipped files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common.config.model import ModelConfig

Configured = Callable[..., ModelConfig]


@pytest.fixture
def configured() -> Configured:
    """Return a function: a shipped size with single keys changed."""

    def read(size: str, *, encoder: dict[str, object] | None = None, **keys: object) -> ModelConfig:
        text = Path("configs/models", f"{size}.yaml").read_text()
        values = yaml.load(text, Loader=yaml.CSafeLoader)["model"]
        values["encoder"] |= encoder or {}
        return ModelConfig.model_validate(values | keys)

    return read
