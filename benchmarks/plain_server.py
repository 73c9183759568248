"""What `sandboxed serve` is measured beside: a server that starts `python3 MAIN` without any sandbox.

Usage: plain_server.py SOCKET MAIN. Each connection has a process of its own, with the connection for
its input and output.
"""

import os
import socket
import subprocess
import sys
import threading


def serve(connection: socket.socket, main: str) -> None:
    """Run the program for one connection, and say that it ended, as ours does."""
    with connection:
        command = [sys.executable, "-I", "-S", main]
        subprocess.run(command, stdin=connection, stdout=connection, check=False)
        connection.send(b"\0")


def main() -> None:
    """Serve until terminated."""
    path, program = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.write(2, b"serving\n")
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=serve, args=(connection, program), daemon=True).start()


if __name__ == "__main__":
    main()
