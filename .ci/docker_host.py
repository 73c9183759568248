#!/usr/bin/env python3
"""A Docker of our own for the tests in containers: run a command with it, and leave nothing of it.

    .ci/docker_host.py COMMAND [ARGUMENT...]

No image is pulled: python:3.12-slim and redis:7 are stand-ins, one small Debian with its own Python and
Redis, kept in $SANDBOXED_IMAGE_CACHE (else /var/cache/sandboxed-images). dockerd has its own socket and
folders; the command gets DOCKER_HOST. Exit code: the command's.

Needs Debian's docker.io, docker-compose, debootstrap and iptables, and root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = "ca-certificates,python3,python3-venv,redis-server"
#: Of a network that is ours alone while it runs.
BRIDGE, NETWORK = "sandboxed-ci", "172.31.77.1/24"


def stand_in(cache: Path) -> Path:
    """Give the archive of the small Debian, made on first need."""
    archive = cache / "stand-in.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        root = Path(folder, "root")
        include = f"--include={PACKAGES}"
        subprocess.run(
            ["debootstrap", "--variant=minbase", include, "bookworm", str(root)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (root / "usr/bin/python").symlink_to("python3")
        shutil.rmtree(root / "var/cache/apt")
        made = Path(folder, "tar")
        subprocess.run(["tar", "-C", str(root), "-cf", str(made), "."], check=True)
        made.rename(archive)
    return archive


def main() -> int:
    """Start dockerd, run the command, stop dockerd; give the command's exit code."""
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    archive = stand_in(Path(os.environ.get("SANDBOXED_IMAGE_CACHE", "/var/cache/sandboxed-images")))
    folder = Path(tempfile.mkdtemp(prefix="sandboxed-docker-"))
    env = {**os.environ, "DOCKER_HOST": f"unix://{folder}/socket"}
    # Certificates that this host's operator has added are for the images' builds, too.
    added = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    env["SANDBOXED_CA"] = "".join(path.read_text() for path in added)
    subprocess.run(["ip", "link", "add", "name", BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", NETWORK, "dev", BRIDGE], check=True)
    before = _rules()
    parents = [path for path in _parents() if not path.exists()]
    places = ("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/pid")
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "-H", env["DOCKER_HOST"], "--bridge", BRIDGE, *places],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["docker", "version"], env=env, capture_output=True, check=False
        ).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"docker_host: dockerd did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        for name in ("python:3.12-slim", "redis:7"):
            subprocess.run(
                ["docker", "import", str(archive), name], env=env, check=True, stdout=subprocess.DEVNULL
            )
        return subprocess.run(sys.argv[1:], env=env, check=False).returncode
    finally:
        daemon.terminate()
        daemon.wait(60)
        _restore(before)
        subprocess.run(["ip", "link", "del", BRIDGE], check=True)
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            if mount.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", mount.split()[1]], check=True)
        for path in parents:
            try:
                path.rmdir()  # an empty cgroup, which containers were below
            except FileNotFoundError:
                continue  # none was
            except OSError as error:
                print(f"docker_host: left behind: {error}", file=sys.stderr)
        shutil.rmtree(folder)


def _parents() -> list[Path]:
    """Give where dockerd makes the cgroups of its containers."""
    hierarchies = (path.parent for path in Path("/sys/fs/cgroup").glob("*/cgroup.procs"))
    return [path / "docker" for path in (Path("/sys/fs/cgroup"), *hierarchies)]


def _rules() -> bytes:
    return subprocess.run(["iptables-save"], check=True, stdout=subprocess.PIPE).stdout


def _restore(rules: bytes) -> None:
    """Put the packet filter back as it was; dockerd leaves its chains."""
    tables = [line for line in rules.split(b"\n") if line.startswith(b"*")]
    for table in (b"*nat", b"*filter"):
        if table not in tables:
            rules += table + b"\nCOMMIT\n"
    subprocess.run(["iptables-restore"], input=rules, check=True)


if __name__ == "__main__":
    sys.exit(main())
