"""An OpenSSH server of this computer, for tests that want SSH and nothing of a machine's own.

It listens on a loopback port, has keys of its own and lets the user in who runs it; root is not needed. What
runs through it sees this computer's files and processes: tests that look at those work as without SSH. For
machines apart there is ``skyward_testing.testbed``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

START_SECONDS = 10.0

_SETTINGS = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 200
MaxSessions 200
PrintMotd no
SetEnv SHLVL=2
"""
# The last line keeps bash from reading ~/.bashrc for every command, as it does below an SSH server.


def unavailable() -> str | None:
    """Return why there can be no such server here, or None."""
    if _program() is None:
        return "there is no sshd here: apt-get install openssh-server"
    if shutil.which("ssh-keygen") is None:
        return "there is no ssh-keygen here: apt-get install openssh-client"
    return None


def _program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Server:
    """Runs until ``close``. ``key``: the client's private key; ``host_key``: the server's public line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.key = folder / "client_key"
        for name in ("host_key", "client_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
            subprocess.run(make, check=True)
        self.host_key = (folder / "host_key.pub").read_text().strip()
        self.port = _free_port()
        settings = folder / "sshd_config"
        settings.write_text(_SETTINGS.format(port=self.port, folder=folder))
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self._log = (folder / "log").open("wb")
        # In the foreground: it ends with us, and its sessions end with it.
        command = [str(_program()), "-D", "-e", "-f", str(settings)]
        self._process = subprocess.Popen(command, stderr=self._log, stdin=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        self.close()
        raise RuntimeError(f"sshd did not start: {(self.folder / 'log').read_text()}")

    def close(self) -> None:
        """End it. Sessions that are open go on: they are processes of their own."""
        self._process.terminate()
        self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
