"""Volumes and storages are checked when they are made, and never show a credential."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward import storage
from skyward.errors import ConfigError, UsageError
from skyward.storage import Storage, Volume

SECRET = "hunter2"


@pytest.mark.parametrize(
    "mount", ["/", "/opt", "/opt/skyward", "/root", "/tmp", "/tmp/", "//tmp", "/opt/./skyward"]
)
def test_reserved_mounts_are_refused(mount: str) -> None:
    with pytest.raises(ConfigError, match="which the node needs itself"):
        Volume("b", mount)


@pytest.mark.parametrize("mount", ["data", "./data", "", "~/data", "/data/../tmp", "/.."])
def test_a_mount_is_absolute_and_plain(mount: str) -> None:
    with pytest.raises(ConfigError, match="mount must be an absolute path such as '/data', not"):
        Volume("b", mount)


@given(st.lists(st.sampled_from(["opt", "tmp", "root", "skyward", ".", "..", ""]), min_size=1, max_size=4))
def test_no_spelling_reaches_a_reserved_mount(parts: list[str]) -> None:
    import os.path

    mount = "/" + "/".join(parts)
    real = "/" + os.path.normpath(mount).lstrip("/")
    try:
        volume = Volume("b", mount)
    except ConfigError:
        assert real in ("/", "/opt", "/opt/skyward", "/root", "/tmp") or ".." in parts
    else:
        assert volume.mount == real


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bucket": "", "mount": "/d"}, "bucket must not be empty"),
        (
            {"bucket": "s3://mine/train", "mount": "/d"},
            "bucket must be the bare name, 'mine', not 's3://mine/train': a folder goes into prefix=",
        ),
        (
            {"bucket": "mine/train", "mount": "/d"},
            "bucket must be the bare name, 'mine', not 'mine/train': a folder goes into prefix=",
        ),
    ],
)
def test_a_wrong_bucket(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Volume(**arguments)  # type: ignore[arg-type]  # only the two strings are given
    assert str(caught.value) == message


def test_wrong_types() -> None:
    make: Callable[..., Volume] = Volume
    for arguments, message in (
        ({"mount": 3}, "mount must be an absolute path such as '/data', not 3"),
        ({"mount": "/d", "prefix": None}, "prefix must be a string, not None"),
        ({"mount": "/d", "read_only": "no"}, "read_only must be True or False, not 'no'"),
        ({"mount": "/d", "storage": "s3"}, "storage must be a Storage, such as sky.storage.S3(), not 's3'"),
    ):
        with pytest.raises(UsageError) as caught:
            make(bucket="b", **arguments)
        assert str(caught.value) == message


def test_a_volume_is_normalised() -> None:
    assert Volume("b", "/data/", prefix="/train/") == Volume("b", "/data", prefix="train")
    assert Volume("b", "/data").read_only


PRESETS = {
    "https://s3.us-east-1.amazonaws.com": storage.S3(access_key="id", secret_key=SECRET),
    "https://s3.eu-west-1.amazonaws.com": storage.S3(region="eu-west-1"),
    "https://abc.r2.cloudflarestorage.com": storage.R2(account_id="abc", access_key="id", secret_key=SECRET),
    "https://storage.googleapis.com": storage.GCS(access_key="id", secret_key=SECRET),
    "https://s3.us-east-1.wasabisys.com": storage.Wasabi(access_key="id", secret_key=SECRET),
    "https://s3.us-west-004.backblazeb2.com": storage.Backblaze(
        region="us-west-004", key_id="id", app_key=SECRET
    ),
    "https://ca1.obj.nexgencloud.io": storage.Hyperstack(api_key=SECRET),
}


@pytest.mark.parametrize(("endpoint", "preset"), PRESETS.items(), ids=PRESETS.keys())
def test_presets(endpoint: str, preset: Storage) -> None:
    assert preset.endpoint == endpoint
    assert SECRET not in repr(preset)
    assert SECRET not in repr(Volume("b", "/data", storage=preset))
    assert pickle.loads(pickle.dumps(preset)) == preset


def test_a_vendor_that_makes_its_own_keys() -> None:
    made = storage.Hyperstack(api_key=SECRET, region="CANADA-1", endpoint="https://elsewhere.example")
    assert made.endpoint == "https://elsewhere.example"
    assert made.path_style
    assert made.exchange == storage.KeyExchange("hyperstack", "CANADA-1", SECRET)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Storage("s3.example"), "endpoint must be an http or https URL, not 's3.example'"),
        (lambda: Storage("https://"), "endpoint must be an http or https URL, not 'https://'"),
        (
            lambda: Storage(f"https://id:{SECRET}@s3.example"),
            "endpoint must carry no credentials: use access_key= and secret_key=",
        ),
        (
            lambda: Storage("https://s3.example", access_key=SECRET),
            "access_key and secret_key go together: give both or neither",
        ),
        (lambda: Storage("https://s3.example", "", ""), "access_key must not be empty"),
        (lambda: storage.S3(region=""), "region must not be empty"),
        (lambda: storage.Hyperstack(api_key=""), "api_key must not be empty"),
    ],
)
def test_a_wrong_storage_is_refused_without_a_secret(make: Callable[[], Storage], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


def test_a_credential_of_another_type_is_not_shown() -> None:
    make: Callable[..., Storage] = Storage
    with pytest.raises(UsageError) as caught:
        make("https://s3.example", access_key=SECRET.encode(), secret_key=SECRET)
    assert str(caught.value) == "access_key must be a string or a function that returns one"


def test_a_credential_may_be_a_function() -> None:
    assert Storage("https://s3.example", lambda: "id", lambda: SECRET).access_key is not None
