"""One job seen from outside: order a jail, hand over the job, watch it, and see that nothing is left.

Everything here runs in the supervisor, as root on the host. What comes out of the jail is bytes; the
facts that decide how the job ended come from the kernel (`sandbox_core.verdict`).
"""

import errno
import fcntl
import json
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from typing import Any, Protocol

from sandbox_core import messages
from sandbox_core.cancel import Cancel
from sandbox_core.cgroups import Hierarchy
from sandbox_core.collect import collect
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import Job, Limits, Result, content_bytes
from sandbox_core.launcher import ANSWER_TIMEOUT, ZygoteGone, ZygoteProcess
from sandbox_core.runtimes import Runtime
from sandbox_core.streams import Capture, Feed, Relay
from sandbox_core.verdict import Facts, Kill, judge

#: Seconds that the kernel may take to end a jail after its init was killed.
_DEATH_TIMEOUT = 10.0

#: Seconds that the reader of relayed output has for the rest of it after a job was killed.
_GRACE_FOR_READERS = 1.0

#: Seconds after which a job is no short one. Until then the zygote makes no other jail, since it
#: would not reap the job meanwhile; unless a job that comes at once would have to wait for one.
_BUSY = 0.02

#: Seconds between two looks at counters that the kernel does not announce.
_GLANCE = 0.1

_PAGE = os.sysconf("SC_PAGE_SIZE")

#: poll(2) counts in an int of milliseconds, and a job may have no wall limit to speak of.
_LONGEST_POLL = 24 * 3600.0
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

#: Failures to place files or to start that the job itself is the cause of.
_JOBS_FAULT = {
    errno.ENOSPC: "files: they don't fit into limits.disk, or are too many",
    errno.ENAMETOOLONG: "files: a path is too long",
    errno.EFBIG: "files: one is larger than limits.disk",
    errno.E2BIG: "args, env: together they are larger than Linux lets a program start with",
}


