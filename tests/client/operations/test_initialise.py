"""A site's folder: made once, by pieces if need be, and nothing of it ever overwritten."""

import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.supernode.register import try_load_public_key
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from client.consent.policy_file import read_policy
from client.home.connector_file import read_connector
from client.home.folders import SiteHome
from client.home.node_key import make_node_key, public_line, read_node_key
from client.operations.initialise import initialise
from client.trust.pins import pin_changes, read_pins, update_pins
from common.errors import ConfigError, TrustError
from common.messages.admission import read_admission
from common.messages.signing import read_private_key
from server.operations.federation_file import Federation, read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision
from server.operations.renewal import (
    drop_former_authority,
    drop_former_run_key,
    renew_authority,
    renew_kits,
    renew_run_key,
    renew_server_certificate,
)

CONFIGS = Path(__file__).parents[3] / "configs"
FEDERATION = CONFIGS / "federations" / "example.yaml"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return read_federation(FEDERATION)


@pytest.fixture
def coordinator(tmp_path: Path, federation: Federation) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "coordinator")
    provision(federation, home, now=NOW)
    return home


@pytest.fixture
def kit(coordinator: CoordinatorHome) -> Path:
    return coordinator.kits / "north"


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, which every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fovea-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(root: Path) -> SiteHome:
    return SiteHome(root / "site")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_holds_the_kit_and_new_keys_with_the_right_modes(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, now=NOW)
    assert (mode(home.trainer), mode(home.connector)) == (0o700, 0o700)
    assert mode(home.run) & 0o777 == 0o770
    assert (mode(home.signing_key), mode(home.node_key)) == (0o600, 0o600)
    assert home.certificate_authority.read_bytes() == (kit / "ca.crt").read_bytes()
    assert home.run_keys.read_bytes() == (kit / "run-keys.pub").read_bytes()
    assert home.site_file.read_bytes() == (kit / "site.yaml").read_bytes()
    assert read_policy(home.policy_file).approval.mode == "by-hand"
    assert read_connector(home.connector_file).site == "north"


def test_admission_holds_the_public_halves_and_nothing_secret(home: SiteHome, kit: Path) -> None:
    admission = initialise(home, kit, now=NOW)
    assert read_admission(home.admission) == admission
    assert (admission.site, admission.task, admission.federation) == ("north", "chestx", "example")
    assert admission.signing_key == read_private_key(home.signing_key).public.text
    assert admission.node_key == public_line(read_node_key(home.node_key))
    assert mode(home.admission) == 0o644
    assert "PRIVATE" not in home.admission.read_text()


def test_flower_reads_the_node_key_with_its_own_loaders(home: SiteHome, kit: Path) -> None:
    admission = initialise(home, kit, now=NOW)
    arguments = Namespace(
        auth_supernode_private_key=str(home.node_key), auth_supernode_public_key=None
    )
    loaded = _try_setup_client_authentication(arguments)
    assert loaded is not None
    assert loaded[0].private_numbers() == read_node_key(home.node_key).private_numbers()
    public = home.root / "node.pub"
    public.write_text(admission.node_key)
    assert try_load_public_key(public).startswith(b"-----BEGIN PUBLIC KEY-----")


def test_two_sites_never_have_the_same_keys(root: Path, kit: Path) -> None:
    first = initialise(SiteHome(root / "a"), kit, now=NOW)
    second = initialise(SiteHome(root / "b"), kit, now=NOW)
    assert first.node_key != second.node_key
    assert first.signing_key != second.signing_key


def test_second_time_refuses_and_changes_nothing(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, now=NOW)
    before = contents(home.root)
    with pytest.raises(ConfigError, match="initialised already"):
        initialise(home, kit, now=NOW)
    assert contents(home.root) == before


@pytest.mark.parametrize(
    "lost",
    [
        "admission.json",
        "trainer/signing.key",
        "trainer/policy.yaml",
        "trainer/run-keys.pub",
        "connector/node.key",
        "connector/ca.crt",
        "connector/connector.yaml",
    ],
)
def test_what_is_missing_is_added_and_the_rest_kept(home: SiteHome, kit: Path, lost: str) -> None:
    initialise(home, kit, now=NOW)
    home.site_file.write_text(home.site_file.read_text() + "# edited by the hospital\n")
    (home.root / lost).unlink()
    before = contents(home.root)
    admission = initialise(home, kit, now=NOW)
    after = contents(home.root)
    assert (home.root / lost).is_file()
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed <= {home.admission}
    assert read_admission(home.admission) == admission
    assert admission.signing_key == read_private_key(home.signing_key).public.text


