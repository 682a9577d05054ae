"""What a process says of its own start, readiness and memory."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from moderation.observability import probes
from moderation.observability.process import Memory, memory
from tests.support.operations_port import Port

MIB = 1 << 20
V1 = 9223372036854771712  # what cgroup v1 writes for no limit


def a_machine(root: Path, cgroup: str, groups: dict[str, dict[str, object]]) -> Path:
    """A machine with 1,024 MiB, a process with 50 MiB, its line in /proc and these groups."""
    files = {
        "proc/meminfo": "MemTotal:        1048576 kB\nMemFree: 1 kB\nHugePages_Total: 0\n",
        "proc/self/statm": f"99999 {50 * MIB // 4096} 1 1 0 1 0\n",
        "proc/self/cgroup": cgroup,
    } | {f"sys/fs/cgroup/{group}/{name}": f"{value}\n" for group, own in groups.items() for name, value in own.items()}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def v2(limit: object, used: int) -> dict[str, object]:
    """A group with 7 MiB of page cache."""
    stat = f"anon 1\ninactive_file {4 * MIB}\nactive_file {3 * MIB}"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def v1(limit: int, used: int) -> dict[str, object]:
    """The same; its own fields count the group without those below it."""
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {4 * MIB}\ntotal_active_file {3 * MIB}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


CASES = {
    "v2, in a container": ("0::/\n", {"": v2(512 * MIB, 107 * MIB)}, (100, 512)),
    "v2, on the machine": ("0::/a/b\n", {"a": v2("max", 900 * MIB), "a/b": v2(512 * MIB, 107 * MIB)}, (100, 512)),
    "v2, of the pod": ("0::/a/b\n", {"a": v2(256 * MIB, 207 * MIB), "a/b": v2(512 * MIB, 107 * MIB)}, (200, 256)),
    "v2, a path of elsewhere": ("0::/docker/1\n", {"": v2(512 * MIB, 107 * MIB)}, (100, 512)),
    "v2, no limit": ("0::/a\n", {"a": v2("max", 107 * MIB)}, (50, 1024)),
    "v1": ("3:cpu:/a\n4:memory:/a\n0::/\n", {"memory/a": v1(512 * MIB, 107 * MIB)}, (100, 512)),
    "v1, in a container": ("4:hugetlb,memory:/docker/1\n", {"memory": v1(512 * MIB, 107 * MIB)}, (100, 512)),
    "v1, no limit": ("4:memory:/a\n", {"memory/a": v1(V1, 107 * MIB), "memory": v1(V1, 1)}, (50, 1024)),
    "no groups": ("", {}, (50, 1024)),
    "page cache beyond the use": ("0::/\n", {"": v2(512 * MIB, MIB)}, (0, 512)),
}


@pytest.mark.parametrize("case", CASES)
def test_memory_is_that_of_the_nearest_limit(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda _: 4096)
    cgroup, groups, (used, limit) = CASES[case]
    assert memory(a_machine(tmp_path, cgroup, groups)) == Memory(used * MIB, limit * MIB)


@pytest.mark.parametrize("broken", ["proc/meminfo", "proc/self/cgroup", "sys/fs/cgroup//memory.stat"])
@pytest.mark.parametrize("content", ["", "words", None])
def test_memory_that_cannot_be_read_is_unknown_and_no_error(tmp_path: Path, broken: str, content: str | None) -> None:
    root = a_machine(tmp_path, "0::/\n", {"": v2(512 * MIB, 107 * MIB)})
    (root / broken).unlink()
    if content is not None:
        (root / broken).write_text(content)
    if broken.endswith("stat") and content is not None:
        assert memory(root).used == 107 * MIB  # without what it does not say
    elif not (broken.endswith("cgroup") and content == ""):
        assert math.isnan(memory(root).used)
        assert math.isnan(memory(root).limit)


async def test_a_role_shows_them_for_as_long_as_it_runs() -> None:
    port = Port()
    begun = time.time()
    async with probes.opened(port.settings, "worker") as liveness:
        assert await port.value("moderation_ready", role="worker") == 0
        assert begun <= await port.value("moderation_start_timestamp_seconds", role="worker") <= time.time()
        used, limit = await port.value("moderation_memory_bytes"), await port.value("moderation_memory_limit_bytes")
        assert 0 < used < limit
        liveness.ready = True
        assert await port.value("moderation_ready", role="worker") == 1
    async with probes.opened(port.settings, "api"):
        _, text = await port.get("/metrics")
        assert 'moderation_ready{role="api"} 0.0' in text
        assert 'moderation_ready{role="worker"}' not in text
