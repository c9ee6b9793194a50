"""A reader of an explanation can tell which package it came from, and ask for that one alone."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from common.explanation.files import read_explanation
from common.package.writing import write_package
from server.cli import main
from small_model import small_model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(4).integers(0, 256, (80, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def explain(package: Path, picture: Path, out: Path, digest: str) -> Result:
    asked = ["--task", "pathoscan", "--trust", "none", "--expect-digest", digest]
    return CliRunner().invoke(
        main, ["explain", str(package), str(picture), "--out", str(out), *asked]
    )


def test_json_and_page_name_the_package_and_another_is_refused(
    picture: Path, tmp_path: Path
) -> None:
    package, out, model = tmp_path / "package", tmp_path / "out", small_model()
    digest = write_package(package, model.network, model.package, model.novelty).digest
    assert len(digest) == 64

    done = explain(package, picture, out, digest)

    assert done.exit_code == 0, done.output
    assert read_explanation(out / "a.json").model.package_digest == digest
    page = (out / "a.html").read_text()
    assert 'data-from="/model/package_digest"' in page
    assert digest[:12] in page.split('id="lineage"')[1]

    refused = explain(package, picture, tmp_path / "none", "0" * 64)
    assert refused.exit_code == 1
    assert f"the package's digest is {digest}, expected was {'0' * 64}" in " ".join(
        refused.output.split()
    )
    assert not (tmp_path / "none").exists()