def test_kit_with_other_pins_is_refused_without_a_change(
    home: SiteHome, kit: Path, tmp_path: Path, federation: Federation
) -> None:
    initialise(home, kit, now=NOW)
    home.admission.unlink()
    other = CoordinatorHome(tmp_path / "other")
    provision(federation, other, now=NOW)
    before = contents(home.root)
    with pytest.raises(TrustError, match="update-pins"):
        initialise(home, other.kits / "north", now=NOW)
    assert contents(home.root) == before


def test_kit_of_another_site_is_refused(
    home: SiteHome, kit: Path, coordinator: CoordinatorHome
) -> None:
    initialise(home, kit, now=NOW)
    home.admission.unlink()
    with pytest.raises(ConfigError, match="for 'valley'"):
        initialise(home, coordinator.kits / "valley", now=NOW)


@pytest.mark.parametrize("lost", ["ca.crt", "run-keys.pub", "site.yaml", "policy.yaml"])
def test_incomplete_kit_is_named_before_anything_is_made(
    home: SiteHome, kit: Path, lost: str
) -> None:
    (kit / lost).unlink()
    with pytest.raises(ConfigError, match=f"lacks {lost}"):
        initialise(home, kit, now=NOW)
    assert not home.root.exists()


def test_kit_whose_authority_is_over_or_early_is_refused(home: SiteHome, kit: Path) -> None:
    for moment in (NOW + timedelta(days=3651), NOW - timedelta(days=2)):
        with pytest.raises(TrustError, match="clock"):
            initialise(home, kit, now=moment)
    assert not home.root.exists()


def test_too_long_a_path_for_the_socket_is_refused(root: Path, kit: Path) -> None:
    with pytest.raises(ConfigError, match="Give a shorter --home"):
        initialise(SiteHome(root / ("x" * 90)), kit, now=NOW)


def test_key_open_to_others_is_refused(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, now=NOW)
    home.node_key.chmod(0o644)
    home.admission.unlink()
    with pytest.raises(TrustError, match="chmod 600"):
        initialise(home, kit, now=NOW)


def test_node_key_is_never_overwritten_and_only_p384_in_openssh_form(tmp_path: Path) -> None:
    key = make_node_key(tmp_path / "node.key")
    assert isinstance(key.curve, ec.SECP384R1)
    with pytest.raises(TrustError, match="never overwritten"):
        make_node_key(tmp_path / "node.key")
    for kind in (["-t", "ecdsa", "-b", "256"], ["-t", "ed25519"]):
        path = tmp_path / kind[1]
        subprocess.run(["ssh-keygen", "-q", *kind, "-N", "", "-f", str(path)], check=True)
        with pytest.raises(TrustError, match="P-384"):
            read_node_key(path)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(tmp_path / "own")],
        check=True,
    )
    assert public_line(read_node_key(tmp_path / "own")) in (tmp_path / "own.pub").read_text()


def test_owners_are_given_both_or_none(home: SiteHome, kit: Path) -> None:
    with pytest.raises(ConfigError, match="give both"):
        initialise(home, kit, trainer_user="daemon", now=NOW)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Be an ordinary user, where this is root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("as_nobody")
def test_ordinary_user_cannot_give_files_away(root: Path) -> None:
    with pytest.raises(ConfigError, match="only root"):
        initialise(
            SiteHome(root / "site"), root, trainer_user="daemon", connector_user="bin", now=NOW
        )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users: needs root")


@needs_root
def test_unknown_user_is_named(home: SiteHome, kit: Path) -> None:
    with pytest.raises(ConfigError, match="'nobody-here' does not exist"):
        initialise(home, kit, trainer_user="daemon", connector_user="nobody-here", now=NOW)
    assert not home.root.exists()


