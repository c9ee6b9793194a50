"""The check finds each thing that keeps a hospital from taking part, and says what to do."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from client.home.folders import SiteHome
from client.home.node_key import make_node_key, public_line
from client.home.site import MachineSettings, SiteSettings
from client.operations.prepare import prepare_site
from client.preflight.everything import Finding, check_site
from client.preflight.machine import _gpu_finding
from client.preflight.network import proxy_for, skew
from common.messages.admission import Admission, write_admission
from common.messages.signing import PrivateKey
from server.operations.authority import Identity, new_authority, new_server

POLICY = Path(__file__).resolve().parents[3] / "configs" / "policies" / "strict.yaml"
NOW = datetime.now(UTC)


class Hospital(Protocol):
    """What conftest.py makes."""

    home: SiteHome
    data: Path
    rows: list[dict[str, str]]
    site: SiteSettings

    def write_table(self) -> None: ...

    def change_site(self, **values: object) -> None: ...


@pytest.fixture(scope="module")
def authority() -> Identity:
    return new_authority("trial", days=400, now=NOW)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, new_hospital: Callable[..., Hospital],
         authority: Identity) -> Hospital:  # fmt: skip
    """A whole, prepared site; each test works on its own copy."""
    hospital = new_hospital(tmp_path_factory.mktemp("made"))
    home = hospital.home
    signing = PrivateKey.new()
    signing.write(home.signing_key)
    node_line = public_line(make_node_key(home.node_key))
    home.run_keys.write_text(PrivateKey.new().public.text + "\n")
    home.certificate_authority.write_bytes(authority.certificate_pem)
    policy = yaml.load(POLICY.read_text(), Loader=yaml.CSafeLoader)
    policy["tasks"] = ["pathoscan"]
    policy["bounds"] |= {"min_training_patients": 5, "min_validation_patients": 2}
    home.policy_file.write_text(yaml.dump(policy, Dumper=yaml.CSafeDumper))
    write_connector(home)
    admission = Admission(
        version=1, federation="trial", site="north", task="pathoscan", node_key=node_line,
        signing_key=signing.public.text,
    )  # fmt: skip
    write_admission(home.admission, admission)
    prepare_site(home, hospital.site, watch=lambda done, total: None)
    return hospital


@pytest.fixture
def ready(made: Hospital) -> Iterator[Hospital]:
    # Not pytest's own folder: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
        root = Path(folder)
        shutil.copytree(made.home.root, root / "site")
        hospital = type(made)(home=SiteHome(root / "site"), data=made.data)
        yield hospital


def write_connector(home: SiteHome, **values: object) -> None:
    content = {
        "site": "north", "federation": "trial", "coordinator": "localhost:9", "metrics_port": 0,
        "poll_s": 1.0, "certificate_warning_days": 30,
    }  # fmt: skip
    home.connector_file.write_text(yaml.dump(content | values, Dumper=yaml.CSafeDumper))


def found(
    hospital: Hospital, *, reach: bool = False, now: datetime | None = None
) -> dict[str, Finding]:
    findings = check_site(hospital.home, now=now or datetime.now(UTC), reach=reach)
    assert all(bool(f.remedy) == (f.status != "ok") for f in findings)
    return {finding.subject: finding for finding in findings}


def worst(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: f.status for name, f in findings.items() if f.status != "ok"}


@contextmanager
def coordinator(identity: Identity, *, ahead: timedelta = timedelta(0)) -> Iterator[int]:
    """A TLS server on loopback that shows this certificate and this clock."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "server.crt"), Path(folder, "server.key")
        certificate.write_bytes(identity.certificate_pem)
        key.write_bytes(identity.key_pem)
        context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        if secured.recv(4096):
                            date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
                            secured.sendall(f"HTTP/1.1 404 No\r\nDate: {date}\r\n\r\n".encode())
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def way(hospital: Hospital, identity: Identity, *, ahead: timedelta = timedelta(0),
        host: str = "localhost", now: datetime | None = None) -> dict[str, Finding]:  # fmt: skip
    with coordinator(identity, ahead=ahead) as port:
        write_connector(hospital.home, coordinator=f"{host}:{port}")
        return found(hospital, reach=True, now=now)


def server(authority: Identity, *, names: tuple[str, ...] = ("localhost",), days: int = 90,
           now: datetime = NOW) -> Identity:  # fmt: skip
    return new_server(authority, names, days=days, now=now)


def test_a_ready_site_has_only_what_a_workstation_has(ready: Hospital, authority: Identity) -> None:
    findings = way(ready, server(authority))
    assert worst(findings) == {"isolation": "warning", "socket": "warning"}
    assert "24 pictures, every file" in findings["shard"].found
    assert findings["cohort"].found.startswith("12 train, ")


