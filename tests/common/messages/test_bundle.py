"""The bundle that a run may have: nothing but the names of the installed apps."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
from flwr.cli.install import install_from_fab
from flwr.common.config import flatten_dict, fuse_dicts, get_fab_config, get_metadata_from_config
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.messages.bundle import MAX_BUNDLE_BYTES, build_bundle, bundle_text, check_bundle


def packed(files: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def test_built_bundle_is_accepted_and_always_the_same() -> None:
    check_bundle(build_bundle())
    assert build_bundle() == build_bundle()


def test_bundle_packed_by_another_hand_is_the_same_bundle() -> None:
    again = packed(dict(reversed(bundle_text().items())))

    assert again != build_bundle()
    check_bundle(again)


def test_bundle_carries_no_code() -> None:
    assert set(bundle_text()) == {"pyproject.toml", ".info/CONTENT"}


def test_flower_accepts_the_bundle_and_finds_the_installed_apps(tmp_path: Path) -> None:
    config = get_fab_config(build_bundle())
    app = config["tool"]["flwr"]["app"]

    installed = install_from_fab(build_bundle(), install_dir=tmp_path, skip_prompt=True)

    assert get_metadata_from_config(config)[0] == "fovea/fovea"
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert [path.name for path in installed.rglob("*") if path.is_file()] == ["pyproject.toml"]


def test_flower_takes_the_run_and_its_folder_over_the_bundles_settings() -> None:
    settings = flatten_dict(get_fab_config(build_bundle())["tool"]["flwr"]["app"]["config"])

    fused = fuse_dicts(settings, {"home": "/srv/fovea", "run": "trial-1"}, check_keys=True)

    assert fused == {"home": "/srv/fovea", "run": "trial-1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evil.py": b"import os"}, "holds 'evil.py'"),
        ({"../pyproject.toml": b""}, "no place in it"),
        ({"/etc/passwd": b""}, "no place in it"),
        ({"client/": b""}, "no place in it"),
        (
            {"pyproject.toml": bundle_text()["pyproject.toml"].replace(b"client.app", b"evil.app")},
            r"line 11: expected 'clientapp = \"client.app:app\"', got 'clientapp = \"evil.app:app",
        ),
        ({"pyproject.toml": bundle_text()["pyproject.toml"] + b"x = 1\n"}, "more than it should"),
        ({"pyproject.toml": b""}, "line 1: expected"),
        ({".info/CONTENT": b"nothing"}, "CONTENT, line 1"),
    ],
)
def test_bundle_that_differs_is_refused_with_what_differs(
    change: dict[str, bytes], words: str
) -> None:
    with pytest.raises(TrustError, match=words):
        check_bundle(packed(bundle_text() | change))


def test_bundle_that_lacks_a_file_is_refused() -> None:
    with pytest.raises(TrustError, match=r"lacks '\.info/CONTENT'"):
        check_bundle(packed({"pyproject.toml": bundle_text()["pyproject.toml"]}))


def test_bundle_of_another_version_is_refused_with_both_versions() -> None:
    other = bundle_text()["pyproject.toml"].replace(b'version = "', b'version = "9.')

    with pytest.raises(TrustError, match=r"line 3: expected 'version = .*, got 'version = \"9\."):
        check_bundle(packed(bundle_text() | {"pyproject.toml": other}))


def test_name_that_hides_behind_a_zero_byte_is_refused() -> None:
    hidden = packed(bundle_text() | {"pyproject.tomlX.py": b"import os"})

    with pytest.raises(TrustError, match="no place in it"):
        check_bundle(hidden.replace(b"tomlX.py", b"toml\0.py"))


def test_file_that_stands_twice_is_refused() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in bundle_text().items():
            archive.writestr(name, text)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("pyproject.toml", b"[project]")

    with pytest.raises(TrustError, match=r"'pyproject\.toml' twice"):
        check_bundle(content.getvalue())


def test_bundle_that_unpacks_to_gigabytes_is_refused_unread() -> None:
    bomb = packed(bundle_text() | {"pyproject.toml": bytes(32 * 2**20)})
    assert len(bomb) < MAX_BUNDLE_BYTES

    with pytest.raises(TrustError, match="line 1: expected"):
        check_bundle(bomb)


def test_large_bundle_is_refused_unopened() -> None:
    with pytest.raises(TrustError, match="expected at most"):
        check_bundle(build_bundle() + bytes(MAX_BUNDLE_BYTES))


def test_encrypted_bundle_is_refused() -> None:
    content = bytearray(build_bundle())
    # Bit 0 of the flags, in the local header and in the directory.
    struct.pack_into("<H", content, 6, 1)
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 8, 1)

    with pytest.raises(TrustError, match="cannot be read"):
        check_bundle(bytes(content))


@given(st.integers(0, len(build_bundle()) - 1), st.integers(1, 255))
def test_changed_byte_is_refused_or_changes_nothing_that_counts(place: int, change: int) -> None:
    content = bytearray(build_bundle())
    content[place] ^= change

    try:
        check_bundle(bytes(content))
    except TrustError:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == bundle_text()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_bundle_are_refused(content: bytes) -> None:
    with pytest.raises(TrustError):
        check_bundle(content)
