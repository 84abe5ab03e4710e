"""What users write is taken apart right, and what can't be right is refused with what to write instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward.config import load
from skyward.errors import ConfigError, UsageError
from skyward.hooks import registry
from skyward.hooks.values import SSHEndpoint
from skyward_ssh import SSH, Host

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKmM3xjv3Dn3yMQY4aSgIf2TnI9WtzCEzU1c2VvVQm1K"


@pytest.mark.parametrize(
    ("text", "user", "address", "port", "label"),
    [
        ("gpu1", None, "gpu1", None, "gpu1"),
        ("gpu1:2222", None, "gpu1", 2222, "gpu1:2222"),
        ("ada@gpu1.example.org", "ada", "gpu1.example.org", None, "ada@gpu1.example.org"),
        ("ada@10.0.0.7:22", "ada", "10.0.0.7", 22, "ada@10.0.0.7:22"),
        ("ssh://ada@gpu1:22", "ada", "gpu1", 22, "ada@gpu1:22"),
        ("[fd00::7]", None, "fd00::7", None, "[fd00::7]"),
        ("ada@[fd00::7]:2222", "ada", "fd00::7", 2222, "ada@[fd00::7]:2222"),
        ("ada@corp@gpu1", "ada@corp", "gpu1", None, "ada@corp@gpu1"),
    ],
)
def test_an_address_is_taken_apart(
    text: str, user: str | None, address: str, port: int | None, label: str
) -> None:
    host = Host(text)
    assert (host.user, host.address, host.port, host.label) == (user, address, port, label)
    assert Host(host.label) == host


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ([], "hosts must name at least one host"),
        (["gpu1", "ada@gpu2", "gpu1:22"], "hosts names gpu1:22 twice"),
        (["gpu1", "GPU1"], "hosts names GPU1 twice"),
        ([""], "address '' names no host"),
        (["ada@"], "address 'ada@' names no host"),
        (["gpu 1"], "address 'gpu 1' names no host"),
        (["@gpu1"], "user must be a user's name"),
        (["gpu1:"], "the port must be a number from 1 to 65535, not ''"),
        (["gpu1:/data"], "the port must be a number from 1 to 65535, not '/data'"),
        (["gpu1:0"], "the port must be a number from 1 to 65535, not '0'"),
        (["gpu1:65536"], "the port must be a number"),
        (["ada@fd00::7"], r"too many colons: write ada@\[fd00::7\]"),
        (["[fd00::7"], r"an IPv6 address is written \[::1\]"),
        (["[gpu1]:22"], r"an IPv6 address is written \[::1\]"),
        (["gpu1:22:33"], "too many colons: write user@host:port"),
        (["-oProxyCommand=x"], "names no host"),
        ([{"port": 22}], r"hosts\[0\] lacks its address"),
        ([{"address": "gpu1", "prot": 22}], r"unknown key 'prot' in hosts\[0\]: did you mean .*'port'"),
    ],
)
def test_hosts_that_cannot_be_right_are_refused(hosts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SSH(hosts)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must not hold a password") as caught:
        SSH(["ada:hunter2@gpu1"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("hosts", ["gpu1", None, 7, {"gpu1"}, [7], [None], [["gpu1"]]])
def test_what_is_no_list_of_hosts_is_refused(hosts: Any) -> None:
    with pytest.raises(UsageError, match=r"^hosts"):
        SSH(hosts)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"port": 0}, ConfigError, "port must be a number from 1 to 65535, not 0"),
        ({"port": True}, UsageError, "port must be a whole number"),
        ({"port": "22"}, UsageError, "port must be a whole number"),
        ({"user": ""}, ConfigError, "user must be a user's name"),
        ({"user": 7}, UsageError, "user must be a string"),
        ({"key": ""}, ConfigError, "key must not be empty"),
        ({"key": 7}, UsageError, "key must be the path"),
        ({"key": "~/.ssh/id_ed25519.pub"}, ConfigError, "key must be the private key, '~/.ssh/id_ed25519'"),
        ({"host_key": "SHA256:abc"}, ConfigError, "only the fingerprint"),
        ({"host_key": "ssh-ed25519"}, ConfigError, "host_key must be a public key"),
        ({"host_key": 7}, UsageError, "host_key must be a public key"),
        ({"internal_ip": "gpu1"}, ConfigError, "internal_ip must be an IP address"),
        ({"usd_per_hour": -1}, ConfigError, "usd_per_hour must be a number of 0 or more"),
        ({"usd_per_hour": float("nan")}, ConfigError, "usd_per_hour must be a number of 0 or more"),
        ({"usd_per_hour": "1"}, UsageError, "usd_per_hour must be a number"),
        ({"root": "../up"}, ConfigError, "root must be a plain path"),
        ({"root": "~ada"}, ConfigError, "root must be a plain path"),
        ({"root": 7}, UsageError, "root must be the path"),
        ({"jump": 7}, UsageError, "jump must be a list"),
        ({"jump": "bastion,"}, ConfigError, "names no host"),
        ({"jump": Host("a", jump="b")}, ConfigError, "a has a jump of its own"),
    ],
)
def test_fields_of_a_host_are_checked(fields: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Host("gpu1", **fields)


def test_address_and_fields_must_agree() -> None:
    assert Host("ada@gpu1:22", user="ada", port=22).label == "ada@gpu1:22"
    with pytest.raises(ConfigError, match="user is 'bob', but the address 'ada@gpu1' says 'ada'"):
        Host("ada@gpu1", user="bob")
    with pytest.raises(ConfigError, match="port is 23, but the address 'gpu1:22' says 22"):
        Host("gpu1:22", port=23)


def test_a_key_itself_is_not_taken_for_its_path() -> None:
    with pytest.raises(ConfigError, match="the path of a private key's file, not the key itself") as caught:
        SSH(["gpu1"], key="-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"config": "no"}, UsageError, "config must be True or False"),
        ({"first_contact": "trust"}, ConfigError, "first_contact must be 'pin' or 'refuse', not 'trust'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        SSH(["gpu1"], **settings)


def test_settings_become_endpoints() -> None:
    config = SSH(
        [
            "gpu1",
            Host("ada@gpu2:2222", key="~/other", jump=(), host_key=f"gpu2 {KEY} ada@laptop", root="/data/"),
        ],
        key=Path("~/mine"),
        jump="bob@bastion, inner:23",
        config=False,
        first_contact="refuse",
    )
    (_, first), (_, second) = config.endpoints()
    hop: dict[str, Any] = {"first_contact": "refuse", "config": False, "starting": False}
    mine, other = os.path.expanduser("~/mine"), os.path.expanduser("~/other")
    assert first == SSHEndpoint(
        host="gpu1",
        keys=(mine,),
        jump=(
            SSHEndpoint(host="bastion", user="bob", keys=(mine,), **hop),
            SSHEndpoint(host="inner", port=23, keys=(mine,), **hop),
        ),
        **hop,
    )
    assert second == SSHEndpoint(
        host="gpu2", user="ada", port=2222, keys=(other,), host_keys=(KEY,),
        folder="/data/.skyward/machine", **hop,
    )  # fmt: skip


def test_it_is_found_by_its_name_and_so_is_its_package() -> None:
    assert sky.SSH is SSH is registry.find(registry.PROVIDERS, "ssh")
    assert sky.ssh.Host is Host


def test_it_can_be_written_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "skyward.toml").write_text(
        '[providers.lab]\ntype = "ssh"\nkey = "~/k"\nhosts = ["ada@gpu1", {address = "gpu2", port = 2222}]\n'
    )
    found = load(tmp_path, tmp_path, provider_class=_class, plugin_factory=_class).provider("lab")
    assert found == SSH(["ada@gpu1", Host("gpu2", port=2222)], key="~/k")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", r"skyward.toml \[providers.lab\]: the key 'hosts' is missing"),
        ("hosts = []", r"skyward.toml \[providers.lab\]: hosts must name at least one host"),
        ('hosts = "gpu1"', r"skyward.toml \[providers.lab\]: hosts must be a list"),
        ('hosts = ["a"]\nkeys = "k"', "unknown key 'keys'.*did you mean 'key'"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "skyward.toml").write_text(f'[providers.lab]\ntype = "ssh"\n{line}\n')
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, tmp_path, provider_class=_class, plugin_factory=_class).provider("lab")


def _class(name: str) -> Any:
    return registry.find(registry.PROVIDERS, name)
