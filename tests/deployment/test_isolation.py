"""Trainer and connector under users of their own: what a hostile coordinator or connector gets."""

import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.reading import canonical_json
from common.messages.envelope import (
    SignedRequest,
    decode_signed_answer,
    encode_signed_request,
    sign_request,
)
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    QueryRequest,
    Refusal,
    Request,
    TrainRequest,
)
from common.messages.manifest import Manifest, SignedManifest
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey, public_key, read_private_key
from harness.federation import (
    CONNECTOR_USER,
    SHARED_GROUP,
    TRAINER_USER,
    Federation,
    wait_until,
)
from harness.start import start_federation
from server.operations.flower_control import control_of
from server.operations.home import CoordinatorHome

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]

SITES = ("north", "valley")
HOSTILE = Path(__file__).with_name("hostile")

HOSTILE_BUNDLE = {
    "pyproject.toml": """\
[project]
name = "fovea"
version = "0.1.0"
description = "Looks like the real one."

[tool.flwr.app]
publisher = "fovea"

[tool.flwr.app.components]
serverapp = "hostile.server_app:app"
clientapp = "hostile.client_app:app"

[tool.flwr.app.config]
out = ""
marker = ""
""",
    "hostile/__init__.py": "",
    "hostile/client_app.py": """\
from pathlib import Path

from flwr.clientapp import ClientApp

Path("{marker}").write_text("I ran at a hospital")
app = ClientApp()
""",
    "hostile/server_app.py": """\
import json
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    content = RecordDict({"config": ConfigRecord({"give": "me your pictures"})})
    messages = [Message(content, node, MessageType.TRAIN) for node in nodes]
    said = []
    for reply in grid.send_and_receive(messages, timeout=90):
        if reply.has_error():
            said.append({"error": reply.error.reason})
        else:
            said.append(dict(reply.content.config_records["fovea"]))
    out = Path(str(context.run_config["out"]))
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(said))
    partial.rename(out)
""",
}


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    if os.geteuid() != 0:
        pytest.fail("needs root: the processes run under users of their own")
    made = start_federation({"north": "chestx", "valley": "retina"}, is_isolated=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(federation: Federation) -> str:
    """A run that is over, between two users at each site."""
    name = federation.launch(sites=SITES)
    federation.approve(name, SITES)
    assert federation.finished(name, within_s=240)["verdict"] == "COMPLETE"
    return name


def test_a_run_goes_through_between_two_users(federation: Federation, run: str) -> None:
    assert run
    site = federation.sites["north"]
    assert os.stat(f"/proc/{site.trainer.pid}").st_uid == TRAINER_USER
    assert os.stat(f"/proc/{site.connector.pid}").st_uid == CONNECTOR_USER


def test_a_bundle_with_code_of_its_own_is_refused_and_never_runs(
    federation: Federation, run: str
) -> None:
    marker, out = federation.root / "marker", federation.root / "hostile.json"
    federation.root.chmod(0o777)  # so that nothing but the site itself keeps the code from it
    audits = {name: len(federation.sites[name].audit()) for name in SITES}
    with control_of(CoordinatorHome(federation.home)) as control:
        control.start_run(_hostile_bundle(marker), {"out": str(out), "marker": str(marker)})

    wait_until("the hostile coordinator has its answers", out.exists, within_s=150)

    answers = json.loads(out.read_text())
    assert {(answer["site"], answer["code"]) for answer in answers} == {
        ("north", "untrusted"),
        ("valley", "untrusted"),
    }
    assert not marker.exists()
    assert {name: len(federation.sites[name].audit()) for name in SITES} == audits
    federation.root.chmod(0o755)


def test_whatever_runs_as_the_connector_reaches_nothing_of_the_trainer(
    federation: Federation, run: str
) -> None:
    site = federation.sites["north"]
    pictures = federation.root / "pictures"
    pictures.mkdir(mode=0o700)
    os.chown(pictures, TRAINER_USER, SHARED_GROUP)

    arguments = [str(site.home), str(pictures), str(site.trainer.pid)]
    reached = _as_connector(federation, "reach.py", *arguments)

    assert reached == ""
    assert site.trainer.is_running
    assert (site.home / "trainer" / "audit" / "audit.jsonl").exists()


def test_the_door_opens_only_for_what_the_run_key_signed(federation: Federation, run: str) -> None:
    folder = federation.root / "forged"
    home = CoordinatorHome(federation.home)
    key = read_private_key(home.run_key)
    manifest = SignedManifest(**json.loads(home.run(run).manifest.read_text()))
    content = Manifest.model_validate_json(manifest.manifest_json)
    train = _train_request(federation, content)

    def signed(request: Request, *, site: str = "north", by: PrivateKey = key) -> SignedRequest:
        return sign_request(request, site=site, manifest=manifest, key=by)

    stranger = PrivateKey.new()
    evaluate = EvaluateRequest(run, 3, train.config_json, train.arrays)
    requests = {
        "a-forged": (signed(train, by=stranger), "untrusted"),
        "b-altered-round": (
            replace(signed(train), request=replace(train, server_round=4)),
            "untrusted",
        ),
        "c-altered-model": (
            replace(
                signed(train),
                request=replace(train, arrays={n: a * 2 for n, a in train.arrays.items()}),
            ),
            "untrusted",
        ),
        "d-of-another-site": (signed(train, site="valley"), "untrusted"),
        "e-renamed": (replace(signed(train, site="valley"), site="north"), "untrusted"),
        "f-altered-manifest": (
            replace(
                signed(train),
                manifest=replace(
                    manifest,
                    manifest_json=manifest.manifest_json.replace('"rounds":3', '"rounds":9'),
                ),
            ),
            "untrusted",
        ),
        "g-an-earlier-round": (signed(replace(train, server_round=1)), "out-of-order"),
        "h-the-same-round-otherwise": (signed(replace(train, proximal_mu=0.5)), "out-of-order"),
        "i-another-model-to-measure": (
            signed(replace(evaluate, arrays={n: a * 2 for n, a in evaluate.arrays.items()})),
            "out-of-order",
        ),
        "j-of-no-run": (signed(QueryRequest(run="another-run")), "untrusted"),
    }
    site = federation.sites["north"]
    released = len(site.events("answer-released"))

    answers = _asked(
        federation, folder, {name: r for name, (r, _) in requests.items()}, key=content
    )

    for name, (_, code) in requests.items():
        answer = answers[name]
        assert isinstance(answer, Refusal), name
        assert str(answer.code) == code, (name, answer.reason)
    assert len(site.events("answer-released")) == released
    refused = [record["code"] for record in site.events("request-refused")][-len(requests) :]
    assert refused == [code for _, code in requests.values()]


def test_a_replayed_request_gets_the_stored_answer_and_nothing_is_done_again(
    federation: Federation, run: str
) -> None:
    home = CoordinatorHome(federation.home)
    key = read_private_key(home.run_key)
    manifest = SignedManifest(**json.loads(home.run(run).manifest.read_text()))
    content = Manifest.model_validate_json(manifest.manifest_json)
    train = _train_request(federation, content)
    evaluate = EvaluateRequest(run, 3, train.config_json, train.arrays)
    replayed = sign_request(evaluate, site="north", manifest=manifest, key=key)
    site = federation.sites["north"]
    released = len(site.events("answer-released"))
    repeated = len(site.events("answer-repeated"))

    answers = _asked(
        federation, federation.root / "replayed", {"a": replayed, "b": replayed}, key=content
    )

    assert isinstance(answers["a"], Evaluation)
    assert vars(answers["a"]) == vars(answers["b"])
    assert len(site.events("answer-released")) == released
    assert len(site.events("answer-repeated")) == repeated + 2


def test_bytes_that_are_no_request_are_refused_and_the_door_stays_open(
    federation: Federation, run: str
) -> None:
    folder = federation.root / "noise"
    folder.mkdir()
    os.chown(folder, CONNECTOR_USER, SHARED_GROUP)
    (folder / "a.request").write_bytes(b"\xff" * 4096)
    (folder / "b.request").write_bytes(b"")

    _as_connector(
        federation,
        "ask.py",
        str(federation.sites["north"].home / "run" / "trainer.sock"),
        str(folder),
    )

    for name in ("a", "b"):
        header = from_bytes((folder / f"{name}.answer").read_bytes()).config_records["fovea"]
        assert header["code"] == "unreadable"


def test_every_audit_log_still_verifies(federation: Federation, run: str) -> None:
    for site in SITES:
        federation.fovea_site(site, "audit", "verify")


def _train_request(federation: Federation, manifest: Manifest) -> TrainRequest:
    model = federation.model(manifest.run)
    return TrainRequest(
        run=manifest.run,
        server_round=3,
        global_step=0,
        total_steps=12,
        proximal_mu=0.0,
        evaluates=True,
        config_json=canonical_json(manifest.config),
        arrays={
            name: np.asarray(array)
            for name, array in model.items()
            if name.startswith(("trunk.", "heads.chestx."))
        },
    )


def _asked(
    federation: Federation, folder: Path, requests: dict[str, SignedRequest], *, key: Manifest
) -> dict[str, Evaluation | Refusal]:
    """Put requests to north's door as its connector's user and return the answers, verified."""
    folder.mkdir()
    os.chown(folder, CONNECTOR_USER, SHARED_GROUP)
    for name, request in requests.items():
        path = folder / f"{name}.request"
        path.write_bytes(to_bytes(encode_signed_request(request)))
        path.chmod(0o644)
    socket = federation.sites["north"].home / "run" / "trainer.sock"
    _as_connector(federation, "ask.py", str(socket), str(folder))
    own = key.site("north")
    assert own is not None
    answers: dict[str, Evaluation | Refusal] = {}
    for name, request in requests.items():
        content = from_bytes((folder / f"{name}.answer").read_bytes())
        answers[name] = decode_signed_answer(
            content, Evaluation, request=request.request, site_key=public_key(own.signing_key)
        )
    return answers


def _as_connector(federation: Federation, script: str, *arguments: str) -> str:
    """Run a script as the connector's user and return what it printed."""
    done = subprocess.run(
        [*federation.interpreter.command, str(HOSTILE / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2])}
        | federation.environment
        | federation.interpreter.environment,
        cwd="/",
        timeout=120,
        user=CONNECTOR_USER,
        group=SHARED_GROUP,
        extra_groups=[],
        umask=0o022,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _hostile_bundle(marker: Path) -> bytes:
    packed = io.BytesIO()
    listed = []
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in HOSTILE_BUNDLE.items():
            content = text.replace("{marker}", str(marker)).encode()
            archive.writestr(name, content)
            digest = hashlib.sha256(content).hexdigest()
            listed.append(f"{name},{digest},{len(content) * 8}")
        archive.writestr(".info/CONTENT", "\n".join(listed))
    return packed.getvalue()
