"""The configuration that a request brings with it."""

from functools import lru_cache

from pydantic import ValidationError

from common.config.run import RunConfig
from common.errors import WireError


@lru_cache(maxsize=1)  # every request of a run brings the same
def config_in(config_json: str) -> RunConfig:
    """Read a request's configuration. Raises WireError naming the first key that differs."""
    try:
        return RunConfig.model_validate_json(config_json)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise WireError(
            f"config-json: {key}: {first['msg']}. Both ends must run the same Fovea version."
        ) from error
