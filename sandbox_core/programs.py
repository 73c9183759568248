"""The `sandboxed` commands that keep running: `serve` and its client `connect`, and `repl`.

They read the options and mind the signals; the work is `sandbox_core.server`'s, `client`'s and
`repl`'s, imported when a command is about to do it.
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox_core import options
from sandbox_core.commands import ended_by
from sandbox_core.errors import InvalidJob, SandboxError
from sandbox_core.job import MIB, Job, Limits, Status

if TYPE_CHECKING:
    from sandbox_core.journal import Journal
    from sandbox_core.server import Server

#: Output is passed on and not kept, so serving can afford more of it than a stored result.
_OUTPUT = 16 * MIB

_STEP = "serve"
_COMPILE = "import sys; compile(sys.stdin.buffer.read(), sys.argv[1], 'exec')"
_COMPILE_TIME = 10.0  # seconds

#: Descriptors of the server, and more than each worker ever has open.
_DESCRIPTORS, _DESCRIPTORS_OF_A_WORKER = 64, 64

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_socket_option = click.option(
    "--socket", "path", metavar="PATH", help="The socket file.", type=click.Path()
)
_python_option = click.option(
    "--python",
    "prefix",
    metavar="PREFIX",
    type=click.Path(exists=True, file_okay=False),
    help="A whole Python distribution to use and to mount, also as /usr.",
)


def _octal(value: str) -> int:
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:  # noqa: PLR2004  # all the permissions there are
        raise click.BadParameter(f"{value!r} is no mode; write it as 660")
    return mode


@click.command(cls=options.JobCommand)
@_socket_option
@_python_option
@click.option(
    "--workers", type=click.IntRange(1), default=5, show_default=True, help="Jails at a time."
)
@click.option(
    "--backlog",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Connections that may wait in line.",
)
@click.option("--mode", type=_octal, metavar="OCTAL", help="Of the socket file.  [default: 600]")
@click.option("--group", metavar="GROUP", help="Of the socket file; the mode is then 660.")
@click.option(
    "--stderr",
    "errors",
    type=click.Choice(["log", "merge", "drop"]),
    default="log",
    show_default=True,
    help="What becomes of MAIN's standard error.",
)
@options.limit_options
@options.env_option
@options.file_option
@options.runtime_option
@click.argument("main")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def serve(
    *,
    path: str | None,
    prefix: str | None,
    workers: int,
    backlog: int,
    mode: int | None,
    group: str | None,
    errors: Any,
    main: str,
    **asked: Any,
) -> None:
    """Run MAIN in a fresh jail for each connection to a unix socket.

    What a client sends, up to a NUL byte or its end of file, is MAIN's standard input; its output goes
    back as it comes, then one NUL byte. --output is 16M unless another is given. A socket from
    systemd (LISTEN_FDS) needs no --socket. SIGTERM finishes what runs, SIGHUP reads MAIN anew. On
    stderr there is one line of JSON for each connection.
    """
    from sandbox_core import sockets  # noqa: PLC0415  # what serving takes, when it is to be done
    from sandbox_core.journal import Journal  # noqa: PLC0415
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415
    from sandbox_core.server import Server  # noqa: PLC0415

    if os.geteuid() != 0:
        raise SandboxError(_STEP, "building a jail needs root; try: sudo sandboxed serve …")
    # Before any thread is, so that they all leave the signals to this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _allow_descriptors(workers)
    program = _Program(main, prefix, asked)
    listener = sockets.activated()
    if listener is None and path is None:
        raise click.UsageError("name the socket: --socket PATH")
    job = program.job()
    with Sandbox(os.environ.get("SANDBOXED_RUNTIMES"), slots=workers) as sandbox:
        program.offer(sandbox)
        program.check(sandbox, job)
        if listener is None:
            assert path is not None
            default = 0o600 if group is None else 0o660
            chosen = default if mode is None else mode
            listener = sockets.listen(path, mode=chosen, group=group, backlog=backlog)
        journal = Journal(sys.stderr.fileno())
        server = Server(sandbox, listener, job, workers=workers, errors=errors, log=journal.write)
        try:
            server.start()
            journal.write({"event": "serving", "socket": path, "main": main, "workers": workers})
            _obey_signals(server, program, sandbox, journal)
        finally:
            server.close()
        journal.write({"event": "stopped"})


def _allow_descriptors(workers: int) -> None:
    """Raise the soft limit to what so many workers may need, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS + workers * _DESCRIPTORS_OF_A_WORKER
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _obey_signals(server: "Server", program: "_Program", sandbox: Any, journal: "Journal") -> None:
    """Serve until a signal says to stop; one that says to reload does not."""
    while (number := signal.sigwait(_SIGNALS)) == signal.SIGHUP:
        try:
            job = program.job()
            program.check(sandbox, job)
        except (SandboxError, InvalidJob, click.UsageError) as error:
            journal.write({"event": "not reloaded", "error": str(error)})
        else:
            server.job = job
            journal.write({"event": "reloaded"})
    journal.write({"event": "stopping", "signal": signal.Signals(number).name})


