"""Files of documents: names and globs to files, byte spans of documents in them, and the split of documents into train and validation."""

import functools
import glob
import gzip
import hashlib
import mmap
import pathlib
import re
import zlib
from collections.abc import Iterable

import numpy as np

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.data import counter

SPLITS = ("train", "validation", "test")
OPEN_FILES = 8  # kept mapped, or unpacked, at a time


def for_split(source: str, split: str, chosen: dict[str, str | None], path: str | None) -> tuple[list[pathlib.Path], bool]:
    """Returns the files of a split, and whether they still hold all splits together (`path`) and must be divided.

    Args:
      source: name for messages.
      chosen: the file or glob given for each split, or None.
    Errors: UserError where the split has none, or no file is found.
    """
    if split not in SPLITS:
        raise UserError(f'source {source}: split: got "{split}", expected one of {", ".join(SPLITS)}.')
    if chosen.get(split):
        return expand(chosen[split], f"source {source}: {split}"), False
    if path and split != "test":
        return expand(path, f"source {source}: path"), True
    have = [name for name, value in chosen.items() if value] + (["path (train and validation)"] if path else [])
    raise UserError(f"source {source}: there is no {split} split. Given: {', '.join(have) or 'nothing'}. Set {split}= to a file or glob.")


def expand(pattern: str, where: str) -> list[pathlib.Path]:
    """Returns the file of this name, or all files that a glob matches, in the order of their names."""
    path = pathlib.Path(pattern).expanduser()
    looked = path.absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f'{where}: {path} is a directory, expected a file or a glob such as "{path / "*"}".')
    found = sorted(pathlib.Path(p) for p in glob.glob(str(path), recursive=True) if pathlib.Path(p).is_file())
    if found:
        return found
    if glob.has_magic(str(path)):
        raise UserError(f"{where}: no file matches {looked}.")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    missing = "" if path.parent.is_dir() else f" There is no directory {looked.parent} either."
    raise UserError(f"{where}: there is no file {looked}.{nearest(path.name, beside)}{missing}")


def fingerprint(paths: Iterable[pathlib.Path], *settings: object) -> str:
    """Returns a hash of the files' names, sizes and times of change, and of `settings`; the files are not read."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def divide(num_documents: int, split: str, fraction: float) -> np.ndarray:
    """Returns the documents of "train" or "validation", int64 ascending: those whose hashes are least are the validation documents.

    Errors: UserError where there are not enough documents for both.
    """
    num_validation = max(1, round(fraction * num_documents))
    if num_validation >= num_documents:
        raise UserError(
            f"{num_documents} document(s), validation_fraction={fraction}: nothing is left for training. "
            "Give train= and validation= files, or a smaller fraction."
        )
    order = counter.permutation(num_documents, 0)
    return np.sort(order[:num_validation] if split == "validation" else order[num_validation:])


class Documents:
    """The documents of some files, read one at a time: a whole file each, or the parts between separators. Blank ones are left out.

    Files whose names end in .gz are unpacked in memory. With `blank` the blank ones are kept (but for what follows a last separator), so
    that the documents of several files can be counted off against each other; `full_D` says which are not blank.
    """

    def __init__(self, paths: list[pathlib.Path], separator: bytes = b"", encoding: str = "utf-8", blank: bool = False):
        self.paths, self.encoding, self._blank = paths, encoding, blank
        self._contents = functools.lru_cache(OPEN_FILES)(_contents)
        file_D, start_D, end_D, full_D = columns = [], [], [], []
        for number, path in enumerate(paths):
            content = self._contents(path)
            start = 0
            for found in re.finditer(re.escape(separator), content) if separator else ():
                self._add(content, number, start, found.start(), *columns)
                start = found.end()
            self._add(content, number, start, len(content), *columns)
        self.file_D, self.start_D, self.end_D = np.array(file_D, np.int32), np.array(start_D, np.int64), np.array(end_D, np.int64)
        self.full_D = np.array(full_D, bool)

    def _add(self, content, number, start, end, file_D, start_D, end_D, full_D) -> None:
        full = bool(content[start:end].strip())
        if full or (self._blank and start < len(content)):
            full_D.append(full)
            file_D.append(number)
            start_D.append(start)
            end_D.append(end)

    def __len__(self) -> int:
        return len(self.file_D)

    def keep(self, chosen_D: np.ndarray) -> None:
        """Keeps only some documents."""
        self.file_D, self.start_D, self.end_D = self.file_D[chosen_D], self.start_D[chosen_D], self.end_D[chosen_D]
        self.full_D = self.full_D[chosen_D]

    def cut(self, split: str, fraction: float) -> None:
        """Keeps the head ("train") or the last `fraction` ("validation") of the only document; no character is cut in two."""
        content = self._contents(self.paths[self.file_D[0]])
        start, end = int(self.start_D[0]), int(self.end_D[0])
        middle = start + int((end - start) * (1 - fraction))
        while middle < end and content[middle] & 0xC0 == 0x80:  # a byte inside a UTF-8 character
            middle += 1
        self.start_D, self.end_D = (self.start_D, np.array([middle])) if split == "train" else (np.array([middle]), self.end_D)

    def text(self, i: int) -> str:
        """Returns document i. Errors: UserError where it is not in the encoding."""
        path = self.paths[self.file_D[i]]
        start = int(self.start_D[i])
        return _decoded(self._contents(path)[start : int(self.end_D[i])], self.encoding, path, start)

    def where(self, i: int) -> str:
        """Returns "file:line" of the beginning of document i."""
        path = self.paths[self.file_D[i]]
        return f"{path}:{self._contents(path)[: int(self.start_D[i])].count(bytes([10])) + 1}"


def read(path: pathlib.Path, encoding: str = "utf-8") -> str:
    """Returns a file's text (.gz too), without a byte order mark. Errors: UserError where it is not in the encoding."""
    content = _contents(path)
    return _decoded(content[: len(content)], encoding, path).removeprefix("\ufeff")


def _decoded(content: bytes, encoding: str, path: pathlib.Path, start: int = 0) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        hint = 'Convert the file, or set encoding= (such as "latin-1") if the source has it.'
        raise UserError(f"{path}: byte {start + error.start} is not {name}. {hint}") from error


def _contents(path: pathlib.Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file: {error}.") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
