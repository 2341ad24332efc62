"""What takes time is done once: finished directories below $DECODER_LAB_CACHE (default ~/.cache/decoder_lab), found again by a key.

The key is a hash of everything that shaped the content. A directory is written under a temporary name beside its final one, every file
flushed to disk, the manifest with all sizes last, and renamed when complete: an interrupted build or a full disk leaves nothing that is
believed later. Builders of one key take a file lock, so that of two processes one builds and the other waits for it; on a file system
without locks both build, and the first to be complete is believed. So the processes of a run may share a cache, or have one each.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from decoder_lab.core import runtime, units
from decoder_lab.core.errors import UserError

FORMAT_VERSION = 1  # raise when the meaning of cached files changes
MANIFEST = "manifest.json"
PROGRESS_SECONDS = 3.0
BUFFER_TOKENS = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def silent(line: str) -> None:
    """Default of every `progress` argument: says nothing."""


def key(kind: str, fingerprints: Mapping[str, object]) -> str:
    """Returns the name of a cache entry: its kind and a hash of all fingerprints (JSON-like) and of the format version."""
    text = json.dumps([FORMAT_VERSION, kind, dict(fingerprints)], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def entry(
    kind: str,
    fingerprints: Mapping[str, object],
    write: Callable[[pathlib.Path], dict],
    progress: Callable[[str], None] = silent,
) -> tuple[pathlib.Path, dict]:
    """Returns (directory, facts) of the entry with this key, building it where there is none that can be believed.

    Args:
      kind: first part of the directory's name.
      fingerprints: everything that shapes the content.
      write: fills an empty directory with files and returns small JSON-like facts, which are kept in the manifest.
      progress: takes one line for the user.
    Errors: UserError where the cache cannot be written or the disk is full; whatever `write` raises.
    """
    final = runtime.cache_directory() / key(kind, fingerprints)
    with _cache_errors(final.parent):
        facts, _ = _read(final)
        if facts is not None:  # no lock is needed to read, so that a complete cache may be read-only
            return final, facts
        final.parent.mkdir(parents=True, exist_ok=True)
        with _lock(final.with_name(final.name + ".lock"), progress) as locked:
            facts, damage = _read(final)
            if facts is not None:
                return final, facts
            if final.exists():
                progress(f"cache {final} cannot be used ({damage}): building it again.")
                shutil.rmtree(final)
            for left_by_the_dead in final.parent.glob(final.name + ".tmp-*") if locked else ():
                shutil.rmtree(left_by_the_dead, ignore_errors=True)
            return final, _build(final, fingerprints, write)


def _build(final: pathlib.Path, fingerprints: Mapping[str, object], write: Callable[[pathlib.Path], dict]) -> dict:
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=final.name + ".tmp-", dir=final.parent))
    try:
        facts = write(temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        for name in sizes:
            _flush(temporary / name)
        manifest = dict(format=FORMAT_VERSION, key=final.name, fingerprints=dict(fingerprints), files=sizes, facts=facts)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _flush(temporary / MANIFEST)
        _flush(temporary)
        try:
            os.rename(temporary, final)
        except OSError as error:
            there, _ = _read(final) if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else (None, "")
            if there is None:
                raise
            shutil.rmtree(temporary)  # without locks somebody else was faster
            return there
        _flush(final.parent)
    except BaseException:  # Ctrl-C and a full disk included: take away what is half done
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return facts


def _read(path: pathlib.Path) -> tuple[dict | None, str]:
    """Returns (facts, "") of a complete entry, or (None, what is wrong with it)."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT_VERSION or manifest["key"] != path.name:
            return None, "its manifest belongs to another entry"
        for name, size in manifest["files"].items():
            found = (path / name).stat().st_size
            if found != size:
                return None, f"{name} has {found} bytes instead of {size}"
        return manifest["facts"], ""
    except FileNotFoundError as error:
        return None, f"{pathlib.Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "its manifest cannot be read"


