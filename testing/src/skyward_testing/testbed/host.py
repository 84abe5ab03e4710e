"""What a node has of its host: uv and its cache, interpreters, and how the host reaches registries.

Looked up once a process. Names no registry and no proxy: it hands on the variables and files that are there.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HANDED_ON = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"),
    *("UV_INDEX_STRATEGY", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_TIMEOUT"),
    *("UV_PYTHON_INSTALL_MIRROR", "UV_OFFLINE"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "PIP_CERT"),
)
"""Variables of the host that nodes get too, so that they install what it can install."""

ASK = "import sys; print(sys.base_prefix, *sys.version_info[:2])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter of the host."""

    version: str
    prefix: str

    @property
    def executable(self) -> str:
        """Where it is, on the host and on nodes."""
        return f"{self.prefix}/bin/python{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What ``look`` found. Paths are the host's."""

    uv: str | None
    uv_cache: str | None
    pythons: tuple[Python, ...]
    environment: dict[str, str]
    settings: tuple[tuple[str, str], ...]
    """Files of the user's that say where packages come from: text, and where all users of a node see it."""


@cache
def look(versions: tuple[str, ...]) -> Host:
    """Look for uv and for the interpreters of these versions ("3.12"); one that is not there is left out."""
    uv = _uv()
    cache_folder = None
    if uv is not None:
        cache_folder = _output([uv, "cache", "dir"])
        os.makedirs(cache_folder, exist_ok=True)
    found = [_python(version, uv) for version in versions]
    return Host(
        uv=uv,
        uv_cache=cache_folder,
        pythons=tuple(python for python in found if python is not None),
        environment=_environment(),
        settings=_settings(),
    )


def versions_of(folder: Path) -> tuple[str, ...]:
    """The versions, as "3.12", in the ``.python-version`` of a project; else that of this interpreter."""
    file = folder / ".python-version"
    words = file.read_text(encoding="utf-8").split() if file.is_file() else []
    named = [".".join(word.split(".")[:2]) for word in words if word[:1].isdigit()]
    return tuple(dict.fromkeys(named)) or (_running(),)


def _running() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _uv() -> str | None:
    """uv itself: what PATH leads to may be a script that finds it in ways that nodes don't have."""
    bins = [
        *os.environ.get("PATH", os.defpath).split(os.pathsep),
        f"{sys.prefix}/bin",
        f"{sys.base_prefix}/bin",
    ]
    for path in (os.environ.get("UV", ""), *(f"{folder}/uv" for folder in bins)):
        if os.path.isfile(path) and _is_program(path):
            return os.path.realpath(path)
    if script := shutil.which("uv"):
        # uv tells what it starts where it is. A script of a version manager's depends on the folder.
        told = _output([script, "run", "--no-project", "sh", "-c", 'echo "$UV"'], folder=os.getcwd())
        if told and _is_program(told):
            return told
    return None


def _is_program(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _python(version: str, uv: str | None) -> Python | None:
    """Interpreters stand beside each other where a version manager keeps them; else uv or PATH may know."""
    if version == _running():
        return _at(f"{sys.base_prefix}/bin/python{version}", version)
    for prefix in sorted(Path(sys.base_prefix).parent.glob(f"*{version}.*")):
        if found := _at(f"{prefix}/bin/python{version}", version):
            return found
    told = _output([uv, "python", "find", "--system", "--no-project", version]) if uv else ""
    return _at(told, version) or _at(shutil.which(f"python{version}") or "", version)


def _at(path: str, version: str) -> Python | None:
    if not path or not os.path.isfile(path):
        return None
    prefix, *numbers = _output([path, "-I", "-S", "-c", ASK]).rsplit(" ", 2)
    found = Python(version=version, prefix=prefix)
    return found if ".".join(numbers) == version and os.path.isfile(found.executable) else None


def _output(command: list[str], folder: str = "/") -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.stdout.strip() if done.returncode == 0 else ""


def _environment() -> dict[str, str]:
    found = {name: value for name in HANDED_ON if (value := os.environ.get(name))}
    if "SSL_CERT_FILE" not in found:
        bundle = ssl.get_default_verify_paths().cafile
        for path in (bundle, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
            if path and os.path.isfile(path):
                found["SSL_CERT_FILE"] = path
                break
    return found


def _settings() -> tuple[tuple[str, str], ...]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = {config / "uv" / "uv.toml": "/etc/uv/uv.toml", config / "pip" / "pip.conf": "/etc/pip.conf"}
    return tuple(
        (source.read_text(encoding="utf-8"), place)
        for source, place in places.items()
        if source.is_file() and not os.path.exists(place)
    )
