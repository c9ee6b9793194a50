"""What a round costs beside training: Fovea against a plain Flower app that does the same work.

Both run on this machine with TLS and node authentication, two sites, a network of about 20 MB, the
same shards and the same local step. They take turns, one run each, and every run is a federation
started anew. A plain round is a train and an evaluate message, as Flower's documentation has it;
a Fovea round measures the model and trains in one exchange. What counts is the wall time of a
round less the slower site's training (for the plain app: and measuring; for Fovea: and the central
evaluation, which the plain app does not do). Fovea's checkpoint and tracking count. The first
round of a run, in which everything warms up, is left out.

    python tests/benchmarks/round.py --out out/bench-round.json
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))

from harness.federation import (
    BIN,
    Federation,
    Process,
    federation_folder,
    free_port,
    wait_until,
)
from harness.start import PICTURES

LIMIT = 0.4  # Fovea's time outside training, as a share of plain Flower's
SITES = ("north", "harbour")
PLAIN_APP = Path(__file__).with_name("plain-flower")
PAUSE_S = 1.0  # between looks at the processes' memory

RECIPE = """
extends: [{configs}/default.yaml, {configs}/models/small.yaml]
name: round
tasks: {{chestx: {{labels: [Effusion, Mass, Nodule]}}, retina: null, pathoscan: null}}
reference: {{chestx: {{source: {source}}}, retina: null, pathoscan: null}}
model:
  image_size_px: 128
  width: 320
  context_labels: {{chestx: []}}
  encoder: {{max_receptive_field: 1.0}}
data: {{image_size_px: 128}}
sites:
  - {{name: north, task: chestx, source: {source}}}
  - {{name: harbour, task: chestx, source: {source}}}
train: {{batch_size: 8, mixed_precision: "off", device: cpu}}
federation: {{rounds: {rounds}, patience: 100}}
evaluation: {{bootstrap_replicates: 100, overlays_per_task: 0, method_pictures: 0}}
"""


@dataclass(frozen=True)
class Round:
    """One round's clock, in seconds."""

    wall_s: float
    sites_s: float  # training and measuring at the slower site
    central_s: float  # Fovea's central evaluation

    @property
    def beside_s(self) -> float:
        """What is neither training nor measuring."""
        return self.wall_s - self.sites_s - self.central_s


@dataclass(frozen=True)
class Run:
    """One run of either: its rounds after the first, and the peak memory of its processes."""

    rounds: tuple[Round, ...]
    memory_mb: dict[str, float]


class Memory:
    """The largest resident memory seen of every process of a federation, by what it is."""

    def __init__(self, marker: str) -> None:
        """Look for processes whose command or environment names the folder ``marker``."""
        self._marker = marker
        self.peak_mb: dict[str, float] = {}

    def look(self) -> None:
        """Take in what is running now."""
        for process in psutil.process_iter(["cmdline", "memory_info"]):
            command = " ".join(process.info["cmdline"] or ())
            kind = _kind(command)
            if kind is None or process.info["memory_info"] is None:
                continue
            try:
                is_ours = self._marker in command or self._marker in process.environ().get(
                    "HOME", ""
                )
            except psutil.Error:
                continue
            if is_ours:
                now = process.info["memory_info"].rss / 2**20
                self.peak_mb[kind] = max(self.peak_mb.get(kind, 0.0), now)


def _kind(command: str) -> str | None:
    for part, kind in (
        ("fovea-site trainer", "site: trainer"),
        ("fovea-site connector", "site: connector"),
        ("fovea serve", "coordinator: supervisor"),
        ("flower-superlink", "coordinator: SuperLink"),
        ("flower-superexec", "SuperExec"),
        ("flwr-serverapp", "coordinator: ServerApp"),
        ("flwr-clientapp", "site: ClientApp"),
        ("flower-supernode", "site: SuperNode"),
    ):
        if part in command:
            return kind
    return None


def fovea_run(root: Path, rounds: int) -> Run:
    """Run Fovea once."""
    federation = _enrolled(root, rounds)
    try:
        federation.serve()
        for site in SITES:
            federation.admit(site)
            federation.sites[site].start()
        run = federation.launch(sites=SITES)
        federation.approve(run, SITES)
        memory = Memory(str(federation.root))

        def over() -> bool:
            memory.look()
            return federation.status(run)["state"] not in ("starting", "running")

        wait_until("Fovea's run ends", over, within_s=600, every_s=PAUSE_S)
        summary = federation.summary(run)
        if summary is None or summary["verdict"] != "COMPLETE":
            raise RuntimeError(f"Fovea's run did not complete.\n{federation.logs(run)}")
        log = federation.home / "runs" / run / "server.log"
        return Run(tuple(_fovea_rounds(summary, log)), memory.peak_mb)
    finally:
        federation.close()


def _fovea_rounds(summary: dict[str, Any], log: Path) -> Iterator[Round]:
    """Yield the rounds after the first, from one end to the next: keeping and tracking count.

    What a site needs to measure the model counts as well: only its training is taken off.
    """
    ended = [
        datetime.fromisoformat(line.split()[0])
        for line in log.read_text().splitlines()
        if "action=round_finished" in line
    ]
    for number, entry in enumerate(summary["rounds"]):
        if number > 1:
            yield Round(
                wall_s=(ended[number] - ended[number - 1]).total_seconds(),
                sites_s=max(site["seconds"] for site in entry["sites"] if site["seconds"]),
                central_s=entry["central_s"],
            )


