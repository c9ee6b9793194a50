"""Provisioning: certificates that TLS accepts, kits that are complete, and nothing made twice."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from client.consent.policy_file import read_policy
from client.home.connector_file import read_connector
from client.home.site import read_site
from common.errors import ConfigError, TrustError
from common.messages.certificates import (
    certificate_fingerprint,
    check_server_certificate,
    line_fingerprint,
    read_authorities,
    read_certificates,
)
from common.messages.signing import read_private_key, read_public_key
from server.operations.federation_file import Federation, FederationSite, read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return read_federation(CONFIGS / "federations" / "example.yaml")


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome(tmp_path / "coordinator")


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def handshake(server: CoordinatorHome, authorities: Path, name: str) -> None:
    """Connect over TLS on loopback as a site does; raises what the site's side raises."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.server_certificate, server.server_key)
    asking = ssl.create_default_context(cafile=authorities)
    asking.verify_flags |= ssl.VERIFY_X509_STRICT

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                serving.wrap_socket(connection, server_side=True).close()
            except OSError:
                return  # the other side has hung up: the test looks at what that side says

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as plain,
                asking.wrap_socket(plain, server_hostname=name) as secured,
            ):
                assert secured.version() == "TLSv1.3"
        finally:
            thread.join()


def test_site_that_pins_the_authority_connects(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    pinned = home.kits / "north" / "ca.crt"
    handshake(home, pinned, "fovea.example.org")
    handshake(home, pinned, "127.0.0.1")
    handshake(home, pinned, "localhost")


def test_another_name_or_another_authority_is_refused(
    federation: Federation, home: CoordinatorHome, tmp_path: Path
) -> None:
    other = CoordinatorHome(tmp_path / "other")
    provision(federation, home, now=NOW)
    provision(federation, other, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(home, home.kits / "north" / "ca.crt", "elsewhere.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(home, other.kits / "north" / "ca.crt", "fovea.example.org")


def test_expired_certificate_is_refused(federation: Federation, home: CoordinatorHome) -> None:
    provision(federation, home, now=NOW - timedelta(days=366))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(home, home.authority, "fovea.example.org")


def test_certificate_is_checked_by_name_authority_and_moment(
    federation: Federation, home: CoordinatorHome, tmp_path: Path
) -> None:
    provision(federation, home, now=NOW)
    other = CoordinatorHome(tmp_path / "other")
    provision(federation, other, now=NOW)
    server = read_certificates(home.server_certificate)[0]
    ours, theirs = read_authorities(home.authority), read_authorities(other.authority)

    check_server_certificate(server, ours, host="fovea.example.org", now=NOW)
    check_server_certificate(server, ours, host="127.0.0.1", now=NOW)
    check_server_certificate(server, (*theirs, *ours), host="localhost", now=NOW)
    with pytest.raises(TrustError, match="cannot be trusted"):
        check_server_certificate(server, ours, host="elsewhere.org", now=NOW)
    with pytest.raises(TrustError, match="cannot be trusted"):
        check_server_certificate(server, theirs, host="localhost", now=NOW)
    with pytest.raises(TrustError, match="expired on"):
        check_server_certificate(server, ours, host="localhost", now=NOW + timedelta(days=366))
    with pytest.raises(TrustError, match="clock"):
        check_server_certificate(server, ours, host="localhost", now=NOW - timedelta(hours=2))


def test_authority_signs_servers_and_nothing_else(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    authority = read_authorities(home.authority)[0]
    server = read_certificates(home.server_certificate)[0]
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign
    with pytest.raises(TrustError, match="not a certificate authority"):
        read_authorities(home.server_certificate)


def test_secret_files_are_their_owners_alone(federation: Federation, home: CoordinatorHome) -> None:
    provision(federation, home, now=NOW)
    for path in (home.authority_key, home.server_key, home.run_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_kit_holds_nothing_secret_and_all_that_a_site_needs(
    federation: Federation, home: CoordinatorHome
) -> None:
    made = provision(federation, home, now=NOW)
    kit = home.kits / "north"
    assert sorted(path.name for path in kit.iterdir()) == [
        "README.md",
        "ca.crt",
        "connector.yaml",
        "policy.yaml",
        "run-keys.pub",
        "site.yaml",
    ]
    assert b"PRIVATE" not in b"".join(contents(home.kits).values())
    connector = read_connector(kit / "connector.yaml")
    assert (connector.site, connector.federation) == ("north", "example")
    assert connector.coordinator == "fovea.example.org:443"
    assert read_policy(kit / "policy.yaml").approval.mode == "by-hand"
    pinned = read_public_key(kit / "run-keys.pub").text
    assert pinned == read_private_key(home.run_key).public.text
    instructions = (kit / "README.md").read_text()
    assert certificate_fingerprint(read_authorities(kit / "ca.crt")[0]) in instructions
    assert line_fingerprint(pinned) in instructions
    assert made.authority_fingerprint in instructions
    assert made.run_key_fingerprint in instructions


def test_site_file_of_a_kit_asks_for_its_source(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    with pytest.raises(ConfigError, match="source"):
        read_site(home.kits / "north" / "site.yaml")


@pytest.mark.parametrize("form", ["nih", "idrid", "ebhi", "manifest", "phantom"])
def test_site_file_of_a_kit_is_valid_with_any_of_the_forms_it_shows(
    federation: Federation, home: CoordinatorHome, form: str
) -> None:
    provision(federation, home, now=NOW)
    path = home.kits / "valley" / "site.yaml"
    commented, taken = path.read_text().splitlines(), []
    start = next(i for i, line in enumerate(commented) if f"kind: {form}" in line)
    while not commented[start].startswith("#   source:"):
        start -= 1
    for line in commented[start:]:
        if not line.startswith("#   ") or (taken and line.startswith("#   source:")):
            break
        taken.append(line.removeprefix("#   "))
    text = "\n".join(line for line in commented if not line.startswith("source:"))
    path.write_text(text + "\n" + "\n".join(taken) + "\n")

    site = read_site(path)

    assert site.source.kind == form
    assert (site.name, site.task, site.federation) == ("valley", "retina", "example")
    assert site.preparation.preprocess == federation.preparation.preprocess["retina"]
    assert site.preparation.split == federation.preparation.split


def test_second_time_makes_nothing(federation: Federation, home: CoordinatorHome) -> None:
    provision(federation, home, now=NOW)
    before = contents(home.root)
    again = provision(federation, home, now=NOW + timedelta(days=9))
    assert again.made == ()
    assert contents(home.root) == before


def test_one_more_site_adds_its_kit_alone(federation: Federation, home: CoordinatorHome) -> None:
    provision(federation, home, now=NOW)
    before = contents(home.root)
    more = federation.model_copy(
        update={"sites": (*federation.sites, FederationSite(name="east", task="chestx"))}
    )
    made = provision(more, home, now=NOW)
    after = contents(home.root)
    changed = {path for path in after if after[path] != before.get(path)}
    assert made.made == ("kit of east",)
    assert changed == {*(home.kits / "east").iterdir(), home.federation_file}
    assert read_federation(home.federation_file).site("east").task == "chestx"


def test_changed_names_need_a_renewal_and_change_nothing(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    before = contents(home.root)
    moved = federation.model_copy(update={"endpoint": "fl.example.org:443"})
    with pytest.raises(ConfigError, match="fovea renew server"):
        provision(moved, home, now=NOW)
    assert contents(home.root) == before


def test_kits_made_from_other_values_are_named(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    other_port = federation.model_copy(update={"endpoint": "fovea.example.org:8443"})
    assert provision(other_port, home, now=NOW).outdated_kits == ("north", "valley", "coast")


def test_interrupted_provisioning_goes_on(federation: Federation, home: CoordinatorHome) -> None:
    no_policy = federation.model_copy(update={"policy": home.root / "absent.yaml"})
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        provision(no_policy, home, now=NOW)
    assert not home.root.exists()
    provision(federation, home, now=NOW)
    authority = home.authority.read_bytes()
    for path in (*home.kits.rglob("*.*"), *home.run_key.parent.iterdir()):
        path.unlink()
    for path in (*home.kits.iterdir(), home.kits, home.run_key.parent):
        path.rmdir()
    made = provision(federation, home, now=NOW)
    assert made.made == ("run key", "kit of north", "kit of valley", "kit of coast")
    assert home.authority.read_bytes() == authority


@pytest.mark.parametrize("lost", ["ca", "tls", "keys"])
def test_what_sites_depend_on_is_never_made_anew_in_silence(
    federation: Federation, home: CoordinatorHome, lost: str
) -> None:
    provision(federation, home, now=NOW)
    (home.root / lost).rename(home.root.parent / "elsewhere")
    with pytest.raises(TrustError, match="Restore it from the backup"):
        provision(federation, home, now=NOW)


def test_key_that_others_can_read_is_refused(federation: Federation, home: CoordinatorHome) -> None:
    provision(federation, home, now=NOW)
    home.authority_key.chmod(0o640)
    with pytest.raises(TrustError, match="chmod 600"):
        provision(federation, home, now=NOW)


def test_folder_of_another_federation_is_refused(
    federation: Federation, home: CoordinatorHome
) -> None:
    provision(federation, home, now=NOW)
    with pytest.raises(ConfigError, match="holds the federation 'example'"):
        provision(federation.model_copy(update={"name": "second"}), home, now=NOW)


def test_own_file_in_the_folder_is_left_as_written(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path)
    text = (CONFIGS / "federations" / "example.yaml").read_text().replace("../", f"{CONFIGS}/")
    home.federation_file.write_text(text)
    provision(read_federation(home.federation_file), home, now=NOW)
    assert home.federation_file.read_text() == text