def _flush(path: pathlib.Path) -> None:
    """Asks the disk to keep a file or a directory listing."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _lock(path: pathlib.Path, progress: Callable[[str], None]) -> Iterator[bool]:
    """Holds an exclusive lock, which the system lets go of when this process dies; yields whether the file system has locks."""
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that builds {path.stem}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False
            return
        yield True


@contextlib.contextmanager
def _cache_errors(root: pathlib.Path) -> Iterator[None]:
    """Turns what the cache's own disk refuses into something a user can act on."""
    try:
        yield
    except OSError as error:
        hint = "Set DECODER_LAB_CACHE to a directory that can be written."
        if error.errno in FULL:
            raise UserError(f"cache: {root}: {error.strerror}. Nothing half-written was kept. Make room, or: {hint}") from error
        inside = error.filename is not None and pathlib.Path(os.fsdecode(error.filename)).is_relative_to(root)
        if error.errno in REFUSED and (inside or error.filename == str(root) or not root.is_dir()):
            raise UserError(f"cache: {root} cannot be written: {error.strerror}. {hint}") from error
        raise


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """The tokens of one split's documents, end to end.

    Attributes:
      tokens: uint16 or uint32 [N], each document followed by its end-of-text id where the tokenizer has one.
      offsets: int64 [D+1]; document d is tokens[offsets[d]:offsets[d + 1]].
      num_bytes: UTF-8 bytes of the raw text.
      key: name of the cache entry; "" for tokens that live in memory only.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int
    key: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def in_memory(cls, documents: Iterable[np.ndarray], num_bytes: int = 0) -> "TokenCache":
        """Makes one from token arrays, without a file."""
        documents = [np.asarray(d, np.uint32) for d in documents]
        return cls(np.concatenate(documents), np.cumsum([0] + [len(d) for d in documents]), num_bytes)


def token_cache(
    fingerprints: Mapping[str, object],
    documents: Callable[[], Iterable[tuple[np.ndarray, int]]],
    num_documents: Callable[[], int],
    vocab_size: int,
    label: str,
    progress: Callable[[str], None] = silent,
) -> TokenCache:
    """Returns the cached tokens with these fingerprints; where there are none, tokenises `documents()`: pairs of (tokens [n], raw bytes).

    Both callables are called only then, as counting documents may mean reading everything.

    Errors: UserError for a split of fewer than two tokens; ValueError for ids outside [0, vocab_size).
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)

    def write(path: pathlib.Path) -> dict:
        return _write_tokens(path, documents(), num_documents(), vocab_size, dtype, label, progress)

    path, facts = entry("tokens", fingerprints, write, progress)
    tokens = np.memmap(path / "tokens.bin", dtype, mode="r").view(np.ndarray)
    offsets = np.memmap(path / "offsets.bin", np.int64, mode="r").view(np.ndarray)
    return TokenCache(tokens, offsets, facts["num_bytes"], path.name)


def _write_tokens(path, documents, num_documents, vocab_size, dtype, label, progress) -> dict:
    start = told = time.monotonic()
    lengths, num_bytes, held, num_held, digest = [], 0, [], 0, hashlib.sha256()

    def spill() -> None:
        block = np.concatenate(held) if held else np.zeros(0, np.int32)
        if block.size and not 0 <= int(block.min()) <= int(block.max()) < vocab_size:
            raise ValueError(f"{label}: token ids from {block.min()} to {block.max()}, outside the vocabulary of {vocab_size}")
        data = block.astype(dtype).tobytes()
        digest.update(data)
        file.write(data)

    with open(path / "tokens.bin", "wb") as file:
        for tokens, size in documents:
            lengths.append(len(tokens))
            num_bytes += size
            held.append(tokens)
            num_held += len(tokens)
            if num_held >= BUFFER_TOKENS:
                spill()
                held, num_held = [], 0
            now = time.monotonic()
            if now - told > PROGRESS_SECONDS:
                told, done = now, len(lengths)
                left = (now - start) / done * (num_documents - done)
                progress(f"tokenising {label}: {done:,} of {num_documents:,} documents, {units.size(num_bytes)}, {left:,.0f} s left")
        spill()
    offsets = np.cumsum([0] + lengths, dtype=np.int64)
    if offsets[-1] < 2:
        raise UserError(f"{label}: {len(lengths)} documents with {offsets[-1]} tokens in all, expected at least 2 tokens to predict one.")
    offsets.tofile(path / "offsets.bin")
    seconds = time.monotonic() - start
    progress(f"tokenised {label}: {len(lengths):,} documents, {units.size(num_bytes)}, {offsets[-1]:,} tokens in {seconds:.1f} s")
    return dict(num_bytes=num_bytes, num_documents=len(lengths), num_tokens=int(offsets[-1]), sha256=digest.hexdigest())
