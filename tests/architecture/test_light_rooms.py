"""Files that must start in a blink, and be readable alone, load no heavy library."""

import subprocess
import sys

import pytest

LIGHT = [
    "common.config",
    "common.config_file",
    "common.registry",
    "common.errors",
    "common.log",
    "common.wire",
    "common.tasks",
    "common.yaml_file",
    "common.layers",
    "common.schedule",
    "common.local_site",
    "client.app",
    "server.app",
    "server.cli",
    "server.participation",
    "server.summary",
    "server.comparison",
]
HEAVY = ("torch", "torchvision", "timm", "captum", "opacus", "mlflow", "ray")


@pytest.mark.parametrize("module", LIGHT)
def test_light_room_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
