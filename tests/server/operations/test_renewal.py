"""Renewal: the new works, the former is kept, what is not meant stays byte for byte."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import ConfigError, TrustError
from common.messages.certificates import read_authorities, read_certificates
from common.messages.signing import read_private_key
from server.operations.federation_file import Federation, read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision, read_pins
from server.operations.renewal import (
    drop_former_authority,
    drop_former_run_key,
    renew_authority,
    renew_kits,
    renew_run_key,
    renew_server_certificate,
)
from server.operations.replacement import replace_together, settle_together

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime.now(UTC)
DATE = f"{NOW:%Y-%m-%d}"


@pytest.fixture(scope="module")
def federation() -> Federation:
    return read_federation(CONFIGS / "federations" / "example.yaml")


@pytest.fixture
def home(tmp_path: Path, federation: Federation) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "coordinator")
    provision(federation, home, now=NOW)
    (home.runs / "demo").mkdir(parents=True)
    (home.runs / "demo" / "status.json").write_text("{}")
    return home


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def changes(before: dict[str, bytes], home: CoordinatorHome) -> set[str]:
    after = contents(home.root)
    return {name for name in before | after if before.get(name) != after.get(name)}


def kit_changes(*names: str) -> set[str]:
    return {f"kits/{site}/{name}" for site in ("north", "valley", "coast") for name in names}


def handshake(server: CoordinatorHome, pinned: bytes) -> None:
    """Connect over TLS on loopback as a site that has pinned these authorities."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.server_certificate, server.server_key)
    asking = ssl.create_default_context(cadata=pinned.decode())
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
                asking.wrap_socket(plain, server_hostname="localhost") as secured,
            ):
                assert secured.version() == "TLSv1.3"
        finally:
            thread.join()


def test_new_server_certificate_is_trusted_by_sites_that_do_nothing(
    federation: Federation, home: CoordinatorHome
) -> None:
    before, pinned = contents(home.root), home.authority.read_bytes()
    later = NOW + timedelta(hours=1)
    renewed = renew_server_certificate(federation, home, sites_updated=False, now=later)
    handshake(home, pinned)
    assert renewed.kits == ()
    assert changes(before, home) == {
        "tls/server.key",
        "tls/server.crt",
        f"tls/server.key.old-{later:%Y-%m-%d}",
        f"tls/server.crt.old-{later:%Y-%m-%d}",
    }
    for path in renewed.kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == before[str(path.relative_to(home.root)).partition(".old")[0]]


def test_expired_certificate_is_renewed(federation: Federation, tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "old")
    provision(federation, home, now=NOW - timedelta(days=400))
    pinned = home.authority.read_bytes()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(home, pinned)
    renew_server_certificate(federation, home, sites_updated=False, now=NOW)
    handshake(home, pinned)


def test_new_endpoint_gets_a_certificate_and_kits(
    federation: Federation, home: CoordinatorHome
) -> None:
    before = contents(home.root)
    moved = federation.model_copy(update={"endpoint": "fl.example.org:443"})
    renewed = renew_server_certificate(moved, home, sites_updated=False, now=NOW)
    assert renewed.kits == ("north", "valley", "coast")
    assert changes(before, home) >= kit_changes("connector.yaml", "README.md")
    assert provision(moved, home, now=NOW).outdated_kits == ()


def test_new_authority_counts_beside_the_former_until_it_is_dropped(
    federation: Federation, home: CoordinatorHome
) -> None:
    before = contents(home.root)
    former = home.authority.read_bytes()
    renewed = renew_authority(federation, home, now=NOW)
    both = (home.kits / "north" / "ca.crt").read_bytes()

    assert changes(before, home) == {
        "ca/ca.key",
        "ca/ca.crt",
        f"ca/ca.key.old-{DATE}",
        f"ca/ca.crt.old-{DATE}",
        *kit_changes("ca.crt", "README.md"),
    }
    assert renewed.kits == ("north", "valley", "coast")
    assert len(read_authorities(home.authority)) == 2
    handshake(home, former)
    handshake(home, both)

    with pytest.raises(ConfigError, match="sites-updated"):
        renew_server_certificate(federation, home, sites_updated=False, now=NOW)
    with pytest.raises(ConfigError, match="still the former authority's"):
        drop_former_authority(federation, home, now=NOW)
    with pytest.raises(ConfigError, match="being renewed already"):
        renew_authority(federation, home, now=NOW)

    renew_server_certificate(federation, home, sites_updated=True, now=NOW)
    handshake(home, both)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(home, former)

    drop_former_authority(federation, home, now=NOW)
    handshake(home, (home.kits / "north" / "ca.crt").read_bytes())
    assert len(read_authorities(home.authority)) == 1
    assert provision(federation, home, now=NOW).made == ()


