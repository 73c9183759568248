"""The HTML report in a real browser: it sorts, opens a test, shows the difference, and loads nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from producer.grading.model import GroupReport, Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports import write

ATTACK = (
    "<img src=x onerror=document.title='attacked'></script><script>document.title='attacked'</script>"
)


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a report; when the test is over, nothing may have gone wrong on its page."""
    wrong: list[str] = []
    pages = []

    def open_page(
        report: Report, *, student: bool = False, width: int = 1280, scheme: str = "light", at: str = ""
    ) -> Page:
        path = tmp_path / "report.html"
        with path.open("w", encoding="utf-8", newline="") as stream:
            write(report, "html", stream, student=student)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: wrong.append(request.url) if pages_own(request.url) else None
        )
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(path.as_uri() + at)
        return page

    def pages_own(url: str) -> bool:
        return not url.startswith((tmp_path / "report.html").as_uri())

    yield open_page
    for page in pages:
        assert page.title() != "attacked"
        page.close()
    assert wrong == []


def made(*verdicts: Verdict, wall: float) -> tuple[TestReport, ...]:
    """Make tests of these verdicts; the second and later ones are hidden."""
    return tuple(
        TestReport(
            f"secret/{number}",
            "secret",
            verdict,
            wall * number,
            wall,
            number << 20,
            "line 2: expected '144', got '145'" if verdict is Verdict.WA else "",
            hidden=number > 1,
            input=b"3\n",
            expected=b"1\n144 same\nlast\n",
            actual=b"1\n145 same\nmore\x07\nlast\n"
            if verdict is Verdict.WA
            else b"1\n144 same\nlast\n",
        )
        for number, verdict in enumerate(verdicts, 1)
    )


REPORT = Report(
    "Fractions",
    (
        SubmissionReport("b.py", Verdict.WA, 40.0, 100.0, (Verdict.AC,), False, made(Verdict.AC, Verdict.WA, wall=0.3)),
        SubmissionReport("a10.py", Verdict.AC, 100.0, 100.0, (Verdict.AC,), True, made(Verdict.AC, Verdict.AC, wall=0.1)),
        SubmissionReport(
            "a9.py", Verdict.CE, None, None, None, None, (), "SyntaxError: line 3",
            (GroupReport("secret", Verdict.CE, 0.0, 100.0),),
        ),
        SubmissionReport("c.py", Verdict.TLE, 5.0, 100.0, None, None, made(Verdict.TLE, wall=2.0)),
    ),
    2.0,
)  # fmt: skip


def shown(page: Page) -> list[str]:
    """Give the submissions as they stand, from top to bottom."""
    return page.locator("#grid tbody tr:visible .name").all_inner_texts()


def test_the_grid_has_a_cell_for_each_submission_and_test(open_page):
    """With a verdict, or a dot where a test did not run."""
    page = open_page(REPORT)

    assert shown(page) == ["b.py", "a10.py", "a9.py", "c.py"]
    cells = [row.locator(".c").all_inner_texts() for row in page.locator("#grid tbody tr").all()]
    assert cells == [["AC", "WA"], ["AC", "AC"], ["·", "·"], ["TLE", "·"]]
    assert page.locator("#summary").inner_text() == "4 submissions · 2 tests · time limit 2 s"


def test_tests_of_the_same_name_go_by_their_groups_as_well(open_page):
    """As much of a name as it takes to tell it from the others."""
    names = ("sample/1", "secret/a/1", "secret/b/1", "secret/b/2")
    tests = tuple(TestReport(name, "", Verdict.AC, 0.1, 0.1, 1 << 20, "") for name in names)
    page = open_page(
        Report("p", (SubmissionReport("a.py", Verdict.AC, None, None, None, None, tests),))
    )

    assert page.locator("#grid thead th.t").all_inner_texts() == ["sample/1", "a/1", "b/1", "2"]


@pytest.mark.parametrize(
    ("column", "up", "down"),
    [
        ("submission", ["a9.py", "a10.py", "b.py", "c.py"], ["c.py", "b.py", "a10.py", "a9.py"]),
        ("score", ["c.py", "b.py", "a10.py", "a9.py"], ["a10.py", "b.py", "c.py", "a9.py"]),
        ("verdict", ["a10.py", "b.py", "c.py", "a9.py"], ["a9.py", "c.py", "b.py", "a10.py"]),
        ("slowest", ["a10.py", "b.py", "c.py", "a9.py"], ["c.py", "b.py", "a10.py", "a9.py"]),
        ("secret/2", ["a10.py", "b.py", "a9.py", "c.py"], ["b.py", "a10.py", "a9.py", "c.py"]),
    ],
)
def test_a_click_on_a_heading_sorts(open_page, column, up, down):
    """Upwards, then downwards; what is not known comes last; a9 comes before a10."""
    page = open_page(REPORT)
    heading = page.get_by_title(f"sort by {column}", exact=True)

    heading.click()
    assert shown(page) == up
    assert heading.locator("..").get_attribute("aria-sort") == "ascending"
    heading.click()
    assert shown(page) == down
    assert heading.locator("..").get_attribute("aria-sort") == "descending"


def test_submissions_are_found_by_name_verdict_and_surprise(open_page):
    """Each narrows what is shown."""
    page = open_page(REPORT)

    page.fill("#search", "A")
    assert shown(page) == ["a10.py", "a9.py"]
    page.fill("#search", "")
    page.select_option("#verdicts", "TLE")
    assert shown(page) == ["c.py"]
    page.select_option("#verdicts", "")
    page.check("#unexpected input")
    assert shown(page) == ["b.py"]


