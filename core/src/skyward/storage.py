"""Object stores as values: a ``Storage`` says where and with whose keys, a ``Volume`` what is mounted where.

Nothing here talks to a store. Credentials never appear in a ``repr`` or a message.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from skyward import _check
from skyward.errors import ConfigError, UsageError

type Credential = str | Callable[[], str | Awaitable[str]]
"""A key, or what returns it (also asynchronously) each time the storage is opened."""

# Mounting over these would hide the system, the user's home or the node's own files.
_RESERVED_MOUNTS = frozenset({"/", "/opt", "/opt/skyward", "/root", "/tmp"})


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """An account's API key, for a vendor whose storage keys must first be made with it.

    The package of ``vendor`` makes them when the storage is opened, and deletes them when it is closed.
    """

    vendor: str
    region: str
    api_key: Credential = field(repr=False)


@dataclass(frozen=True, slots=True)
class Storage:
    """An S3-compatible store. Without keys, those of the environment that opens it are used.

    ``path_style``: the bucket goes into the path, not the host name. ``exchange`` stands in for the two keys.
    """

    endpoint: str
    access_key: Credential | None = field(default=None, repr=False)
    secret_key: Credential | None = field(default=None, repr=False)
    path_style: bool = False
    exchange: KeyExchange | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check.text("endpoint", self.endpoint)
        url = urlsplit(self.endpoint)
        if url.username is not None or url.password is not None:
            raise ConfigError("endpoint must carry no credentials: use access_key= and secret_key=")
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ConfigError(f"endpoint must be an http or https URL, not {self.endpoint!r}")
        _credential("access_key", self.access_key)
        _credential("secret_key", self.secret_key)
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key go together: give both or neither")
        if self.exchange is not None and self.access_key is not None:
            raise ConfigError("exchange stands in for access_key and secret_key: give it or them")
        _check.flag("path_style", self.path_style)


@dataclass(frozen=True, slots=True)
class Volume:
    """A bucket, or the part of it under ``prefix``, as the folder ``mount`` of every node.

    ``storage``: where the bucket is; by default the provider's own store.
    """

    bucket: str
    mount: str
    prefix: str = ""
    read_only: bool = True
    storage: Storage | None = None

    def __post_init__(self) -> None:
        _check.text("bucket", self.bucket)
        if "/" in self.bucket:
            bare = self.bucket.rpartition("://")[2].strip("/").partition("/")[0]
            raise ConfigError(
                f"bucket must be the bare name, {bare!r}, not {self.bucket!r}: a folder goes into prefix="
            )
        _check.assign(self, mount=_mount_point(self.mount))
        _check.instance("prefix", self.prefix, str, "a string")
        _check.assign(self, prefix=self.prefix.strip("/"))
        _check.flag("read_only", self.read_only)
        if self.storage is not None:
            _check.instance("storage", self.storage, Storage, "a Storage, such as sky.storage.S3()")


def S3(
    *, region: str = "us-east-1", access_key: Credential | None = None, secret_key: Credential | None = None
) -> Storage:
    """Amazon S3. Without keys, the usual chain of the environment is used."""
    _check.text("region", region)
    return Storage(f"https://s3.{region}.amazonaws.com", access_key, secret_key)


def R2(*, account_id: str, access_key: Credential, secret_key: Credential) -> Storage:
    """Cloudflare R2."""
    _check.text("account_id", account_id)
    return Storage(f"https://{account_id}.r2.cloudflarestorage.com", access_key, secret_key)


def GCS(*, access_key: Credential, secret_key: Credential) -> Storage:
    """Google Cloud Storage through its S3-compatible side; the keys are HMAC keys."""
    return Storage("https://storage.googleapis.com", access_key, secret_key)


def Wasabi(*, region: str = "us-east-1", access_key: Credential, secret_key: Credential) -> Storage:
    """Wasabi."""
    _check.text("region", region)
    return Storage(f"https://s3.{region}.wasabisys.com", access_key, secret_key)


def Backblaze(*, region: str, key_id: Credential, app_key: Credential) -> Storage:
    """Backblaze B2; ``region`` as in "us-west-004"."""
    _check.text("region", region)
    return Storage(f"https://s3.{region}.backblazeb2.com", key_id, app_key)


def Hyperstack(*, api_key: Credential, region: str = "CANADA-1", endpoint: str | None = None) -> Storage:
    """Hyperstack's object storage; its keys are made with the account's API key when it is opened."""
    _check.text("region", region)
    if not api_key:
        raise ConfigError("api_key must not be empty")
    return Storage(
        endpoint or "https://ca1.obj.nexgencloud.io",
        path_style=True,
        exchange=KeyExchange("hyperstack", region, api_key),
    )


def _credential(field_name: str, value: object) -> None:
    """Require a non-empty string or a callable; the message never shows what was given."""
    if value is None or callable(value):
        return
    if not isinstance(value, str):
        raise UsageError(f"{field_name} must be a string or a function that returns one")
    if not value:
        raise ConfigError(f"{field_name} must not be empty")


def _mount_point(mount: object) -> str:
    if not isinstance(mount, str):
        _check.wrong_type("mount", "an absolute path such as '/data'", mount)
    # Two leading slashes mean something else to POSIX, and normpath keeps them: not to us.
    path = posixpath.normpath("/" + mount.lstrip("/")) if mount.startswith("/") else mount
    if not mount.startswith("/") or ".." in mount.split("/"):
        raise ConfigError(f"mount must be an absolute path such as '/data', not {mount!r}")
    if path in _RESERVED_MOUNTS:
        raise ConfigError(
            f"mount must not be {path!r}, which the node needs itself; use '/data', for example"
        )
    return path


PRESETS: dict[str, Callable[..., Storage]] = {
    make.__name__: make for make in (S3, R2, GCS, Wasabi, Backblaze, Hyperstack)
}
"""By the name that a configuration file uses."""
