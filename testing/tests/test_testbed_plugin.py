"""The fixtures in a pytest of their own: who is told what, and that nothing outlives one that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from skyward_testing.testbed import Testbed, why_not
from skyward_testing.testbed.groups import PREFIX, ROOT

needs_network = pytest.mark.skipif(bool(why_not("network")), reason=why_not("network"))

HEAD = """
from __future__ import annotations
import os, time, pytest
from pathlib import Path
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What runs a file of tests as somebody else would."""
    return [
        *(sys.executable, "-m", "pytest", os.fspath(tmp_path / "test_it.py"), "-q", "-s"),
        *("-c", os.devnull, f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}"),
        *("-p", "no:cacheprovider", "-p", "no:skyward_testing", "-p", "skyward_testing.pytest_plugin"),
    ]


def run(words: list[str], tmp_path: Path, text: str, **environment: str) -> str:
    (tmp_path / "test_it.py").write_text(HEAD + textwrap.dedent(text))
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )
    return done.stdout


def inhabitants(namespaces: set[str]) -> list[str]:
    found: list[str] = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{process}/ns/net") in namespaces:
                found.append(process)
        except OSError:
            continue
    return found


def groups_of(pid: int) -> list[Path]:
    return list(ROOT.glob(f"**/{PREFIX}-{pid}-*"))


@needs_network
class TestKilled:
    @pytest.mark.parametrize("victim", ["pytest", "keepers"])
    def test_nothing_outlives_it(self, words: list[str], tmp_path: Path, victim: str) -> None:
        (tmp_path / "test_it.py").write_text(
            HEAD
            + textwrap.dedent(
                """
                def test_it(testbed):
                    nodes = testbed.nodes(2)
                    nodes[0].exec("setsid sleep 1234 > /dev/null 2>&1 < /dev/null &")
                    nodes[1].freeze()
                    names = [os.readlink(f"/proc/{n.machine.pid}/ns/net") for n in nodes]
                    print("\\nUP", os.getpid(), os.readlink("/proc/self/ns/net"), *names, flush=True)
                    time.sleep(60)
                """
            )
        )
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("UP "))
            _, pid, lab, *namespaces = line.split()
            assert lab != os.readlink("/proc/self/ns/net")
            assert len(inhabitants(set(namespaces))) >= 6  # keeper, init and sshd of each
            assert groups_of(int(pid))
            if victim == "keepers":
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            process.kill()
        if victim == "keepers":  # then nobody is left who could thaw the frozen: the next run does
            assert "1 passed" in run(words, tmp_path, "def test_it(testbed): testbed.node()")
        end = time.monotonic() + 5
        while inhabitants({lab, *namespaces}) and time.monotonic() < end:
            time.sleep(0.02)
        assert inhabitants({lab, *namespaces}) == []
        while groups_of(int(pid)) and time.monotonic() < end:
            time.sleep(0.02)
        assert groups_of(int(pid)) == []


@needs_network
class TestReports:
    def test_a_failure_comes_with_what_sshd_logged(self, words: list[str], tmp_path: Path) -> None:
        out = run(
            words,
            tmp_path,
            """
            import subprocess
            def test_alive(testbed):
                node = testbed.node(name="red")
                subprocess.run([*node.ssh_command("-l", "nobody"), "true"])
                assert 0
            def test_dead(testbed):
                node = testbed.node(name="blue")
                node.kill()
                assert 0
            """,
        )
        red, blue = out.split("test_dead", 1)[0], out.split("test_dead", 1)[1]
        assert "sshd of red" in red
        assert "nobody" in red.split("sshd of red")[1]
        assert "sshd of blue" in blue
        assert "Server listening" in blue.split("sshd of blue")[1]

    def test_what_is_left_behind_fails_the_test(self, words: list[str], tmp_path: Path) -> None:
        out = run(
            words,
            tmp_path,
            """
            import subprocess
            def test_it(testbed):
                node = testbed.node()
                # In its network, but not among its processes: the only kind that can outlive it.
                stray = subprocess.Popen(["nsenter", "-n", "-t", str(node.machine.pid), "sleep", "3"])
                while "sleep" not in Path(f"/proc/{stray.pid}/comm").read_text():
                    time.sleep(0.01)
            """,
        )
        assert re.search(r"the testbed left behind:\s+process \d+: sleep 3", out)
        assert "1 passed, 1 error" in out

    def test_nothing_is_left_of_a_node_that_used_everything(self, words: list[str], tmp_path: Path) -> None:
        text = """
            def test_it(no_leftovers, testbed):
                door, node = testbed.node(), testbed.node(memory_mb=900, cpus=1)
                testbed.node(behind=door).exec("true")
                node.exec("uv venv -q v && uv pip install -q --refresh --python v/bin/python cloudpickle")
                testbed.share_address([node])
                node.isolate_from(door)
                node.link(delay_ms=5)
                node.exec("setsid bash -c 'exec 3<> /dev/tcp/10.66.0.2/3128; sleep 77' > /dev/null 2>&1 &")
                while not node.pids("^sleep 77"):
                    time.sleep(0.01)
                node.freeze()
                node.vanish()
                door.partition()
            """
        assert "1 passed" in run(words, tmp_path, text)

    def test_several_workers_have_the_same_addresses(self, words: list[str], tmp_path: Path) -> None:
        pytest.importorskip("xdist")
        out = run(
            [*words, "-n", "2", "--dist", "each"],
            tmp_path,
            """
            import socket
            def test_it(testbed):
                node = testbed.node()
                with socket.create_connection((node.address, 22), timeout=5) as connection:
                    assert connection.recv(4) == b"SSH-"
                assert node.address == "10.77.0.2"
            """,
        )
        assert "2 passed" in out


@needs_network
class TestLab:
    def test_it_is_entered_only_if_nodes_are_wanted(self, words: list[str], tmp_path: Path) -> None:
        outside = os.readlink("/proc/self/ns/net")
        text = f"""
            import sys
            def test_it():
                assert os.readlink("/proc/self/ns/net") == {outside!r}
                assert "skyward_testing.testbed" not in sys.modules
            """
        assert "1 passed" in run(words, tmp_path, text)

    def test_a_marker_is_enough(self, words: list[str], tmp_path: Path) -> None:
        text = """
            import threading
            @pytest.mark.testbed
            def test_it(request):
                thread = threading.Thread(target=time.sleep, args=(20,), daemon=True)
                thread.start()
                assert request.getfixturevalue("testbed").node().alive
            """
        assert "1 passed" in run(words, tmp_path, text)

    def test_too_late_is_told(self, words: list[str], tmp_path: Path) -> None:
        text = """
            import threading
            def test_it(request):
                threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
                request.getfixturevalue("testbed")
            """
        assert "mark the test with @pytest.mark.testbed" in run(words, tmp_path, text)

    def test_packages_can_be_installed_from_within(self, testbed: Testbed, tmp_path: Path) -> None:
        subprocess.run(["uv", "venv", "-q", tmp_path / "v"], check=True)
        python = tmp_path / "v" / "bin" / "python"
        subprocess.run(
            ["uv", "pip", "install", "-q", "--refresh", "--python", python, "cloudpickle"], check=True
        )
        assert testbed.relay.requests > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is taken away here")
class TestWithout:
    """As in a container that may not make namespaces itself: users' may be, or none at all."""

    @pytest.fixture
    def unable(self, words: list[str]) -> list[str]:
        return ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *words, "-rs"]

    def test_nodes_are_of_another_kind(self, unable: list[str], tmp_path: Path) -> None:
        text = """
            def test_it(testbed):
                assert testbed.node(name="alone").exec("echo in") == "in"
                assert testbed.tier in ("namespaces", "processes")
            """
        assert "1 passed" in run(unable, tmp_path, text, SKYWARD_TESTBED="")

    def test_what_they_lack_skips_and_says_why(self, unable: list[str], tmp_path: Path) -> None:
        text = """
            def test_it(testbed):
                testbed.node(memory_mb=100)
            """
        out = run(unable, tmp_path, text, SKYWARD_TESTBED="")
        assert "1 skipped" in out
        assert "memory_mb needs nodes with control groups of their own: namespaces can't be made here" in out

    def test_where_the_best_is_required_it_fails(self, unable: list[str], tmp_path: Path) -> None:
        out = run(unable, tmp_path, "def test_it(testbed): assert 0", SKYWARD_TESTBED="required")
        assert "1 error" in out
        assert "no testbed: " in out


def test_a_kind_can_be_asked_for(words: list[str], tmp_path: Path) -> None:
    if why := why_not("processes"):
        pytest.skip(why)
    text = """
        def test_it(testbed):
            assert testbed.tier == "processes"
            assert 0, testbed.node().name
        """
    out = run([*words, "-rs"], tmp_path, text, SKYWARD_TESTBED="processes")
    assert "1 skipped" in out
    assert "name needs nodes with a hostname of their own" in out