def test_findings_name_no_patient_and_no_picture(ready: Hospital) -> None:
    ready.rows = [{"image": "gone-secret.png", "labels": "tumour", "patient": "secret-1"}]
    ready.data = ready.home.root / "elsewhere"
    ready.data.mkdir()
    ready.write_table()
    ready.change_site(data=str(ready.data))
    findings = found(ready)
    assert findings["source"].status == "error"
    text = json.dumps([asdict(finding) for finding in findings.values()])
    assert "secret" not in text
    assert "picture-" not in text


def test_settings_that_cannot_be_read_are_told_with_their_key(ready: Hospital) -> None:
    ready.change_site(machine__device="tpu")
    ready.home.policy_file.write_text("tasks: [nothing]\n")
    write_connector(ready.home, poll_s=-1)
    findings = found(ready)
    assert "machine.device" in findings["site.yaml"].found
    assert {findings[name].status for name in ("site.yaml", "policy.yaml", "connector.yaml")} == {
        "error"
    }
    assert str(ready.home.root) not in findings["site.yaml"].found


def test_a_site_that_was_never_made_is_told_to_begin(tmp_path: Path) -> None:
    findings = {f.subject: f for f in check_site(SiteHome(tmp_path), now=NOW, reach=False)}
    assert "fovea-site init" in findings["trainer"].remedy
    assert findings["connector"].status == "error"


def test_settings_that_others_can_change_are_found(ready: Hospital) -> None:
    ready.home.policy_file.chmod(0o666)
    assert "go-w" in found(ready)["policy.yaml"].remedy


@pytest.mark.parametrize("key", ["name", "federation"])
def test_two_stories_in_the_settings_are_found(ready: Hospital, key: str) -> None:
    ready.change_site(**{key: "other"})
    findings = found(ready)
    assert (findings["names"].status, findings["admission.json"].status) == ("error", "error")


def test_a_task_and_a_size_that_the_policy_forbids_are_found(ready: Hospital) -> None:
    policy = yaml.load(ready.home.policy_file.read_text(), Loader=yaml.CSafeLoader)
    policy["bounds"]["max_image_size_px"] = 47
    ready.home.policy_file.write_text(yaml.dump(policy, Dumper=yaml.CSafeDumper))
    assert "48 px" in found(ready)["policy and site"].found
    ready.home.policy_file.write_text(
        yaml.dump(policy | {"tasks": ["retina"]}, Dumper=yaml.CSafeDumper)
    )
    assert "pathoscan" in found(ready)["policy and site"].found


def test_open_missing_and_wrong_keys_are_found(ready: Hospital) -> None:
    home = ready.home
    home.signing_key.chmod(0o644)
    home.node_key.unlink()
    home.run_keys.write_text("ed25519:nonsense\n")
    findings = found(ready)
    assert "chmod 600" in findings["signing.key"].found
    assert {findings[name].status for name in ("signing.key", "node.key", "run key")} == {"error"}


def test_a_key_that_was_not_admitted_is_found(ready: Hospital) -> None:
    ready.home.signing_key.unlink()
    PrivateKey.new().write(ready.home.signing_key)
    assert "another signing key" in found(ready)["admission.json"].found


