"""An explanation can be read, checked and worded without any heavy library."""

import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parents[3] / "common" / "explanation"
HEAVY = ("torch", "torchvision", "timm", "captum", "opacus", "mlflow", "ray")


def test_the_room_and_the_list_of_jobs_load_no_heavy_library() -> None:
    modules = [f"common.explanation.{path.stem}" for path in ROOM.glob("[!_]*.py")]
    modules += ["common.explaining.jobs", "server.commands.explaining"]
    code = f"import sys, {', '.join(modules)}; print(*[m for m in {HEAVY} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert len(modules) > 10
    assert done.stdout.split() == []
