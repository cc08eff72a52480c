from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from undertow.engines.session import devices, running_ray
from undertow.errors import GuardError

LOOPBACK = """
import os
from pathlib import Path
from undertow.engines.session import running_ray

def listening():
    \"\"\"Addresses on which this process and all that descend from it listen.\"\"\"
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    ours, size = {os.getpid()}, 0
    while len(ours) > size:
        size = len(ours)
        ours |= {child for child, parent in parents.items() if parent in ours}
    sockets = set()
    for process in ours:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except OSError:
                pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in sockets:
                found.add(parts[1].split(":")[0])
    return found

with running_ray(1, None) as found:
    print(found)
    print(sorted(listening()))
    print(os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]))
import ray
print("RAY_AUTH_MODE" in os.environ, ray.is_initialized())
with running_ray(2, None) as again:
    print(again, sorted(listening()) == sorted(listening()) != [])
"""


def test_workers_need_devices() -> None:
    assert devices(None, {"CPU": 9.0, "GPU": 4.0}) == (4, "GPU")
    assert devices(3, {"CPU": 9.0, "GPU": 4.0}) == (3, "GPU")
    assert devices(None, {"CPU": 9.0}) == (8, "CPU")
    for workers, resources in ((5, {"CPU": 64.0, "GPU": 4.0}), (9, {"CPU": 9.0}), (None, {"CPU": 1.0})):
        with pytest.raises(GuardError, match="too few"):
            devices(workers, resources)


@pytest.mark.engine
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_ray_of_our_own_listens_on_loopback_only_and_wants_a_token() -> None:
    pytest.importorskip("ray")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", LOOPBACK], capture_output=True, text=True, timeout=200, env=clean)
    assert done.returncode == 0, done.stderr[-2000:]
    found, addresses, token, after, again = done.stdout.splitlines()
    assert found == "(1, 'CPU')" and token == "token 64" and after == "False False"
    assert again == "(2, 'CPU') True", "a second one in the same process"
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(eval(addresses)) <= loopback and addresses != "[]"


def test_an_address_beside_a_ray_that_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    running = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 4.0})
    monkeypatch.setitem(sys.modules, "ray", running)
    with running_ray(2, None) as found:
        assert found == (2, "CPU")
    with pytest.raises(GuardError, match=r"^Ray runs in this process already, so 10\.0\.0\.1:6379 is not asked"):
        running_ray(2, "10.0.0.1:6379").__enter__()


def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray")
    with pytest.raises(GuardError, match=r"Ray cannot be reached at 127\.0\.0\.1:9: "), running_ray(1, "127.0.0.1:9"):
        pass
