"""Look for what is not the script's: secrets, other processes, a place to write."""

import os
import sys
from pathlib import Path

SECRETS = (
    "/etc/shadow",
    "/root",
    "/home",
    "/proc/1/environ",
    "/proc/1/root",
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/sys/fs/cgroup",
    "/dev/sda",
    "/dev/mem",
    "/var/run/docker.sock",
    "/var/lib/redis",
)
ELSEWHERE = ("/", "/usr", "/etc", "/dev", "/proc", "/sys", "/var", "/opt")


def look(path: str) -> object:
    """Give what can be seen there, but for the way to the interpreter, which every script needs."""
    if not os.path.isdir(path):
        return Path(path).read_bytes()[:40]
    names = os.listdir(path)
    return [name for name in names if not sys.base_prefix.startswith(f"{path}/{name}")]


found = []
for path in SECRETS:
    try:
        seen = look(path)
    except OSError:
        continue
    if seen:
        found.append(f"read {path}: {seen!r}")
for folder in ELSEWHERE:
    try:
        Path(folder, "sandboxed-was-here").write_text("x", encoding="utf-8")
    except OSError:
        continue
    found.append(f"wrote into {folder}")
mine = {1, os.getpid(), os.getppid()}
if os.path.isdir("/proc"):
    others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - mine
    found += [f"saw process {pid}" for pid in sorted(others)]

print("blocked" if not found else f"OPEN: {len(found)} ways out")
for line in found:
    print(line)
