"""The ledger: whatever is done to it, and whenever it dies, it never says less than was spent."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.consent.ledger_report import ledger_report
from client.consent.policy_privacy import PrivacyPolicy
from client.records.audit_lines import line_of, record_hash
from client.records.chained_log import ChainedLog
from client.records.ledger import Ledger, uncovered
from client.records.spending import Spending
from common.config.privacy import Unit
from common.errors import LedgerError
from common.files.whole_file import write_whole

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROUND = Spending(
    mechanism="poisson-subsampled-gaussian",
    unit="patient",
    noise_multiplier=2.0,
    sample_rate=0.05,
    steps=20,
)
PICTURES = ROUND.model_copy(update={"unit": "image", "noise_multiplier": 3.0})
RULES = PrivacyPolicy(
    required=True,
    unit="patient",
    epsilon=8.0,
    delta=1e-5,
    min_noise_multiplier=0.5,
    max_clip_norm=1.0,
    max_sample_rate=0.5,
)


def spend(path: Path, server_round: int, spending: Spending = ROUND, run: str = "demo-1") -> None:
    Ledger(path).spend(
        spending, run=run, server_round=server_round, request_digest="ab" * 32, now=NOW
    )


def note(path: Path, what: str, server_round: int, run: str = "demo-1") -> None:
    Ledger(path).note_release(
        what, run=run, server_round=server_round, request_digest="cd" * 32, now=NOW
    )


def spent_rounds(path: Path) -> list[int]:
    return [each.server_round for each in Ledger(path).entries() if each.kind == "spending"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger" / "ledger.jsonl"
    for server_round in (1, 2, 3):
        spend(path, server_round)
    return path


def head_of(path: Path) -> Path:
    return path.with_name("ledger.jsonl.head")


# --- what it keeps -------------------------------------------------------------------------


def test_entries_come_back_as_they_were_written_and_are_their_owners_alone(path: Path) -> None:
    note(path, "evaluation", 3)

    *_, spending, release = Ledger(path).entries()

    assert (spending.kind, spending.run, spending.server_round) == ("spending", "demo-1", 3)
    assert (spending.what, spending.spending) == ("update", ROUND)
    assert (spending.seq, spending.time, spending.request_digest) == (3, NOW, "ab" * 32)
    assert (release.kind, release.what, release.spending) == ("release", "evaluation", None)
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_site_of_which_nothing_left_has_spent_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger" / "ledger.jsonl")
    assert ledger.entries() == ()
    assert ledger.epsilon(unit="patient", delta=1e-5) == 0.0
    assert not (tmp_path / "ledger").exists()


def test_a_round_that_is_trained_anew_is_spent_again(path: Path) -> None:
    spend(path, 3)
    assert spent_rounds(path) == [1, 2, 3, 3]


def test_what_leaves_again_is_noted_once_per_run_and_round(path: Path) -> None:
    for what, server_round, run in [
        ("data card", 0, "demo-1"),
        ("data card", 0, "demo-1"),
        ("data card", 0, "demo-2"),
        ("update", 3, "demo-1"),  # beside what was spent in that round
        ("evaluation", 3, "demo-1"),
        ("evaluation", 3, "demo-1"),
        ("evaluation", 4, "demo-1"),
    ]:
        note(path, what, server_round, run)
    noted = [(each.what, each.server_round, each.run) for each in Ledger(path).entries()[3:]]
    assert noted == [
        ("data card", 0, "demo-1"),
        ("data card", 0, "demo-2"),
        ("update", 3, "demo-1"),
        ("evaluation", 3, "demo-1"),
        ("evaluation", 4, "demo-1"),
    ]


def test_answers_to_two_requests_are_two_releases(path: Path) -> None:
    for request in ("ab" * 32, "cd" * 32, "ab" * 32):
        Ledger(path).note_release(
            "evaluation", run="demo-1", server_round=3, request_digest=request, now=NOW
        )
    assert [entry.request_digest for entry in Ledger(path).entries()[3:]] == ["ab" * 32, "cd" * 32]


def test_what_is_told_whoever_asks_is_noted_once_for_each_content(path: Path) -> None:
    told = [("one", "ask 1"), ("one", "ask 2"), ("two", "ask 2"), ("one", "ask 3")]
    for content, request in told:
        Ledger(path).note_release(
            "data card",
            run="demo-1",
            server_round=0,
            request_digest=request,
            content_digest=content,
            now=NOW,
        )
    noted = [(entry.content_digest, entry.request_digest) for entry in Ledger(path).entries()[3:]]
    assert noted == [("one", "ask 1"), ("two", "ask 2")]


# --- what it comes to ----------------------------------------------------------------------


def test_epsilon_is_of_all_runs_or_of_one_and_of_what_would_be_spent(path: Path) -> None:
    spend(path, 1, run="demo-2")
    note(path, "update", 2, run="demo-2")
    ledger = Ledger(path)

    def epsilon(**asked: object) -> float:
        return ledger.epsilon(unit="patient", delta=1e-5, **asked)  # type: ignore[arg-type]

    everything = epsilon()
    assert everything == epsilon(run="demo-1", also=[ROUND])
    assert epsilon(run="demo-2") < epsilon(run="demo-1") < everything < epsilon(also=[ROUND])
    assert everything < epsilon(run="demo-1") + epsilon(run="demo-2")
    assert epsilon(run="another") == 0.0


@pytest.mark.parametrize(("unit", "count"), [("patient", 2), ("image", 1)])
def test_what_epsilon_does_not_cover_is_told(path: Path, unit: Unit, count: int) -> None:
    note(path, "evaluation", 3)
    spend(path, 4, PICTURES)

    assert len(uncovered(Ledger(path).entries(), unit)) == count


def test_a_report_adds_up_by_run(path: Path) -> None:
    spend(path, 3)
    spend(path, 1, PICTURES, run="pictures")
    note(path, "evaluation", 1)
    note(path, "evaluation", 2)
    note(path, "data card", 0)

    report = ledger_report(Ledger(path), RULES)

    of_patients, of_pictures = report.runs
    assert (of_patients.rounds, of_patients.spendings[0].steps) == (3, 80)
    assert of_patients.epsilon == report.epsilon > 0
    assert report.left == pytest.approx(8.0 - report.epsilon)
    assert (of_pictures.rounds, of_pictures.epsilon) == (1, None)
    assert (report.without_noise, report.other_unit) == ({"evaluation": 2, "data card": 1}, 1)
    assert (report.entries, report.head) == (8, json.loads(head_of(path).read_text())["hash"])


# --- what is done to it --------------------------------------------------------------------


def rewrite(path: Path, *numbers: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[number - 1] for number in numbers))


def is_refused(path: Path) -> None:
    """Nothing may be read from it nor added to it, and the message has a remedy."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(LedgerError, match="Nothing leaves this site until a person has looked"):
        Ledger(path).entries()
    with pytest.raises(LedgerError, match="bring back both from the backup"):
        spend(path, 9)
    with pytest.raises(LedgerError):
        note(path, "evaluation", 9)
    with pytest.raises(LedgerError):
        Ledger(path).epsilon(unit="patient", delta=1e-5)
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("kept", [(), (1,), (1, 2), (1, 3), (2, 3), (2, 1, 3), (1, 2, 3, 3)])
def test_a_ledger_with_fewer_or_other_lines_is_refused(path: Path, kept: tuple[int, ...]) -> None:
    rewrite(path, *kept)
    is_refused(path)


