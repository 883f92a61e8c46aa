"""Vocabularies: bytes, characters, and those of `tokenizers` and SentencePiece."""

import abc
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.corpus.extras import extra
from train.corpus.files import DataError

# Characters of a vocabulary of characters, at most: those of a 16-bit token.
MAX_CHARACTERS = 1 << 16
# A tokenizer is given lines together up to so many bytes: its time and memory grow
# faster than the text.
PIECE_B = 1 << 16
# What a vocabulary is trained on: the beginning of the training split.
TRAINED_ON_B = 64 << 20


class AbstractVocabulary(abc.ABC):
    """Text as whole numbers from 0 to `size`."""

    kind: str
    size: int
    file: str | None  # its name in a prepared folder; bytes need none

    @abc.abstractmethod
    def encode(self, text: bytes) -> np.ndarray:
        """Tokens of a text."""

    @abc.abstractmethod
    def decode(self, tokens: Iterable[int]) -> bytes:
        """The text of tokens."""

    @abc.abstractmethod
    def content(self) -> bytes:
        """What its file holds."""

    @property
    def sha256(self) -> str:
        """Alike for vocabularies that give the same tokens."""
        return _sha256(self.kind, self.content())

    @property
    def dtype(self) -> Any:
        """The smallest unsigned type that holds every token."""
        bounds = ((1 << 8, np.uint8), (1 << 16, np.uint16), (1 << 32, np.uint32))
        return next(dtype for most, dtype in bounds if self.size <= most)

    @property
    def before(self) -> int:
        """What stands before the first token of a split: a line feed, if it is one."""
        try:
            found = self.encode(b"\n")
        except DataError:
            return 0
        return int(found[-1]) if len(found) else 0


class Bytes(AbstractVocabulary):
    """A token is a byte."""

    kind, size, file = "byte", 256, None

    def encode(self, text):
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens):
        return bytes(tokens)

    def content(self):
        return b""


class Characters(AbstractVocabulary):
    """A token is a character; a byte that is no UTF-8 is one, too."""

    kind, file = "char", "characters.json"

    def __init__(self, characters: Iterable[int]):
        """`characters`: their code points."""
        self._points = np.asarray(sorted(set(characters)), np.uint32)
        self.size = len(self._points)
        if not 0 < self.size <= MAX_CHARACTERS:
            raise DataError(
                f"A vocabulary of characters must have from 1 to {MAX_CHARACTERS:,},"
                f" but has {self.size:,}: take another tokenizer."
            )

    def encode(self, text):
        points = code_points(text)
        found = np.searchsorted(self._points, points)
        known = self._points[np.minimum(found, self.size - 1)] == points
        if not known.all():
            raise DataError(
                "Every character must be in the vocabulary, but"
                f" {chr(points[~known][0])!r} is not: leave it out."
            )
        return found.astype(self.dtype)

    def decode(self, tokens):
        text = "".join(chr(self._points[token]) for token in tokens)
        return text.encode("utf-8", "surrogateescape")

    def content(self):
        return json.dumps(self._points.tolist()).encode()


class Subwords(AbstractVocabulary):
    """A `tokenizer.json` of Hugging Face `tokenizers`; special tokens are not added."""

    kind, file = "tokenizers", "tokenizer.json"

    def __init__(self, content: bytes, *, where: object = "the vocabulary"):
        library = extra(
            "tokenizers", group="data", purpose=f"To read the tokenizer {where}"
        )
        try:
            self._tokenizer = library.Tokenizer.from_str(content.decode())
        except Exception as error:  # of a bare type, raised in Rust
            raise DataError(
                f"The tokenizer {where} must be a tokenizer.json of Hugging Face, but"
                f" is not ({str(error).splitlines()[0]})."
            ) from error
        self._content = content
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text):
        parts = [part.decode("utf-8", "replace") for part in pieces(text)]
        found = self._tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        every = [np.asarray(each.ids, np.uint32) for each in found]
        return np.concatenate([np.zeros(0, np.uint32), *every]).astype(self.dtype)

    def decode(self, tokens):
        ids = [int(token) for token in tokens]
        return self._tokenizer.decode(ids, skip_special_tokens=False).encode()

    def content(self):
        return self._content


class SentencePieces(AbstractVocabulary):
    """A SentencePiece model; no start and no end of a sentence is added."""

    kind, file = "sentencepiece", "tokenizer.model"

    def __init__(self, content: bytes, *, where: object = "the vocabulary"):
        library = extra(
            "sentencepiece", group="data", purpose=f"To read the tokenizer {where}"
        )
        try:
            self._model = library.SentencePieceProcessor(model_proto=content)
            self.size = self._model.get_piece_size()
        except RuntimeError as error:
            raise DataError(
                f"The tokenizer {where} must be a SentencePiece model, but is not."
            ) from error
        self._content = content

    def encode(self, text):
        parts = [part.decode("utf-8", "replace") for part in pieces(text)]
        every = [np.asarray(each, np.uint32) for each in self._model.encode(parts)]
        return np.concatenate([np.zeros(0, np.uint32), *every]).astype(self.dtype)

    def decode(self, tokens):
        return self._model.decode([int(token) for token in tokens]).encode()

    def content(self):
        return self._content