@pytest.mark.parametrize("width", [380, 1280], ids=["phone", "wide"])
def test_a_cell_opens_with_the_difference(open_page, width):
    """Lines that differ, the words in them, and controls that would not be seen."""
    page = open_page(REPORT, width=width)

    page.locator("#grid button.WA").click()

    detail = page.locator("#detail")
    assert detail.locator("h2").first.inner_text() == "b.py · secret/2"
    assert "expected '144'" in detail.inner_text()
    assert detail.locator(".del mark").all_inner_texts() == ["144"]
    assert detail.locator(".add mark").all_inner_texts() == ["145"]
    added = detail.locator("td.add:not(.line)").all_inner_texts()
    assert [text.removeprefix("+ ") for text in added] == ["145 same", "more\\x07"]
    page.keyboard.press("ArrowLeft")
    assert detail.locator("h2").first.inner_text() == "b.py · secret/1"
    page.keyboard.press("Escape")
    assert not detail.is_visible()


def test_nothing_is_something(open_page):
    """No points, no time and no byte are told as such."""
    zero = TestReport("t", "", Verdict.AC, 0.0, 0.0, 0, "", score=0.0, max_score=5.0, actual=b"")
    page = open_page(
        Report("zero", (SubmissionReport("z.py", Verdict.AC, 0.0, 5.0, None, None, (zero,)),)),
        at="#1.1",
    )

    facts = page.locator("#detail .facts").inner_text().split("\n")
    assert {"score 0 / 5", "time 0 ms", "CPU 0 ms", "memory 0 KiB"} <= set(facts)
    assert page.locator("#detail pre").count() == 1


def test_an_address_leads_to_a_test_and_a_name_to_the_submission(open_page):
    """So that somebody else can be shown it."""
    page = open_page(REPORT, at="#1.2")
    assert page.locator("#detail h2").first.inner_text() == "b.py · secret/2"

    page.keyboard.press("Escape")
    page.get_by_role("button", name="a9.py", exact=True).click()
    assert "SyntaxError: line 3" in page.locator("#detail").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280], ids=["phone", "wide"])
def test_the_page_fits_its_screen(open_page, width, scheme):
    """Only the grid scrolls sideways; letters stand out from what is behind them."""
    page = open_page(REPORT, width=width, scheme=scheme)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#grid button.AC").first.is_visible()
    for verdict in Verdict:
        contrast = page.evaluate(CONTRAST, verdict.value)
        assert contrast >= 4.5, f"{verdict}: {contrast}"
    page.locator("#grid button.WA").click()
    assert page.locator("#detail").evaluate("element => element.scrollWidth <= element.clientWidth")


#: WCAG 2.2's ratio of the letters of a verdict's class to what is behind them.
CONTRAST = """verdict => {
  const chip = document.createElement("span");
  chip.className = `v ${verdict}`;
  document.body.append(chip);
  const { color, backgroundColor } = getComputedStyle(chip);
  chip.remove();
  const light = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(part => part / 255).map(
      part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_time_and_memory_are_drawn(open_page):
    """A dot for each test of each submission, which opens it."""
    page = open_page(REPORT)

    assert [svg.locator("circle").count() for svg in page.locator("#plots svg").all()] == [5, 5]
    assert page.locator("#plots .limit").count() == 1
    page.locator("#plots circle.TLE").first.click()
    assert page.locator("#detail h2").first.inner_text() == "c.py · secret/1"


def test_what_a_submission_wrote_is_text(open_page):
    """Wherever it stands."""
    content = ATTACK.encode()
    test = TestReport(
        ATTACK,
        ATTACK,
        Verdict.WA,
        0.1,
        0.1,
        1,
        ATTACK,
        False,
        ATTACK,
        None,
        None,
        content,
        content,
        b"x",
    )
    groups = (GroupReport(ATTACK, Verdict.WA, None, None),)
    attack = SubmissionReport(ATTACK, Verdict.WA, None, None, None, None, (test,), ATTACK, groups)
    page = open_page(Report(ATTACK, (attack,)))

    assert shown(page) == [ATTACK]
    page.locator("#grid .c button").click()
    assert page.locator("#detail").inner_text().count(ATTACK) >= 4
    page.keyboard.press("Escape")
    page.locator("#grid .name button").last.click()
    assert page.locator("#detail").inner_text().count(ATTACK) >= 3
    assert page.locator("img").count() == 0


def test_the_students_page_has_no_hidden_test(open_page):
    """But its verdict."""
    page = open_page(REPORT, student=True)

    assert "secret/2" not in page.content()
    page.locator("#grid button.WA").click()
    assert page.locator("#detail h2").first.inner_text() == "b.py · hidden 1"
    assert page.locator("#detail pre, #detail .diff").count() == 0


def test_many_submissions_are_there_at_once(open_page):
    """200 of 50 tests each."""
    verdicts = [Verdict.AC] * 49 + [Verdict.WA]
    many = tuple(
        SubmissionReport(f"s{n}.py", Verdict.WA, None, None, None, None, made(*verdicts, wall=0.01))
        for n in range(200)
    )
    page = open_page(Report("many", many))

    assert page.locator("#grid .c button").count() == 10_000
    page.get_by_title("sort by submission").click()
    page.get_by_title("sort by submission").click()
    assert shown(page)[0] == "s199.py"
