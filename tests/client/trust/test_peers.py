"""Pins: typed as people type, kept whole, compared with what the run says of every other site."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from client.commands.peers import peers
from client.home.folders import SiteHome
from client.operations.initialise import initialise
from client.records.audit import export, verify
from client.trust.peers import fingerprint_of, pinned_keys, read_pins, write_pins
from common.config.reading import load_config
from common.errors import ConfigError, TrustError
from common.messages.manifest import Manifest, ManifestSite
from common.messages.signing import PrivateKey, read_private_key
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime.now(UTC)
VALLEY = PrivateKey.new()
PRINT = VALLEY.public.fingerprint
OTHER = PrivateKey.new().public.fingerprint


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = CoordinatorHome(tmp_path_factory.mktemp("coordinator"))
    provision(read_federation(CONFIGS / "federations" / "example.yaml"), home, now=NOW)
    return home.kits / "north"


@pytest.fixture
def home(kit: Path, tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    initialise(made, kit, now=NOW)
    settings = yaml.load(made.site_file.read_text(), Loader=yaml.CSafeLoader)
    phantom = {"patients": 6, "pictures_per_patient": 1, "scanner_strength": 0.5}
    phantom |= {"kind": "phantom", "lesion_contrast": 1.5, "roi_fraction": 0.5}
    settings["source"] = phantom | {"marker_agreement": None, "prevalence": None}
    made.site_file.write_text(yaml.dump(settings, Dumper=yaml.CSafeDumper))
    return made


def typed(home: SiteHome, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(peers, [command, "--home", str(home.root), *arguments])


def manifest_of(**keys: str) -> Manifest:
    return Manifest.model_validate(
        {
            "version": 1,
            "federation": "example",
            "run": "demo-1",
            "sites": tuple(
                ManifestSite(name=name, task="chestx", signing_key=key)
                for name, key in keys.items()
            ),
            "config": load_config(CONFIGS / "experiments" / "demo.yaml").run,
            "architecture_digest": "0" * 64,
            "code_digest": "1" * 64,
            "issued_at": NOW,
            "expires_at": NOW + timedelta(days=7),
        }
    )


# --- what is pinned --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [PRINT, PRINT.replace(" ", ""), PRINT.upper(), PRINT.replace(" ", ":"), f"  {PRINT}\n"],
    ids=["as shown", "without spaces", "capitals", "colons", "spaces around"],
)
def test_a_fingerprint_is_taken_however_it_is_typed(text: str) -> None:
    assert fingerprint_of(text) == PRINT


@pytest.mark.parametrize(
    "text",
    ["", PRINT[:-1], PRINT + "0", PRINT.replace(PRINT[0], "x"), "é"],
    ids=["nothing", "too short", "too long", "other letters", "no ASCII"],
)
def test_anything_else_is_refused_with_the_form_and_where_to_get_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected 32 hexadecimal digits.*peers show"):
        fingerprint_of(text)


def test_pins_are_kept_as_they_were_given_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "trainer" / "peers.yaml"
    assert read_pins(path) == {}
    for pins in ({"1e5": fingerprint_of("0" * 32), "null": OTHER, "valley": PRINT}, {}):
        write_pins(path, pins)
        assert read_pins(path) == pins
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", ["valley: 12", "valley: abc", "Valley!: abc"])
def test_a_pin_that_was_spoilt_by_hand_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "peers.yaml"
    path.write_text(line)
    with pytest.raises(ConfigError, match=r"peers\.yaml: [vV]alley"):
        read_pins(path)


# --- pins and a run --------------------------------------------------------------------------


def test_every_other_site_of_a_run_is_known_by_its_pinned_key() -> None:
    coast = PrivateKey.new()
    manifest = manifest_of(north="not read", valley=VALLEY.public.text, coast=coast.public.text)
    pins = {"valley": PRINT, "coast": coast.public.fingerprint, "elsewhere": OTHER}
    keys = pinned_keys(pins, manifest, site="north")
    assert {name: key.text for name, key in keys.items()} == {
        "valley": VALLEY.public.text,
        "coast": coast.public.text,
    }


def test_a_site_that_is_not_pinned_or_has_another_key_is_named_with_the_remedy() -> None:
    manifest = manifest_of(north="not read", valley=VALLEY.public.text)
    with pytest.raises(TrustError, match=rf"valley.*not pinned.*peers add valley .{PRINT}"):
        pinned_keys({}, manifest, site="north")
    with pytest.raises(TrustError, match=rf"valley is pinned with.*{OTHER}.*peers remove valley"):
        pinned_keys({"valley": OTHER}, manifest, site="north")


# --- commands --------------------------------------------------------------------------------


def test_show_needs_no_more_of_a_new_site_than_its_name(kit: Path, tmp_path: Path) -> None:
    new = SiteHome(tmp_path / "new")
    initialise(new, kit, now=NOW)
    assert typed(new, "show").stdout.startswith("north  ")

    new.site_file.write_text(new.site_file.read_text().replace("north", "North Hospital"))
    result = typed(new, "show")
    assert result.exit_code == 1
    assert "site.yaml: name: expected small letters" in result.stderr


def test_show_reads_out_this_site_s_own_key(home: SiteHome) -> None:
    fingerprint = read_private_key(home.signing_key).public.fingerprint
    shown = typed(home, "show")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith(f"north  {fingerprint}\n")
    assert f'peers add north "{fingerprint}"' in shown.stdout
    told = json.loads(typed(home, "show", "--json").stdout)
    assert told == {"site": "north", "fingerprint": fingerprint}


def test_pins_come_and_go_and_the_log_tells_who_did_it(home: SiteHome) -> None:
    assert "No other site is pinned" in typed(home, "list").stdout
    assert typed(home, "add", "valley", PRINT).stdout == "valley is pinned.\n"
    assert typed(home, "add", "coast", *OTHER.split()).exit_code == 0  # without quotes
    assert f"valley  {PRINT}" in typed(home, "list").stdout
    assert json.loads(typed(home, "list", "--json").stdout) == {"coast": OTHER, "valley": PRINT}
    assert typed(home, "remove", "valley").stdout == "valley is no longer pinned.\n"
    assert read_pins(home.peers) == {"coast": OTHER}
    assert not verify(home.audit_log).problems
    noted = [dict(entry) for entry in export(home.audit_log)]
    about = [(each["event"], each["peer"], each["fingerprint"]) for each in noted if "peer" in each]
    assert about == [
        ("peer-pinned", "valley", PRINT),
        ("peer-pinned", "coast", OTHER),
        ("peer-unpinned", "valley", PRINT),
    ]
    assert all(each["by"] for each in noted if "peer" in each)


def test_a_pin_is_never_replaced_unasked(home: SiteHome) -> None:
    typed(home, "add", "valley", PRINT)
    again = typed(home, "add", "valley", PRINT.replace(" ", ""))
    assert (again.exit_code, "already" in again.stdout) == (0, True)
    other = typed(home, "add", "valley", OTHER)
    assert other.exit_code == 1
    assert "peers remove valley" in other.stderr
    assert read_pins(home.peers) == {"valley": PRINT}


def test_mistakes_are_told_with_their_remedy(home: SiteHome) -> None:
    own = read_private_key(home.signing_key).public.fingerprint
    typed(home, "add", "valley", PRINT)
    for arguments, words in (
        (("add", "coast", "12 34"), "32 hexadecimal digits"),
        (("add", "No Name", OTHER), "small letters"),
        (("add", "north", OTHER), "this site itself"),
        (("add", "coast", own), "this site itself"),
        (("add", "coast", PRINT), "valley is pinned with this fingerprint"),
        (("remove", "coast"), "Pinned are: valley"),
    ):
        result = typed(home, *arguments)
        assert result.exit_code == 1, arguments
        assert words in result.stderr
    assert read_pins(home.peers) == {"valley": PRINT}


@pytest.mark.parametrize("command", ["show", "add", "list", "remove"])
def test_every_command_teaches_and_tells_its_exit_codes(command: str) -> None:
    told = " ".join(CliRunner().invoke(peers, [command, "--help"]).stdout.split())
    assert "Exit codes: 0" in told
