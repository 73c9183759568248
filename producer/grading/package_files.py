"""A problem package on disk: a directory, or a zip that is unpacked first; nothing leaves it.

Whoever made the package is not trusted with this host's files: a link may not lead out of it, and an
archive may neither write beside it nor fill the disk.
"""

import os
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,254}")

#: What an archive may hold, and what a file of YAML: more than any problem needs.
MAX_UNPACKED = 1 << 30
_MAX_RATIO = 200
_MAX_MEMBERS = 50_000
_MAX_YAML = 1 << 20


class PackageError(ValueError):
    """The package can't be used; the text names the file and says why."""


def find_folder(problem: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Give the folder of a package and, where it came in an archive, the folder to remove at last."""
    path = Path(problem)
    if path.is_dir():
        check_links(path)
        return path, None
    if not path.is_file():
        raise PackageError(f"{path}: there is no such folder or file")
    if not zipfile.is_zipfile(path):
        raise PackageError(f"{path}: neither a folder nor a zip")
    unpacked = Path(tempfile.mkdtemp(prefix="sandboxed-package-"))
    try:
        return _unpack(path, unpacked), unpacked
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise


def _unpack(archive: Path, into: Path) -> Path:
    """Unpack what was looked at first, and give the folder that is the package."""
    try:
        with zipfile.ZipFile(archive) as opened_zip:
            members = opened_zip.infolist()
            _check_members(archive, members)
            left = MAX_UNPACKED
            for member in members:
                left = _unpack_one(archive, opened_zip, member, into, left)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise PackageError(f"{archive}: a zip that can't be read: {error}") from None
    check_links(into)
    inside = [path for path in into.iterdir() if _NAME.fullmatch(path.name)]
    if not (into / "problem.yaml").exists() and len(inside) == 1 and inside[0].is_dir():
        return inside[0]
    return into


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MAX_MEMBERS:
        raise PackageError(f"{archive}: {len(members)} files, at most {_MAX_MEMBERS}")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in member.filename:
            raise PackageError(f"{archive}: {member.filename!r} would be unpacked outside")
    size = sum(member.file_size for member in members)
    packed = archive.stat().st_size
    if size > MAX_UNPACKED or size > max(packed * _MAX_RATIO, 64 << 20):
        raise PackageError(f"{archive}: {packed} bytes that unpack to {size}: too many")


def _unpack_one(
    archive: Path, opened_zip: zipfile.ZipFile, member: zipfile.ZipInfo, into: Path, left: int
) -> int:
    """Write one member, and give how many bytes may still follow; what a zip says is not trusted."""
    target = into / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return left
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(member.external_attr >> 16):
        _unpack_link(archive, opened_zip, member, into)
        return left
    if not target.parent.resolve().is_relative_to(into.resolve()) or target.is_symlink():
        raise PackageError(f"{archive}: {member.filename!r} would be unpacked outside")
    with opened_zip.open(member) as source, target.open("wb") as written:
        while chunk := source.read(1 << 16):
            left -= len(chunk)
            if left < 0:
                raise PackageError(f"{archive}: unpacks to more than {MAX_UNPACKED} bytes")
            written.write(chunk)
    return left


def _unpack_link(
    archive: Path, opened_zip: zipfile.ZipFile, member: zipfile.ZipInfo, into: Path
) -> None:
    if member.file_size > 4096:  # noqa: PLR2004  # PATH_MAX
        raise PackageError(f"{archive}: {member.filename!r} is a link to nowhere")
    link = into / member.filename
    target = os.fsdecode(opened_zip.read(member))
    landing = Path(os.path.normpath(link.parent.resolve() / target))
    if os.path.isabs(target) or not landing.is_relative_to(into.resolve()):
        raise PackageError(f"{archive}: the link {member.filename!r} leaves the package")
    link.symlink_to(target)


def check_links(root: Path) -> None:
    """Refuse a symbolic link that leads out of `root` or to nothing, and what is no file or folder."""
    real = root.resolve()
    for folder, folders, files in os.walk(root):
        kept = [name for name in folders if not name.startswith(".")]
        folders[:] = kept
        for name in (*kept, *(name for name in files if not name.startswith("."))):
            path = Path(folder, name)
            if path.is_symlink():
                try:
                    landing = path.resolve(strict=True)
                except (OSError, RuntimeError):
                    raise PackageError(f"{path}: a link to nothing") from None
                if not landing.is_relative_to(real):
                    raise PackageError(f"{path}: a link that leaves the package")
                if path.parent.resolve().is_relative_to(landing):
                    raise PackageError(f"{path}: a link to a folder that it is in")
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise PackageError(f"{path}: neither a file nor a folder")


def entries(folder: Path) -> list[Path]:
    """Give what is in a folder and counts, by name; the format has other names ignored."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=lambda path: path.name
    )


def read(path: Path) -> bytes:
    """Give the bytes of a file of the package."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}") from None


def read_yaml(path: Path, constants: dict[str, str] | None = None) -> dict[str, Any]:
    """Give the mapping in a file of YAML, empty where the file is; `constants` are filled in first."""
    content = read(path)
    if len(content) > _MAX_YAML:
        raise PackageError(f"{path}: {len(content)} bytes of YAML, at most {_MAX_YAML}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise PackageError(f"{path}: not UTF-8") from None
    try:
        value = yaml.load(fill_in(text, constants or {}), _Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise PackageError(f"{path}: not valid YAML{line}: {reason}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PackageError(f"{path}: expected keys and values")
    for key in value:
        if not isinstance(key, str):
            raise PackageError(f"{path}: the key {key!r} is no text")
    return value


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML's own loader keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep)
        return built


def fill_in(text: str, constants: dict[str, str]) -> str:
    """Replace `{{name}}` and `{{name.variant}}` by the package's constants."""
    if not constants or "{{" not in text:
        return text
    return re.sub(
        r"\{\{([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)\}\}",
        lambda found: constants.get(found[1], found[0]),
        text,
    )


def fill_in_bytes(content: bytes, constants: dict[str, str]) -> bytes:
    """Do the same in a program, whatever its encoding."""
    if not constants or b"{{" not in content:
        return content
    text = content.decode("utf-8", "surrogateescape")
    return fill_in(text, constants).encode("utf-8", "surrogateescape")