def read_vocabulary(kind: str, content: bytes, *, where: object) -> AbstractVocabulary:
    """The vocabulary of a file's content, as a manifest says its kind."""
    if kind == Bytes.kind:
        return Bytes()
    if kind == Characters.kind:
        return Characters(json.loads(content))
    of_kind = {each.kind: each for each in (Subwords, SentencePieces)}
    if kind not in of_kind:
        raise DataError(
            f"The vocabulary of {where} must be one of {['byte', 'char', *of_kind]},"
            f" but is {kind!r}: prepare the text again with this physnn."
        )
    return of_kind[kind](content, where=where)


def open_tokenizer(name: str) -> AbstractVocabulary:
    """The tokenizer in a file: a `tokenizer.json`, or a SentencePiece `.model`.

    Raises `DataError` for a file that is missing or neither.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            "A tokenizer must be `byte`, `char` or a file (tokenizer.json, or a"
            f" SentencePiece .model), but {name} is none: check the path."
        )
    kind = SentencePieces if path.suffix == ".model" else Subwords
    return kind(path.read_bytes(), where=path)


def write_vocabulary(vocabulary: AbstractVocabulary, folder: Path) -> dict[str, Any]:
    """Put its file into a folder, beside first; what a manifest says about it."""
    if vocabulary.file is not None:
        beside = folder / f".{vocabulary.file}.{os.getpid()}"
        beside.write_bytes(vocabulary.content())
        beside.replace(folder / vocabulary.file)
    return {
        "kind": vocabulary.kind,
        "size": vocabulary.size,
        "file": vocabulary.file,
        "sha256": vocabulary.sha256,
    }


def load_vocabulary(about: dict[str, Any], folder: Path) -> AbstractVocabulary:
    """The vocabulary that `write_vocabulary` put into `folder`.

    Raises `DataError` if its file is missing, or another than the tokens were made by.
    """
    content = b""
    if about["file"] is not None:
        path = folder / about["file"]
        if not path.is_file():
            raise DataError(
                f"The folder {folder} must hold its tokenizer {about['file']}, but does"
                " not: copy it there, or prepare the text again."
            )
        content = path.read_bytes()
    if _sha256(about["kind"], content) != about["sha256"]:
        raise DataError(
            f"The tokenizer {folder / str(about['file'])} must be the one that the"
            " tokens were made by, but its content does not match the manifest: put the"
            " right one there, or prepare the text again."
        )
    return read_vocabulary(about["kind"], content, where=folder)


def train_bpe(texts: Iterable[bytes], size: int) -> Subwords:
    """Byte-pair merges over bytes, learned from texts; every text can be coded.

    Reference: Sennrich, Haddow & Birch 2016, DOI 10.18653/v1/P16-1162; over bytes, with
    the pieces of GPT-2. Raises `DataError` for fewer than 257 tokens.
    """
    if size <= 256:
        raise DataError(
            f"Argument `vocabulary` must be above the 256 bytes to be trained, but is"
            f" {size}."
        )
    library = extra("tokenizers", group="data", purpose="To train a tokenizer")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_beginning(texts), trainer)
    found = Subwords(tokenizer.to_str().encode(), where="trained on the corpus")
    if found.size < size:
        raise DataError(
            f"Argument `vocabulary` must be at most {found.size:,} on this corpus,"
            f" which has no more pairs to merge, but is {size:,}."
        )
    return found


def code_points(text: bytes) -> np.ndarray:
    """Unicode of a text; a byte that is no UTF-8 gets a code point of its own."""
    decoded = text.decode("utf-8", "surrogateescape")
    return np.frombuffer(decoded.encode("utf-32-le", "surrogatepass"), np.uint32)


def pieces(text: bytes) -> Iterator[bytes]:
    """A text in parts that end after a line, or else after a character."""
    start = 0
    while start < len(text):
        stop = cut(text, start + PIECE_B, start)
        yield text[start:stop]
        start = stop


def cut(text: bytes | bytearray, at: int, start: int = 0) -> int:
    """Where to cut near `at`: after the last line feed, else between characters."""
    if at >= len(text):
        return len(text)
    line = text.rfind(b"\n", start, at) + 1
    if line > start:
        return line
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def _beginning(texts: Iterable[bytes]) -> Iterator[str]:
    left = TRAINED_ON_B
    for text in texts:
        for part in pieces(text[:left]):
            yield part.decode("utf-8", "replace")
        left -= len(text)
        if left <= 0:
            return


def _sha256(kind: str, content: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()
