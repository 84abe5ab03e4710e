"""What is made of the kernel's files: of written ones for machines we aren't on, and of this kernel's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from skyward.node.readings import Memory, cpu_quota, default_interface, measured, meter

MEMINFO = "MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 768000 kB\n"
KIB = 1024


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., str]:
    """Write files below a folder that stands for ``/proc``; their names have ``__`` for ``/``."""

    def write(**files: str) -> str:
        for name, text in {"meminfo": MEMINFO, **files}.items():
            path = tmp_path / "proc" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path / "proc")

    return write


def folder(path: Path, **files: str) -> str:
    """Write a control group's files; their names have ``_`` for the first ``.``."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("_", ".", 1)).write_text(text)
    return str(path)


def mount(place: str | Path, root: str = "/", kind: str = "cgroup2", options: str = "rw") -> str:
    return f"30 20 0:26 {root} {place} rw,nosuid shared:4 - {kind} cgroup {options}\n"


# ── CPU ──


def test_cpu_is_what_was_not_idle_since_the_last_reading(proc: Callable[..., str]) -> None:
    cores = "".join(f"cpu{number} 100 0 0 100 0 0 0 0 0 0\n" for number in range(os.cpu_count() or 1))
    place = proc(stat=f"cpu  100 0 0 800 100 0 0 0 9 9\n{cores}intr 1 2 3\n")
    read = meter("cpu", proc=place)
    assert read is not None
    busier = cores.replace("100 0 0 100", "130 10 10 140")  # where we may not use every core
    proc(stat=f"cpu  130 10 10 840 110 0 0 0 99 9\n{busier}intr 1 2 3\n")
    assert read() == pytest.approx(50, abs=6)
    assert read() is None  # no time has passed


def test_cpu_is_of_what_the_group_may_use_v2(tmp_path: Path, proc: Callable[..., str]) -> None:
    group = tmp_path / "fs" / "pod"
    place = proc(
        self__cgroup="0::/pod/box\n",
        self__mountinfo=mount(tmp_path / "fs"),
        stat="cpu  1 0 0 1 0 0 0 0\n",
    )
    folder(group / "box", cpu_max="max 100000\n", cpu_stat="usage_usec 7\n")
    folder(group, cpu_max="50000 100000\n", cpu_stat="usage_usec 1000000\nuser_usec 1\n")
    found = cpu_quota(place)
    assert found is not None
    assert (found[0], found[1]()) == (0.5, 1.0)
    read = meter("cpu", proc=place)
    assert read is not None
    time.sleep(0.2)
    folder(group, cpu_stat="usage_usec 1050000\n")  # 0.05 s of at least 0.1 s
    assert 0 < (read() or 0) <= 50


def test_cpu_quota_v1_has_its_usage_in_another_hierarchy(tmp_path: Path, proc: Callable[..., str]) -> None:
    place = proc(
        self__cgroup="3:cpuacct:/docker/a\n2:cpu:/docker/a\n1:name=systemd:/\n0::/\n",
        self__mountinfo=mount(tmp_path / "cpu", "/docker/a", "cgroup", "rw,cpu")
        + mount(tmp_path / "acct", "/docker/a", "cgroup", "rw,cpuacct")
        + mount(tmp_path / "unified"),
    )
    folder(tmp_path / "cpu", cpu_cfs_quota_us="150000\n", cpu_cfs_period_us="100000\n")
    folder(tmp_path / "acct", cpuacct_usage="2500000000\n")
    found = cpu_quota(place)
    assert found is not None
    assert (found[0], found[1]()) == (1.5, 2.5)
    folder(tmp_path / "cpu", cpu_cfs_quota_us="-1\n")
    assert cpu_quota(place) is None


# ── memory ──


def test_memory_is_the_machines_where_nothing_limits_us(tmp_path: Path, proc: Callable[..., str]) -> None:
    place = proc(self__cgroup="0::/\n", self__mountinfo=mount(tmp_path / "fs"))
    folder(tmp_path / "fs", memory_max="max\n", memory_current="5\n")
    assert Memory(place).read() == (256000 * KIB, 1024000 * KIB)
    for kind, value in ("memory", 25.0), ("memory_used", 250.0), ("memory_total", 1000.0):
        read = meter(kind, proc=place)
        assert read is not None
        assert read() == pytest.approx(value)


@pytest.mark.parametrize(
    ("own", "root"),
    [
        ("/pod/box", "/"),  # seen from outside
        ("/", "/"),  # in a namespace of its own
        ("/pod/box", "/pod/box"),  # the mount is the group itself
        ("/../../pod", "/"),  # in a namespace that is not above it
    ],
)
def test_memory_is_the_groups_v2(tmp_path: Path, proc: Callable[..., str], own: str, root: str) -> None:
    place = proc(self__cgroup=f"0::{own}\n", self__mountinfo=mount(tmp_path / "fs", root))
    group = tmp_path / "fs" / own.replace("..", "").strip("/") if root == "/" else tmp_path / "fs"
    folder(group, memory_max="600000000\n", memory_current="300000000\n", memory_stat="inactive_file 7\n")
    assert Memory(place).read() == (299999993, 600000000)


