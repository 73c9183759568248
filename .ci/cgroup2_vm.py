#!/usr/bin/env python3
"""Run a command as root in a throw-away virtual machine that has cgroup v2 alone; exit with its code.

    .ci/cgroup2_vm.py [--timeout SECONDS] [--systemd] COMMAND [ARGUMENT...]

A host whose controllers are in cgroup v1 can't show that jails work on v2; this can, anywhere. The
guest is Debian's kernel in QEMU. Its root is this host's, read-only over 9p below a tmpfs, so the
same checkout and the same virtual environment are there, at the same paths; what is written vanishes
with it. It has a loopback and no other network. Everything in it takes 10 to 20 times as long, unless
$SANDBOXED_VM_ACCEL is "kvm" and the host has that.

Needs Debian's qemu-system-x86 and zstd. The kernel and busybox-static are downloaded, not installed,
into $SANDBOXED_VM_CACHE (else /var/cache/sandboxed-vm), once. Exit code 124: the time was over; 125:
the machine ended before the command did.
"""

import argparse
import fcntl
import glob
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KERNEL = "linux-image-6.12-amd64"  # a Debian meta package; it names the current build
MODULES = ("netfs", "9pnet", "9p", "9pnet_virtio", "overlay")  # in the order to load them
NINE_P = "trans=virtio,version=9p2000.L,msize=512000"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

#: What QEMU emulates. One processor takes half the time of two, which have to wait for each other at
#: each change of a page table, and can't have their atomic instructions made plain ones. Of all that
#: it can do, without what costs the kernel time and shows no test anything: strings copied byte by byte
#: (erms), a fifth level of page tables (la57), two instructions around each copy (smap), and wide
#: registers to save and restore.
PROCESSOR = "max,-erms,-la57,-smap,-avx2,-avx,-xsave"

#: What the kernel does without, for the same reason: copies byte by byte (rep_good), memory cleared
#: as it is taken, waits for grace periods, and every security module but the one that jails use.
WITHOUT = (
    "mitigations=off nokaslr audit=0 init_on_alloc=0 hardened_usercopy=off clearcpuid=rep_good "
    "rcupdate.rcu_expedited=1 lsm=landlock"
)