def test_folders_open_to_others_are_found(ready: Hospital) -> None:
    for folder in (ready.home.trainer, ready.home.connector, ready.home.run):
        folder.chmod(0o755)
    assert (
        worst(found(ready)).items()
        >= {
            "folder trainer": "error",
            "folder connector": "error",
            "folder run": "error",
        }.items()
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_root_proves_what_the_connectors_user_can_read(ready: Hospital) -> None:
    home = ready.home
    ready.home.root.parent.chmod(0o755)
    os.chown(home.connector, 65534, 65534)
    ready.change_site(data=str(ready.home.root))
    assert "the pictures" in found(ready)["isolation"].found
    closed = home.root / "closed"
    closed.mkdir(mode=0o700)
    ready.change_site(data=str(closed))
    assert found(ready)["isolation"].status == "ok"
    home.trainer.chmod(0o755)
    assert "the trainer's folder" in found(ready)["isolation"].found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_one_user_of_two_is_sent_to_root_for_the_other_half(ready: Hospital) -> None:
    ready.home.root.parent.chmod(0o755)
    os.chown(ready.home.trainer, 65534, 65534)
    # What is imported late comes first: the other user may not read this interpreter's folder.
    code = (
        "import importlib.metadata, os, sys; from pathlib import Path\n"
        "from client.home.folders import SiteHome\n"
        "from client.preflight.files import read_site_files\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for f in read_site_files(SiteHome(Path(sys.argv[1]))).findings:\n"
        "    print(f.subject, f.status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ready.home.root)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "connector warning" in done.stdout.splitlines()


def test_a_data_folder_that_is_not_there_is_found(ready: Hospital) -> None:
    ready.change_site(data="/nowhere/at/all")
    findings = found(ready)
    assert (findings["data folder"].status, findings["source"].status) == ("error", "error")
    assert findings["shard and site"].status == "warning"


def test_unknown_labels_are_found(ready: Hospital) -> None:
    ready.change_site(task="heart")
    assert "heart" in found(ready)["labels"].found


def test_a_missing_and_a_damaged_shard_are_found(ready: Hospital) -> None:
    path = ready.home.shard / "images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert found(ready)["shard"].found == "images.npy is not as it was written"
    shutil.rmtree(ready.home.shard)
    assert found(ready)["shard"].found == "there is none"


def test_a_shard_that_is_out_of_date_is_found(ready: Hospital, tmp_path: Path) -> None:
    assert found(ready)["shard and site"].status == "ok"
    ready.change_site(preparation__seed=6)
    assert found(ready)["shard and site"].status == "warning"
    ready.change_site(preparation__image_size_px=32)
    assert found(ready)["shard and site"].status == "error"


@pytest.mark.parametrize(
    ("bound", "status"),
    [("min_training_patients", "error"), ("min_validation_patients", "warning")],
)
def test_a_cohort_below_the_policys_minimum_is_found(
    ready: Hospital, bound: str, status: str
) -> None:
    policy = yaml.load(ready.home.policy_file.read_text(), Loader=yaml.CSafeLoader)
    policy["bounds"][bound] = 1000
    ready.home.policy_file.write_text(yaml.dump(policy, Dumper=yaml.CSafeDumper))
    assert found(ready)["cohort"].status == status


def test_a_small_disk_and_too_many_threads_are_found(ready: Hospital) -> None:
    ready.change_site(limits__min_free_disk_mb=10**9, machine__num_threads=5000)
    findings = found(ready)
    assert (findings["disk"].status, findings["processors"].status) == ("error", "warning")


def test_gpus_that_are_missing_too_few_or_full_are_found() -> None:
    def finding(device: str, processes: int, *free_mb: int) -> str:
        gpus = [("GPU", free * 2**20, 80_000 * 2**20) for free in free_mb]
        machine = MachineSettings.model_validate(
            {"device": device, "processes": processes, "num_threads": 1}
        )
        return _gpu_finding(machine, gpus).status

    assert finding("cuda", 1) == "error"
    assert finding("auto", 1) == "warning"
    assert finding("auto", 2, 70_000) == "error"
    assert finding("cuda", 1, 100) == "warning"
    assert finding("cuda", 1, 70_000) == "ok"


def test_a_socket_left_behind_is_found(ready: Hospital) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(ready.home.socket))
    assert "left behind" in found(ready)["socket"].found


def test_a_listener_that_is_no_trainer_is_found(ready: Hospital) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ready.home.socket))
        listener.listen()
        findings = found(ready)
    assert findings["socket"].status == "ok"
    assert findings["trainer"].status != "ok"


def test_a_path_too_long_for_a_socket_is_found(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / ("x" * 100))
    findings = {f.subject: f for f in check_site(home, now=NOW, reach=False)}
    assert "107" in findings["socket"].found


def test_a_name_nobody_knows_ends_the_way(ready: Hospital) -> None:
    write_connector(ready.home, coordinator="no-such-host.invalid:443")
    findings = found(ready, reach=True)
    assert findings["name"].status == "error"
    assert "connection" not in findings


def test_a_closed_port_is_told_apart_from_an_unknown_name(ready: Hospital) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write_connector(ready.home, coordinator=f"localhost:{port}")
    findings = found(ready, reach=True)
    assert (findings["name"].status, findings["connection"].status) == ("ok", "error")


def test_an_expired_certificate_is_found(ready: Hospital, authority: Identity) -> None:
    expired = server(authority, days=5, now=NOW - timedelta(days=10))
    findings = way(ready, expired)
    assert (findings["TLS"].status, findings["server certificate"].status) == ("error", "error")
    assert "expired on" in findings["TLS"].found
    assert "fovea renew" in findings["TLS"].found