class Jail:
    """A jail for one job; closing it leaves nothing of it.

    It is made in three strides, so that it can stand ready before its job is known: what the
    supervisor makes, with the object; what the zygote makes, to `order`; and `await_ready`.
    """

    def __init__(
        self,
        zygote: ZygoteProcess,
        hierarchy: Hierarchy,
        name: str,
        *,
        uid: int,
        limits: Limits,
        feed: bool,
        release: Callable[[], None],
    ) -> None:
        """Make the supervisor's part: the cgroup with its limits, the streams, the job socket.

        With `feed` its standard input is a pipe to be fed, else what `run` is given. `release` is
        called once nothing of the jail is left.
        """
        self.zygote = zygote
        self._limits = limits
        self._uid = uid
        self._stack = ExitStack()
        self._stack.callback(release)
        self._theirs = ExitStack()
        self._stack.callback(self._theirs.close)
        self._id: int | None = None
        self._init: int | None = None
        self._ready: bool | None = None
        self._ended: dict[str, Any] | None = None
        self.killed: Kill | None = None
        self.directory: int | None = None
        try:
            self._make(hierarchy, name, feed=feed)
        except BaseException:
            self.close()
            raise

    def _make(self, hierarchy: Hierarchy, name: str, *, feed: bool) -> None:
        self.cgroup = hierarchy.create(name)
        self._stack.callback(self.cgroup.remove)
        self.cgroup.limit(self._limits.memory, self._limits.processes)
        theirs = self._theirs
        stdin, self.stdin = self._input(theirs, feed=feed)
        stdout, self.stdout = self._output(theirs, self._uid)
        stderr, self.stderr = self._output(theirs, self._uid)
        self.socket, job_socket = socket.socketpair()
        self._stack.callback(self.socket.close)
        theirs.callback(job_socket.close)
        self.socket.settimeout(ANSWER_TIMEOUT)
        self._fds = [stdin, stdout, stderr, job_socket.fileno()]
        for path, flags in self.cgroup.entrances():
            self._fds.append(os.open(path, flags | os.O_CLOEXEC))
            theirs.callback(os.close, self._fds[-1])
        self._stack.callback(self._end)

    def order(self) -> None:
        """Have the zygote make the rest; it works on it while the caller does something else."""
        order = {
            "uid": self._uid,
            "gid": self._uid,
            "disk": self._limits.disk,
            # A single process can leave no orphans.
            "reap_orphans": self._limits.processes > 1,
            "born_in_cgroup": self.cgroup.born_in,
            "controllers": self.cgroup.controllers,
        }
        self._id = self.zygote.order(order, self._fds)
        self._theirs.close()

    def _receive(self) -> None:
        """Wait for the jail that was ordered: from here on it can be killed."""
        if self._init is None and self._id is not None:
            jail_id, self._id = self._id, None
            self._init = self.zygote.prepared(jail_id)
            self._id = jail_id  # only what is there can be ended

    def _own(self, fd: int, mode: str) -> FileIO:
        file = FileIO(fd, mode)
        self._stack.callback(file.close)
        return file

    def _input(self, theirs: ExitStack, *, feed: bool) -> tuple[int, FileIO]:
        """Make standard input: the job's end, and ours to write to."""
        if feed:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, read_end)
            return read_end, self._own(write_end, "w")
        memory = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        file = self._own(memory, "w")
        # Theirs is another open file: read-only, and with a position of its own.
        read_only = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        theirs.callback(os.close, read_only)
        return read_only, file

    def _output(self, theirs: ExitStack, uid: int) -> tuple[int, FileIO]:
        """Make an output stream: the job's end, and ours to read from."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, write_end)
        file = self._own(read_end, "r")
        # Or opening /dev/stdout would be refused to the job (proc_pid_fd(5)).
        os.fchown(write_end, uid, uid)
        return write_end, file

    def await_ready(self) -> bool:
        """Wait until every step is taken; False when the process ended without a word.

        Raises `SandboxError` with the step that failed.
        """
        if self._ready is None:
            self._receive()
            self._ready = self._hear_ready()
        return self._ready

    def _hear_ready(self) -> bool:
        try:
            line, fds = messages.receive(self.socket, 64 * 1024, 1)
        except ConnectionResetError:
            return False
        if fds:
            self.directory = fds[0]
            self._stack.callback(os.close, self.directory)
        if not line:
            return False
        answer = json.loads(line)
        if "failed" in answer:
            raise SandboxError(answer["failed"], answer["reason"])
        if not fds:
            raise SandboxError("receive the working directory", os.strerror(errno.EMFILE))
        return True

    def kill(self, reason: Kill) -> None:
        """Kill everything in the jail; the first reason is the one that counts."""
        if self.killed is None:
            self.killed = reason
            self._kill()

    def _kill(self) -> None:
        self.cgroup.kill()
        assert self._init is not None
        try:
            signal.pidfd_send_signal(self._init, signal.SIGKILL)
        except ProcessLookupError:
            return  # the zygote was quicker

    def exit_record(self, timeout: float = 0.0) -> dict[str, Any] | None:
        """Give how the job's process ended, once everything in the jail has; None before that."""
        if self._ended is None:
            assert self._id is not None
            self._ended = self.zygote.ended(self._id, timeout)
        return self._ended

    def await_end(self) -> None:
        """Wait until everything in the jail, which has been killed, has ended."""
        if self.exit_record(_DEATH_TIMEOUT) is None:
            raise SandboxError("end the jail", f"it did not end within {_DEATH_TIMEOUT:g} s")

    def facts(self, *, truncated: bool) -> tuple[Facts, float | None, int | None]:
        """Give what is known of the job that has ended, its CPU seconds and its peak memory."""
        assert self._ended is not None
        usage = self.cgroup.usage()
        facts = Facts(
            status=self._ended["status"],
            killed=self.killed,
            cpu_time=usage.cpu_time,
            output_truncated=truncated,
            oom_kills=usage.oom_kills,
            host_oom=usage.host_oom,
        )
        return facts, usage.cpu_time, usage.memory

    @property
    def control(self) -> int:
        """The descriptor that is readable when an exit record has come."""
        return self.zygote.control.fileno()

    def _end(self) -> None:
        """See that every process is gone; a jail that does not end takes its zygote with it."""
        try:
            if self._ended is None and self._id is not None:
                self._receive()
                self._kill()
                self.await_end()
        except ZygoteGone:
            self.zygote.close()  # waits for the kernel to end all that it had made
        except SandboxError:
            self.zygote.close()
            raise
        finally:
            if self._init is not None:
                os.close(self._init)

    def close(self) -> None:
        """End whatever runs in it, and remove it."""
        self._stack.close()


