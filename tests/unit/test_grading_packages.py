"""Reading problem packages: what is broken stops before anything runs, in a line that names the file."""

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.grading.loading import load_problem
from producer.grading.model import Verdict
from producer.grading.package_files import PackageError
from producer.grading.sources import NoSuchSubmission, find_submissions

PACKAGES = Path(__file__).parents[1] / "data" / "packages"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Give a copy of a package, to break."""
    return Path(shutil.copytree(PACKAGES / "sum", tmp_path / "sum"))


def write(text: str, *parts: str) -> Callable[[Path], object]:
    """Give what writes a file of the package."""

    def spoil(package: Path) -> None:
        path = package.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (write("name: x\nlimts: {}\n", "problem.yaml"), r"problem\.yaml: unknown key limts"),
        (write("limits:\n  memroy: 3\n", "problem.yaml"), r"unknown key limits\.memroy"),
        (
            write("limits:\n  memory: lots\n", "problem.yaml"),
            r"limits\.memory: expected a whole number",
        ),
        (write("name: [\n", "problem.yaml"), r"problem\.yaml: not valid YAML, line"),
        (write("name: a\nname: b\n", "problem.yaml"), r"the key 'name' is there twice"),
        (write("- 1\n", "problem.yaml"), r"problem\.yaml: expected keys and values"),
        (write("problem_format_version: 1999-01\n", "problem.yaml"), "1999-01"),
        (write("type: puzzle\n", "problem.yaml"), "unknown type 'puzzle'"),
        (write("validator_flags: fuzzy\n", "problem.yaml"), "no flag 'fuzzy'"),
        (write("validation: custom\n", "problem.yaml"), "output_validators"),
        (write("onreject: break\n", "data", "secret", "testdata.yaml"), "unknown key onreject"),
        (write("accept_score: 3\n", "data", "secret", "testdata.yaml"), "scoring"),
        (write("grader_flags: median\n", "data", "testdata.yaml"), "no flag 'median'"),
        (write("1\n", "data", "secret", "99.in"), r"99\.in: there is no 99\.ans"),
        (write("1\n", "data", "secret", "99.ans"), r"99\.ans: there is no 99\.in"),
        (write("fast", ".timelimit"), r"\.timelimit: time limit: expected a number"),
        (lambda package: shutil.rmtree(package / "data"), "no tests"),
        (lambda package: (package / "data" / "secret" / "x.in").symlink_to("/etc/passwd"), "leaves"),
        (lambda package: (package / "data" / "up").symlink_to(".."), "that it is in"),
        (lambda package: (package / "data" / "gone").symlink_to("nowhere"), "a link to nothing"),
    ],
)
def test_a_broken_package_is_refused(package: Path, spoil: Callable[[Path], object], told: str) -> None:
    """With the file and the reason."""
    spoil(package)
    with pytest.raises(PackageError, match=told) as refused:
        load_problem(package)

    assert "\n" not in str(refused.value)
    assert str(package) in str(refused.value)


def test_a_link_that_stays_inside_is_followed(package: Path) -> None:
    """As the format allows."""
    (package / "data" / "secret" / "04.in").symlink_to("03.in")
    (package / "data" / "secret" / "04.ans").symlink_to("03.ans")

    assert load_problem(package).tests()[-1].input == b"7 7\n"


def zipped(package: Path, into: Path) -> Path:
    """Pack a folder."""
    with zipfile.ZipFile(into, "w") as archive:
        for path in sorted(package.rglob("*")):
            archive.write(path, path.relative_to(package.parent))
    return into


def test_a_zip_is_as_good_as_its_folder(package: Path, tmp_path: Path) -> None:
    """And what was unpacked is removed."""
    with load_problem(zipped(package, tmp_path / "sum.zip")) as problem:
        names = [test.name for test in problem.tests()]
        folder = problem.folder

    assert names == [test.name for test in load_problem(package).tests()]
    assert problem.name == "sum"
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "sum/../../evil"])
def test_a_zip_that_writes_elsewhere_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    """Nothing of it is unpacked."""
    archive = zipped(package, tmp_path / "sum.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "x")

    with pytest.raises(PackageError, match="outside"):
        load_problem(archive)
    assert not (tmp_path.parent / "evil").exists()


def test_a_link_in_a_zip_stays_inside(package: Path, tmp_path: Path) -> None:
    """As in a folder."""
    archive = zipped(package, tmp_path / "sum.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        link = zipfile.ZipInfo("sum/data/secret/x.in")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")

    with pytest.raises(PackageError, match="leaves the package"):
        load_problem(archive)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    """Before it is unpacked."""
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bomb/data/secret/1.in", b"\0" * (80 << 20))

    with pytest.raises(PackageError, match="too many"):
        load_problem(archive)


def test_a_folder_of_inputs_and_answers_is_a_problem(tmp_path: Path) -> None:
    """Answers are `.ans` or `.out`, in any folder below."""
    for name in ("1.in", "1.out", "deeper/2.in", "deeper/2.ans"):
        write("1\n", name)(tmp_path)

    assert [test.name for test in load_problem(tmp_path).tests()] == ["1", "deeper/2"]

    write("1\n", "3.in")(tmp_path)
    with pytest.raises(PackageError, match=r"3\.in: there is no 3\.ans"):
        load_problem(tmp_path)


def test_the_new_format_knows_its_groups() -> None:
    """With points, what they require, and constants filled in."""
    problem = load_problem(PACKAGES / "near")

    assert [test.name for test in problem.tests()][:2] == ["sample/1", "secret/a/1"]
    assert problem.time_limit == 2
    assert b"!= 3" in problem.validators[0].files["validate.py"]
    assert problem.include["offset.py"] == b"OFFSET = 3\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_score: -1\n", "from 0"),
        ("score_aggregation: avg\n", "avg"),
        ("max_score: 60\nrequire_pass: [secret/zz]\n", "no earlier group"),
        ("max_points: 4\n", "unknown key max_points"),
        ("score_aggregation: sum\n", "max_score is missing"),
    ],
)
def test_a_broken_group_of_the_new_format_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """In its own file."""
    package = Path(shutil.copytree(PACKAGES / "near", tmp_path / "near"))
    (package / "data" / "secret" / "b" / "test_group.yaml").write_text(text)

    with pytest.raises(PackageError, match=told) as refused:
        load_problem(package)
    assert "secret/b/test_group.yaml" in str(refused.value)


def test_submissions_are_found_by_file_folder_glob_and_students(tmp_path: Path) -> None:
    """And what can't be run is in the list as well, and says why."""
    problem = load_problem(PACKAGES / "sum")
    for name in ("ann/main.py", "ann/more.py", "bob.py", "cid/one.py", "cid/two.py", "dan/notes.txt"):
        write("x = 1\n" if name != "cid/one.py" else "import two\n", "students", *name.split("/"))(
            tmp_path
        )

    found = {one.name: one for one in find_submissions(problem, [tmp_path / "students"])}
    assert list(found) == ["ann", "bob.py", "cid", "dan"]
    assert found["ann"].program is not None
    assert "no main file" in found["cid"].problem
    assert "nothing here runs .txt" in found["dan"].problem

    assert [one.name for one in find_submissions(problem, [f"{tmp_path}/*/b*.py"])] == ["bob.py"]
    own = find_submissions(problem, [PACKAGES / "sum/submissions/wrong_answer/minus.py"])[0]
    assert own.expected is not None
    assert own.expected.verdicts == (Verdict.WA,)
    for nothing in (f"{tmp_path}/*.java", f"{tmp_path}/nobody"):
        with pytest.raises(NoSuchSubmission, match=nothing.replace("*", r"\*")):
            find_submissions(problem, [nothing])


def test_a_validator_in_another_language_can_be_replaced(package: Path, tmp_path: Path) -> None:
    """The refusal says which languages, and how."""
    write("validation: custom\n", "problem.yaml")(package)
    write("int main() {}\n", "output_validators", "exact", "validate.cc")(package)
    write("\n", "output_validators", "exact", "validate.h")(package)
    other = tmp_path / "mine.py"
    other.write_text("")

    with pytest.raises(
        PackageError, match=r"exact: nothing here runs \.cc or \.h programs; --validator"
    ):
        load_problem(package).__enter__()
    with load_problem(package, validator="default") as problem:
        assert problem.validators == ()
    with load_problem(package, validator=other) as problem:
        assert [one.name for one in problem.validators] == ["mine.py"]
