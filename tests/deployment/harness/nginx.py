"""nginx with the very file of deploy/: only ports and folders differ from a hospital's."""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = Path(__file__).parents[3] / "deploy" / "nginx" / "fovea.conf"
START_S = 10.0


def nginx_program() -> str:
    """Return the program. Raises AssertionError with the remedy where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    assert program is not None, (
        "nginx is not installed, so the door that hospitals come through was not tried. "
        "Install it (apt-get install nginx-light) and run this again."
    )
    return program


@dataclass
class Nginx:
    """The reverse proxy before a SuperLink."""

    port: int
    superlink_port: int
    tls: Path  # folder of server.crt and server.key
    authority: Path  # folder of ca.crt
    folder: Path  # for its configuration and logs
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Check the configuration, start, and wait until it listens."""
        command = [nginx_program(), "-e", str(self.folder / "error.log"), "-c", str(self._write())]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, "nginx has ended; its error.log says why"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=10)
            self.process = None

    def _write(self) -> Path:
        text = CONFIGURATION.read_text()
        for written, here in {
            "127.0.0.1:9443": f"127.0.0.1:{self.superlink_port}",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/var/lib/fovea/tls/": f"{self.tls}/",
            "/var/lib/fovea/ca/": f"{self.authority}/",
            "/var/log/nginx/": f"{self.folder}/",
        }.items():
            assert written in text, f"{CONFIGURATION} does not name {written} any more"
            text = text.replace(written, here)
        (self.folder / "fovea.conf").write_text(text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        main = self.folder / "nginx.conf"
        main.write_text(
            f"daemon off;\nmaster_process off;\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log;\nevents {{}}\n"
            f"http {{\n{temporary}\ninclude {self.folder}/fovea.conf;\n}}\n"
        )
        return main
