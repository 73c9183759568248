"""Every system call number, made for real in a jail: the kernel agrees with the golden table.

Each number is called with zeros, in a process of its own, so that no call changes what the next one
finds. Numbers that would only block or end the process with zeros are left to the filter's own tests.
"""

import platform
from pathlib import Path

import pytest

_SOURCE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pause, exits, sigreturn, suspends = 34, (60, 231), 15, (23, 130, 219, 270, 271)
probes = (335, 336)  # the kernel's own trampolines (uprobes), which new kernels keep from all filters
keys = (329, 330, 331)  # protection keys, which some processors have
for number in range(601):
    if number in (pause, *exits, sigreturn, *suspends, *probes, *keys):
        continue
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
        word = errno.errorcode.get(ctypes.get_errno()) if result == -1 else "done"
        libc.write(w, word.encode(), len(word))
        os._exit(0)
    os.close(w)
    said = os.read(r, 100).decode()
    os.close(r)
    os.waitpid(pid, 0)
    print(number, said or "ended")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the table is of x86-64's numbers")
def test_every_call_answers_as_the_golden_table_says(run):
    """0 to 600; what is absent or forbidden is so whatever the kernel's version."""
    golden = Path(__file__).with_name("syscalls.x86_64.txt").read_text()

    result = run(_SOURCE, processes=2, wall_time=60)

    assert result.ok, result.stderr.decode()
    assert result.text.splitlines() == golden.splitlines()
