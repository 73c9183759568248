"""Which cgroup hierarchy is used, for the layouts that hosts really have.

The files below are those of real hosts, laid out in a directory; what the kernel does with them is
tested with real cgroups in `tests/root`.
"""

from pathlib import Path

import pytest

from sandbox_core import cgroups
from sandbox_core.errors import SandboxError


def host(root: Path, own: list[str], mounts: list[tuple[str, str, str, str]]) -> Path:
    """Lay out /proc/self of a process in cgroups `own`, with `mounts` (root, place, type, options)."""
    (root / "cgroup").write_text("".join(f"{line}\n" for line in own))
    lines = []
    for number, (shown, place, fstype, options) in enumerate(mounts):
        (root / place).mkdir(parents=True, exist_ok=True)
        lines.append(f"{number} 1 0:{number} {shown} {root / place} rw - {fstype} {fstype} {options}\n")
    (root / "mountinfo").write_text("".join(lines))
    return root


def test_v2_alone(tmp_path):
    """The unified tree with both controllers is used, below our own cgroup."""
    proc = host(tmp_path, ["0::/system.slice/x.service"], [("/", "cg", "cgroup2", "rw")])
    ours = tmp_path / "cg/system.slice/x.service"
    ours.mkdir(parents=True)
    (ours / "cgroup.controllers").write_text("cpu memory pids\n")
    (ours / "cgroup.subtree_control").write_text("memory pids\n")

    assert cgroups.find(proc).description == f"v2, below {ours}"


def test_v1_beside_a_v2_tree_without_controllers(tmp_path):
    """A mounted v2 tree does not mean that it holds anything."""
    proc = host(
        tmp_path,
        ["4:memory:/a", "3:pids:/", "0::/"],
        [
            ("/", "cg/memory", "cgroup", "rw,memory"),
            ("/", "cg/pids", "cgroup", "rw,pids"),
            ("/", "cg/unified", "cgroup2", "rw"),
        ],
    )
    (tmp_path / "cg/memory/a").mkdir()
    (tmp_path / "cg/memory/a/memory.memsw.limit_in_bytes").write_text("0")
    (tmp_path / "cg/unified/cgroup.controllers").write_text("")

    description = cgroups.find(proc).description

    assert description == f"v1 with the v2 tree, below {tmp_path}/cg/memory/a and {tmp_path}/cg/pids"


def test_v1_in_a_container_that_sees_its_own_cgroup_as_the_root(tmp_path):
    """The path in /proc/self/cgroup is the host's; the mount shows less."""
    proc = host(
        tmp_path,
        ["4:memory:/docker/abc", "3:pids:/docker/abc", "2:cpu,cpuacct:/docker/abc"],
        [
            ("/docker/abc", "cg/memory", "cgroup", "rw,memory"),
            ("/docker/abc", "cg/pids", "cgroup", "rw,pids"),
            ("/docker/abc", "cg/cpu", "cgroup", "rw,cpu,cpuacct"),
        ],
    )
    (tmp_path / "cg/memory/memory.memsw.limit_in_bytes").write_text("0")

    assert cgroups.find(proc).description == f"v1, below {tmp_path}/cg/memory and {tmp_path}/cg/pids"


@pytest.mark.parametrize("present", ["memory", "pids"])
def test_a_missing_controller_is_named(tmp_path, present):
    """The text says which, and the mend."""
    proc = host(tmp_path, [f"4:{present}:/"], [("/", "cg", "cgroup", f"rw,{present}")])
    missing = {"memory": "pids", "pids": "memory"}[present]

    with pytest.raises(SandboxError, match=f"controller {missing}; mount cgroup2"):
        cgroups.find(proc)