def test_a_ledger_that_was_taken_away_is_refused_where_its_head_was_left(path: Path) -> None:
    path.unlink()
    is_refused(path)


def test_a_ledger_without_its_head_is_refused(path: Path) -> None:
    head_of(path).unlink()
    is_refused(path)


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_ledger_in_which_noise_was_added_is_refused(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[line - 1])
    record["spending"]["noise_multiplier"] = 200.0
    lines[line - 1] = line_of(record | {"hash": record_hash(record)}).decode().strip()
    path.write_text("\n".join(lines) + "\n")
    is_refused(path)


def test_a_last_line_that_was_cut_by_hand_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])
    is_refused(path)


def test_an_entry_of_another_version_is_not_passed_over(path: Path) -> None:
    ChainedLog(path, remedy="").append("gift", NOW, run="demo-1")
    with pytest.raises(LedgerError, match="another version of Fovea"):
        Ledger(path).epsilon(unit="patient", delta=1e-5)


# --- how far it has reached ----------------------------------------------------------------


@pytest.fixture
def reach(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger-reached"


@pytest.fixture
def reaching(path: Path, reach: Path) -> Ledger:
    """A ledger of five records, of which the last two are noted as reached."""
    ledger = Ledger(path, reach=reach)
    for number in (4, 5):
        ledger.spend(ROUND, run="demo-1", server_round=number, request_digest="", now=NOW)
    return ledger


def nothing_is_told_or_added(ledger: Ledger, match: str) -> None:
    with pytest.raises(LedgerError, match=match):
        ledger.epsilon(unit="patient", delta=1e-5)
    with pytest.raises(LedgerError, match=match):
        ledger.verify()
    with pytest.raises(LedgerError, match=match):
        ledger.spend(ROUND, run="demo-1", server_round=9, request_digest="", now=NOW)
    with pytest.raises(LedgerError, match=match):
        ledger.note_release("update", run="demo-1", server_round=9, request_digest="", now=NOW)


def test_how_far_it_has_reached_is_its_last_record(reaching: Ledger, reach: Path) -> None:
    report = reaching.verify()
    noted = json.loads(reach.read_text())

    assert noted == {"count": 5, "hash": report.head}
    assert reach.stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_was_deleted_with_its_head_is_refused(reaching: Ledger, path: Path) -> None:
    shutil.rmtree(path.parent)

    nothing_is_told_or_added(reaching, "has 0 records, .* there were 5. Nothing leaves this site")
    assert not path.exists()


def test_an_older_copy_of_ledger_and_head_is_refused(
    path: Path, reach: Path, tmp_path: Path
) -> None:
    shutil.copytree(path.parent, tmp_path / "copy")
    ledger = Ledger(path, reach=reach)
    ledger.spend(ROUND, run="demo-1", server_round=4, request_digest="", now=NOW)
    shutil.rmtree(path.parent)
    shutil.copytree(tmp_path / "copy", path.parent)

    nothing_is_told_or_added(ledger, "has 3 records, .* there were 4")


def test_another_ledger_of_the_same_length_is_refused(reaching: Ledger, path: Path) -> None:
    shutil.rmtree(path.parent)
    for number in range(1, 7):
        spend(path, number, PICTURES)

    nothing_is_told_or_added(reaching, "record 5 is another than the one")


@pytest.mark.parametrize("content", ["", "5", "{}", '{"count": 0, "hash": ""}', "[" * 500])
def test_what_does_not_say_how_far_it_has_reached_is_refused(
    reaching: Ledger, reach: Path, content: str
) -> None:
    reach.write_text(content)

    nothing_is_told_or_added(reaching, "does not say how far a ledger has reached")


def test_a_ledger_that_is_longer_than_was_noted_goes_on(
    reaching: Ledger, path: Path, reach: Path
) -> None:
    spend(path, 6)  # as after a crash between the record and the note

    reaching.spend(ROUND, run="demo-1", server_round=7, request_digest="", now=NOW)

    assert spent_rounds(path) == [1, 2, 3, 4, 5, 6, 7]
    assert json.loads(reach.read_text())["count"] == 7


# --- when it dies --------------------------------------------------------------------------


def test_a_line_that_a_power_cut_broke_off_never_counted_and_is_set_aside(path: Path) -> None:
    before = path.read_bytes()
    spend(path, 4)
    line = path.read_bytes()[len(before) :]
    for kept in range(1, len(line), 37):
        head = json.dumps({"count": 3, "hash": json.loads(before.splitlines()[-1])["hash"]})
        head_of(path).write_text(head)
        path.write_bytes(before + line[:kept])

        assert spent_rounds(path) == [1, 2, 3]
        spend(path, 5)
        assert spent_rounds(path) == [1, 2, 3, 5]
        said = json.loads(path.read_text().splitlines()[3])
        assert said["event"] == "torn-line-set-aside"
        assert path.with_name(said["kept_as"]).read_bytes() == line[:kept]


KILLED = """
import fcntl, os, shutil, signal, sys, tempfile
from datetime import UTC, datetime
from pathlib import Path
from client.records.ledger import Ledger
from client.records.spending import Spending

root, spending = Path(sys.argv[1]), Spending.model_validate_json(sys.argv[2])
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

def spend(folder, number):
    Ledger(folder / "ledger" / "ledger.jsonl", reach=folder / "state" / "ledger-reached").spend(
        spending, run="demo-1", server_round=number, request_digest="ab" * 32, now=NOW)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def armed(step, tears):
    # Every call that may change the disk counts; at the chosen one the process is gone.
    done = [0]
    def arm(module, name):
        real = getattr(module, name)
        def call(*arguments, **options):
            done[0] += 1
            if done[0] == step:
                if tears:
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                die()
            return real(*arguments, **options)
        setattr(module, name, call)
    if tears:
        return arm(os, "write")
    for name in ("open", "write", "fsync", "ftruncate", "replace", "rename", "mkdir", "close",
                 "fchmod"):
        arm(os, name)
    arm(fcntl, "flock")
    arm(tempfile, "mkstemp")

def killed_at(folder, step, tears, begins):
    child = os.fork()
    if child == 0:
        armed(step, tears)
        for number in (begins, begins + 1):
            spend(folder, number)
            real_print(folder.name, number)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)

def real_print(*words):
    os.writev(1, [(" ".join(map(str, words)) + "\\n").encode()])

for tears in (False, True):
    for begins in (1, 4):
        step = 0
        while True:
            step += 1
            folder = root / f"{int(tears)}-{begins}-{step}"
            folder.mkdir()
            for number in range(1, begins):
                spend(folder, number)
            if not killed_at(folder, step, tears, begins):
                break
"""


def test_killed_at_any_step_it_holds_all_that_was_ever_returned(tmp_path: Path) -> None:
    """A process is killed before each of its calls to the disk, and in the middle of writing."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), ROUND.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    returned: dict[str, list[int]] = {}
    for line in done.stdout.splitlines():
        name, number = line.split()
        returned.setdefault(name, []).append(int(number))
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 30  # a new ledger and one of three rounds, at every step of two more
    torn = 0
    for folder in folders:
        begins = int(folder.name.split("-")[1])
        path = folder / "ledger" / "ledger.jsonl"
        ledger = Ledger(path, reach=folder / "state" / "ledger-reached")
        kept = [each.server_round for each in ledger.entries()]
        counted = [*range(1, begins), *returned.get(folder.name, [])]
        assert kept[: len(counted)] == counted, folder.name
        assert len(kept) <= len(counted) + 1, folder.name  # what was begun, and had not returned

        spend(path, 9)

        assert spent_rounds(path) == [*kept, 9], folder.name
        torn += any(path.parent.glob("*.torn-*"))
    assert torn == 4  # the lines that were written by half: each of two rounds, in both ledgers


def test_nothing_returns_before_it_outlasts_a_power_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line, then its sync, then the head: the head never names what may still be lost."""
    steps: list[str] = []
    real_write, real_sync, real_whole = os.write, os.fsync, write_whole

    def write(file: int, content: bytes) -> int:
        steps.append("line")
        return real_write(file, content)

    def fsync(file: int) -> None:
        steps.append("synced")
        real_sync(file)

    def whole(*arguments: object, **options: object) -> None:
        steps.append("head")
        real_whole(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("os.write", write)
    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("client.records.chained_log.write_whole", whole)
    spend(path, 4)

    assert steps[:3] == ["line", "synced", "head"]
    assert steps[3:] == ["synced", "synced"]  # the head's content, and its name


def test_a_disk_that_fails_lets_nothing_return_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            spend(path, 4)
    assert spent_rounds(path) == [1, 2, 3]
    spend(path, 5)
    assert spent_rounds(path) == [1, 2, 3, 5]


def test_two_processes_write_one_chain(path: Path) -> None:
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from client.records.ledger import Ledger; from client.records.spending import Spending\n"
        "print('ready', flush=True)\n"
        "for number in range(10, 20):\n"
        "    Ledger(Path(sys.argv[1])).spend(Spending.model_validate_json(sys.argv[2]), run='o',\n"
        "        server_round=number, request_digest='', now=datetime.now(UTC))\n"
    )
    command = [sys.executable, "-c", code, str(path), ROUND.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for _ in range(10):
            spend(path, 30)
    assert other.returncode == 0
    kept = spent_rounds(path)
    assert [number for number in kept if 10 <= number < 20] == list(range(10, 20))
    assert Ledger(path).verify().records == len(kept) == 3 + 10 + 10
