"""A whole federation of real processes on this machine, for tests: started, broken, inspected.

Every process is started by the commands that an operator would type; nothing is imported from the
product but what reads its files.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from harness.interpreter import Interpreter, reachable_interpreter

T = TypeVar("T")

BIN = Path(sys.executable).parent

POLICY = Path(__file__).parents[3] / "configs" / "policies" / "strict.yaml"

SERVING = "action=superlink_up"  # what `fovea serve` logs when its SuperLink answers
RESTART_S = 3.0  # pause before a process that ended is started again
STATUS_S = 5.0  # between two questions how a run stands that has no summary yet

# Users of the isolated form; numbers are enough, they need no entry in the password file.
SHARED_GROUP, TRAINER_USER, CONNECTOR_USER = 61000, 61001, 61002


class NotInTimeError(AssertionError):
    """Something that should have happened did not."""


def wait_until(what: str, happened: Callable[[], T], *, within_s: float, every_s: float = 0.2) -> T:
    """Return the first true value. Raises NotInTimeError saying what was waited for."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := happened():
            return value
        time.sleep(every_s)
    raise NotInTimeError(f"{what}: not within {within_s:g} s")


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """One of ours, with its output in a file."""

    name: str
    command: Sequence[str]
    output: Path
    environment: Mapping[str, str]
    user: int | None = None
    running: subprocess.Popen[bytes] | None = None
    is_wanted: bool = False  # a service manager would start it again

    def start(self) -> None:
        """Start it in a session of its own, so that it can be killed with its children."""
        self.is_wanted = True
        with self.output.open("ab") as output:
            self.running = subprocess.Popen(
                list(self.command),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(self.environment),
                start_new_session=True,
                cwd=self.output.parent,
                user=self.user,
                group=None if self.user is None else SHARED_GROUP,
                extra_groups=None if self.user is None else [],
                umask=0o077,
            )

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.running is not None, f"{self.name} was not started"
        return self.running.pid

    @property
    def is_running(self) -> bool:
        """Whether it is there."""
        return self.running is not None and self.running.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, with whatever it started: what a power cut does."""
        self.is_wanted = False
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        assert self.running is not None
        self.running.wait(10)

    def stop(self, within_s: float = 30) -> int:
        """Ask it to end, as a service manager does; return its exit code."""
        self.is_wanted = False
        if self.is_running:
            self.signal(signal.SIGTERM)
        assert self.running is not None
        try:
            return self.running.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotInTimeError(
                f"{self.name} did not end within {within_s:g} s of SIGTERM"
            ) from None

    def said(self) -> str:
        """Return what it wrote."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


@dataclass
class Site:
    """A hospital."""

    name: str
    task: str
    home: Path
    trainer: Process
    connector: Process

    def start(self) -> None:
        """Start both processes."""
        self.trainer.start()
        self.connector.start()

    def kill(self) -> None:
        """End both at once."""
        self.connector.kill()
        self.trainer.kill()

    def audit(self) -> list[dict[str, Any]]:
        """Return the records of its audit log, as far as whole lines go."""
        path = self.home / "trainer" / "audit" / "audit.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the audited events of one kind."""
        return [record for record in self.audit() if record["event"] == name]


