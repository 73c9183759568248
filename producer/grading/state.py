"""What a grading has done so far, in a file, so that one that was killed goes on where it was.

JSON lines: the first tells what is graded, each other one a test that has its verdict. A line is
written when the test is done; one that was cut off by a kill does not count.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from producer import message
from producer.grading.model import TestReport, Verdict

_BYTES = ("input", "expected", "actual")
_VERSION = 1
_ID = "id"


class StateError(ValueError):
    """The file is no state of this grading."""


class State:
    """The tests that are done, by submission (its digest) and name; close it."""

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        """Read the file, or begin it; `StateError` where it is of another grading than `key`."""
        self._path = Path(path)
        self._done: dict[tuple[str, str], TestReport] = {}
        self._notes: dict[str, Any] = {}
        header = {"sandboxed grade": _VERSION, "key": key}
        good = 0
        if self._path.exists() and self._path.stat().st_size:
            good = self._read(header)
        self._file = self._path.open("ab")
        self._file.truncate(good)
        if not good:
            self._write(header)
        if self.note(_ID) is None:
            self.renew()

    def _read(self, header: dict[str, Any]) -> int:
        """Read all whole lines, and give where the last of them ends."""
        good = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    if number == 0:
                        if record != header:
                            raise StateError(
                                f"{self._path}: the state of another grading: another problem, other "
                                "limits or options; name another file, or remove it"
                            )
                    elif "note" in record:
                        self._notes[record["note"]] = record["value"]
                    else:
                        digest = record.pop("of")
                        self._done[digest, record["name"]] = _test(record)
                except StateError:
                    raise
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise StateError(
                        f"{self._path}: line {number + 1} is no state of a grading"
                    ) from None
                good += len(line)
        return good

    @property
    def id(self) -> str:
        """A UUID by which what runs for this grading is known, wherever it runs."""
        found: str = self._notes[_ID]
        return found

    def renew(self) -> None:
        """Take another id: what runs, or waits to, under the old one is given up."""
        self.take_note(_ID, message.new_id())

    def done(self, digest: str) -> dict[str, TestReport]:
        """Give the tests of a submission that are done."""
        return {name: report for (of, name), report in self._done.items() if of == digest}

    def add(self, digest: str, report: TestReport) -> None:
        """Note a test that is done."""
        self._write({"of": digest, **_record(report)})

    def note(self, name: str) -> Any:
        """Give what was noted under a name, or None."""
        return self._notes.get(name)

    def take_note(self, name: str, value: Any) -> None:
        """Note something of the whole."""
        self._notes[name] = value
        self._write({"note": name, "value": value})

    def _write(self, record: dict[str, Any]) -> None:
        # One write for a line, which the kernel keeps even if we are killed right after it.
        self._file.write(json.dumps(record).encode("ascii") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key_of(parts: Iterable[bytes]) -> str:
    """Make the key of a grading from all that its verdicts hang on."""
    told = hashlib.sha256()
    for part in parts:
        told.update(len(part).to_bytes(8, "big"))
        told.update(part)
    return told.hexdigest()


def _record(report: TestReport) -> dict[str, Any]:
    record = {name: getattr(report, name) for name in TestReport.__slots__}
    for name in _BYTES:
        if record[name] is not None:
            record[name] = base64.b64encode(record[name]).decode("ascii")
    return record


def _test(record: dict[str, Any]) -> TestReport:
    for name in _BYTES:
        if record[name] is not None:
            record[name] = base64.b64decode(record[name])
    record["verdict"] = Verdict(record["verdict"])
    return TestReport(**record)
