"""One measurement over SSH, in a process of its own that ``machines.py`` starts. Prints metrics as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

Hosts = list[tuple[str, str, str]]


def pool(hosts: Hosts, **options: Any) -> Any:
    import skyward as sky

    found = [sky.ssh.Host(url, key=key, host_key=known) for url, key, known in hosts]
    provider = sky.SSH(found, config=False)
    return sky.Compute(provider=provider, nodes=len(hosts), console=False, logging=False, **options)


def nothing() -> None:
    pass


def percentiles(seconds: list[float], prefix: str = "") -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"{prefix}p50_ms": 1000 * statistics.median(ordered),
        f"{prefix}p99_ms": 1000 * ordered[int(0.99 * len(ordered))],
    }


def timed(call: Callable[[], Any], times: int) -> list[float]:
    found: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return found


def start(hosts: Hosts) -> dict[str, float]:
    import asyncssh  # noqa: F401  (loading it is not the machine's)
    import skyward as sky

    noop = sky.function(nothing)
    begun = time.perf_counter()
    with pool(hosts) as nodes:
        noop() @ nodes
        seconds = time.perf_counter() - begun
        print(nodes.timing(), file=sys.stderr)
    return {"seconds": seconds}


def roundtrip(hosts: Hosts) -> dict[str, float]:
    import skyward as sky

    noop = sky.function(nothing)
    with pool(hosts) as nodes:
        timed(lambda: noop() >> nodes, 300)
        return percentiles(timed(lambda: noop() >> nodes, 3000), "roundtrip_")


def far(hosts: Hosts) -> dict[str, float]:
    import skyward as sky

    noop = sky.function(nothing)
    with pool(hosts) as nodes:
        timed(lambda: noop() >> nodes, 5)
        return percentiles(timed(lambda: noop() >> nodes, 30))


def throughput(hosts: Hosts) -> dict[str, float]:
    import skyward as sky

    noop, count, rates = sky.function(nothing), 20_000, []
    with pool(hosts) as nodes:
        for _ in range(4):
            begun = time.perf_counter()
            for future in [noop() > nodes for _ in range(count)]:
                future.result()
            rates.append(count / (time.perf_counter() - begun))
    return {"throughput_tasks_s": statistics.median(rates[1:])}


def upload(hosts: Hosts) -> dict[str, float]:
    """An argument that the task can use where it lies, an array, and one that has to be copied for it."""
    import numpy
    import skyward as sky

    size, megabytes = sky.function(len), 100
    found: dict[str, list[float]] = {"upload_mb_s": [], "upload_bytes_mb_s": []}
    with pool(hosts, image=sky.Image(pip=["numpy"])) as nodes:
        size(numpy.zeros(1 << 20, dtype=numpy.uint8)) >> nodes
        for _ in range(6):
            data = os.urandom(megabytes * 10**6)
            for metric, value in (
                ("upload_mb_s", numpy.frombuffer(bytearray(data), dtype=numpy.uint8)),
                ("upload_bytes_mb_s", os.urandom(megabytes * 10**6)),
            ):
                begun = time.perf_counter()
                assert size(value) >> nodes == len(data)
                found[metric].append(megabytes / (time.perf_counter() - begun))
    return {metric: statistics.median(rates[1:]) for metric, rates in found.items()}


def raw_upload(hosts: Hosts) -> dict[str, float]:
    """What one channel of the SSH client moves: into a command that counts what comes."""
    import asyncssh

    megabytes, found = 100, []

    async def once(conn: Any) -> None:
        data = os.urandom(megabytes * 10**6)
        begun = time.perf_counter()
        process = await conn.create_process("wc -c", encoding=None)
        for at in range(0, len(data), 1 << 18):
            process.stdin.write(data[at : at + (1 << 18)])
            await process.stdin.drain()
        process.stdin.write_eof()
        assert int(await process.stdout.read()) == len(data)
        found.append(megabytes / (time.perf_counter() - begun))

    async def run() -> None:
        url, key, _ = hosts[0]
        user, _, address = url.rpartition("@")
        host, _, port = address.partition(":")
        async with asyncssh.connect(
            host, port=int(port or 22), username=user, client_keys=[key], known_hosts=None, config=[],
            encryption_algs=["aes128-gcm@openssh.com"],
        ) as conn:  # fmt: skip
            for _ in range(4):
                await once(conn)

    asyncio.run(run())
    return {"upload_mb_s": statistics.median(found[1:])}


def memory(hosts: Hosts) -> dict[str, float]:
    """How far the client's peak grows over the argument itself, at 1 GB."""
    import skyward as sky

    size = sky.function(len)
    with pool(hosts) as nodes:
        size(os.urandom(10**6)) >> nodes
        data = bytearray(10**9)
        for at in range(0, len(data), 4096):
            data[at] = 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert size(data) >> nodes == 10**9
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"memory_mb_at_1_gb": grown / 1000}


def many(hosts: Hosts) -> dict[str, float]:
    import skyward as sky

    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    noop = sky.function(nothing)
    begun = time.perf_counter()
    with pool(hosts) as nodes:
        noop() @ nodes
        started = time.perf_counter() - begun
        again = min(timed(lambda: noop() @ nodes, 10))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"many_start_s": started, "many_broadcast_ms": 1000 * again, "many_memory_mb": peak}


def gateways(hosts: Hosts) -> list[Any]:
    import execnet

    found = []
    for url, key, _ in hosts:
        host, _, port = url.partition(":")
        words = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {key}"
        found.append(execnet.makegateway(f"ssh={words} -p {port or 22} {host}//python=python3"))
    return found


ECHO = "for item in channel: channel.send(item)"


def execnet_roundtrip(hosts: Hosts) -> dict[str, float]:
    (gateway,) = gateways(hosts)
    channel = gateway.remote_exec(ECHO)

    def call() -> None:
        channel.send(None)
        channel.receive()

    timed(call, 300)
    return percentiles(timed(call, 3000), "roundtrip_")


def execnet_throughput(hosts: Hosts) -> dict[str, float]:
    channels, count, rates = [g.remote_exec(ECHO) for g in gateways(hosts)], 20_000, []
    for _ in range(4):
        begun = time.perf_counter()
        for number in range(count):
            channels[number % len(channels)].send(None)
        for number in range(count):
            channels[number % len(channels)].receive()
        rates.append(count / (time.perf_counter() - begun))
    return {"throughput_tasks_s": statistics.median(rates[1:])}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](json.loads(sys.argv[2]))), flush=True)
    os._exit(0)