def test_authority_whose_time_is_over_vouches_for_nobody(
    federation: Federation, tmp_path: Path
) -> None:
    home = CoordinatorHome(tmp_path / "old")
    short = federation.model_copy(update={"authority_days": 10, "certificate_days": 5})
    provision(short, home, now=NOW - timedelta(days=8))
    renew_server_certificate(short, home, sites_updated=False, now=NOW)
    ends = read_certificates(home.server_certificate)[0].not_valid_after_utc
    assert ends == read_authorities(home.authority)[0].not_valid_after_utc
    with pytest.raises(TrustError, match="fovea renew authority"):
        renew_server_certificate(short, home, sites_updated=False, now=NOW + timedelta(days=3))


def test_new_run_key_is_carried_beside_the_former(
    federation: Federation, home: CoordinatorHome
) -> None:
    before = contents(home.root)
    former = read_private_key(home.run_key).public.text
    renewed = renew_run_key(federation, home, keep_former=True, now=NOW)
    current = read_private_key(home.run_key).public.text

    assert current != former
    assert (home.kits / "north" / "run-keys.pub").read_text().split() == [current, former]
    assert read_private_key(home.root / "keys" / f"run.key.old-{DATE}").public.text == former
    assert changes(before, home) == {
        "keys/run.key",
        "keys/run-keys.pub",
        f"keys/run.key.old-{DATE}",
        f"keys/run-keys.pub.old-{DATE}",
        *kit_changes("run-keys.pub", "README.md"),
    }
    assert renewed.kits == ("north", "valley", "coast")

    drop_former_run_key(federation, home, now=NOW)
    assert (home.kits / "north" / "run-keys.pub").read_text().split() == [current]


def test_stolen_run_key_is_not_carried_on(federation: Federation, home: CoordinatorHome) -> None:
    former = read_private_key(home.run_key).public.text
    renew_run_key(federation, home, keep_former=False, now=NOW)
    assert former not in (home.kits / "north" / "run-keys.pub").read_text()


def test_every_former_file_of_one_day_is_kept(
    federation: Federation, home: CoordinatorHome
) -> None:
    keys = [home.server_key.read_bytes()]
    for _ in range(2):
        renew_server_certificate(federation, home, sites_updated=False, now=NOW)
        keys.append(home.server_key.read_bytes())
    kept = [path.read_bytes() for path in sorted(home.server_key.parent.glob("server.key.old-*"))]
    assert kept == keys[:2]


def test_kits_are_written_anew_only_where_they_differ(
    federation: Federation, home: CoordinatorHome
) -> None:
    (home.kits / "valley" / "policy.yaml").write_text("tasks: []\n")
    assert renew_kits(federation, home) == ("valley",)
    assert renew_kits(federation, home) == ()


def test_replacement_interrupted_before_it_counts_is_undone(tmp_path: Path) -> None:
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    replace_together({key: (b"key 1", 0o600), certificate: (b"certificate 1", 0o644)}, now=NOW)
    (tmp_path / "server.key.new").write_bytes(b"key 2")
    settle_together((key, certificate))
    assert key.read_bytes() == b"key 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.crt", "server.key"]


@pytest.mark.parametrize("renamed", [0, 1])
def test_replacement_interrupted_after_it_counts_is_finished(tmp_path: Path, renamed: int) -> None:
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    replace_together({key: (b"key 1", 0o600), certificate: (b"certificate 1", 0o644)}, now=NOW)
    (tmp_path / "server.key.new").write_bytes(b"key 2")
    (tmp_path / "server.crt.new").write_bytes(b"certificate 2")
    for path in (key, certificate)[:renamed]:
        path.with_name(f"{path.name}.new").replace(path)
    settle_together((key, certificate))
    assert (key.read_bytes(), certificate.read_bytes()) == (b"key 2", b"certificate 2")


def test_renewal_finishes_what_a_crash_has_left(
    federation: Federation, home: CoordinatorHome, tmp_path: Path
) -> None:
    other = CoordinatorHome(tmp_path / "other")
    provision(federation, other, now=NOW)
    (home.root / "keys" / "run.key.new").write_bytes(other.run_key.read_bytes())
    (home.root / "keys" / "run.key.new").chmod(0o600)
    (home.root / "keys" / "run-keys.pub.new").write_bytes(other.run_keys.read_bytes())
    (home.root / "keys" / "run.key.new").replace(home.run_key)
    with pytest.raises(TrustError, match="does not begin with the public half"):
        read_pins(home)
    provision(federation, home, now=NOW)
    assert read_pins(home).run_keys == read_pins(other).run_keys
