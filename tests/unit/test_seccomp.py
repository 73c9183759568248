"""The filters, evaluated as the kernel would: what each call of each architecture gets.

The golden tables beside this file are the policy written out: a change of one answer must show there.
The machine below is the kernel's classic BPF as far as the filters use it; that the kernel agrees is
tested with every number in a real jail, in `tests/root`.
"""

import errno
import struct
from pathlib import Path

import pytest

from sandbox_core import seccomp

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def evaluate(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter over one call, and give its answer."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        operation, when_true, when_false, value = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x05:
            place += value
        elif operation == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            place += when_true if holds else when_false


def answer(machine: str, number: int, arguments: tuple[int, ...] = ()) -> str:
    """Give what a job gets: both filters, the more severe answer."""
    found = []
    for rules, default in (
        (seccomp.zygote_rules(), 0x00050000 | errno.ENOSYS),
        (seccomp.job_rules(), ALLOW),
    ):
        program = seccomp.assemble(rules, default, machine)
        found.append(evaluate(program, ARCHITECTURES[machine], number, arguments))
    severe = next((value for value in found if value != ALLOW), ALLOW)
    if severe == ALLOW:
        return "allowed"
    return errno.errorcode.get(severe & 0xFFFF, "pretended")


def table(machine: str) -> str:
    """Write out the answer to each number from 0 to 600, with no arguments, a line for each run."""
    lines: list[str] = []
    start, last = 0, answer(machine, 0)
    for number in range(1, 602):
        now = answer(machine, number) if number <= 600 else "end"
        if now != last:
            lines.append(f"{start}-{number - 1} {last}")
            start, last = number, now
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_has_the_answer_of_the_golden_table(machine):
    """0 to 600, on each architecture."""
    golden = Path(__file__).with_name(f"syscalls.{machine}.txt").read_text()

    assert table(machine) == golden


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("foreign", [0x40000003, 0xC000003E ^ 0xFFFF, 0x40000028, 0])
def test_a_foreign_abi_is_death(machine, foreign):
    """A number means another call there, so no answer would be right."""
    program = seccomp.assemble(seccomp.zygote_rules(), 0, machine)

    assert evaluate(program, foreign, 1) == KILL


def test_the_x32_abi_does_not_exist():
    """It shares the architecture's name, and differs in one bit of the number."""
    for number in range(600):
        assert answer("x86_64", number | 0x40000000) == "ENOSYS"


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (41, (1,), "allowed"),  # socket(AF_UNIX)
        (41, (2,), "EAFNOSUPPORT"),
        (41, (1 << 32 | 2,), "EAFNOSUPPORT"),  # the kernel looks at the low half
        (41, (1 << 32 | 1,), "allowed"),
        (53, (16,), "EAFNOSUPPORT"),  # socketpair
        (16, (0, 0x5401), "allowed"),  # TCGETS
        (16, (0, 0x5412), "EPERM"),  # TIOCSTI
        (16, (0, 1 << 40 | 0x5412), "EPERM"),
        (56, (17,), "allowed"),  # clone as fork does
        (56, (0x3D0F00,), "allowed"),  # as a thread does
        (56, (0x10000000,), "EPERM"),  # CLONE_NEWUSER
        (56, (0x02000000 | 17,), "EPERM"),  # CLONE_NEWCGROUP
        (56, (0x00008000 | 17,), "EPERM"),  # CLONE_PARENT
        (157, (15,), "allowed"),  # prctl(PR_SET_NAME)
        (157, (22,), "EPERM"),  # PR_SET_SECCOMP
        (157, (0x59616D61,), "EPERM"),  # PR_SET_PTRACER
        (135, (0,), "allowed"),  # personality
        (135, (0xFFFFFFFF,), "allowed"),
        (135, (0x0040000,), "EPERM"),  # ADDR_NO_RANDOMIZE
        (133, (0, 0o010644), "allowed"),  # mknod of a FIFO
        (133, (0, 0o020644), "EPERM"),
        (259, (0, 0, 0o060644), "EPERM"),
        (72, (0, 6), "allowed"),  # fcntl(F_SETLK)
        (72, (0, 1024), "EPERM"),  # F_SETLEASE
        (72, (0, 1031), "EPERM"),  # F_SETPIPE_SZ
    ],
)
def test_arguments_decide_where_they_must(number, arguments, expected):
    """By their low 32 bits, as the kernel takes them."""
    assert answer("x86_64", number, arguments) == expected


def test_a_job_that_is_its_program_already_executes_no_other():
    """In a warm interpreter, unless it may have several processes."""
    rules = seccomp.job_rules(execute=False)

    for machine, number in (("x86_64", 59), ("x86_64", 322), ("aarch64", 221), ("aarch64", 281)):
        program = seccomp.assemble(rules, ALLOW, machine)
        assert evaluate(program, ARCHITECTURES[machine], number) == 0x00050000 | errno.EACCES


def test_an_unknown_machine_is_refused():
    """No filter is better than a wrong one, and no job than no filter."""
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.assemble(seccomp.zygote_rules(), 0, "riscv64")