def test_what_the_connectors_own_library_refuses_is_found(ready: Hospital) -> None:
    past = NOW - timedelta(days=10)
    authority = new_authority("trial", days=400, now=past)
    ready.home.certificate_authority.write_bytes(authority.certificate_pem)
    # Valid at the time that the check is told; OpenSSL looks at the machine's own clock.
    findings = way(ready, server(authority, days=5, now=past), now=past + timedelta(days=1))
    assert "is refused" in findings["TLS"].found


def test_a_certificate_that_ends_soon_is_a_warning(ready: Hospital, authority: Identity) -> None:
    findings = way(ready, server(authority, days=10))
    assert (findings["TLS"].status, findings["server certificate"].status) == ("ok", "warning")


def test_an_authority_that_ends_soon_is_a_warning(ready: Hospital) -> None:
    assert found(ready, now=NOW + timedelta(days=380))["certificate authority"].status == "warning"
    assert found(ready, now=NOW + timedelta(days=401))["certificate authority"].status == "error"


def test_a_certificate_of_another_name_is_found(ready: Hospital, authority: Identity) -> None:
    assert way(ready, server(authority, names=("elsewhere.example",)))["TLS"].status == "error"


def test_a_certificate_of_another_authority_is_found(ready: Hospital) -> None:
    stranger = new_authority("trial", days=400, now=NOW)
    findings = way(ready, server(stranger))
    assert findings["TLS"].status == "error"
    assert "fingerprint" in findings["TLS"].remedy


def test_a_service_without_tls_is_found(ready: Hospital) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.sendall(b"HTTP/1.1 400 No\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        write_connector(ready.home, coordinator=f"localhost:{listener.getsockname()[1]}")
        findings = found(ready, reach=True)
        thread.join()
    assert (findings["connection"].status, findings["TLS"].status) == ("ok", "error")


@pytest.mark.parametrize(
    ("ahead_s", "status"), [(0, "ok"), (60, "warning"), (400, "error"), (-10, "error")]
)
def test_a_clock_that_differs_from_the_coordinators_is_found(
    ready: Hospital, authority: Identity, ahead_s: int, status: str
) -> None:
    findings = way(ready, server(authority), ahead=timedelta(seconds=ahead_s))
    assert findings["clock"].status == status


def test_clocks_are_compared_as_flower_compares_them() -> None:
    def status(ahead_s: float) -> str:
        return skew(NOW + timedelta(seconds=ahead_s + 0.5), NOW).status

    assert [status(s) for s in (-241, -31, -29, 0, 2.9, 3.1, 5.1)] == [
        "error", "warning", "ok", "ok", "ok", "warning", "error",
    ]  # fmt: skip


def test_a_proxy_is_told_and_used(
    ready: Hospital, authority: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def forward(client: socket.socket, port: int) -> None:
        with client:
            head = client.recv(4096)
            if not head.startswith(b"CONNECT far.example:443"):
                return
            with socket.create_connection(("127.0.0.1", port)) as there:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=carry, args=(there, client))
                back.start()
                carry(client, there)
                back.join()

    identity = server(authority, names=("far.example",))
    with coordinator(identity) as port, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(3):  # to see that it answers, to ask, to verify
                forward(listener.accept()[0], port)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        write_connector(ready.home, coordinator="far.example:443")
        findings = found(ready, reach=True)
        thread.join()
    assert (findings["proxy"].status, findings["TLS"].status) == ("warning", "ok")


def test_hosts_may_be_reached_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.inside.example")
    assert proxy_for("outside.example") == ("proxy.example", 3128)
    assert proxy_for("a.inside.example") is None


def test_another_owner_of_a_package_name_and_a_wrong_version_are_found(tmp_path: Path) -> None:
    for name, files in {
        "stranger-1.0.dist-info": {"METADATA": "Name: stranger\nVersion: 1.0\n",
                                   "top_level.txt": "common\n"},
        "flwr-9.9.9.dist-info": {"METADATA": "Name: flwr\nVersion: 9.9.9\n"},
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(
                "Metadata-Version: 2.1\n" * (file == "METADATA") + content
            )
    code = (
        "from client.preflight.machine import check_package_names, check_versions\n"
        "print(check_package_names().found); print(check_versions().found)"
    )
    path = os.pathsep.join([str(tmp_path), str(POLICY.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    names, versions = done.stdout.splitlines()
    assert "common (stranger)" in names
    assert versions == "flwr 9.9.9 instead of 1.41.0"


def test_checking_loads_no_heavy_library(ready: Hospital) -> None:
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from client.home.folders import SiteHome\n"
        "from client.preflight.everything import check_site\n"
        "check_site(SiteHome(Path(sys.argv[1])), now=datetime.now(UTC), reach=False)\n"
        "print(*[m for m in ('torch', 'timm', 'mlflow', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ready.home.root)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == ""
