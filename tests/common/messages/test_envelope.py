"""What was signed is what arrives; whatever was changed on the way is refused."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from common.config.reading import load_config
from common.errors import TrustError, WireError
from common.messages.digests import architecture_digest, arrays_digest, message_digest
from common.messages.envelope import (
    decode_signed_answer,
    decode_signed_request,
    encode_signed_answer,
    encode_signed_request,
    sign_request,
)
from common.messages.kinds import Refusal, RefusalCode, TrainRequest, Update
from common.messages.manifest import (
    Manifest,
    ManifestSite,
    SignedManifest,
    open_manifest,
    sign_manifest,
)
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey, public_key, read_private_key
from common.messages.wire import encode

DEMO = Path(__file__).parents[3] / "configs" / "experiments" / "demo.yaml"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def run_key() -> PrivateKey:
    return PrivateKey.new()


@pytest.fixture(scope="module")
def site_key() -> PrivateKey:
    return PrivateKey.new()


@pytest.fixture(scope="module")
def manifest(run_key: PrivateKey, site_key: PrivateKey) -> SignedManifest:
    content = Manifest(
        version=1,
        federation="trial",
        run="demo-1",
        sites=(ManifestSite(name="north", task="chestx", signing_key=site_key.public.text),),
        config=load_config(DEMO).run,
        architecture_digest="0" * 64,
        code_digest="1" * 64,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=7),
    )
    return sign_manifest(content, run_key)


def a_request(**changes: object) -> TrainRequest:
    values: dict[str, object] = {
        "run": "demo-1",
        "server_round": 1,
        "global_step": 0,
        "total_steps": 20,
        "proximal_mu": 0.1,
        "evaluates": True,
        "config_json": "{}",
        "arrays": {"trunk.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
    }
    return TrainRequest(**(values | changes))  # type: ignore[arg-type]


def an_update() -> Update:
    arrays = {"trunk.weight": np.ones((2, 3), dtype=np.float32)}
    return Update("demo-1", 1, "north", "chestx", 8, 2, {"total": 0.5}, {"auroc": 0.75}, arrays)


def test_a_signed_request_survives_the_way_and_verifies(
    run_key: PrivateKey, manifest: SignedManifest
) -> None:
    signed = sign_request(a_request(), site="north", manifest=manifest, key=run_key)

    arrived = decode_signed_request(from_bytes(to_bytes(encode_signed_request(signed))))

    arrived.verify(run_key.public)
    assert arrived.digest == signed.digest
    assert open_manifest(arrived.manifest, run_keys=[run_key.public]).run == "demo-1"


@pytest.mark.parametrize(
    "change",
    [
        {"server_round": 2},
        {"run": "demo-2"},
        {"proximal_mu": 0.2},
        {"evaluates": False},
        {"total_steps": 21},
        {"config_json": '{"a":1}'},
        {"arrays": {"trunk.weight": np.zeros((2, 3), dtype=np.float32)}},
        {"arrays": {"trunk.weight": np.arange(6, dtype=np.float32).reshape(3, 2)}},
        {"arrays": {"trunk.bias": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    ],
    ids=str,
)
def test_whatever_is_changed_in_a_request_breaks_its_signature(
    change: dict[str, object], run_key: PrivateKey, manifest: SignedManifest
) -> None:
    signed = sign_request(a_request(), site="north", manifest=manifest, key=run_key)

    with pytest.raises(TrustError, match="not of the pinned key"):
        replace(signed, request=a_request(**change)).verify(run_key.public)


def test_a_request_for_one_site_is_none_for_another(
    run_key: PrivateKey, manifest: SignedManifest
) -> None:
    signed = sign_request(a_request(), site="north", manifest=manifest, key=run_key)

    with pytest.raises(TrustError, match="not of the pinned key"):
        replace(signed, site="harbour").verify(run_key.public)


def test_another_key_cannot_sign_a_manifest(manifest: SignedManifest) -> None:
    with pytest.raises(TrustError, match="run key that this site has pinned"):
        open_manifest(manifest, run_keys=[PrivateKey.new().public])


def test_an_altered_manifest_is_refused(run_key: PrivateKey, manifest: SignedManifest) -> None:
    altered = replace(manifest, manifest_json=manifest.manifest_json.replace("demo-1", "demo-2"))

    with pytest.raises(TrustError, match="not signed"):
        open_manifest(altered, run_keys=[run_key.public])


def test_both_keys_count_while_the_run_key_is_renewed(
    run_key: PrivateKey, manifest: SignedManifest
) -> None:
    keys = [PrivateKey.new().public, run_key.public]

    assert open_manifest(manifest, run_keys=keys).federation == "trial"


def test_an_answer_of_the_site_is_believed(site_key: PrivateKey) -> None:
    request = a_request()
    content = encode_signed_answer(
        an_update(), request_digest=message_digest(request), key=site_key
    )

    answer = decode_signed_answer(content, Update, request=request, site_key=site_key.public)

    assert isinstance(answer, Update)
    assert answer.evaluation == {"auroc": 0.75}


def test_an_answer_to_another_request_is_not_believed(site_key: PrivateKey) -> None:
    content = encode_signed_answer(
        an_update(), request_digest=message_digest(a_request()), key=site_key
    )

    with pytest.raises(TrustError):
        decode_signed_answer(
            content, Update, request=a_request(server_round=2), site_key=site_key.public
        )


def test_an_answer_signed_by_another_is_not_believed(site_key: PrivateKey) -> None:
    request = a_request()
    content = encode_signed_answer(
        an_update(), request_digest=message_digest(request), key=PrivateKey.new()
    )

    with pytest.raises(TrustError):
        decode_signed_answer(content, Update, request=request, site_key=site_key.public)


def test_an_unsigned_update_is_not_believed_but_an_unsigned_refusal_is(
    site_key: PrivateKey,
) -> None:
    request = a_request()
    refusal = Refusal("north", RefusalCode.UNAVAILABLE, "its trainer does not answer")

    with pytest.raises(WireError, match="not signed"):
        decode_signed_answer(encode(an_update()), Update, request=request, site_key=site_key.public)
    answer = decode_signed_answer(
        encode(refusal), Update, request=request, site_key=site_key.public
    )
    assert vars(answer) == vars(refusal)


def test_digests_do_not_depend_on_the_order_or_layout_of_arrays() -> None:
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    two = np.ones(2, dtype=np.float32)

    assert arrays_digest({"a": one, "b": two}) == arrays_digest(
        {"b": two, "a": np.asfortranarray(one)}
    )
    assert architecture_digest({"a": one}) == architecture_digest({"a": one * 2})
    assert architecture_digest({"a": one}) != architecture_digest({"a": one.T})


def test_no_name_of_an_array_passes_for_another_array() -> None:
    one, two = np.arange(3, dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    content = hashlib.sha256(one.data).hexdigest()
    line = f"a <f4 {one.shape} {content}\n"  # as a digest of plain lines would hold it
    entry = f'a","<f4",[3],"{content}"],["b'

    honest = {"a": one, "b": two}
    for forged in ({f"{line}b": two}, {entry: two}):
        assert arrays_digest(honest) != arrays_digest(forged)
    outline = {"a <f4 (3,)\nb": two}
    assert architecture_digest(honest) != architecture_digest(outline)


@pytest.mark.parametrize("text", ["a\x1b[2K", "a\n", "north ", "Nord", "", "a" * 64])
@pytest.mark.parametrize("key", ["name", "task"])
def test_names_in_a_manifest_are_plain(key: str, text: str) -> None:
    values = {"name": "north", "task": "chestx", "signing_key": "k"} | {key: text}

    with pytest.raises(ValidationError):
        ManifestSite.model_validate(values)


def test_the_federation_of_a_manifest_is_plain(manifest: SignedManifest) -> None:
    values = json.loads(manifest.manifest_json)

    with pytest.raises(ValidationError, match="federation"):
        Manifest.model_validate_json(json.dumps(values | {"federation": "a\x1b[8m"}))


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    key = PrivateKey.new()
    path = tmp_path / "keys" / "run.key"
    key.write(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private_key(path).public.text == key.public.text
    assert public_key(key.public.text).text == key.public.text
    with pytest.raises(TrustError, match="never overwritten"):
        PrivateKey.new().write(path)
    path.chmod(0o640)
    with pytest.raises(TrustError, match="others can read"):
        read_private_key(path)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(WireError, match="cannot be read"):
        from_bytes(b"\xff\xff\xff not a message")
