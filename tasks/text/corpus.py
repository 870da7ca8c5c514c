"""Where a text comes from: Tiny Shakespeare, Python's help, a UTF-8 file, or a pipe."""

import hashlib
import os
import stat
import threading
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from tasks.folders import cache, data_folders
from zoo.errors import UserError
from zoo.files.access import replacing, write_text

TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_FILES = ("tinyshakespeare/input.txt", "tinyshakespeare.txt")
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
START_SECONDS = 10.0
"""A download whose first bytes have not come by then is given up."""
LARGEST = 2**30
"""The most bytes that a text may have."""
MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte-order marks; UTF-32's first, for one of them begins as one of UTF-16's."""
OPTIONS = ("--data.corpus", "--data.init_args.corpus")
"""The options that name a text on a command line."""


@dataclass(frozen=True)
class Corpus:
    """A text and what it is called."""

    name: str
    text: str
    instead_of: str = ""
    """What to tell the user, if this is a fallback."""

    @property
    def sha256(self) -> str:
        """The hash of the text's UTF-8 bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Unavailable(Exception):
    """An error of a corpus that cannot be had now, for no fault of the user."""


def load_corpus(corpus: str, data_dir: str | None = None, fallback: str | None = "pydoc") -> Corpus:
    """Load the text of a named corpus or of a file.

    Args:
        corpus: `tinyshakespeare`, `pydoc`, or the path of a UTF-8 text file.
        data_dir: searched first for `tinyshakespeare/input.txt`; then $ZOO_DATA, the user's cache,
            the network.
        fallback: what to take when Tiny Shakespeare cannot be had; None makes that an error.
            Whoever trains on it must show `instead_of`.

    Raises:
        UserError: for a name that is neither corpus nor file, a file that is empty, binary or not
            the named corpus, or a corpus that cannot be had and has no fallback.
    """
    if corpus == "pydoc":
        return pydoc()
    if corpus != "tinyshakespeare":
        return from_file(Path(corpus))
    try:
        return tinyshakespeare(data_dir)
    except Unavailable as error:
        if fallback is None:
            raise UserError(f"{error}. Give a folder that has it: --data.data_dir FOLDER") from None
        notice = (
            f"{error}. Using {fallback!r} instead: its losses compare with no other corpus. "
            "Give --data.data_dir FOLDER, or --data.fallback null to stop here."
        )
        return replace(load_corpus(fallback, data_dir, None), instead_of=notice)


def tinyshakespeare(data_dir: str | None = None) -> Corpus:
    """Load Tiny Shakespeare, 1,115,394 characters, from the first place that has it.

    Raises:
        UserError: if a folder was given that does not exist, or a file there is something else.
        Unavailable: if no place has it and it cannot be downloaded.
    """
    for folder, name in product((*data_folders(data_dir), cache()), TINYSHAKESPEARE_FILES):
        if (path := folder / name).is_file():
            corpus = Corpus("tinyshakespeare", read_text(path))
            if corpus.sha256 != TINYSHAKESPEARE_SHA256:
                raise UserError(
                    f"'{path}' is not Tiny Shakespeare: its sha256 is {corpus.sha256[:12]}..., "
                    "remove it"
                )
            return corpus
    data = download(TINYSHAKESPEARE_URL)
    if hashlib.sha256(data).hexdigest() != TINYSHAKESPEARE_SHA256:
        raise Unavailable(f"what {TINYSHAKESPEARE_URL} sends is not Tiny Shakespeare")
    target = cache() / "tinyshakespeare" / "input.txt"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            part.write_bytes(data)
    except OSError:
        pass  # a cache that cannot be written is no reason not to train
    return Corpus("tinyshakespeare", data.decode())


