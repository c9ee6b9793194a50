"""Admission: only listed sites, only the right keys, each key once, others never touched."""

import string
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.home.node_key import make_node_key, public_line
from common.errors import ConfigError, RunError, TrustError
from common.messages.admission import Admission, read_admission, write_admission
from common.messages.signing import PrivateKey, public_key
from server.operations.admitted import admit, read_admitted, register_again, retire
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 4, 1, 12, tzinfo=UTC)


class Registry:
    """Nodes in memory, as Flower keeps them: a key once, and never again when it is gone."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, int] = {}
        self.gone: set[int] = set()
        self.answers = True

    def register(self, public_key: bytes, name: str) -> int:
        self._check()
        if self.nodes.get(public_key) in self.gone:
            raise RunError(f"{name}: the key was unregistered")
        return self.nodes.setdefault(public_key, 100 + len(self.nodes))

    def unregister(self, node_id: int) -> None:
        self._check()
        self.gone.add(node_id)

    def _check(self) -> None:
        if not self.answers:
            raise RunError("the SuperLink does not answer")


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "coordinator")
    provision(read_federation(CONFIGS / "federations" / "example.yaml"), home, now=NOW)
    return home


@pytest.fixture
def registry() -> Registry:
    return Registry()


def openssh(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def admission(**changed: str) -> Admission:
    values = {
        "federation": "example",
        "site": "north",
        "task": "chestx",
        "node_key": openssh(ec.generate_private_key(ec.SECP384R1())),
        "signing_key": PrivateKey.new().public.text,
    }
    return Admission.model_validate({"version": 1, **values, **changed})


def test_admitted_site_is_registered_and_kept(home: CoordinatorHome, registry: Registry) -> None:
    asked = admission()
    site = admit(home, asked, registry, NOW)
    assert registry.nodes == {asked.node_key.encode(): site.node_id}
    assert read_admitted(home) == {"north": site}
    assert (site.task, site.admitted_at, site.retired_at) == ("chestx", NOW, None)


def test_same_keys_again_change_nothing(home: CoordinatorHome, registry: Registry) -> None:
    asked = admission()
    admit(home, asked, registry, NOW)
    before = (home.admitted / "north.json").read_bytes()
    commented = asked.model_copy(update={"node_key": f"{asked.node_key} root@north"})
    admit(home, commented, registry, LATER)
    assert (home.admitted / "north.json").read_bytes() == before


def test_other_keys_of_an_admitted_site_are_refused(
    home: CoordinatorHome, registry: Registry
) -> None:
    asked = admission()
    admit(home, asked, registry, NOW)
    for other in (admission(), admission(node_key=asked.node_key)):
        with pytest.raises(ConfigError, match="fovea retire north"):
            admit(home, other, registry, NOW)
    assert read_admitted(home)["north"].node_key == asked.node_key
    assert len(registry.nodes) == 1


@pytest.mark.parametrize("key", ["node_key", "signing_key"])
def test_key_of_another_site_is_refused(
    home: CoordinatorHome, registry: Registry, key: str
) -> None:
    first = admission()
    admit(home, first, registry, NOW)
    copied = admission(site="valley", task="retina", **{key: getattr(first, key)})
    with pytest.raises(TrustError, match="is site north's"):
        admit(home, copied, registry, NOW)
    assert list(read_admitted(home)) == ["north"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"site": "nort"}, "Did you mean 'north'"),
        ({"task": "retina"}, "federation.yaml says chestx"),
        ({"federation": "second"}, "for federation 'second'"),
    ],
)
def test_unlisted_site_task_or_federation_is_refused(
    home: CoordinatorHome, registry: Registry, changed: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        admit(home, admission(**changed), registry, NOW)
    assert registry.nodes == {}


@pytest.mark.parametrize(
    "key",
    [
        openssh(ec.generate_private_key(ec.SECP256R1())),
        openssh(Ed25519PrivateKey.generate()),
        "ecdsa-sha2-nistp384 AAAA",
        "",
    ],
    ids=["p256", "ed25519", "broken", "empty"],
)
def test_node_key_of_another_kind_is_refused(
    home: CoordinatorHome, registry: Registry, key: str
) -> None:
    with pytest.raises(TrustError, match="node_key"):
        admit(home, admission(node_key=key), registry, NOW)
    assert registry.nodes == {}


def test_signing_key_of_another_kind_is_refused(home: CoordinatorHome, registry: Registry) -> None:
    with pytest.raises(TrustError, match="no public key"):
        admit(home, admission(signing_key="ed25519:AAAA"), registry, NOW)


def test_admission_interrupted_at_flower_goes_on(home: CoordinatorHome, registry: Registry) -> None:
    asked = admission()
    registry.answers = False
    with pytest.raises(RunError):
        admit(home, asked, registry, NOW)
    assert read_admitted(home)["north"].node_id is None
    registry.answers = True
    assert admit(home, asked, registry, LATER).node_id == 100
    assert read_admitted(home)["north"].admitted_at == NOW


def test_retiring_touches_no_other_site(home: CoordinatorHome, registry: Registry) -> None:
    admit(home, admission(), registry, NOW)
    valley = admit(home, admission(site="valley", task="retina"), registry, NOW)
    before = (home.admitted / "valley.json").read_bytes()
    gone = retire(home, "north", control=registry, now=LATER)
    assert (gone.retired_at, gone.node_id) == (LATER, None)
    assert registry.gone == {100}
    assert (home.admitted / "valley.json").read_bytes() == before
    assert read_admitted(home) == {"north": gone, "valley": valley}


def test_retiring_counts_at_once_and_reaches_flower_later(
    home: CoordinatorHome, registry: Registry
) -> None:
    admit(home, admission(), registry, NOW)
    registry.answers = False
    with pytest.raises(RunError):
        retire(home, "north", control=registry, now=NOW)
    assert read_admitted(home)["north"].retired_at == NOW
    registry.answers = True
    assert retire(home, "north", control=registry, now=LATER).retired_at == NOW
    assert registry.gone == {100}


def test_retired_keys_never_come_back_but_the_site_may(
    home: CoordinatorHome, registry: Registry
) -> None:
    first, second = admission(), admission()
    admit(home, first, registry, NOW)
    retire(home, "north", control=registry, now=NOW)
    with pytest.raises(TrustError, match="retired with site north"):
        admit(home, first, registry, LATER)
    assert admit(home, second, registry, LATER).retired_at is None
    with pytest.raises(TrustError, match="retired with site north"):
        admit(home, first, registry, LATER)
    as_valley = first.model_copy(update={"site": "valley", "task": "retina"})
    with pytest.raises(TrustError, match="retired with site north"):
        admit(home, as_valley, registry, LATER)
    assert list(read_admitted(home)) == ["north"]


def test_retired_key_in_another_spelling_is_the_same_key(
    home: CoordinatorHome, registry: Registry, tmp_path: Path
) -> None:
    first = admission()
    admit(home, first, registry, NOW)
    retire(home, "north", control=registry, now=NOW)
    # The last character before the padding has two bits that decode to nothing.
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    text = first.signing_key
    again = text[:-2] + alphabet[alphabet.index(text[-2]) + 1] + "="
    respelled = admission(signing_key=again)
    assert public_key(again).text == text != again
    with pytest.raises(TrustError, match="retired with site north"):
        admit(home, respelled, registry, LATER)
    write_admission(tmp_path / "admission.json", respelled)
    assert read_admission(tmp_path / "admission.json").signing_key == text


def test_site_never_admitted_cannot_be_retired(home: CoordinatorHome, registry: Registry) -> None:
    admit(home, admission(), registry, NOW)
    with pytest.raises(ConfigError, match="Did you mean 'north'"):
        retire(home, "nort", control=registry, now=NOW)


def test_lost_flower_database_is_filled_again_without_retired_sites(
    home: CoordinatorHome, registry: Registry
) -> None:
    admit(home, admission(), registry, NOW)
    admit(home, admission(site="valley", task="retina"), registry, NOW)
    retire(home, "north", control=registry, now=NOW)
    fresh = Registry()
    changed = register_again(home, fresh)
    assert [site.site for site in changed] == ["valley"]
    assert fresh.nodes == {read_admitted(home)["valley"].node_key.encode(): 100}
    assert register_again(home, fresh) == ()


def test_damaged_file_is_named(home: CoordinatorHome, registry: Registry) -> None:
    admit(home, admission(), registry, NOW)
    (home.admitted / "north.json").write_text("{}")
    with pytest.raises(TrustError, match=r"north\.json: is damaged"):
        read_admitted(home)
    (home.admitted / "north.json").unlink()
    site = admit(home, admission(), registry, NOW)
    (home.admitted / "coast.json").write_text(site.model_dump_json())
    with pytest.raises(TrustError, match=r"coast\.json: holds site north"):
        read_admitted(home)


def test_key_that_a_site_makes_is_admitted(
    home: CoordinatorHome, registry: Registry, tmp_path: Path
) -> None:
    line = public_line(make_node_key(tmp_path / "node.key"))
    assert admit(home, admission(node_key=line), registry, NOW).node_key == line