def plain_run(root: Path, rounds: int) -> Run:
    """Run the plain Flower app once, on the same shards, certificates and kind of keys."""
    federation = _enrolled(root, rounds)
    folder = federation.root
    port = free_port()
    flower_home = folder / "flwr"
    flower_home.mkdir()
    (flower_home / "config.toml").write_text(
        '[superlink]\ndefault = "lo"\n[superlink.lo]\n'
        f'address = "127.0.0.1:{port}"\nroot-certificates = "{federation.home}/ca/ca.crt"\n'
    )
    environment = federation.environment | {
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    processes: list[Process] = []

    def start(name: str, *command: str) -> None:
        program = str(BIN / command[0])
        process = Process(name, [program, *command[1:]], folder / f"{name}.log", environment)
        process.start()
        processes.append(process)

    def flwr(*command: str) -> None:
        subprocess.run(
            [str(BIN / "flwr"), *command], env=environment, check=True, capture_output=True
        )

    try:
        tls = federation.home / "tls"
        start(
            "plain-superlink",
            "flower-superlink",
            *("--ssl-certfile", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
            *("--ssl-ca-certfile", str(federation.home / "ca" / "ca.crt")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--database", str(folder / "plain.db"), "--host", "127.0.0.1", "--port", str(port)),
        )
        superlink = processes[0]
        wait_until("Flower listens", lambda: "Uvicorn running" in superlink.said(), within_s=60)
        for site in SITES:
            key = folder / site / "connector" / "node.key"
            public = folder / f"{site}.pub"
            with public.open("wb") as file:
                subprocess.run(["ssh-keygen", "-y", "-f", str(key)], check=True, stdout=file)
            flwr("supernode", "register", str(public), "lo", "--name", site)
            start(
                f"plain-{site}",
                "flower-supernode",
                *("--root-certificates", str(federation.home / "ca" / "ca.crt")),
                *("--superlink", f"127.0.0.1:{port}", "--auth-supernode-private-key", str(key)),
                *("--host", "127.0.0.1", "--port", str(free_port())),
                *("--node-config", f'shard="{folder / site / "trainer" / "shard"}"'),
            )
        app, out = folder / "plain-flower", folder / "plain.json"
        shutil.copytree(PLAIN_APP, app, ignore=shutil.ignore_patterns("__pycache__"))
        config = folder / "run.json"
        config.write_text(_config_json(federation.recipe))
        flwr("run", str(app), "lo", "--run-config", f'config="{config}" out="{out}"')
        memory = Memory(str(folder))

        def over() -> bool:
            memory.look()
            return out.exists()

        wait_until("Flower's run ends", over, within_s=900, every_s=PAUSE_S)
        timings = json.loads(out.read_text())
        return Run(
            tuple(
                Round(wall_s=t["wall_s"], sites_s=t["train_s"] + t["evaluate_s"], central_s=0.0)
                for t in timings[1:]
            ),
            memory.peak_mb,
        )
    finally:
        for process in processes:
            process.kill()
        federation.close()


def _enrolled(root: Path, rounds: int) -> Federation:
    """Return a federation whose sites have keys and shards; nothing of it runs."""
    configs = Path(__file__).parents[2] / "configs"
    source = json.dumps({**PICTURES, "patients": 30})
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE.format(configs=configs, source=source, rounds=rounds))
    federation = Federation(federation_folder(), dict.fromkeys(SITES, "chestx"), recipe)
    try:
        federation.provision()
        for site in SITES:
            pictures = {**PICTURES, "patients": 30}
            federation.add_site(site, pictures, labels=["Effusion", "Mass", "Nodule"])
    except BaseException:
        federation.close()
        raise
    return federation


def _config_json(recipe: Path) -> str:
    from common.config.reading import canonical_json, load_config

    return canonical_json(load_config(recipe).run)


def _beside(runs: list[Run]) -> list[float]:
    return [one.beside_s for run in runs for one in run.rounds]


def table_of(fovea: list[Run], plain: list[Run]) -> Table:
    """Return the figures as a table."""
    table = Table(title="time of a round that is not training, two sites, 20 MB updates")
    for column in ("", "median s", "lowest", "highest", "rounds"):
        table.add_column(column, justify="left" if not column else "right")
    for name, runs in (("Fovea", fovea), ("plain Flower", plain)):
        values = _beside(runs)
        shown = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.2f}" for value in shown), str(len(values)))
    return table


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench-round.json"))
@click.option("--pairs", default=2, show_default=True, help="Runs of each, in turns.")
@click.option("--rounds", default=4, show_default=True, help="Rounds of a run, the first left out.")
def main(*, out: Path, pairs: int, rounds: int) -> None:
    """Measure, show, write; exit 1 when Fovea is above its limit."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    fovea: list[Run] = []
    plain: list[Run] = []
    root = federation_folder()
    try:
        for _ in range(pairs):
            console.print("Fovea …")
            fovea.append(fovea_run(root, rounds))
            console.print("plain Flower …")
            plain.append(plain_run(root, rounds))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    ratio = statistics.median(_beside(fovea)) / statistics.median(_beside(plain))
    console.print(table_of(fovea, plain))
    console.print(f"ratio of the medians {ratio:.3f}, limit {LIMIT}")
    for name, runs in (("Fovea", fovea), ("plain Flower", plain)):
        kinds = sorted({kind for run in runs for kind in run.memory_mb})
        peaks = {kind: max(run.memory_mb.get(kind, 0.0) for run in runs) for kind in kinds}
        shown = ", ".join(f"{kind} {value:.0f} MB" for kind, value in peaks.items())
        console.print(f"peak memory, {name}: {shown}")
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "limit": LIMIT,
        "ratio": ratio,
        "fovea": [asdict(run) for run in fovea],
        "plain": [asdict(run) for run in plain],
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"figures in {out}")
    sys.exit(0 if ratio <= LIMIT else 1)


if __name__ == "__main__":
    main()