#: The first process: put the root together, then become the second half, below, inside it.
INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /low /rw /new
$b mount -t proc proc /proc; $b mount -t devtmpfs dev /dev; $b mount -t sysfs sys /sys
for m in {" ".join(MODULES)}; do [ -f /m/$m.ko ] && $b insmod /m/$m.ko; done
$b mount -t 9p -o ro,cache=loose,{NINE_P} root /low || $b poweroff -f
$b mount -t tmpfs -o size=75%,mode=755 rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/low,upperdir=/rw/upper,workdir=/rw/work root /new
for m in proc sys dev; do $b mount --move /$m /new/$m; done
$b mkdir -p /new/dev/shm /new/dev/pts
$b mount -t tmpfs -o mode=1777 shm /new/dev/shm
$b mount -t devpts -o ptmxmode=666 pts /new/dev/pts
$b mount -t tmpfs run /new/run
$b ln -sf /proc/self/fd /new/dev/fd
$b mkdir -p /new/run/vm /new/sys/fs/cgroup
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b mount -t 9p -o rw,cache=none,{NINE_P} control /new/run/vm
exec $b switch_root /new /bin/bash /run/vm/init
"""

SECOND_HALF = """exec < /dev/null > /dev/ttyS0 2>&1
stty -F /dev/ttyS0 -opost
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root {environment}
# Not the host's /tmp, whose files come and go below ours.
mkdir -m 1777 /run/tmp
export TMPDIR=/run/tmp
# As init systems have it; the kernel by itself gives 4096.
ulimit -n 524288
ip link set lo up 2>/dev/null
cd {directory}
{command}
echo $? > /run/vm/exit-code
sync
echo 0 > /proc/sys/kernel/printk
/run/vm/busybox poweroff -f
"""


#: The same with systemd as the first process, and the command as its one service.
SYSTEMD_HALF = """exec < /dev/null > /dev/ttyS0 2>&1
stty -F /dev/ttyS0 -opost
ip link set lo up 2>/dev/null
mkdir -p /run/systemd/system
cat > /run/vm/run <<'END'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root {environment}
cd {directory}
{command}
echo $? > /run/vm/exit-code
sync
echo 0 > /proc/sys/kernel/printk
/run/vm/busybox poweroff -f
END
chmod +x /run/vm/run
cat > /run/systemd/system/command.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
Type=simple
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
TimeoutStartSec=infinity
ExecStart=/run/vm/run
END
exec /lib/systemd/systemd --unit=command.service --show-status=no
"""


def archive(entries: list[tuple[str, int, bytes]]) -> bytes:
    """Write an initramfs: the cpio format "newc", of (path, mode, content)."""
    written = b""
    for number, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        written += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        written += b"\0" * (-len(written) % 4) + content
        written += b"\0" * (-len(written) % 4)
    return written


def run(*command: str, cwd: Path, **options: object) -> bytes:
    """Run a command for its output; what goes wrong ends us with its message."""
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, **options).stdout


def prepare(cache: Path) -> None:
    """Put the kernel, busybox and the initramfs into `cache`."""
    run("apt-get", "update", "-qq", cwd=cache)
    depends = run("apt-cache", "depends", KERNEL, cwd=cache).decode()
    build = re.search(r"Depends: (linux-image-\S+)", depends)
    if build is None:
        sys.exit(f"cgroup2_vm: no package {KERNEL} is known here")
    run("apt-get", "download", "-qq", build[1], "busybox-static", cwd=cache)
    for package in cache.glob("*.deb"):
        run("dpkg", "-x", str(package), "x", cwd=cache)
        package.unlink()
    # The bare kernel out of the compressed one: without KVM, unpacking it at each start takes longest.
    image = Path(glob.glob(f"{cache}/x/boot/vmlinuz-*")[0]).read_bytes()
    packed = image[image.find(ZSTD_MAGIC, 0x4000) :]
    # zstd complains of what follows the packed part, after unpacking it.
    unpacked = subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=False).stdout
    (cache / "vmlinux").write_bytes(unpacked)
    busybox = (cache / "x/bin/busybox").read_bytes()
    entries = [(name, 0o40755, b"") for name in ("bin", "m", "dev", "proc", "sys", "low", "rw", "new")]
    entries += [("bin/busybox", 0o100755, busybox), ("init", 0o100755, INIT.encode())]
    for module in MODULES:
        for path in glob.glob(f"{cache}/x/lib/modules/*/kernel/**/{module}.ko*", recursive=True):
            content = Path(path).read_bytes()
            if path.endswith("xz"):
                content = lzma.decompress(content)
            entries.append((f"m/{module}.ko", 0o100644, content))
    # The last thing made, so that what was interrupted is done again.
    (cache / "initramfs.new").write_bytes(archive(entries))
    (cache / "initramfs.new").rename(cache / "initramfs")


def machine(cache: Path, control: Path) -> list[str]:
    """Give QEMU's command line."""
    # Not KVM just because its device is there: in a machine that is virtual itself it may only hang.
    kvm = os.environ.get("SANDBOXED_VM_ACCEL") == "kvm"
    append = (
        "console=ttyS0 quiet loglevel=3 panic=-1 cgroup_no_v1=all tsc=reliable no_timer_check "
        f"random.trust_cpu=on rdinit=/init {WITHOUT}"
    )
    command = [
        "qemu-system-x86_64", "-M", "q35,usb=off,vmport=off", "-m", "2048", "-smp", "1",
        "-accel", "kvm" if kvm else "tcg,thread=single", "-cpu", "host" if kvm else PROCESSOR,
        "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", f"{cache}/vmlinux", "-initrd", f"{cache}/initramfs", "-append", append,
    ]  # fmt: skip
    for tag, path, options in (("root", "/", ",readonly=on"), ("control", control, "")):
        share = f"local,id={tag},path={path},security_model=none,multidevs=remap{options}"
        command += ["-fsdev", share, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


def main() -> int:
    """Do what the command line asks for; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for all of it")
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE, set for the command")
    parser.add_argument("--systemd", action="store_true", help="with systemd as the first process")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    cache = Path(os.environ.get("SANDBOXED_VM_CACHE", "/var/cache/sandboxed-vm"))
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:  # machines that start side by side share it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "initramfs").exists():
            prepare(cache)
    control = Path(tempfile.mkdtemp(prefix="cgroup2-vm-"))
    try:
        shutil.copy(cache / "x/bin/busybox", control)
        (control / "init").write_text(
            (SYSTEMD_HALF if asked.systemd else SECOND_HALF).format(
                environment=shlex.join(asked.env),
                directory=shlex.quote(os.getcwd()),
                command=shlex.join(asked.command),
            )
        )
        qemu = machine(cache, control)
        subprocess.run(qemu, stdin=subprocess.DEVNULL, timeout=asked.timeout, check=False)
        code = control / "exit-code"
        return int(code.read_text()) if code.exists() else 125
    except subprocess.TimeoutExpired:
        return 124
    finally:
        shutil.rmtree(control)


if __name__ == "__main__":
    sys.exit(main())