class Successor(Protocol):
    """The jail after this one: made in the time that this one's job leaves over."""

    def make(self) -> None:
        """Make the supervisor's part, while the job runs."""

    def order(self) -> None:
        """Have the zygote make its part, where it is not kept from reaping the job."""


class Supervision:
    """One job in one jail, from hand-over to result."""

    def __init__(
        self,
        jail: Jail,
        job: Job,
        runtime: Runtime,
        relay: Relay,
        *,
        cancel: Cancel | None,
        successor: Successor | None,
        busy: bool = False,
    ) -> None:
        """Make ready; `busy` says that the next job is likely to come as soon as this one has ended."""
        self._jail = jail
        self._busy = busy
        self._successor = successor
        self._job = job
        self._runtime = runtime
        self._cancel = cancel
        self._relay = relay
        limits = job.limits
        self._stdout = Capture(jail.stdout, limits.output, relay.stdout, keep=relay.keep)
        self._stderr = Capture(jail.stderr, limits.output, relay.stderr, keep=relay.keep)
        self._feed = None if relay.stdin is None else Feed(jail.stdin, relay.stdin, relay.stdin_end)
        self._failure: dict[str, Any] | None = None
        self._starting = True
        self._deadline = 0.0
        self._order_successor_at = math.inf

    def run(self) -> Result:
        """Hand the job over and watch it to its end.

        Raises `InvalidJob` or `SandboxError` where the script could not be started.
        """
        started_at = time.time()
        started = time.monotonic()
        if self._jail.await_ready():
            self._hand_over()
            started = time.monotonic()
            self._deadline = started + self._job.limits.wall_time
            if self._successor is not None:
                self._order_successor_at = started + _BUSY
                self._successor.make()
                if self._busy:
                    self._order_successor()
            self._watch()
        else:
            # Killed by the kernel at the memory limit before its first line, or broken.
            self._jail.await_end()
        return self._result(started_at, started)

    def _hand_over(self) -> None:
        job, limits = self._job, self._job.limits
        if self._feed is None:
            _fill(self._jail.stdin, content_bytes(job.stdin))
        contents = {path: content_bytes(content) for path, content in job.files.items()}
        if self._runtime.main is None:
            contents = {self._runtime.script: content_bytes(job.source), **contents}
        header = messages.pack(
            {
                "args": job.args,
                "env": dict(job.env),
                "files": [(path, len(content)) for path, content in contents.items()],
                "rlimits": {
                    # The backstop behind our own watch, so a second later.
                    "cpu_seconds": math.ceil(limits.effective_cpu_time) + 1,
                    "open_files": limits.open_files,
                    # The quota counts pages; it and not this is what a full disk runs into.
                    "file_size": limits.disk + _PAGE,
                    "processes": limits.processes,
                },
                "merge": self._relay.merge,
                "terminal": self._relay.terminal is not None,
            }
        )
        terminal = [] if self._relay.terminal is None else [self._relay.terminal]
        try:
            # In one piece, as far as that goes; a descriptor travels with the first bytes.
            whole = b"".join((len(header).to_bytes(4, "big"), header, *contents.values()))
            sent = messages.send(self._jail.socket, whole, terminal)
            self._jail.socket.sendall(memoryview(whole)[sent:])
        except (BrokenPipeError, ConnectionResetError):
            return  # it ended before it had read all; why, its last word or its end will tell

    def _watch(self) -> None:
        """Serve the streams and keep the limits until the job has ended."""
        while self._jail.exit_record() is None:
            for fd in self._wait():
                if fd == self._jail.socket.fileno():
                    self._hear()
                elif self._cancel is not None and fd == self._cancel.fileno():
                    self._jail.kill(Kill.CANCELLED)
                else:
                    self._stream_of(fd)(fd)
            self._keep_limits()
            if self._jail.killed is not None:
                self._jail.await_end()
            elif time.monotonic() >= self._order_successor_at:
                self._order_successor()

    def _wait(self) -> list[int]:
        poll = select.poll()
        poll.register(self._jail.control, select.POLLIN)
        if self._starting:
            poll.register(self._jail.socket, select.POLLIN)
        if self._cancel is not None:
            poll.register(self._cancel, select.POLLIN)
        for stream in (self._stdout, self._stderr, self._feed):
            for fd, events in stream.interests() if stream is not None else ():
                poll.register(fd, events)
        control = self._jail.control
        return [fd for fd, _ in poll.poll(self._patience() * 1000) if fd != control]

    def _stream_of(self, fd: int) -> Callable[[int], None]:
        for stream in (self._stdout, self._stderr, self._feed):
            if stream is not None and any(fd == polled for polled, _ in stream.interests()):
                return stream.on_event
        return lambda _: None  # an event of the same round has closed it

    def _patience(self) -> float:
        """Give the seconds until a limit has to be looked at again."""
        limits = self._job.limits
        patience = min(self._deadline, self._order_successor_at) - time.monotonic()
        if limits.processes > 1:
            patience = min(patience, _GLANCE)
        elif self._watches_cpu():
            used = self._jail.cgroup.cpu_time() or 0.0
            patience = min(patience, max(limits.effective_cpu_time - used, 0.005))
        return min(max(patience, 0.0), _LONGEST_POLL)

    def _keep_limits(self) -> None:
        limits, jail = self._job.limits, self._jail
        if self._stdout.truncated or self._stderr.truncated:
            jail.kill(Kill.OUTPUT)
        elif time.monotonic() >= self._deadline:
            jail.kill(Kill.WALL_TIME)
        elif limits.processes > 1 and jail.cgroup.oom_kills():
            jail.kill(Kill.MEMORY)  # on v1 the kernel kills one process and lets the others be
        elif self._watches_cpu() and (jail.cgroup.cpu_time() or 0.0) >= limits.effective_cpu_time:
            jail.kill(Kill.CPU_TIME)

    def _order_successor(self) -> None:
        self._order_successor_at = math.inf
        if self._successor is not None:
            self._successor.order()
            self._successor = None

    def _watches_cpu(self) -> bool:
        """Whether CPU time can run out first: one thread can't use more of it than time passes."""
        limits = self._job.limits
        return limits.processes > 1 or limits.effective_cpu_time < limits.wall_time

    def _hear(self) -> None:
        """Take the last word of our own code in the jail: a failure, or nothing as it starts."""
        try:
            line = self._jail.socket.recv(64 * 1024)
        except ConnectionResetError:
            line = b""
        if line:
            self._failure = json.loads(line)
        else:
            self._starting = False

    def _result(self, started_at: float, started: float) -> Result:
        jail, job = self._jail, self._job
        record = jail.exit_record()
        assert record is not None
        if self._starting and self._failure is None:
            self._hear()
        # A script that ended by itself is waited for as long as its reader likes; but not one that
        # was killed, or whoever does not read could keep a slot.
        patience = None if jail.killed is None else _GRACE_FOR_READERS
        cancelled = None if self._cancel is None or jail.killed else self._cancel.fileno()
        self._stdout.drain(patience, cancelled)
        self._stderr.drain(patience, cancelled)
        truncated = self._stdout.truncated or self._stderr.truncated
        facts, cpu_time, memory = jail.facts(truncated=truncated)
        if facts.host_oom:
            raise SandboxError("run the job", "the host ran out of memory, and the kernel took the job")
        if self._failure is not None and not facts.oom_kills:
            self._raise_failure(self._failure)
        if jail.directory is None and not facts.oom_kills:
            raise SandboxError("make the jail", f"its process ended ({facts.status}) on the way")
        verdict = judge(facts, job.limits)
        files = (
            collect(jail.directory, job.collect, job.limits.disk)
            if job.collect and jail.directory is not None
            else {}
        )
        return Result(
            status=verdict.status,
            exit_code=verdict.exit_code,
            signal=verdict.signal,
            stdout=bytes(self._stdout.kept),
            stderr=bytes(self._stderr.kept),
            stdout_truncated=self._stdout.truncated,
            stderr_truncated=self._stderr.truncated,
            wall_time=max(record["at"] - started, 0.0),
            cpu_time=cpu_time,
            memory=memory,
            files=files,
            labels=job.labels,
            started_at=started_at,
            finished_at=time.time(),
        )

    @staticmethod
    def _raise_failure(failure: dict[str, Any]) -> None:
        if failure["errno"] in _JOBS_FAULT:
            raise InvalidJob(f"{_JOBS_FAULT[failure['errno']]} ({failure['reason']})")
        raise SandboxError(failure["failed"], failure["reason"])


def _fill(memory: FileIO, content: bytes) -> None:
    """Write all that standard input will be, and rule out that anybody changes it."""
    view = memoryview(content)
    while view:
        view = view[memory.write(view) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