def run_as(user: str, code: str, home: SiteHome) -> str:
    """Run a line of code as another user; return how it ended."""
    # Python is loaded as root: other users need not be able to enter this checkout.
    program = f"""
import os, pathlib, pwd, socket, sys
user, home = pwd.getpwnam(sys.argv[1]), pathlib.Path(sys.argv[2])
os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
{code}
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, user, str(home.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().rpartition("\n")[2] or "ok"


@needs_root
def test_two_users_meet_at_the_socket_and_nowhere_else(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, trainer_user="daemon", connector_user="bin", now=NOW)
    bind = "s = socket.socket(socket.AF_UNIX); s.bind(str(home / 'run/trainer.sock'));"
    bind += "(home / 'run/trainer.sock').chmod(0o660)"
    call = "socket.socket(socket.AF_UNIX).connect(str(home / 'run/trainer.sock'))"

    assert run_as("daemon", "(home / 'trainer/signing.key').read_bytes()", home) == "ok"
    assert run_as("bin", "(home / 'connector/node.key').read_bytes()", home) == "ok"
    assert run_as("daemon", bind, home) == "ok"
    # Nobody listens any more, but whoever may connect is told so, not that it is forbidden.
    assert "Connection refused" in run_as("bin", call, home)
    assert "Permission denied" in run_as("games", call, home)
    assert run_as("bin", "(home / 'run/connector.json').write_text('{}')", home) == "ok"
    assert "Permission denied" in run_as("bin", "os.listdir(home / 'trainer')", home)
    assert "Permission denied" in run_as("bin", "(home / 'trainer/site.yaml').open()", home)
    taken = "(home / 'run/trainer.sock').unlink()"
    assert "not permitted" in run_as("bin", taken, home)
    assert "Permission denied" in run_as(
        "daemon", "(home / 'connector/node.key').read_bytes()", home
    )


@needs_root
def test_repeated_init_leaves_everything_to_its_owners(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, trainer_user="daemon", connector_user="bin", now=NOW)
    for lost in (home.admission, home.node_key, home.certificate_authority, home.run_keys):
        lost.unlink()
    initialise(home, kit, trainer_user="daemon", connector_user="bin", now=NOW)
    assert {path.owner() for path in (home.trainer, *home.trainer.rglob("*"))} == {"daemon"}
    assert {path.owner() for path in (home.connector, *home.connector.rglob("*"))} == {"bin"}
    assert (home.run.owner(), home.run.group(), mode(home.run)) == ("daemon", "bin", 0o3770)


@needs_root
def test_init_gives_a_folder_to_no_other_users_than_before(home: SiteHome, kit: Path) -> None:
    initialise(home, kit, trainer_user="daemon", connector_user="bin", now=NOW)
    home.admission.unlink()
    with pytest.raises(ConfigError, match="the same users as before"):
        initialise(home, kit, trainer_user="daemon", connector_user="games", now=NOW)
    assert home.connector.owner() == "bin"


@pytest.fixture
def renewed(home: SiteHome, kit: Path, coordinator: CoordinatorHome) -> Path:
    """A site of two users, and the kit with the authority that came after."""
    initialise(home, kit, trainer_user="daemon", connector_user="bin", now=NOW)
    renew_authority(read_federation(FEDERATION), coordinator, now=NOW)
    return kit


@pytest.fixture
def secret(root: Path) -> Path:
    """A file of root's, which the connector would like to have."""
    path = root / "secret"
    path.write_text("root's alone\n")
    path.chmod(0o640)
    return path


