"""Ten thousand connections to one `sandboxed serve`, and every answer must be the right client's.

Run as root: `python benchmarks/soak_serve.py`. Some clients leave early, some send too much. The
memory, descriptors and processes of the server are printed as it goes, and must stay what they were.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MAIN = "import sys\nsys.stdout.write(sys.stdin.read().upper())\n"
START_DEADLINE = 60.0  # seconds
#: What the allocator may keep for itself between the first tenth and the end.
SLACK = 4 << 20
#: What jails in the making may have open between two looks.
DESCRIPTORS_UNDER_WAY = 50


def talk(path: str, number: int) -> bool:
    """Be the client of that number; give whether the answer was its own."""
    content = f"client {number} ".encode() * random.choice((1, 10, 1000))  # noqa: S311  # any will do
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.settimeout(60)
        kind = number % 10
        if kind == 1:
            client.sendall(content)
            return True  # gone, with everything unread
        try:
            client.sendall(content + b"\0" + (b"more" * 100_000 if kind == 2 else b""))  # noqa: PLR2004
        except (BrokenPipeError, ConnectionResetError):
            kind = 2  # it had heard enough
        pieces = []
        while piece := client.recv(1 << 16):
            pieces.append(piece)
        return b"".join(pieces) == content.upper() + b"\0"


def state(pid: int) -> tuple[int, int, int]:
    """Give the resident bytes, the open descriptors and the child processes of the server."""
    resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    children = sum(
        len(path.read_text(encoding="ascii").split())
        for path in Path(f"/proc/{pid}/task").glob("*/children")
    )
    return resident * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")), children


def main() -> None:
    """Soak it, and exit with 1 where it was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=20, help="at a time [20]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, program = f"{folder}/socket", Path(folder, "main.py")
        program.write_text(MAIN, encoding="utf-8")
        command = Path(sys.executable).with_name("sandboxed")
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen([command, "serve", "--socket", path, program], stderr=log)
        began = time.monotonic()
        while b'"serving"' not in Path(folder, "log").read_bytes():
            if server.poll() is not None or time.monotonic() > began + START_DEADLINE:
                sys.exit("the server did not start")
            time.sleep(0.05)
        wrong, states = 0, []
        tenth = max(given.connections // 10, 1)
        with ThreadPoolExecutor(given.clients) as pool:
            for first in range(0, given.connections, tenth):
                numbers = range(first, min(first + tenth, given.connections))
                wrong += sum(not right for right in pool.map(lambda n: talk(path, n), numbers))
                time.sleep(1)  # what is under way comes to its end
                states.append(state(server.pid))
                memory, descriptors, processes = states[-1]
                print(
                    f"{numbers.stop:6} connections, {time.monotonic() - began:5.0f} s: {wrong} wrong, "
                    f"{memory / (1 << 20):.1f} MiB, {descriptors} descriptors, {processes} processes",
                    flush=True,
                )
        server.send_signal(signal.SIGTERM)
        code = server.wait()
        endings: dict[str, int] = {}
        for line in Path(folder, "log").read_text(encoding="utf-8").splitlines():
            status = json.loads(line).get("status", "-")
            endings[status] = endings.get(status, 0) + 1
        print(f"exit code {code}; connections by how they ended: {endings}")
    memory, descriptors, processes = states[-1]
    flat = (
        memory <= states[0][0] + SLACK
        and descriptors <= states[0][1] + DESCRIPTORS_UNDER_WAY
        and processes == states[0][2]
    )
    sys.exit(0 if not wrong and flat and code == 0 else 1)


if __name__ == "__main__":
    main()