@dataclass
class Federation:
    """One coordinator and its sites below one folder."""

    root: Path
    tasks: Mapping[str, str]  # site → task
    recipe: Path  # the run's YAML, which also says how sites prepare their pictures
    is_isolated: bool = False  # trainer and connector under users of their own; needs root
    endpoint_port: int | None = None  # where sites connect; None: the SuperLink itself
    sites: dict[str, Site] = field(default_factory=dict)
    server: Process | None = None
    superlink_port: int = field(default_factory=free_port)
    _closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start what stands in for the machines' service manager."""
        threading.Thread(target=self._restart, daemon=True).start()

    def _restart(self) -> None:
        """Start again whatever has ended by itself, as the units in deploy/ have it."""
        while not self._closed.wait(RESTART_S):
            processes = [p for site in self.sites.values() for p in (site.trainer, site.connector)]
            for process in (*processes, self.server):
                if process is not None and process.is_wanted and not process.is_running:
                    process.start()

    @property
    def home(self) -> Path:
        """The coordinator's folder."""
        return self.root / "coordinator"

    @property
    def environment(self) -> dict[str, str]:
        """What every process gets: this machine's paths, one thread, no terminal."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FOVEA", "FLWR", "COV"))}
        return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HOME": str(self.root)}

    @property
    def interpreter(self) -> Interpreter:
        """A Python that the users of the isolated form can start."""
        return reachable_interpreter(self.root)

    # --- commands --------------------------------------------------------------------------

    def fovea(self, *arguments: str, fails: bool = False) -> str:
        """Run a coordinator's command and return what it printed."""
        return self._command(BIN / "fovea", arguments, fails=fails)

    def fovea_site(self, site: str, *arguments: str, fails: bool = False) -> str:
        """Run a site's command, as the trainer's user, and return what it printed."""
        home = str(self.root / site)
        user = TRAINER_USER if self.is_isolated and arguments[0] != "init" else None
        return self._command(
            BIN / "fovea-site", (*arguments, "--home", home), fails=fails, user=user
        )

    def _command(
        self, program: Path, arguments: Sequence[str], *, fails: bool, user: int | None = None
    ) -> str:
        python = self.interpreter if user is not None else Interpreter((), {})
        named = {"FOVEA_HOME": str(self.home), "COLUMNS": "160"}
        done = subprocess.run(
            [*python.command, str(program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment | named | python.environment,
            cwd=self.root,
            timeout=240,
            user=user,
            group=None if user is None else SHARED_GROUP,
            extra_groups=None if user is None else [],
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, (
            f"{program.name} {' '.join(arguments)}: exit {done.returncode}\n{said}"
        )
        return done.stdout if not fails else said

    # --- setting up ------------------------------------------------------------------------

    def provision(self) -> None:
        """Make the coordinator's folder and the kits."""
        port = self.endpoint_port or self.superlink_port
        federation = {
            "name": "trial",
            "endpoint": f"127.0.0.1:{port}",
            "superlink_port": self.superlink_port,
            "sites": [{"name": name, "task": task} for name, task in self.tasks.items()],
            "recipe": str(self.recipe),
            "server_names": [],
            "authority_days": 30,
            "certificate_days": 10,
            "run_days": 7,
            "policy": str(POLICY),
        }
        path = self.root / "federation.yaml"
        path.write_text(yaml.safe_dump(federation, sort_keys=False))
        self.fovea("provision", str(path), "--out", str(self.home))

    def serve(self) -> None:
        """Start the coordinator and wait until it answers."""
        if self.server is None:
            self.server = Process(
                "coordinator",
                [str(BIN / "fovea"), "serve", "--home", str(self.home)],
                self.root / "coordinator.log",
                self.environment,
            )
        before = self.server.said().count(SERVING)
        self.server.start()

        def answers() -> bool:
            assert self.server is not None
            assert self.server.is_running, self.server.said()
            return self.server.said().count(SERVING) > before

        wait_until("the coordinator answers", answers, within_s=90, every_s=0.5)

    def add_site(
        self, name: str, source: Mapping[str, object], *, prepares: bool = True, **site: object
    ) -> Site:
        """Enrol a site and, if asked, prepare its pictures."""
        home = self.root / name
        self.fovea_site(name, "init", "--kit", str(self.home / "kits" / name))
        self._edit(home / "trainer" / "site.yaml", {"source": dict(source), "data": None, **site})
        # Sites share this machine's cores: more threads than cores are in each other's way.
        self.edit_site(name, "machine", num_threads=1)
        self.edit_policy(
            name,
            min_sites=1,
            min_training_patients=5,
            min_validation_patients=2,
            max_local_epochs=50,
        )
        self._edit(home / "connector" / "connector.yaml", {"metrics_port": free_port()})
        if self.is_isolated:
            self._give_away(home)
        if prepares:
            self.fovea_site(name, "prepare")
        made = self.site(name)
        self.sites[name] = made
        return made

    def site(self, name: str) -> Site:
        """Return a site's processes, not started."""
        home = self.root / name
        python = self.interpreter if self.is_isolated else Interpreter((), {})
        environment = self.environment | {"HOME": str(home / "run")} | python.environment

        def process(kind: str, user: int) -> Process:
            program = str(BIN / "fovea-site")
            command = [*python.command, program, kind, "--home", str(home)]
            output = self.root / f"{name}-{kind}.log"
            return Process(
                f"{name}'s {kind}",
                command,
                output,
                environment,
                user=user if self.is_isolated else None,
            )

        return Site(
            name=name,
            task=self.tasks[name],
            home=home,
            trainer=process("trainer", TRAINER_USER),
            connector=process("connector", CONNECTOR_USER),
        )

    def admit(self, name: str) -> None:
        """Let a site in."""
        self.fovea("admit", str(self.root / name / "admission.json"))

    def _give_away(self, home: Path) -> None:
        os.chown(home, TRAINER_USER, SHARED_GROUP)
        home.chmod(0o755)
        for folder, user in (("trainer", TRAINER_USER), ("connector", CONNECTOR_USER)):
            for path in (home / folder, *(home / folder).rglob("*")):
                os.chown(path, user, SHARED_GROUP)
            (home / folder).chmod(0o700)
        os.chown(home / "run", TRAINER_USER, SHARED_GROUP)
        (home / "run").chmod(0o3770)  # as `fovea-site init` makes it for two users

    @staticmethod
    def _edit(path: Path, changes: Mapping[str, object]) -> None:
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            content[key] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def edit_policy(self, name: str, section: str = "bounds", **rules: object) -> None:
        """Change a section of what a site allows, while it runs."""
        path = self.root / name / "trainer" / "policy.yaml"
        before = yaml.safe_load(path.read_text())
        self._edit(path, {section: before[section] | rules})

    def edit_site(self, name: str, section: str, **changes: object) -> None:
        """Change a section of a site's own settings; its trainer reads them when it starts."""
        path = self.root / name / "trainer" / "site.yaml"
        before = yaml.safe_load(path.read_text())
        self._edit(path, {section: before[section] | changes})

    def pin_peers(self, *names: str) -> None:
        """Have each of these sites pin all others, with the fingerprints they read out."""
        shown = [json.loads(self.fovea_site(name, "peers", "show", "--json")) for name in names]
        for name in names:
            for other in shown:
                if other["site"] != name:
                    self.fovea_site(name, "peers", "add", other["site"], other["fingerprint"])

    def ledger(self, name: str, run: str) -> list[dict[str, Any]]:
        """Return what a site's ledger holds of a run."""
        lines = self.fovea_site(name, "ledger", "export").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["run"] == run]

    # --- runs ------------------------------------------------------------------------------

    def launch(self, *overrides: str, sites: Sequence[str], config: Path | None = None) -> str:
        """Start a run and return its name."""
        options = [part for override in overrides for part in ("--set", override)]
        arguments = ["launch", str(config or self.recipe), "--sites", ",".join(sites)]
        said = self.fovea(*arguments, *options, "--json")
        return str(json.loads(said)["run"])

    def approve(self, run: str, sites: Sequence[str]) -> None:
        """Approve a run at every site as soon as it waits there."""
        for name in sites:
            with self._with_logs(run):
                wait_until(
                    f"{name} hears of {run}",
                    lambda name=name: any(r.get("run") == run for r in self.sites[name].audit()),
                    within_s=90,
                )
                wait_until(
                    f"{name} knows of {run}",
                    lambda name=name: run in self.fovea_site(name, "waiting", "--json"),
                    within_s=90,
                    every_s=1,
                )
            self.fovea_site(name, "approve", run, "--yes")

    def status(self, run: str) -> dict[str, Any]:
        """Return what the coordinator says of a run."""
        answer: dict[str, Any] = json.loads(self.fovea("status", run, "--json"))
        return answer

    def summary(self, run: str) -> dict[str, Any] | None:
        """Return a run's summary once it is over."""
        path = self.home / "runs" / run / "out" / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finished(self, run: str, *, within_s: float) -> dict[str, Any]:
        """Wait for a run's end and return its summary."""
        asks_at = 0.0

        def over() -> dict[str, Any] | None:
            nonlocal asks_at
            # A command costs a second of the cores that the run needs: it is asked now and then,
            # and as soon as the summary is there.
            if self.summary(run) is None and time.monotonic() < asks_at:
                return None
            state = self.status(run)["state"]
            asks_at = time.monotonic() + STATUS_S
            return self.summary(run) if state not in ("starting", "running") else None

        with self._with_logs(run):
            found = wait_until(f"{run} ends", over, within_s=within_s)
        assert found is not None
        return found

    def reaches_round(self, run: str, number: int, *, within_s: float) -> None:
        """Wait until the sites train this round."""

        def there() -> bool:
            status = self.status(run)["status"]
            if status is None or status["phase"] != "training":
                return False
            return bool(status["server_round"] >= number)

        with self._with_logs(run):
            wait_until(f"{run} reaches round {number}", there, within_s=within_s, every_s=0.5)

    @contextmanager
    def _with_logs(self, run: str) -> Iterator[None]:
        """Let what does not happen in time be reported with the end of every log."""
        try:
            yield
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}\n{self.logs(run)}") from None

    def model(self, run: str, which: str = "last") -> dict[str, Any]:
        """Return a run's arrays."""
        from safetensors.numpy import load_file

        return dict(load_file(self.home / "runs" / run / "out" / "model" / f"{which}.safetensors"))

    def logs(self, run: str | None = None, lines: int = 25) -> str:
        """Return the end of every log, for a failing test."""
        parts = []
        logs = sorted(self.root.glob("*.log"))
        if run is not None:
            logs.append(self.home / "runs" / run / "server.log")
        for path in logs:
            if path.exists():
                end = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append(f"--- {path.name}\n" + "\n".join(end))
        return "\n".join(parts)

    def close(self) -> None:
        """End everything, and remove the folder."""
        self._closed.set()
        for site in self.sites.values():
            for process in (site.connector, site.trainer):
                if process.running is not None:
                    process.kill()
        if self.server is not None and self.server.running is not None:
            self.server.kill()
        self._sweep()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep(self) -> None:
        """Kill what processes of this federation have left behind."""
        marker = str(self.root).encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if marker in command and int(folder.name) != os.getpid():
                try:
                    os.kill(int(folder.name), signal.SIGKILL)
                except ProcessLookupError:
                    continue


def federation_folder() -> Path:
    """Return a new folder with a path short enough for sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="fv-", dir="/tmp"))
    folder.chmod(0o755)
    return folder
