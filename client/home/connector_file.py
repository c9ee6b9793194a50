"""``connector.yaml``: what the network process needs to know, and nothing about patients."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from common.config.run import Section
from common.errors import ConfigError
from common.files.yaml_file import read_yaml


class ConnectorSettings(Section):
    """Where the coordinator is, and how patient to be."""

    site: str
    federation: str
    coordinator: str  # host:port
    metrics_port: Annotated[int, Field(ge=0, le=65535)]  # Prometheus on 127.0.0.1; 0: none
    poll_s: Annotated[float, Field(gt=0)]  # longest pause between looks for a message
    certificate_warning_days: Annotated[int, Field(ge=0)]


def read_connector(path: Path) -> ConnectorSettings:
    """Read ``connector.yaml``. Raises ConfigError naming the key that is wrong."""
    remedy = "Make a site with `fovea-site init`."
    try:
        return ConnectorSettings.model_validate(read_yaml(path, remedy=remedy))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {key}: {first['msg']}.") from error
