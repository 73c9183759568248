"""Makes docs/flower.png and docs/report.png: what Flower and a grading's report look like in Chromium.

    sudo .venv/bin/python docs/make_pictures.py

Both show what is really there: `sandboxed up` with jobs of a course, and `sandboxed grade --html` of a
problem that is made here, with submissions of all kinds.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from producer import Client, Job, Limits
from worker.settings import REDIS_URL

HERE = Path(__file__).parent
SANDBOXED = Path(sys.executable).with_name("sandboxed")
PORT = 5556
USER = {"username": "teacher", "password": "of this picture"}

#: The primes of a number, smallest first.
NUMBERS = (1, 2, 12, 97, 360, 1001, 65536, 999983, 1299709, 9999999967)

_RIGHT = """\
n, found, p = int(input()), [], 2
while p * p <= n:
    while n % p == 0:
        found.append(p)
        n //= p
    p += 1
print(*found, *([n] if n > 1 else []))
"""

SUBMISSIONS = {
    "ada.py": _RIGHT,
    "alan.py": _RIGHT.replace("p * p <= n", "n > 1"),
    "barbara.py": _RIGHT.replace("*([n] if n > 1 else [])", "n"),
    "edsger.py": _RIGHT.replace("while n %", "if n %"),
    "grace.py": _RIGHT.replace("p = int(input()), [], 2", "p = int(input()), [], 2\nsieve = [0] * n"),
    "john.py": "n = int(input())\nprint(n[0])\n",
    "ken.py": _RIGHT.replace("p += 1", "p++"),
    "margaret.py": _RIGHT.replace("n, found", "import math\nn, found"),
}

JOBS = (
    Job("print('hello')", labels={"course": "cs1", "student": "ada"}),
    Job("n = int(input())\nprint(n * n)", stdin="12", labels={"course": "cs1", "student": "alan"}),
    Job("while True: pass", limits=Limits(wall_time=1), labels={"course": "cs1", "student": "barbara"}),
    Job("x = [0] * 10**9", labels={"course": "cs2", "student": "grace"}),
    Job("raise SystemExit(3)", labels={"course": "cs2", "student": "john"}),
    Job("while True: print('flood' * 99)", labels={"course": "cs2", "student": "ken"}),
    Job("echo hello", runtime="sh", labels={"course": "os", "student": "dennis"}),
    Job("import os; os.kill(os.getpid(), 11)", labels={"course": "os", "student": "linus"}),
)


def factors(number: int) -> str:
    """Give the answer to a test."""
    found, prime = [], 2
    while prime * prime <= number:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime += 1
    return " ".join(map(str, [*found, number] if number > 1 else found))


def wait_until(look: Callable[[], object]) -> None:
    """Return as soon as `look` gives what is true."""
    deadline = time.monotonic() + 60
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit("nothing happened for a minute")
        time.sleep(0.1)


def flower(page: Page, folder: Path) -> None:
    """Take Flower's list of tasks."""
    log = folder / "up"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [SANDBOXED, "up", "-c", "1", "--port", str(PORT)],
            env={
                **{name: value for name, value in os.environ.items() if name != REDIS_URL},
                "FLOWER_BASIC_AUTH": ":".join(USER.values()),
                "FLOWER_TASKS_COLUMNS": "state,args,result,received,runtime,worker",
            },
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: " ready." in log.read_text())
        found = re.search(r"='(.+)'", log.read_text())
        assert found
        address = f"http://127.0.0.1:{PORT}/tasks"
        wait_until(lambda: shows(page, f"http://127.0.0.1:{PORT}/", "celery@"))
        with Client(found[1]) as client:
            for job in JOBS:
                client.run(job, timeout=30)
        wait_until(lambda: shows(page, address, "linus"))
        page.screenshot(path=HERE / "flower.png")
    finally:
        up.terminate()
        up.wait(60)


def shows(page: Page, address: str, text: str) -> bool:
    """Go to a page; whether it is there and says `text`."""
    page.goto(address, wait_until="networkidle")
    return text in page.content()


def report(page: Page, folder: Path) -> None:
    """Take a report's grid, and the first row of what is below it."""
    tests, students = folder / "primes", folder / "students"
    tests.mkdir()
    students.mkdir()
    for place, number in enumerate(NUMBERS, 1):
        (tests / f"{place:02}.in").write_text(f"{number}\n")
        (tests / f"{place:02}.ans").write_text(f"{factors(number)}\n")
    for name, source in SUBMISSIONS.items():
        (students / name).write_text(source)
    html = folder / "report.html"
    subprocess.run(
        [SANDBOXED, "grade", "--local", "--wall-time", "1", "--html", html, tests, students], check=True
    )
    page.goto(html.as_uri())
    page.set_viewport_size({"width": 1180, "height": 740})
    page.screenshot(path=HERE / "report.png")


if __name__ == "__main__":
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("no Chromium here: apt-get install chromium fonts-dejavu-core")
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = chromium.new_context(viewport={"width": 1180, "height": 668}, http_credentials=USER)
        report(context.new_page(), Path(made))
        flower(context.new_page(), Path(made))
        chromium.close()
