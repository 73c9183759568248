"""Records `sandboxed demo` and draws it as docs/demo.svg, an animation that follows light and dark.

    sudo .venv/bin/python docs/make_demo.py

The command runs at a pseudo-terminal, and what it writes is shown when it wrote it. Where a frame would
be too short to be seen, it is left out.
"""

import re
import sys
import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pexpect

PICTURE = Path(__file__).with_name("demo.svg")
COMMAND = "sandboxed demo"
PROMPT = f"$ sudo .venv/bin/{COMMAND}"
COLUMNS, ROWS = 112, 40
#: Seconds: a frame is shown for at least the first, the last one for the second.
SHORTEST, LAST = 0.08, 8.0
CHARACTER, LINE, MARGIN = 8.4, 18, 16

#: What a program may write besides text: SGR, up, erase the line, show and hide the cursor.
_ESCAPE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")
_STYLES = {"1": "b", "31": "r", "32": "g", "1;31": "b r", "2": "d"}


@dataclass
class Screen:
    """The lines of a terminal, each a list of characters with their style, and where the cursor is."""

    lines: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: str = ""

    def write(self, text: str) -> str:
        """Take what a program wrote, and give what is left: the beginning of an escape."""
        while text:
            if text[0] == "\x1b":
                found = _ESCAPE.match(text)
                if found is None:
                    return text
                self._obey(*found.groups())
                text = text[found.end() :]
                continue
            self._put(text[0])
            text = text[1:]
        return ""

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            self.lines += [[]] * (self.row + 1 - len(self.lines))
        else:
            line = list(self.lines[self.row])
            line += [(" ", "")] * (self.column + 1 - len(line))
            line[self.column] = (character, self.style)
            self.lines[self.row] = line
            self.column += 1

    def _obey(self, given: str, letter: str) -> None:
        match letter, given:
            case "m", _:
                self.style = _STYLES.get(given, "")
            case "A", _:
                self.row -= int(given or 1)
            case "K", "2":
                self.lines[self.row] = []
            case (("h" | "l"), "?25"):
                return
            case _:
                raise ValueError(f"an escape that is not known here: {given}{letter}")

    def drawn(self) -> tuple[str, ...]:
        """Give the lines as SVG, each without what is blank at its end."""
        return tuple(_drawn(line) for line in self.lines)


def _drawn(line: list[tuple[str, str]]) -> str:
    parts: list[tuple[str, str]] = []
    for character, its_style in line:
        style = "" if character == " " else its_style
        if parts and parts[-1][1] == style:
            parts[-1] = (parts[-1][0] + character, style)
        else:
            parts.append((character, style))
    while parts and not parts[-1][0].strip():
        parts.pop()
    return "".join(
        f'<tspan class="{style}">{escape(text)}</tspan>' if style else escape(text)
        for text, style in parts
    ).rstrip()


def record() -> list[tuple[float, tuple[str, ...]]]:
    """Run the command; give what the terminal showed, and from which second on."""
    child = pexpect.spawn(
        str(Path(sys.executable).with_name("sandboxed")),
        COMMAND.split()[1:],
        dimensions=(ROWS, COLUMNS),
        encoding="utf-8",
        timeout=90,
    )
    began = time.monotonic()
    screen, rest = Screen(), ""
    frames = [(0.0, screen.drawn())]
    while True:
        try:
            rest = screen.write(rest + child.read_nonblocking(1 << 16))
        except pexpect.EOF:
            break
        # What was read may be half of a drawing: its other half comes at once.
        while child.expect([r".+", pexpect.TIMEOUT, pexpect.EOF], timeout=0.01) == 0:
            rest = screen.write(rest + child.after)
        frames.append((time.monotonic() - began, screen.drawn()))
    child.close()
    if child.exitstatus != 0:
        raise SystemExit(f"{COMMAND} ended with {child.exitstatus}")
    return frames


def without_flicker(frames: list[tuple[float, tuple[str, ...]]]) -> list[tuple[float, tuple[str, ...]]]:
    """Leave out what was there too shortly."""
    ends = [start for start, _ in frames[1:]] + [frames[-1][0] + LAST]
    return [frame for frame, end in zip(frames, ends, strict=True) if end - frame[0] >= SHORTEST]


def svg(frames: list[tuple[float, tuple[str, ...]]]) -> str:
    """Draw the frames on a strip that is moved past a window."""
    rows = 1 + max(len(lines) for _, lines in frames)
    height = rows * LINE
    took = frames[-1][0] + LAST
    names: dict[str, str] = {}
    strip, moves = [], []
    for number, (start, lines) in enumerate(frames):
        used = "".join(
            f'<use href="#{names.setdefault(line, f"l{len(names)}")}" y="{(row + 1) * LINE}"/>'
            for row, line in enumerate(lines)
            if line
        )
        strip.append(f'<g transform="translate(0 {number * height})"><use href="#p"/>{used}</g>')
        moves.append(f"{100 * start / took:.2f}%{{transform:translateY({-number * height}px)}}")
    whole, tall = round(COLUMNS * CHARACTER) + 2 * MARGIN, height + 2 * MARGIN
    kept = "".join(f'<text id="{name}">{line}</text>' for line, name in names.items())
    last = f"translateY({-(len(frames) - 1) * height}px)"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {tall}" role="img" aria-labelledby="t">
<title id="t">A terminal: {escape(COMMAND)} runs friendly and hostile scripts</title>
<style>
{_LOOKS}
#strip{{animation:play {took:.2f}s step-end infinite}}
@keyframes play{{{"".join(moves)}}}
@media (prefers-reduced-motion:reduce){{#strip{{animation:none;transform:{last}}}}}
</style>
<rect class="p" x=".5" y=".5" width="{whole - 1}" height="{tall - 1}" rx="8"/>
<defs><text id="p"><tspan class="d">$</tspan>{escape(PROMPT[1:])}</text>{kept}
<clipPath id="c"><rect width="{whole}" height="{height}"/></clipPath></defs>
<g transform="translate({MARGIN} {MARGIN})" clip-path="url(#c)">
<g id="strip"><g transform="translate(0 {LINE - 5})">
{chr(10).join(strip)}
</g></g></g>
</svg>
"""


#: How it looks: the colours of light and dark, the letters, and the classes of `_STYLES`.
_LOOKS = """\
svg{--ink:#1f2328;--soft:#59636e;--paper:#f6f8fa;--edge:#d1d9e0;--good:#1a7f37;--bad:#cf222e}
@media (prefers-color-scheme:dark){
svg{--ink:#e6edf3;--soft:#9198a1;--paper:#161b22;--edge:#3d444d;--good:#3fb950;--bad:#ff7b72}
}
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
text{fill:var(--ink);white-space:pre}
.p{fill:var(--paper);stroke:var(--edge)}
.b{font-weight:bold}.g{fill:var(--good)}.r{fill:var(--bad)}.d{fill:var(--soft)}"""


if __name__ == "__main__":
    PICTURE.write_text(svg(without_flicker(record())), encoding="utf-8")
