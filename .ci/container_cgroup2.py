#!/usr/bin/env python3
"""Run the worker's container on cgroup v2, as docker-compose.yml describes it, by runc alone.

    .ci/docker_host.py .venv/bin/python .ci/container_cgroup2.py

Builds the image, and goes on in a machine that has cgroup v2 alone. No dockerd runs there: runc gets
what dockerd would give it. Then: jobs end as they should, within limits that the kernel keeps; without
a capability the worker refuses to start and names it. Ends with 0 where all of it holds.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
URL = "redis://127.0.0.1:6379/0"
CAPABILITIES = ("SYS_ADMIN", "SYS_PTRACE", "SETUID", "SETGID", "SETPCAP", "CHOWN", "KILL")
#: As dockerd mounts them in a container with a cgroup namespace, which is its default on cgroup v2.
MOUNTS: tuple[tuple[str, str, list[str]], ...] = (
    ("/proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", ["ro", "nosuid", "noexec", "nodev"]),
    ("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777"]),  # noqa: S108  # the container's
    ("/tmp", "tmpfs", ["noexec", "nosuid", "nodev"]),  # noqa: S108  # likewise
)
MASKED = "acpi asound kcore keys latency_stats timer_list timer_stats sched_debug scsi".split()
READ_ONLY = "bus fs irq sys sysrq-trigger".split()


def configuration(rootfs: Path, without: str) -> dict[str, Any]:
    """Give the container as runc wants it described, `without` one of the capabilities."""
    capabilities = [f"CAP_{name}" for name in CAPABILITIES if name != without]
    rules = json.loads((HERE / "deploy/seccomp.json").read_text())
    for rule in rules["syscalls"]:
        del rule["comment"]
    return {
        "ociVersion": "1.0.2",
        "hostname": "worker",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/usr/local/bin/entrypoint", "sandboxed-worker", "-c", "1"],
            "env": [
                "PATH=/opt/sandboxed/bin:/usr/local/bin:/usr/bin:/bin",
                "PYTHONDONTWRITEBYTECODE=1",
                f"SANDBOXED_REDIS_URL={URL}",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": str(rootfs), "readonly": True},
        "mounts": [
            *(
                {"destination": place, "type": kind, "source": kind, "options": options}
                for place, kind, options in MOUNTS
            ),
            {"destination": "/run/sandboxed", "source": "/run/sandboxed", "options": ["rbind", "rw"]},
        ],
        "linux": {
            "cgroupsPath": "/container",
            # The network is the machine's, which has none but its loopback.
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "seccomp": rules,
            "maskedPaths": [*(f"/proc/{name}" for name in MASKED), "/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY],
        },
    }


def start(rootfs: Path, without: str = "") -> "subprocess.Popen[str]":
    """Start the worker's container."""
    bundle = Path(tempfile.mkdtemp())
    (bundle / "config.json").write_text(json.dumps(configuration(rootfs, without)))
    command = ["runc", "run", "--bundle", str(bundle), "worker"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def in_the_machine(rootfs: Path) -> None:
    """Do all of it, where cgroup v2 is."""
    sys.path.insert(0, str(HERE))
    from producer import Client, Job, Limits  # noqa: PLC0415  # of the checkout

    os.makedirs("/run/sandboxed")
    redis = subprocess.Popen(["redis-server", "--save", ""], stdout=subprocess.DEVNULL)
    refused = start(rootfs, without="SYS_PTRACE")
    _, told = refused.communicate(timeout=300)
    assert (refused.returncode, "SYS_PTRACE" in told) == (125, True), told
    print(f"{time.monotonic():.0f} s: {told.strip()}", flush=True)

    worker = start(rootfs)
    long = Limits(wall_time=60, processes=4)
    with Client(URL, timeout=400) as client:
        assert client.run(Job("print(6 * 7)", limits=long)).text == "42\n"
        print(f"{time.monotonic():.0f} s: a job passed", flush=True)
        for source, limits, status in (
            ("b'x' * 10**9", Limits(wall_time=60), "memory_limit"),
            ("while True: pass", Limits(wall_time=5), "time_limit"),
            ("while True: print('x' * 1000)", Limits(wall_time=60, output=5000), "output_limit"),
            ("import os; os.fork()", Limits(wall_time=60), "nonzero_exit"),
            ("import os; os.fork()", long, "ok"),
        ):
            assert client.run(Job(source, limits=limits)).status == status, source
            print(f"{time.monotonic():.0f} s: {status}", flush=True)
    assert list(Path("/sys/fs/cgroup/container").glob("sandboxed-*"))
    subprocess.run(["runc", "kill", "worker", "TERM"], check=True)
    assert worker.wait(300) == 0
    redis.terminate()
    print("container_cgroup2: all of it holds", flush=True)


def main() -> int:
    """Build the image, and run the rest in a machine."""
    if sys.argv[1:]:
        in_the_machine(Path(sys.argv[1]))
        return 0
    build = ["docker", "build", "-q", "-f", "worker/Dockerfile", "-t", "sandboxed"]
    authority = f"CA={os.environ.get('SANDBOXED_CA', '')}"
    subprocess.run([*build, "--build-arg", authority, "."], cwd=HERE, check=True)
    made = subprocess.run(["docker", "create", "sandboxed"], check=True, stdout=subprocess.PIPE)
    # Not in /tmp, of which the machine has its own.
    rootfs = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sandboxed-rootfs-"))
    try:
        with subprocess.Popen(
            ["docker", "export", made.stdout.decode().strip()], stdout=subprocess.PIPE
        ) as export:
            subprocess.run(["tar", "-C", str(rootfs), "-x"], stdin=export.stdout, check=True)
        machine = [sys.executable, str(HERE / ".ci/cgroup2_vm.py"), "--timeout", "900"]
        return subprocess.run([*machine, sys.executable, __file__, str(rootfs)], check=False).returncode
    finally:
        shutil.rmtree(rootfs)


if __name__ == "__main__":
    sys.exit(main())