class _Program:
    """MAIN, and how it is run: a script of ours to place, or a file of the distribution."""

    def __init__(self, main: str, prefix: str | None, asked: dict[str, Any]) -> None:
        self._main, self._prefix = main, prefix
        self._args: tuple[str, ...] = asked.pop("args")
        self._env, self._files = asked.pop("env"), asked.pop("files")
        self._runtime: str = asked.pop("runtime")
        if asked["output"] is None:
            asked["output"] = _OUTPUT
        self._limits = asked
        self._inside: str | None = None
        if prefix is not None:
            from sandbox_core.distribution import program_inside  # noqa: PLC0415

            if self._runtime != "python":
                raise click.UsageError("--python names the runtime; leave --runtime away")
            self._inside = program_inside(prefix, main)
            self._runtime = "distribution"

    def job(self) -> Job:
        """Read what is to be run; `click.UsageError` says why it can't be."""
        script = os.devnull if self._inside else self._main
        return options.make_job(
            script=script,
            args=self._args,
            stdin_file=os.devnull,
            env=self._env,
            files=self._files,
            collect=(),
            runtime=self._runtime,
            labels=(),
            **self._limits,
        )

    def offer(self, sandbox: Any) -> None:
        """Have `sandbox` offer the distribution, if there is one."""
        if self._prefix is None:
            return
        from dataclasses import replace  # noqa: PLC0415

        from sandbox_core.distribution import distribution  # noqa: PLC0415

        runtime = distribution(self._prefix)
        sandbox.runtimes.add(replace(runtime, name="compiler"))
        main = None if self._inside is None else (self._inside,)
        sandbox.runtimes.add(replace(runtime, main=main))

    def check(self, sandbox: Any, job: Job) -> None:
        """Compile MAIN, in a jail: parsing is execution, too. `SandboxError` tells what is wrong."""
        if self._inside:
            assert self._prefix is not None
            place = Path(os.path.realpath(self._prefix)) / os.path.relpath(self._inside, "/usr")
            try:
                source: str | bytes = place.read_bytes()
            except OSError as error:
                raise SandboxError(_STEP, f"can't read {self._main}: {error.strerror}") from None
        else:
            source = job.source
        runtime = sandbox.runtimes[job.runtime]
        compiler = "compiler" if self._prefix is not None else job.runtime
        if not runtime.command[0].rpartition("/")[2].startswith("python"):
            return  # what it runs is for itself to judge
        limits = Limits(wall_time=_COMPILE_TIME, memory=job.limits.memory)
        result = sandbox.run(Job(_COMPILE, compiler, args=(self._main,), stdin=source, limits=limits))
        if not result.ok:
            errors = result.stderr.decode("utf-8", "replace").strip().splitlines()
            place_and_reason = " ".join(line.strip() for line in errors[-4:]) or result.status.value
            raise SandboxError(_STEP, f"{self._main} does not compile: {place_and_reason}")


@click.command()
@_socket_option
def connect(path: str | None) -> None:
    """Send standard input to the server at a socket, and print what it answers.

    Exits with 0 when the program there has ended, however it did, and with 125 when nobody listens or
    the server broke off.
    """
    from sandbox_core import client  # noqa: PLC0415

    if path is None:
        raise click.UsageError("name the socket: --socket PATH")
    try:
        whole = client.connect(path, 0, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone
        sys.exit(128 + signal.SIGPIPE)
    if not whole:
        raise SandboxError("connect", f"{path}: the server broke off")


@click.command()
@_python_option
@click.option("--dev", is_flag=True, help="Show the simple /dev: null, zero, full, random, urandom.")
@click.option("--cgroup", is_flag=True, help="Show the jail's own cgroup, read-only.")
@click.option("--idle", type=float, metavar="SECONDS", help="End it when nobody has typed for so long.")
@options.limit_options
@click.pass_context
def repl(
    ctx: click.Context,
    /,
    *,
    prefix: str | None,
    dev: bool,
    cgroup: bool,
    idle: float | None,
    **asked: Any,
) -> None:
    """Start an interactive Python in a jail, on a terminal of its own.

    It has no wall limit and may write as much as it likes, unless --wall-time and --output say
    otherwise. What is piped in is run as a script.
    """
    from dataclasses import replace  # noqa: PLC0415

    from sandbox_core import repl as sessions  # noqa: PLC0415
    from sandbox_core.sandbox import Sandbox  # noqa: PLC0415

    if os.geteuid() != 0:
        raise SandboxError("repl", "building a jail needs root; try: sudo sandboxed repl …")
    if idle is not None and not idle > 0:
        raise click.UsageError(f"--idle: expected seconds above 0, got {idle}")
    limits = options.make_limits(**asked)
    for name in ("wall_time", "output"):
        if asked[name] is None:
            limits = replace(limits, **{name: getattr(sessions.LIMITS, name)})
    with ended_by(signal.SIGTERM, signal.SIGHUP), Sandbox(ahead=False) as sandbox:
        sessions.add_runtime(sandbox, prefix=prefix, dev=dev, cgroup=cgroup)
        if not sys.stdin.isatty():
            result = sessions.run_piped(sandbox, limits)
        else:
            ending = sessions.interact(sandbox, 0, output=1, limits=limits, idle=idle)
            result = ending.result
            if ending.idle:
                click.echo(f"sandboxed: nobody typed for {idle:g} s", err=True)
                ctx.exit(options.EXIT_TIME_LIMIT)
            if ending.flooded:
                result = replace(result, status=Status.OUTPUT_LIMIT)
    ctx.exit(options.report(result, limits=limits, relayed=True))
