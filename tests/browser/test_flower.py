"""Flower as `sandboxed up` starts it, in a real browser: it shows the worker and its jobs, no byte of theirs.

The jobs say `plugh` wherever something of a job could be shown, and bring HTML wherever their sender may
choose a text. What Flower's table of addresses offers is asked for, with and without the password.
"""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from flower.urls import handlers
from playwright.sync_api import Browser, Error, Page, expect

from producer import Client, Job, Limits
from worker.settings import REDIS_URL, broker_url

#: In every source, input and output here, and nowhere else.
MARK = "plugh"
ATTACK = "<img src=x onerror=document.title='attacked'>"
USER, PASSWORD = "teacher", "correct horse"

FRIENDLY = Job(
    f"print('{MARK}', input())  # ".ljust(412, "."), stdin=f"{MARK} in", labels={"course": "cs1"}
)
SLOW = Job(f"while True: pass  # {MARK}", limits=Limits(wall_time=0.5))
BROKEN = Job(
    f"import sys; sys.stderr.write('{MARK}'); open('out', 'w').write('{MARK}'); raise ValueError('{MARK}')",
    args=(MARK,),
    env={"NAME": MARK},
    files={f"{MARK}.txt": MARK},
    collect=("*",),
    labels={"student": ATTACK},
)
SLEEPER = {"source": f"import time; time.sleep(60)  # {MARK}", "limits": {"wall_time": 50}}


@dataclass
class Watched:
    """A `sandboxed up` with a password for Flower, its jobs by their names here, and what they ended as."""

    port: int
    output: Path
    jobs: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def get(
        self, path: str, login: str | None = f"{USER}:{PASSWORD}", data: bytes | None = None
    ) -> Any:
        """Ask Flower without a browser: the status and the text of its answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Give the tasks that Flower's API knows of."""
        found: dict[str, dict[str, Any]] = json.loads(self.get("/api/tasks")[1])
        return found


def wait_until(look: Callable[[], Any], timeout: float = 60) -> Any:
    """Give what `look` gives, as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Start Redis, a worker and Flower, run the jobs, and wait until Flower has heard of them."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("a worker builds jails, which takes root")
        pytest.skip("a worker builds jails, which takes root")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = tmp_path_factory.mktemp("flower") / "up"
    environment = {name: value for name, value in os.environ.items() if name != REDIS_URL}
    with output.open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "sandboxed", "up", "-c", "1", "--port", str(port)],
            env={**environment, "FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}"},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: " ready." in output.read_text() or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        found = re.search(r"='(.+)'", output.read_text())
        assert found
        watched = Watched(port, output, url=found[1])
        wait_until(lambda: listens(port))
        wait_until(lambda: json.loads(watched.get("/workers?json=1")[1])["data"])
        run_jobs(watched)
        yield watched
        with Client(watched.url) as client:
            client.future(watched.jobs["running"]).cancel()
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    """Whether anybody takes connections there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def run_jobs(watched: Watched) -> None:
    """Run them, and leave one that runs and one that waits for its time."""
    with Client(watched.url) as client:
        for name, job in (("friendly", FRIENDLY), ("slow", SLOW), ("broken", BROKEN)):
            future = client.submit(job)
            watched.jobs[name] = future.id
            result = future.result(timeout=60)
            assert MARK in f"{result.text}{result.stderr.decode()}" or name == "slow"
        several = list(client.map([FRIENDLY] * 40))
        assert all(MARK in result.text for _, result in several)
    address = broker_url(watched.url)
    with Celery(broker=address, backend=address, set_as_current=False) as app:
        said = {
            "argsrepr": f"{MARK} {ATTACK}",
            "kwargsrepr": MARK,
            "root_id": ATTACK,
            "queue": "sandboxed",
        }
        job = {"source": f"print({MARK!r})"}
        for name, sent in {
            "attack": app.send_task("sandboxed.run", [job], task_id=ATTACK, shadow=ATTACK, **said),
            "no runtime": app.send_task("sandboxed.run", [{**job, "runtime": ATTACK}], **said),
            "no job": app.send_task("sandboxed.run", [MARK], {"job": MARK}, **said),
            "no task": app.send_task(f"sandboxed.{ATTACK}", [job], **said),
            "waiting": app.send_task("sandboxed.run", [SLEEPER], countdown=600, **said),
            "running": app.send_task("sandboxed.run", [SLEEPER], **said),
        }.items():
            watched.jobs[name] = str(sent.id)
        app.backend.result_consumer.stop()
    over = watched.jobs.keys() - {"running", "waiting"}
    wait_until(lambda: ends(watched.tasks()) >= {watched.jobs[name] for name in over})
    wait_until(lambda: watched.tasks()[watched.jobs["running"]]["state"] == "STARTED")
    wait_until(lambda: watched.tasks().get(watched.jobs["waiting"]))


