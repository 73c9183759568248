"""Call home. There is no network in the jail: no address, no name, not even a local service."""

import socket


def attempt(family: socket.AddressFamily, kind: socket.SocketKind, address: object) -> str:
    """Try to reach an address; give the error, or that it was reached."""
    try:
        with socket.socket(family, kind) as line:
            line.settimeout(1)
            line.connect(address)
    except OSError as error:
        return error.strerror or str(error)
    return "REACHED"


def resolve(name: str) -> str:
    """Look a name up; give the error, or what was found."""
    try:
        return f"REACHED {socket.gethostbyname(name)}"
    except OSError as error:
        return error.strerror or str(error)


tried = {
    "1.1.1.1:53": attempt(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)),
    "127.0.0.1:6379": attempt(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 6379)),
    "[::1]:6379": attempt(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 6379)),
    "example.org": resolve("example.org"),
}
print("REACHED" if any(told.startswith("REACHED") for told in tried.values()) else "blocked")
for target, told in tried.items():
    print(f"{target:16} {told}")