def download(url: str, start_seconds: float = START_SECONDS) -> bytes:
    """Return the bytes behind a URL.

    In a thread of its own, because a name look-up obeys no time-out.

    Raises:
        Unavailable: if nothing has come after `start_seconds`, or it breaks off.
    """
    started, result = threading.Event(), {}

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=start_seconds) as response:
                first = response.read(1)
                started.set()
                result["data"] = first + response.read()
        except Exception as error:  # whatever goes wrong here, the corpus is unavailable
            result["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    if not started.wait(start_seconds):
        raise Unavailable(
            "Tiny Shakespeare is not here, and its download did not start within "
            f"{start_seconds:.0f} s"
        )
    thread.join(timeout=600)
    if "data" not in result:
        raise Unavailable(
            "Tiny Shakespeare is not here, and its download failed "
            f"({result.get('error', 'too slow')})"
        )
    return result["data"]


def pydoc() -> Corpus:
    """Return the help topics that every CPython carries, about 470,000 characters.

    They differ between Python versions.
    """
    from pydoc_data.topics import topics

    return Corpus("pydoc", "\n\n".join(topics[key] for key in sorted(topics)))


def from_file(path: Path) -> Corpus:
    """Read a UTF-8 text file as a corpus called by its stem.

    Raises:
        UserError: if it is missing, unreadable, empty or binary.
    """
    if not path.is_file():
        raise UserError(
            f"no corpus {str(path)!r}: give tinyshakespeare, pydoc or the path of a text file"
        )
    return Corpus(path.stem, read_text(path))


def read_text(path: Path) -> str:
    """Read the text of a file, with its line ends and without a byte-order mark.

    Raises:
        UserError: if it is unreadable, empty, too large or not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            return decoded(file.read(LARGEST + 1), f"'{path}'")
    except OSError as error:
        raise UserError(
            f"cannot read corpus '{path}': {error.strerror}; give another --data.corpus"
        ) from None


def decoded(content: bytes, name: str) -> str:
    """Return the text that bytes stand for.

    Raises:
        UserError: if there are none, more than `LARGEST`, or they are not UTF-8 text; `name` is
            what they are called.
    """
    if len(content) > LARGEST:
        raise UserError(f"corpus {name} has more than {LARGEST:,} bytes: give a shorter text")
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            raise UserError(
                f"corpus {name} is {encoding}, not UTF-8 text: convert it, as with iconv -f "
                f"{encoding} -t UTF-8"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"corpus {name} is not UTF-8 text: convert it, as with iconv -t UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"corpus {name} is binary: give a text file")
    if not text:
        raise UserError(f"corpus {name} is empty: give a text file")
    return text


# ---- Texts that are sent -------------------------------------------------------------------------


def kept(argv: Sequence[str]) -> list[str]:
    """Return a command line in which a corpus that is sent stands as a file.

    It may come from a pipe, or from standard input as `-`.

    It can be read once only, while processes that are started for other ranks, and a run that goes
    on, read it again. So it is kept in the user's cache, called by its hash. What a config names is
    never waited for.

    Raises:
        UserError: if it is no text, or cannot be kept.
    """
    with_files: list[str] = []
    for i, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if i > 0 and argv[i - 1] in OPTIONS:
            with_files.append(_kept(word))
        elif option in OPTIONS and equals:
            with_files.append(f"{option}={_kept(value)}")
        else:
            with_files.append(word)
    return with_files


def _kept(corpus: str) -> str:
    """Return the file that a corpus is kept in, if it is sent; else the corpus."""
    if corpus != "-" and not _is_pipe(corpus):
        return corpus
    name = "from standard input" if corpus == "-" else f"'{corpus}'"
    try:
        with open(0 if corpus == "-" else corpus, "rb", closefd=corpus != "-") as file:
            text = decoded(file.read(LARGEST + 1), name)
    except OSError as error:
        raise UserError(
            f"cannot read corpus {name}: {error.strerror}; give another --data.corpus"
        ) from None
    path = cache() / "corpora" / f"sent-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"cannot keep the corpus {name} as '{path}': {error.strerror}; give a file, or set "
            "XDG_CACHE_HOME"
        ) from None
    return str(path)


def _is_pipe(name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):  # a name that no file can have
        return False
