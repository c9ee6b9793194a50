"""Files that must start in a blink, and be readable alone, load no heavy library."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PLAN = "plan"  # builds a run's network: `fovea launch` loads it when it comes to that
OPERATIONS = sorted(
    f"server.operations.{path.stem}"
    for path in (REPOSITORY / "server" / "operations").glob("*.py")
    if path.stem not in ("__init__", PLAN)
)
COMMANDS = sorted(
    f"client.commands.{path.stem}"
    for path in (REPOSITORY / "client" / "commands").glob("*.py")
    if path.stem != "__init__"
)
LIGHT = [
    "common.config.run",
    "common.config.reading",
    "common.registry",
    "common.errors",
    "common.machine.log",
    "common.messages.wire",
    "common.tasks",
    "common.files.yaml_file",
    "common.model.layers",
    "common.model.schedule",
    "common.local_site",
    "common.package.schema",
    "common.package.answers",
    "common.package.digest",
    "common.package.reading",
    "common.package.promise",
    "client.app",
    "client.preflight.everything",
    "client.operations.prepare",
    "common.machine.derived_seed",
    "client.cli",
    "client.consent.policy",
    "client.consent.policy_file",
    "client.consent.approvals",
    "client.consent.manifest_diff",
    "client.records.audit",
    "client.records.ledger",
    "client.records.accountant",
    "client.desk.outgoing",
    "client.trust.peers",
    "client.secure.member",
    "client.simulated_site",
    "common.secure_sum.opening",
    "common.secure_sum.layout",
    "server.planning.compatibility",
    "server.record.protection",
    "server.rounds.secure.collecting",
    "client.door.service",
    "client.network.connector",
    "client.desk.desk",
    "client.standing.status",
    *COMMANDS,
    "server.app",
    "server.cli",
    "server.exchange.participation",
    "server.record.summary",
    "server.report.comparison",
    *OPERATIONS,
]
HEAVY = ("torch", "torchvision", "timm", "captum", "opacus", "mlflow", "ray")


def loaded_by(*modules: str) -> dict[str, list[str]]:
    """Heavy libraries that each module loads, in one process as long as there are none."""
    lines = [
        f"import {module}; print({module!r}, *[m for m in {HEAVY} if m in sys.modules])"
        for module in modules
    ]
    code = "import sys\n" + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines())}


def test_light_rooms_load_no_heavy_library() -> None:
    found = loaded_by(*LIGHT)
    # The first that is not empty is to blame; the others came after it in the same process.
    assert next(((room, heavy) for room, heavy in found.items() if heavy), None) is None
    assert len(found) == len(LIGHT)


def test_a_heavy_room_would_be_seen() -> None:
    assert "torch" in loaded_by("common.machine.seed")["common.machine.seed"]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("client.cli", ("--help",)),
        ("client.cli", ("status",)),
        ("server.cli", ("--help",)),
        ("server.cli", ("status",)),
        ("server.cli", ("launch", "--help")),
    ],
)
def test_programs_answer_in_under_half_a_second(
    tmp_path: Path, program: str, arguments: tuple[str, ...]
) -> None:
    """Processor time of the whole process, user and system, of the best of at most three starts.

    Not wall time, which other work on the machine would make longer; the command waits for
    nothing, so on an idle machine the two are the same. Where the machine is slow, or its cores
    are shared, the two libraries that every command needs are slow to load too: no more than four
    times their seconds then.
    """
    code = (
        f"import atexit, sys; from {program} import main; "
        f"heavy = lambda: [m for m in {(*HEAVY, 'flwr', 'numpy')} if m in sys.modules]; "
        "atexit.register(lambda: print('loaded', *heavy(), file=sys.stderr)); main()"
    )
    homes = {"FOVEA_SITE_HOME": str(tmp_path), "FOVEA_HOME": str(tmp_path)}
    seconds, libraries = [], []
    for _ in range(3):
        told, used = _run([code, *arguments], homes)
        seconds.append(used)
        assert "Traceback" not in told
        assert "No such command" not in told
        assert told.strip().endswith("loaded")
        if used < 0.5:
            return
        libraries.append(_run(["import click, pydantic"], homes)[1])
    assert min(seconds) < 4 * min(libraries)


def _run(code: list[str], variables: dict[str, str]) -> tuple[str, float]:
    """Return what a Python process says of its errors, and its seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", *code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
