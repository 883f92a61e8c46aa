"""The bytes of one file of a corpus: text, lines of JSON, Parquet, ArrayRecord."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from train.corpus.extras import extra
from train.corpus.files import DataError, Found

# A byte is not text if it is NUL or no part of valid UTF-8; a file may hold so many.
MAX_NOT_TEXT = 0.001
# Where a record holds its text, if it is not said: the name that most data sets use.
COLUMN = "text"
_CHUNK = 1 << 20


class Survey(NamedTuple):
    """What a first reading of a corpus found."""

    files: dict[str, list[Path]]  # those that are kept
    sizes: dict[str, int]  # bytes of text by split
    left_out: list[str]  # a sentence each


def read(file: Path, column: str | None = None) -> Iterator[bytes]:
    """The bytes of a file, a piece at a time, decompressed where its name ends in .gz.

    Plain text is given as it is. A record of `.jsonl`, `.parquet` or `.arrayrecord` is
    followed by a line feed. `column`: which field of a record is text; without it
    `text`, or the only one. Raises `DataError` for a file that is not what it says.
    """
    kinds = [suffix.lower() for suffix in file.suffixes[-2:]]
    if kinds[-1:] == [".gz"]:
        kinds.pop()
    kind = kinds[-1] if kinds else ""
    try:
        if kind == ".parquet":
            yield from _parquet(file, column)
        elif kind in (".arrayrecord", ".array_record"):
            yield from _array_record(file)
        elif kind == ".jsonl":
            yield from _json_lines(file, column)
        else:
            with _open(file) as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"The file {file} must be whole gzip data, but is not ({error})."
        ) from error
    except PermissionError as error:
        raise DataError(
            f"The file {file} must be readable, but is not: check its permissions."
        ) from error


def survey(found: Found, column: str | None = None, tell=lambda n: None) -> Survey:
    """Read a corpus once, to know its size and that it is text.

    `tell` hears how many bytes were read. Raises `DataError` where nothing is left, or
    something of a strict corpus is not text.
    """
    kept: dict[str, list[Path]] = {}
    sizes: dict[str, int] = {}
    left_out: list[str] = []
    for split, files in found.files.items():
        kept[split], sizes[split] = [], 0
        for file in files:
            try:
                sizes[split] += _checked(file, column, tell)
                kept[split].append(file)
            except DataError as error:
                if found.strict:
                    raise
                left_out.append(str(error))
    if left_out and not any(kept.values()):
        raise DataError(left_out[0])
    return Survey(kept, sizes, left_out)


def text_of(record: dict, column: str | None, where: object) -> bytes:
    """The text of a record, and a line feed. Raises `DataError` if it has none."""
    alone = len(record) == 1 and COLUMN not in record
    name = column or (next(iter(record)) if alone else COLUMN)
    value = record.get(name)
    if isinstance(value, str):
        return value.encode("utf-8", "replace") + b"\n"
    raise DataError(
        f"The records of {where} must hold text in `{name}`, but its fields are"
        f" {sorted(map(str, record))}: name the right one (--column)."
    )


def _checked(file: Path, column: str | None, tell) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    size = text = 0
    for chunk in read(file, column):
        size += len(chunk)
        text += len(decoder.decode(chunk).encode()) - chunk.count(0)
        tell(len(chunk))
    not_text = (size - text) / max(size, 1)
    if not_text > MAX_NOT_TEXT:
        raise DataError(
            f"The file {file} must be UTF-8 text, but {not_text:.1%} of its bytes are"
            f" not (at most {MAX_NOT_TEXT:.1%} may be): give a text file."
        )
    if not size and file.suffix != ".py":
        raise DataError(f"The file {file} must hold text, but is empty.")
    return size


def _open(file: Path):
    return gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb")


def _json_lines(file: Path, column: str | None) -> Iterator[bytes]:
    with _open(file) as source:
        for number, line in enumerate(source, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"Line {number} of {file} must be JSON, but is not ({error})."
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    f"Line {number} of {file} must be an object with a text field, but"
                    f" is of type {type(record).__name__}."
                )
            yield text_of(record, column, file)


def _parquet(file: Path, column: str | None) -> Iterator[bytes]:
    # Not Grain's ParquetIterDataset: it reads every column of a whole row group.
    arrow = extra("pyarrow", group="data", purpose=f"To read the Parquet file {file}")
    parquet = extra("pyarrow.parquet", group="data", purpose=f"To read {file}")
    try:
        source = parquet.ParquetFile(file)
    except (arrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"The file {file} must be a Parquet file, but is not ({reason})."
        ) from error
    with source:
        names = source.schema_arrow.names
        name = column or (names[0] if len(names) == 1 else COLUMN)
        if name not in names:
            text_of(dict.fromkeys(names), name, file)
        for rows in source.iter_batches(batch_size=1024, columns=[name]):
            for value in rows.column(0).to_pylist():
                yield text_of({name: value}, name, file)


def _array_record(file: Path) -> Iterator[bytes]:
    from grain.sources import ArrayRecordDataSource  # a second, when it is needed

    try:
        records: Any = ArrayRecordDataSource([str(file)])
        for i in range(len(records)):
            yield records[i] + b"\n"
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"The file {file} must be an ArrayRecord file, but is not ({reason})."
        ) from error
