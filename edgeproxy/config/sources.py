"""From what was named on the command line to texts: files and directories, and what is wrong with those.

Rules: nothing here knows YAML; the texts are kept as a fingerprint so that a watcher can ask whether they changed.
"""
from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeproxy.config.nodes import Document
from edgeproxy.config.problem import Problems

_LARGEST = 16 << 20
"""Bytes of one file; 10 000 routes are about 1 MiB."""
_WORDS = {
    errno.ENOENT: "no such file or directory",
    errno.EACCES: "permission denied: this user may not read it",
    errno.EPERM: "permission denied: this user may not read it",
    errno.ENOTDIR: "a part of this path is not a directory",
    errno.ELOOP: "symbolic links that lead in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open in this process",
    errno.ENXIO: "not a file that can be read",
    errno.EIO: "the disk cannot read it",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What a configuration was read from: the paths as named, the files in their order, a hash of what was in them."""

    named: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    fingerprint: str = ""

    def changed(self) -> bool:
        """Whether reading again would give other files or other text; by content, since links and mounts change too."""
        return fingerprint(self.named) != self.fingerprint


def fingerprint(named: Sequence[str]) -> str:
    """A hash of names and contents; what cannot be read counts with its name only."""
    digest = hashlib.sha256()
    problems = Problems()
    for path in _expand(named, problems):
        _update(digest, path, _read(path, Problems(), 0))
    return digest.hexdigest()


def read_documents(paths: Sequence[str | Path], problems: Problems) -> tuple[list[Document], Sources]:
    """The texts of all files; a problem for each that cannot be read."""
    named = tuple(os.fspath(path) for path in paths)
    files = _expand(named, problems)
    digest = hashlib.sha256()
    documents = []
    for order, path in enumerate(files):
        data = _read(path, problems, order)
        _update(digest, path, data)
        document = None if data is None else decode(data, path, problems, order)
        if document is not None:
            documents.append(document)
    return documents, Sources(named, tuple(files), digest.hexdigest())


def decode(data: bytes, name: str, problems: Problems, order: int) -> Document | None:
    """The document of some bytes; None and a problem if they are no UTF-8."""
    folder = os.path.dirname(os.path.abspath(name)) if order >= 0 else ""
    try:
        return Document(name, data.decode("utf-8"), problems, order, folder)
    except UnicodeDecodeError as error:
        place = Document(name, data.decode("utf-8", "replace"), problems, order, folder)
        line, column = place.position(len(data[:error.start].decode("utf-8")))
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            place.whole("this text is UTF-16; save it as UTF-8")
        elif b"\0" in data[:1024]:
            place.whole("this looks like a binary file; a YAML text is expected")
        else:
            place.problem(line, column, f"the byte 0x{data[error.start]:02X} is not UTF-8; save the file as UTF-8")
        return None


def _expand(named: Sequence[str], problems: Problems) -> list[str]:
    files: list[str] = []
    for path in named:
        if os.path.isdir(path):
            files.extend(_of_directory(path, problems, len(files)))
        else:
            files.append(path)
    unique = list(dict.fromkeys(files))
    if not named:
        Document("", "", problems).whole("no configuration file was named")
    return unique


def _of_directory(path: str, problems: Problems, order: int) -> list[str]:
    place = Document(path, "", problems, order)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        place.whole(in_words(error))
        return []
    found = [os.path.join(path, name) for name in names if name.endswith(".yaml") and not name.startswith(".")]
    if not found:
        other = next((name for name in names if name.endswith(".yml")), None)
        place.whole("no *.yaml in this directory" + (f"; rename {other} to {other[:-4]}.yaml" if other else ""))
    return found


def _read(path: str, problems: Problems, order: int) -> bytes | None:
    place = Document(path, "", problems, order)
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        place.whole(in_words(error))
        return None
    except ValueError:
        place.whole("this is not the name of a file")
        return None
    if len(data) > _LARGEST:
        place.whole(f"a configuration file has at most {_LARGEST >> 20} MiB")
        return None
    return data


def in_words(error: OSError) -> str:
    """What went wrong with a file, without numbers."""
    return _WORDS.get(error.errno or 0) or (error.strerror or "it cannot be read").lower()


def _update(digest: hashlib._Hash, path: str, data: bytes | None) -> None:
    name = os.fsencode(path)
    digest.update(b"%d:%b%d:" % (len(name), name, -1 if data is None else len(data)))
    digest.update(data or b"")
