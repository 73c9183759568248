"""The reports that other programs load: each by its own format's rules, whatever a submission contains."""

import csv
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from producer.grading.model import GroupReport, Report, SubmissionReport, TestReport, Verdict
from producer.grading.reports import FORMATS, write

#: What may come from a submission, a package or a file system.
HOSTILE = (
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1",
    "\uff1d1",
    "a,b",
    'a"b',
    "two\nlines",
    "\0nul\x1b[31m\x0b\ufffe\ud800",
    "]]>",
    "</script><script>alert(1)</script>",
    "<!--",
    "&amp;",
    "\u2028",
    "'",
    "",
)

PASSED = TestReport(
    "sample/1",
    "sample",
    Verdict.AC,
    0.0123,
    0.01,
    1 << 20,
    "",
    input=b"1\n",
    expected=b"2\n",
    actual=b"2\n",
)
FAILED = TestReport(
    "secret/group1/07-overflow",
    "secret/group1",
    Verdict.WA,
    1.5,
    1.25,
    3 << 20,
    "line 3: expected '7', got '8'\nand more",
    hidden=True,
    feedback="think of large numbers",
    score=0.0,
    max_score=40.0,
    input=b"secret input",
    expected=b"secret answer",
    actual=b"wrong \xff\n",
)
SUBMISSION = SubmissionReport(
    "anna.py",
    Verdict.WA,
    60.0,
    100.0,
    (Verdict.AC,),
    as_expected=False,
    tests=(PASSED, FAILED, replace(FAILED, name="secret/group1/08", verdict=Verdict.JE, feedback="")),
    groups=(
        GroupReport("", Verdict.WA, 60.0, 100.0),
        GroupReport("sample", Verdict.AC, None, None),
        GroupReport("secret/group1", Verdict.WA, 0.0, 40.0),
    ),
)
BROKEN = SubmissionReport(
    "ben.py", Verdict.CE, 0.0, 100.0, None, None, (), "SyntaxError: invalid syntax (main.py, line 3)"
)
REPORT = Report("Different", (SUBMISSION, BROKEN), 2.0)


def written(report: Report, kind: str, *, student: bool = False) -> str:
    """Write a report and give its text."""
    stream = io.StringIO(newline="")
    write(report, kind, stream, student=student)
    text = stream.getvalue()
    assert text.encode().decode() == text  # it can be written, whatever came in
    return text


def hostile(text: str) -> Report:
    """Give a report with `text` wherever there is text."""
    content = text.encode("utf-8", "surrogatepass")
    test = TestReport(
        text,
        text,
        Verdict.WA,
        0.1,
        None,
        None,
        text,
        False,
        text,
        None,
        None,
        content,
        content,
        content,
    )
    groups = (GroupReport(text, Verdict.WA, None, None),)
    submission = SubmissionReport(text, Verdict.WA, None, None, None, None, (test,), text, groups)
    return Report(text, (submission,))