def test_the_tightest_group_counts(tmp_path: Path, proc: Callable[..., str]) -> None:
    place = proc(self__cgroup="0::/a/b\n", self__mountinfo=mount(tmp_path / "fs"))
    folder(tmp_path / "fs/a/b", memory_max="900\n", memory_current="10\n", memory_stat="")
    folder(tmp_path / "fs/a", memory_max="800\n", memory_current="20\n", memory_stat="inactive_file 30\n")
    folder(tmp_path / "fs", memory_max="850\n", memory_current="40\n", memory_stat="")
    assert Memory(place).read() == (0, 800)


def test_memory_is_the_groups_v1(tmp_path: Path, proc: Callable[..., str]) -> None:
    place = proc(
        self__cgroup="4:memory:/docker/a\n0::/elsewhere\n",
        self__mountinfo=mount(tmp_path / "fs", "/docker/a", "cgroup", "rw,memory"),
    )
    none = {"memory_limit_in_bytes": "9223372036854771712\n", "memory_usage_in_bytes": "5000\n"}
    folder(tmp_path / "fs", **none, memory_stat="inactive_file 1\ntotal_inactive_file 2000\n")
    assert Memory(place).read() == (256000 * KIB, 1024000 * KIB)
    folder(tmp_path / "fs", memory_limit_in_bytes="10000\n")
    assert Memory(place).read() == (3000, 10000)


# ── network ──

DEV = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n"
ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"


def test_network_is_bytes_a_second_on_the_way_out(proc: Callable[..., str]) -> None:
    line = "{}: {} 0 0 0 0 0 0 0 {} 0 0 0 0 0 0 0\n"
    place = proc(
        net__dev=DEV + line.format("    lo", 5, 5) + line.format("  eth1", 1000, 2000),
        net__route=ROUTE
        + "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\n"
        + "eth1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\n"
        + "eth1\t00000A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n",
    )
    assert default_interface(place) == "eth1"
    begun = time.monotonic()
    received, sent, other = (meter(k, t, place) for k, t in NETWORK)
    assert received is not None and sent is not None and other is not None  # noqa: PT018
    time.sleep(0.1)
    proc(net__dev=DEV + line.format("eth1", 2000, 2500))
    rates = received(), sent()
    seconds = time.monotonic() - begun
    for rate, moved in zip(rates, (1000, 500), strict=True):
        assert rate is not None
        assert moved / seconds <= rate <= moved / 0.1
    assert other() is None  # it is gone
    proc(net__dev=DEV + line.format("eth1", 10, 10))  # it came again, and counts from nothing
    assert received() is None


NETWORK = (("network_rx", ""), ("network_tx", ""), ("network_rx", "lo"))


def test_the_way_out_may_be_ipv6_or_none(proc: Callable[..., str]) -> None:
    zeros = "0" * 32
    place = proc(net__route=ROUTE, net__ipv6_route=f"{zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 200200 lo\n")
    assert default_interface(place) == ""
    proc(net__ipv6_route=f"{zeros} 00 {zeros} 00 fe80 400 1 0 3 ens5\n")
    assert default_interface(place) == "ens5"


# ── what is not there ──


def test_what_the_kernel_does_not_tell_is_none(proc: Callable[..., str]) -> None:
    place = proc(meminfo="MemTotal: 5 kB\n", stat="cpu\n")
    for kind in ("cpu", "memory", "memory_used", "memory_total", "network_rx", "network_tx"):
        read = meter(kind, proc=place)
        assert read is not None
        assert measured(read) is None
    assert meter("of a newer client") is None


def test_without_proc_the_memory_is_known_all_the_same(tmp_path: Path) -> None:
    read = meter("memory_total", proc=str(tmp_path / "none"))
    assert read is not None
    assert read() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / KIB / KIB


# ── this kernel ──


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's files are Linux's")
def test_this_kernel_is_understood() -> None:
    cpu, used, total = meter("cpu"), meter("memory_used"), meter("memory_total")
    assert cpu is not None and used is not None and total is not None  # noqa: PT018
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    share = cpu()
    assert share is not None and 100 / (os.cpu_count() or 1) * 0.3 < share <= 100  # noqa: PT018
    assert 0 < (used() or 0) < (total() or 0)


HIERARCHIES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified"))


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group that allows 64 MiB; removed afterwards."""
    for hierarchy in HIERARCHIES:
        place = hierarchy / f"skyward-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (place / name).exists():
                    (place / name).write_text(str(64 << 20))
                    yield place
                    return
        finally:
            place.rmdir()
    pytest.skip("no control group can be made here")


PROGRAM = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
from skyward.node.readings import meter
used = meter("memory_used")
before = used()
ballast = bytearray(os.urandom(1 << 20) * 20)
print(meter("memory_total")(), used() - before)
"""


def test_a_real_group_is_found(group: Path) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(group)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert float(said[0]) == 64
    assert float(said[1]) == pytest.approx(20, abs=4)
