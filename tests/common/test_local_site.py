from pathlib import Path

import pytest

from common.errors import ConfigError
from common.local_site import LocalSite, read_sites, write_sites


def test_sites_come_back_in_order(tmp_path: Path) -> None:
    sites = tuple(
        LocalSite(name=n, task="retina", shard=tmp_path / n, state=tmp_path, num_threads=2)
        for n in ("valley", "coast")
    )

    write_sites(tmp_path / "sites.json", sites)

    assert read_sites(tmp_path / "sites.json") == sites


def test_a_missing_file_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FOVEA_SITES must name a JSON file"):
        read_sites(tmp_path / "nowhere.json")


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sites.json"
    path.write_text(
        '[{"name": "a", "task": "retina", "shard": "s", "state": "t", "num_threads": 0}]'
    )

    with pytest.raises(ConfigError, match=r"0\.num_threads: .*greater than or equal to 1"):
        read_sites(path)