def swap_what_is_written(folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a process of the connector's user can at any moment, at the worst of them."""
    sync = os.fsync

    def swapped(handle: int) -> None:
        sync(handle)
        for path in folder.glob(".*"):
            path.unlink()
            path.symlink_to(secret)
            os.lchown(path, pwd.getpwnam("bin").pw_uid, pwd.getpwnam("bin").pw_gid)

    monkeypatch.setattr(os, "fsync", swapped)


@needs_root
@pytest.mark.parametrize("command", ["init", "update-pins"])
def test_a_file_exchanged_while_root_writes_changes_no_file_of_roots(
    home: SiteHome, renewed: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    home.certificate_authority.chmod(0o666)
    if command == "init":
        (home.root / "admission.json").unlink()
        home.certificate_authority.unlink()
    swap_what_is_written(home.connector, secret, monkeypatch)
    with suppress(ConfigError, TrustError, OSError):
        if command == "init":
            initialise(home, renewed, trainer_user="daemon", connector_user="bin", now=NOW)
        else:
            update_pins(home, renewed, now=NOW)
    assert (mode(secret), secret.owner()) == (0o640, "root")


@needs_root
def test_update_takes_neither_mode_nor_owner_from_the_connectors_file(
    home: SiteHome, renewed: Path
) -> None:
    home.certificate_authority.chmod(0o4777)
    update_pins(home, renewed, now=NOW)
    written = [home.certificate_authority, *home.connector.glob("ca.crt.old-*")]
    assert len(written) == 2
    assert {(path.owner(), mode(path)) for path in written} == {("bin", 0o600)}


@needs_root
@pytest.mark.parametrize("trick", ["link", "pipe"])
def test_update_reads_no_file_of_roots_and_waits_at_no_pipe(
    home: SiteHome, renewed: Path, secret: Path, trick: str
) -> None:
    secret.write_bytes(home.certificate_authority.read_bytes())
    home.certificate_authority.unlink()
    if trick == "link":
        home.certificate_authority.symlink_to(secret)
    else:
        os.mkfifo(home.certificate_authority, 0o666)
    with pytest.raises(TrustError, match="cannot be read"):
        update_pins(home, renewed, now=NOW)
    assert not list(home.connector.glob("ca.crt.old-*"))


def test_renewed_authority_and_run_key_are_pinned_beside_the_former(
    home: SiteHome, kit: Path, coordinator: CoordinatorHome, federation: Federation
) -> None:
    initialise(home, kit, now=NOW)
    former = read_pins(home)
    renew_authority(federation, coordinator, now=NOW)
    renew_run_key(federation, coordinator, keep_former=True, now=NOW)
    before = contents(home.root)

    shown = pin_changes(home, kit, now=NOW)
    assert contents(home.root) == before
    changes = update_pins(home, kit, now=NOW)

    after, current = contents(home.root), read_pins(home)
    assert changes == shown
    assert changes.continues
    assert changes.new_authorities == current.authority_fingerprints[:1]
    assert changes.new_run_keys == current.run_key_fingerprints[:1]
    assert current.run_keys[1:] == former.run_keys
    assert current.authorities[1:] == former.authorities
    dated = f"old-{NOW:%Y-%m-%d}"
    kept = [home.certificate_authority, home.run_keys]
    assert {path for path in after if before.get(path) != after[path]} == {
        *kept,
        *(path.with_name(f"{path.name}.{dated}") for path in kept),
    }
    assert all(mode(path.with_name(f"{path.name}.{dated}")) == 0o600 for path in kept)
    assert update_pins(home, kit, now=NOW).is_empty

    renew_server_certificate(federation, coordinator, sites_updated=True, now=NOW)
    drop_former_authority(federation, coordinator, now=NOW)
    drop_former_run_key(federation, coordinator, now=NOW)
    ended = update_pins(home, kit, now=NOW)
    assert ended.dropped_authorities == former.authority_fingerprints
    assert ended.dropped_run_keys == former.run_key_fingerprints
    assert read_pins(home).run_keys == current.run_keys[:1]


def test_new_address_is_taken_over_and_the_sites_own_settings_stay(
    home: SiteHome, kit: Path, coordinator: CoordinatorHome, federation: Federation
) -> None:
    initialise(home, kit, now=NOW)
    text = home.connector_file.read_text().replace("metrics_port: 9464", "metrics_port: 0")
    home.connector_file.write_text(text)
    moved = federation.model_copy(update={"endpoint": "fl.example.org:8443"})
    renew_kits(moved, coordinator)
    changes = update_pins(home, kit, now=NOW)
    assert changes.coordinator == ("fovea.example.org:443", "fl.example.org:8443")
    connector = read_connector(home.connector_file)
    assert (connector.coordinator, connector.metrics_port) == ("fl.example.org:8443", 0)


def test_kit_of_a_stranger_is_shown_as_one(
    home: SiteHome, kit: Path, tmp_path: Path, federation: Federation
) -> None:
    initialise(home, kit, now=NOW)
    other = CoordinatorHome(tmp_path / "other")
    provision(federation, other, now=NOW)
    assert not pin_changes(home, other.kits / "north", now=NOW).continues


def test_kit_of_another_site_changes_no_pins(
    home: SiteHome, kit: Path, coordinator: CoordinatorHome
) -> None:
    initialise(home, kit, now=NOW)
    with pytest.raises(ConfigError, match="kit of site 'valley'"):
        update_pins(home, coordinator.kits / "valley", now=NOW)


def test_more_than_two_run_keys_are_refused(home: SiteHome, kit: Path) -> None:
    line = (kit / "run-keys.pub").read_text()
    (kit / "run-keys.pub").write_text(line * 3)
    with pytest.raises(TrustError, match="at most 2, got 3"):
        initialise(home, kit, now=NOW)


def test_socket_of_the_longest_allowed_path_can_be_bound(root: Path, kit: Path) -> None:
    room = 107 - len(os.fsencode(SiteHome(root / "x").socket)) + 1
    home = SiteHome(root / ("x" * room))
    initialise(home, kit, now=NOW)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(home.socket))
    with pytest.raises(ConfigError, match="shorter"):
        initialise(SiteHome(root / ("x" * (room + 1))), kit, now=NOW)
