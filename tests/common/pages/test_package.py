"""Pages are made without torch, and from files that are installed with the code."""

import subprocess
import sys
from pathlib import Path

import common.pages
from common.pages.page import SCRIPT_FILES, STYLE_FILE

FOLDER = Path(common.pages.__file__).parent
HEAVY = ("torch", "torchvision", "timm", "captum", "mlflow", "matplotlib", "sklearn")


def test_pages_load_no_heavy_library() -> None:
    modules = [f"common.pages.{path.stem}" for path in FOLDER.glob("*.py") if path.stem[0] != "_"]
    assert len(modules) > 10
    wanted = ", ".join(sorted(modules))
    code = f"import sys, {wanted}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_style_and_script_lie_in_the_package_and_name_no_address() -> None:
    for path in (STYLE_FILE, *SCRIPT_FILES):
        assert path.parent == FOLDER  # hatchling packs every file of a listed package
        text = path.read_text(encoding="utf-8")
        assert len(text) > 1000
        assert "http" not in text
        assert "@import" not in text
        assert "url(" not in text
        assert "</" not in text  # nothing in them could end their element