def test_an_unknown_format_is_refused():
    """With those that there are."""
    with pytest.raises(ValueError, match="'pdf' is none of html, junit, csv, gradescope"):
        write(REPORT, "pdf", io.StringIO())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_of_nothing_is_written(kind):
    """No submission at all, and one without tests."""
    assert written(Report("empty", ()), kind)
    assert written(Report("empty", (BROKEN,)), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_student_learns_the_verdict_of_a_hidden_test_and_no_more(kind):
    """Neither its name nor its content nor what is for the graders; its points are the student's."""
    report = replace(REPORT, submissions=(SUBMISSION,))

    teacher, student = written(report, kind), written(report, kind, student=True)
    if kind == "html":
        teacher, student = (
            text.partition('id="data">')[2].partition("</script>")[0] for text in (teacher, student)
        )

    for secret in ("07-over", "expected '7'", "secret input", "large numbers", "secret/group1", "1.5"):
        assert secret not in student
        assert kind != "csv" or secret in teacher or secret in ("secret input", "large numbers")
    assert "hidden 1" in student
    assert "hidden 2" in student
    assert "WA" in student


def test_a_hidden_test_has_one_number_in_all_submissions():
    """Also where one of them did not come to those before it."""
    first, second = FAILED, replace(FAILED, name="secret/group1/08")
    both, late = replace(SUBMISSION, tests=(first, second)), replace(SUBMISSION, tests=(second,))

    rows = table(Report("Different", (late, both)), student=True)

    assert [row["test"] for row in rows] == ["hidden 2", "hidden 1", "hidden 2"]


def test_a_student_sees_what_the_validator_wrote_for_students():
    """Of a test that is not hidden; and not what it wrote for the graders."""
    test = replace(FAILED, hidden=False)
    report = Report("Different", (replace(SUBMISSION, tests=(test,)),))

    told = written(report, "junit", student=True)

    assert "large numbers" in told
    assert "expected '7'" not in told


# CSV


def table(report: Report, *, student: bool = False) -> list[dict[str, str]]:
    """Read the CSV of a report."""
    return list(csv.DictReader(io.StringIO(written(report, "csv", student=student), newline="")))


def test_a_row_for_each_submission_and_test():
    """And one for a submission that came to none."""
    rows = table(REPORT)

    assert [(row["submission"], row["test"]) for row in rows] == [
        ("anna.py", "sample/1"),
        ("anna.py", "secret/group1/07-overflow"),
        ("anna.py", "secret/group1/08"),
        ("ben.py", ""),
    ]
    assert rows[0]["wall_time"] == "0.0123"
    assert (rows[0]["expected"], rows[0]["as_expected"], rows[0]["memory"]) == ("AC", "no", "1048576")
    assert rows[3]["message"].startswith("SyntaxError")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_is_a_formula(text):
    """A spreadsheet takes some first letters for one, whatever the quotes."""
    (row,) = table(hostile(text))

    for name in ("problem", "submission", "test", "group", "message"):
        assert not row[name].lstrip(" ").startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"))
        assert row[name].removeprefix("'") in (
            text,
            text.removeprefix("'"),
            "\ufffdnul\x1b[31m\x0b\ufffe\ufffd\ufffd\ufffd",
        )


# JUnit

# The rules of both schemas in use, Jenkins' junit-10.xsd and Ant's JUnit.xsd (of Windy Road): what stands in each
# element, in which order, and which attributes it has. What only one of them lets stand, or leave out, may not.
SCHEMA = {
    "testsuites": ("(testsuite )*", ""),
    "testsuite": (
        "properties (testcase )*system-out system-err ",
        "package id name timestamp hostname tests failures errors time",
    ),
    "properties": ("(property )*", ""),
    "property": ("", "name value"),
    "testcase": ("(error |failure )?", "name classname time"),
    "failure": ("", "type message"),
    "error": ("", "type message"),
    "system-out": ("", ""),
    "system-err": ("", ""),
}
FORMS = {
    "id": "[0-9]+",
    "time": r"[0-9]+\.[0-9]{3}",
    "timestamp": "[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}",
    "tests": "[0-9]+",
    "failures": "[0-9]+",
    "errors": "[0-9]+",
}
MIXED = {"failure", "error"}


def offences(element: ET.Element) -> list[str]:
    """Give what the schema forbids."""
    children, attributes = SCHEMA[element.tag]
    found = []
    if not re.fullmatch(children, "".join(f"{child.tag} " for child in element)):
        found.append(f"children of {element.tag}")
    if sorted(element.attrib) != sorted(attributes.split()):
        found.append(f"attributes of {element.tag}: {sorted(element.attrib)}")
    for name, value in element.attrib.items():
        if not re.fullmatch(FORMS.get(name, "(?s).*"), value):
            found.append(f"{name} of {element.tag}: {value}")
    if element.tag not in MIXED and (element.text or "").strip():
        found.append(f"text in {element.tag}")
    return found + [one for child in element for one in offences(child)]


def test_junit_is_what_the_common_schemas_ask_for():
    """A failure where the submission failed, an error where the judge did."""
    root = ET.fromstring(written(REPORT, "junit"))  # noqa: S314  # our own

    assert root.tag == "testsuites"
    assert offences(root) == []
    counts = [[suite.get(name) for name in ("id", "tests", "failures", "errors")] for suite in root]
    assert counts == [["0", "3", "1", "1"], ["1", "1", "1", "0"]]
    cases = root.findall(".//testcase")
    assert [[child.tag for child in case] for case in cases] == [
        [],
        ["failure"],
        ["error"],
        ["failure"],
    ]
    failure = cases[1][0]
    assert failure.attrib == {"type": "WA", "message": "line 3: expected '7', got '8'"}
    assert failure.text == f"{FAILED.message}\n{FAILED.feedback}"
    assert (cases[0].get("classname"), cases[0].get("time")) == ("anna.py", "0.012")
    assert cases[3].get("name") == "ben.py"


@pytest.mark.parametrize("text", HOSTILE)
def test_junit_stays_xml(text):
    """What XML can't say is left out; the rest comes back as it was."""
    root = ET.fromstring(written(hostile(text), "junit"))  # noqa: S314

    assert offences(root) == []
    legal = text.replace("\0", "").replace("\x1b", "").replace("\x0b", "").replace("\ufffe", "")
    legal = legal.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert root[0].get("package") == legal
    assert (
        (root.find(".//failure").text or "")
        .replace("\n", "")
        .startswith(legal.replace("\r", "").replace("\n", ""))
    )


# Gradescope

TOP = {
    "score": (int, float),
    "execution_time": (int, float),
    "output": str,
    "output_format": str,
    "test_output_format": str,
    "test_name_format": str,
    "visibility": str,
    "stdout_visibility": str,
    "extra_data": dict,
    "tests": list,
    "leaderboard": list,
}
TEST = {
    "score": (int, float),
    "max_score": (int, float),
    "status": str,
    "name": str,
    "name_format": str,
    "number": str,
    "output": str,
    "output_format": str,
    "tags": list,
    "visibility": str,
    "extra_data": dict,
}
VISIBILITIES = {"hidden", "after_due_date", "after_published", "visible"}


def gradescope(submission: SubmissionReport | None, *, student: bool = False) -> dict:
    """Give the `results.json` of a submission, held against Gradescope's specification."""
    report = Report("Different", (submission,) if submission else ())
    found = json.loads(written(report, "gradescope", student=student))
    for kinds, objects in ((TOP, [found]), (TEST, found["tests"])):
        for one in objects:
            assert set(one) <= set(kinds)
            assert all(isinstance(value, kinds[name]) for name, value in one.items())
            assert one["visibility"] in VISIBILITIES
            assert one.get("output_format", "text") in ("text", "html", "simple_format", "md", "ansi")
    assert all(one["status"] in ("passed", "failed") for one in found["tests"])
    assert all(isinstance(tag, str) for one in found["tests"] for tag in one["tags"])
    assert "score" in found or all("score" in one for one in found["tests"])
    return found


def test_gradescope_gets_the_score_and_each_test():
    """Hidden tests are there, for the teachers; Gradescope does not show them to students."""
    found = gradescope(SUBMISSION)

    assert (found["score"], found["execution_time"]) == (60.0, 3.012)
    assert [one["status"] for one in found["tests"]] == ["passed", "failed", "failed"]
    assert [one["visibility"] for one in found["tests"]] == ["visible", "hidden", "hidden"]
    assert (found["tests"][1]["score"], found["tests"][1]["max_score"]) == (0.0, 40.0)
    assert "secret answer" in found["tests"][1]["output"]


def test_gradescope_tells_students_what_is_theirs():
    """A shown test's message for the graders is not among it."""
    shown = replace(FAILED, hidden=False)

    (test,) = gradescope(replace(SUBMISSION, tests=(shown,)))["tests"]

    assert "large numbers" in test["output"]
    assert "expected '7'" not in test["output"]


def test_gradescope_is_told_of_what_could_not_be_graded():
    """Its file is always written."""
    assert gradescope(None)["score"] == 0.0
    assert "could not be graded" in gradescope(None)["output"]
    broken = gradescope(BROKEN)
    assert broken["score"] == 0.0
    assert "SyntaxError" in broken["output"]


def test_gradescope_scores_a_problem_without_points():
    """Passing is worth one."""
    plain = replace(SUBMISSION, score=None, max_score=None)

    assert gradescope(plain)["score"] == 0.0
    assert gradescope(replace(plain, verdict=Verdict.AC))["score"] == 1.0


def test_gradescope_takes_one_submission():
    """Its file has no place for two."""
    with pytest.raises(ValueError, match="for one submission, and here are 2"):
        write(REPORT, "gradescope", io.StringIO())


@pytest.mark.parametrize("text", HOSTILE)
def test_gradescope_stays_json(text):
    """Whatever a submission wrote."""
    assert gradescope(hostile(text).submissions[0])["tests"][0]["status"] == "failed"


# HTML: what can be told without a browser; the rest is in tests/browser.


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_stays_one_script_and_its_data(text):
    """Nothing that a submission wrote ends an element or begins one."""
    page = written(hostile(text), "html")

    assert page.count("<script") == page.count("</script") == 2
    assert page.count("<style") == 1
    data = page.partition('id="data">\n')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    about, submission, _ = (json.loads(line) for line in data.strip().split("\n"))
    assert about["problem"] == submission["name"]


def test_the_page_has_each_text_once():
    """The input and the answer of a test are the same in every submission."""
    many = tuple(replace(SUBMISSION, name=str(number)) for number in range(100))

    page = written(Report("many", many), "html")

    assert page.count("secret input") == page.count("secret answer") == 1


def test_the_page_cuts_what_is_long():
    """And says so; past some megabytes of it, the rest is cut shorter."""
    tests = tuple(
        replace(FAILED, name=str(number), actual=f"{number} ".encode() * 20_000)
        for number in range(1500)
    )
    page = written(Report("much", (replace(SUBMISSION, tests=tests),)), "html")

    assert len(page) < 12_000_000
    assert page.count('"cut":true') == 1500


def test_the_page_loads_nothing():
    """Its policy forbids it, and nothing in it asks for anything."""
    page = written(REPORT, "html")

    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert re.findall(r"\b(?:src|href)\s*=|@import|url\(", page) == []
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
