"""Configuration files: complete, documented, and loadable one by one."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from client.consent.policy_file import read_policy
from client.consent.policy_privacy import objections_to_noise
from client.records.accountant import epsilon
from client.records.spending import round_spending
from common.config.reading import load_config, models_in
from common.config.run import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))


def leaf_keys(text: str) -> list[tuple[int, str, bool]]:
    """(line, key, is there a comment on its line or the one above) of a YAML text's keys."""
    found = []
    above = ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.match(r"\s*(?:- )?([a-z_]+):(.*)$", line)
        if match:
            found.append((number, match[1], "#" in match[2] or above.lstrip().startswith("#")))
        above = line
    return found


def test_default_configuration_holds_every_key() -> None:
    assert isinstance(load_config(CONFIGS / "default.yaml").run, RunConfig)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads(path: Path) -> None:
    assert load_config(path).run.name


def field_names(model: type[BaseModel]) -> set[str]:
    """Every key that the schema knows, at any depth."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for part in models_in(field.annotation):
            names |= field_names(part)
    return names


def test_every_key_of_the_schema_is_documented() -> None:
    documented: set[str] = set()
    for path in CONFIGS.rglob("*.yaml"):
        documented |= {key for _, key, has_comment in leaf_keys(path.read_text()) if has_comment}
    for path in CONFIGS.rglob("*.md"):
        documented |= set(re.findall(r"`([a-z_]+)`", path.read_text()))
    assert sorted(field_names(RunConfig) - documented) == []


def shipped_with_noise() -> dict[str, RunConfig]:
    """The full recipe with its noise turned on, and every experiment that has noise by itself."""
    recipes = {path.stem: load_config(path).run for path in EXPERIMENTS}
    found = {name: run for name, run in recipes.items() if run.privacy.enabled}
    full = load_config(CONFIGS / "default.yaml", ["privacy.enabled=true"]).run
    return {"default": full, **found}


@pytest.mark.parametrize("run", [pytest.param(r, id=n) for n, r in shipped_with_noise().items()])
def test_every_shipped_recipe_fits_the_budget_of_the_strict_policy(run: RunConfig) -> None:
    rules = read_policy(CONFIGS / "policies" / "strict.yaml").privacy
    spending = round_spending(run)
    assert spending is not None
    assert list(objections_to_noise(run.privacy, rules)) == []
    spent = epsilon([spending] * run.federation.rounds, unit=rules.unit, delta=rules.delta)
    assert rules.epsilon is not None
    assert spent <= rules.epsilon


def test_yaml_files_hold_no_tabs_and_end_with_a_newline() -> None:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        text = path.read_text()
        assert "\t" not in text
        assert text.endswith("\n")
        assert yaml.safe_load(text) is not None
