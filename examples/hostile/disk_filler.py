"""Write until the disk is full. It is a small disk of the script's own."""

import errno

written = 0
try:
    with open("filler", "wb", buffering=0) as filler:
        while True:
            written += filler.write(b"x" * 65536)
except OSError as error:
    print(f"stopped after {written / (1 << 20):.1f} MiB: {errno.errorcode[error.errno]}")