def ends(tasks: dict[str, dict[str, Any]]) -> set[str]:
    """Give those that are over."""
    return {name for name, task in tasks.items() if task["state"] in {"SUCCESS", "FAILURE"}}


@pytest.fixture
def visit(browser: Browser, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Open a page of Flower with the password, and look at all that it was sent for it."""
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{watched.port}",
        http_credentials={"username": USER, "password": PASSWORD},
        viewport={"width": 1600, "height": 900},
    )
    received: list[tuple[str, str]] = []
    wrong: list[str] = []

    def visit(path: str, until: str = "networkidle") -> Page:
        page = context.new_page()
        page.on("response", lambda answer: received.append((answer.url, body(answer))))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        answer = page.goto(path, wait_until=until)
        assert answer
        assert answer.status == 200
        return page

    def body(answer: Any) -> str:
        static = urllib.parse.urlsplit(answer.url).path.startswith("/static/")
        text: str = "" if static or not answer.ok else answer.text()
        return text

    yield visit
    for page in context.pages:
        text = page.content()
        assert MARK not in text, around(text)
        assert page.title() != "attacked"
        assert page.locator("img[src=x]").count() == 0
    context.close()
    assert received
    assert not [(url, around(text)) for url, text in received if MARK in text]
    assert not wrong


def around(text: str) -> str:
    """Give what stands around the mark."""
    at = text.find(MARK)
    return text[max(at - 80, 0) : at + 80]


def row(page: Page, job_id: str) -> dict[str, str]:
    """Give the cells of a job's row in the list of tasks, by their headings."""
    headings = [text.strip() for text in page.locator("#tasks-table thead th").all_text_contents()]
    line = page.locator("#tasks-table tbody tr").filter(has=page.get_by_text(job_id, exact=True))
    expect(line).to_have_count(1)
    return dict(zip(headings, line.locator("td").all_inner_texts(), strict=True))


def test_the_first_page_shows_the_worker(visit):
    """That it is there, and how many jobs it has had."""
    page = visit("/")

    line = page.locator("table tbody tr")
    expect(line).to_have_count(1)
    expect(line).to_contain_text("celery@")
    expect(line).to_contain_text(re.compile("online", re.IGNORECASE))


def test_the_list_of_tasks_has_a_line_for_each(visit, watched):
    """With what ran and how it ended, which is all."""
    page = visit("/tasks")
    page.locator("select").first.select_option("100")

    friendly = row(page, watched.jobs["friendly"])
    assert (friendly["Name"], friendly["State"]) == ("sandboxed.run", "SUCCESS")
    assert friendly["args"] == "python · 412 B · course=cs1"
    assert re.fullmatch(r"ok · \d\.\d\d s", friendly["Result"])
    slow = row(page, watched.jobs["slow"])
    assert re.fullmatch(r"time_limit · 0\.[5-9]\d s", slow["Result"])
    broken = row(page, watched.jobs["broken"])
    assert broken["args"] == f"python · {len(BROKEN.source)} B · student={ATTACK[:39]}…"
    assert broken["Result"].startswith("nonzero_exit · ")
    assert row(page, watched.jobs["attack"])["args"] == f"python · {len(MARK) + 9} B"
    assert row(page, watched.jobs["no runtime"])["args"] == f"? · {len(MARK) + 9} B"
    assert row(page, watched.jobs["no job"])["args"] == "no job"
    assert page.get_by_text(re.compile(r"^\d+ python jobs$")).count() > 0


def test_the_page_of_a_task_says_no_more(visit, watched):
    """Of a friendly job, of what was HTML in all places, and of what is no job."""
    page = visit(f"/task/{watched.jobs['friendly']}")
    assert "python · 412 B · course=cs1" in page.locator("body").inner_text()
    assert re.search(r"ok · \d\.\d\d s", page.locator("body").inner_text())

    for name, job_id in watched.jobs.items():
        page = visit(f"/task/{urllib.parse.quote(job_id, safe='')}", until="load")
        text = page.locator("body").inner_text()
        assert job_id in text, name
        if name == "broken":
            assert f"student={ATTACK[:39]}…" in text
        if name == "no task":
            assert ATTACK in text


def test_the_page_of_the_worker_shows_what_runs_and_what_waits(visit, watched):
    """As their short lines."""
    (name,) = json.loads(watched.get("/api/workers?refresh=1")[1])
    page = visit(f"/worker/{name}")
    page.get_by_role("tab", name="Tasks", exact=True).click()

    for job in ("running", "waiting"):
        line = page.locator("tr").filter(has_text=watched.jobs[job])
        expect(line).to_be_visible()
        expect(line).to_contain_text(f"python · {len(SLEEPER['source'])} B")


@pytest.mark.parametrize("password", [None, "", "guess"])
def test_a_browser_without_the_password_is_refused(browser: Browser, watched: Watched, password):
    """It sees that it may not, and nothing else."""
    known = None if password is None else {"username": USER, "password": password}
    context = browser.new_context(http_credentials=known)
    page = context.new_page()
    for path in ("/", "/tasks", f"/task/{watched.jobs['friendly']}", "/workers?json=1"):
        if known is None:
            # Chromium would ask for the password, and with nobody to answer shows no page at all.
            with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
                page.goto(f"http://127.0.0.1:{watched.port}{path}")
        else:
            answer = page.goto(f"http://127.0.0.1:{watched.port}{path}")
            assert answer
            assert (answer.status, answer.text()) == (401, "Access denied")
            assert "sandboxed" not in page.content()
    context.close()


def test_nothing_that_flower_can_be_asked_has_a_byte_of_a_job(watched):
    """With the password, and of the result, which it could fetch from Redis: it knows of none."""
    asked = []
    for job_id in watched.jobs.values():
        for path in addresses(urllib.parse.quote(job_id, safe="")).values():
            status, text = watched.get(path)
            assert MARK not in text, (path, around(text))
            asked.append(status)
        assert watched.get(f"/api/task/result/{urllib.parse.quote(job_id, safe='')}")[0] == 503
    assert asked.count(200) > 8 * len(watched.jobs)
    # Nor has what was printed meanwhile: the log of Redis, worker and Flower.
    log = watched.output.read_text()
    assert MARK not in log, around(log)
    assert f'dropped a message: there is no task: "sandboxed.{ATTACK}"' in log


#: What Flower answers to everybody: no page, but what draws one, and two that machines ask.
OPEN = {r"/metrics", r"/healthcheck", r"/static/(.*)", r"/login/?", r"/logout", r".*"}


def addresses(job_id: str) -> dict[str, str]:
    """Give every address in Flower's own table, by its pattern there, as one for this job."""
    table = [getattr(entry, "regex", None) or entry[0] for entry in handlers]
    patterns = [getattr(entry, "pattern", entry).removesuffix("$") for entry in table]
    filled = {pattern: re.sub(r"\(\.[+*]\)", job_id, pattern) for pattern in patterns}
    return {**filled, r"/static/(.*)": "/static/js/flower.js", r"/login/?": "/login", ".*": "/nowhere"}


def test_without_the_password_flower_answers_machines_only(watched):
    """Each address that it has: 401, but for its metrics and health, which know of no job's content."""
    for pattern, path in addresses(watched.jobs["friendly"]).items():
        statuses = set()
        for login in (None, f"{USER}:guess", f"{USER}:"):
            for data in (None, b"{}"):
                status, text = watched.get(path, login, data)
                assert MARK not in text
                assert "course" not in text
                # 405 is an address that takes the other of GET and POST.
                statuses.add(status)
        assert pattern in OPEN or statuses in ({401}, {401, 405}), path
    status, metrics = watched.get("/metrics", None)
    assert status == 200
    assert 'task="sandboxed.run",type="task-succeeded"' in metrics
    assert not [job_id for job_id in watched.jobs.values() if job_id in metrics]
    assert watched.get("/healthcheck", None) == (200, "OK")
