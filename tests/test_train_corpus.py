"""Corpora: files of every kind, vocabularies, shards, a kill, data that are wrong."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train.corpus.documents import read
from train.corpus.files import DataError, find
from train.corpus.prepare import Preparation, prepare
from train.corpus.shards import Tokens
from train.corpus.vocabulary import Bytes, Characters, train_bpe
from train.tasks import Text, TextConfig

ROOT = Path(__file__).parent.parent
LINES = [f"line {i}: the charge of a capacitor — {i * i} µC\n" for i in range(3000)]
TEXT = "".join(LINES).encode()
RECORDS = [line.rstrip("\n") for line in LINES]


def opened(folder: Path, **changes) -> Text:
    return TextConfig(path=str(folder), context=16, **changes).build()


def text_of(task: Text) -> bytes:
    """The text of all splits, from their tokens."""
    tokens = [task.tokens(split) for split in ("train", "validation", "test")]
    return b"".join(task.symbols.decode(each) for each in tokens)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_bytes(TEXT)
    return tmp_path / "text.txt"


def plain(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_bytes(TEXT)
    return path


def compressed(folder: Path) -> Path:
    path = folder / "text.txt.gz"
    path.write_bytes(gzip.compress(TEXT))
    return path


def json_lines(folder: Path) -> Path:
    path = folder / "text.jsonl.gz"
    rows = (json.dumps({"id": i, "text": each}) for i, each in enumerate(RECORDS))
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


def parquet(folder: Path) -> Path:
    pytest.importorskip("pyarrow", reason='pip install "physnn[data]"')
    from pyarrow import parquet, table  # type: ignore[reportMissingImports]

    path = folder / "text.parquet"
    rows = {"id": list(range(len(RECORDS))), "text": RECORDS}
    parquet.write_table(table(rows), path, row_group_size=700)
    return path


def array_record(folder: Path) -> Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    path = folder / "text.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:64")
    for each in RECORDS:
        writer.write(each.encode())
    writer.close()
    return path


@pytest.mark.parametrize("made", [plain, compressed, json_lines, parquet, array_record])
def test_every_format_gives_the_same_text_and_the_same_batches(made, tmp_path):
    """Whatever it lies in, one text is the same tokens, split and digest."""
    prepare(str(made(tmp_path)), tmp_path / "out")
    task = opened(tmp_path / "out")
    assert text_of(task) == TEXT
    assert task.digest == hashlib.sha256(TEXT).hexdigest()
    sizes = [task.n_bytes(split) for split in ("train", "validation", "test")]
    cuts = [round(len(TEXT) * part) for part in (0.9, 0.95, 1)]
    assert np.cumsum(sizes) == pytest.approx(cuts, abs=3)
    # A character is not cut, though its bytes lie on both sides of the place.
    assert all(bytes(task.tokens(s)).decode() for s in ("train", "validation", "test"))


def test_numbered_parts_and_folders_keep_their_split(tmp_path):
    for folder in ("parts", "folders/train", "folders/valid", "folders/test"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        (tmp_path / f"parts/train-0000{i}-of-00003.txt").write_text(f"{i}")
        (tmp_path / f"folders/train/{i}.txt").write_text(f"{i}")
    for name in ("valid", "test"):
        (tmp_path / f"parts/{name}.txt").write_text(name)
        (tmp_path / f"folders/{name}/a.txt").write_text(name)
    for where in ("parts", "folders"):
        found = find(str(tmp_path / where)).files
        text = {split: "".join(p.read_text() for p in f) for split, f in found.items()}
        assert text == {"train": "012", "validation": "valid", "test": "test"}
    # A source tree with folders `train` and `test` is no split of anybody's.
    for name in ("train", "test"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "a.py").write_text("x = 1\n")
    (tmp_path / "tree/b.py").write_text("y = 2\n")
    assert all(len(files) == 1 for files in find(str(tmp_path / "tree")).files.values())


@pytest.fixture(scope="module")
def merges():
    pytest.importorskip("tokenizers", reason='pip install "physnn[data]"')
    return train_bpe(iter([TEXT]), 400)


def test_subwords_are_lossless_deterministic_and_give_bits_per_byte(merges, tmp_path):
    odd = "tab\t, CR\r\n, 数, 🙂, and nothing special".encode()
    assert merges.decode(merges.encode(odd)) == odd
    assert train_bpe(iter([TEXT]), 400).sha256 == merges.sha256
    how = Preparation(trained=400)
    manifest = prepare(str(plain(tmp_path)), tmp_path / "out", how)
    assert manifest["reproduced"] == 1
    assert manifest["dtype"] == "<u2"
    task = opened(tmp_path / "out")
    assert task.vocabulary == 400
    assert text_of(task) == TEXT
    rate = task.bytes_per_token("test")
    assert rate > 2
    assert rate * len(task.tokens("test")) == pytest.approx(task.n_bytes("test"))
    # Every window says by what its bits are to be divided.
    assert {w.bytes_per_token for w in task.windows("test", batch=4)} == {rate}
    # The same text in other tokens is other data, of which the text is known.
    prepare(str(tmp_path / "text.txt"), tmp_path / "bytes")
    other = opened(tmp_path / "bytes")
    assert task.digest != other.digest
    assert task.text_digest == other.text_digest


def test_characters_keep_every_byte():
    text = "naïve 数 🙂\n".encode() + b"\xff\xe9" * 2
    decoded = text.decode("utf-8", "surrogateescape")
    symbols = Characters([ord(each) for each in decoded])
    assert symbols.decode(symbols.encode(text)) == text
    assert len(symbols.encode(text)) == len(decoded)
    with pytest.raises(DataError, match="'x' is not: leave it out"):
        symbols.encode(b"x")


def test_a_sentencepiece_model_is_read_and_its_losses_are_told(tmp_path):
    library = pytest.importorskip("sentencepiece", reason='pip install "physnn[data]"')
    corpus = plain(tmp_path)
    library.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "m"),
        vocab_size=120,
        minloglevel=2,
    )
    how = Preparation(tokenizer=str(tmp_path / "m.model"))
    manifest = prepare(str(corpus), tmp_path / "out", how)
    assert opened(tmp_path / "out").vocabulary == 120
    # It normalizes line feeds away: the text cannot be had back, and that is said.
    assert manifest["reproduced"] < 1


def test_shards_are_one_sequence():
    parts = [np.arange(5), np.arange(5, 6), np.arange(6, 13)]
    tokens = Tokens(parts, np.int64)
    whole = np.arange(13)
    for start in range(14):
        for stop in range(14):
            assert np.array_equal(tokens[start:stop], whole[start:stop])
    assert tokens[5] == 5
    assert np.shares_memory(tokens[7:12], parts[2])


def test_an_epoch_has_every_window_once(tmp_path):
    corpus = tmp_path / "letters.txt"
    letters = np.random.default_rng(0).integers(97, 123, 5000, dtype=np.uint8)
    corpus.write_bytes(letters.tobytes())
    task = TextConfig(path=str(corpus), context=16, order="epochs").build(
        cache=tmp_path / "cache"
    )
    train = bytes(task.tokens("train"))
    n = (len(train) - 1) // 16
    batches = [task.batch(t, seed=1, batch=8) for t in range(n // 8)]
    starts = [train.find(row.tobytes()) for batch in batches for row in batch]
    assert len(set(starts)) == len(starts)
    assert set(np.mod(np.diff(starts), 16)) == {0}
    assert starts != sorted(starts)
    again = task.batch(3, seed=1, batch=8)
    assert np.array_equal(again, batches[3])
    assert not np.array_equal(task.batch(3, seed=2, batch=8), again)
    rows = task.batch(3, seed=1, batch=8, rows=slice(2, 5))
    assert np.array_equal(rows, again[2:5])


KILLED = """
import sys, time
from pathlib import Path
from train.corpus import encode
from train.corpus.prepare import Preparation, prepare
encode.SHARD_B = (2000, 2000)
import train.corpus.prepare as p
p.SHARD_B = (2000, 2000)
write = encode.write_shard
def slow(path, tokens):
    time.sleep(0.05)
    print(path.name, flush=True)
    return write(path, tokens)
encode.write_shard = slow
prepare(sys.argv[1], Path(sys.argv[2]), Preparation(tokenizer="char"))
"""


def test_a_killed_preparation_is_continued(corpus, tmp_path):
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        first = [run.stdout.readline().strip() for _ in range(5)]
        run.kill()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.bin")}
    assert set(first[:4]) <= set(before)
    with pytest.raises(DataError, match="must be finished, but is not"):
        opened(tmp_path / "out")
    with pytest.raises(DataError, match="beginning of another preparation"):
        prepare(str(corpus), tmp_path / "out", Preparation())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    written = done.stdout.split()
    # What was whole before is not made again; all of it is there and right.
    assert not set(first[:4]) & set(written)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.bin")}
    assert all(after[name] == before[name] for name in first[:4])
    assert text_of(opened(tmp_path / "out")) == TEXT
    # Nothing half-written stays, and the same call again finds it finished.
    names = {p.name for p in (tmp_path / "out").iterdir()} - set(after)
    assert names == {".lock", "characters.json", "manifest.json"}
    prepare(str(corpus), tmp_path / "out", Preparation(tokenizer="char"))


def test_two_workers_write_what_one_does(tmp_path, merges, monkeypatch):
    from train.corpus import encode
    from train.corpus import prepare as module

    monkeypatch.setattr(module, "SHARD_B", (20_000, 20_000))
    monkeypatch.setattr(encode, "SHARD_B", (20_000, 20_000))
    (tmp_path / "tokenizer.json").write_bytes(merges.content())
    how = Preparation(tokenizer=str(tmp_path / "tokenizer.json"))
    corpus = plain(tmp_path)
    one = prepare(str(corpus), tmp_path / "one", how)
    two = prepare(str(corpus), tmp_path / "two", how, workers=2)
    assert len(one["splits"]["train"]["shards"]) > 4
    hashes = lambda m: [s["sha256"] for s in m["splits"]["train"]["shards"]]
    assert hashes(one) == hashes(two)


def test_a_shard_that_was_changed_is_refused(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(str(corpus), out)
    shard = out / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    os.utime(shard)  # a copy has another date, and is read whole
    opened(out)
    content[7] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"was changed since \(its hash does not match"):
        opened(out)
    with pytest.raises(DataError, match="was changed since"):
        prepare(str(corpus), out)
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match="was changed since"):
        opened(out)
    shard.unlink()
    with pytest.raises(DataError, match="must be there, but is not"):
        opened(out)


def test_a_tokenizer_that_is_not_the_manifests_is_refused(corpus, tmp_path, merges):
    out, other = tmp_path / "out", tmp_path / "tokenizer.json"
    other.write_bytes(merges.content())
    prepare(str(corpus), out, Preparation(tokenizer=str(other)))
    assert opened(out, tokenizer=str(other)).vocabulary == 400
    other.write_bytes(train_bpe(iter([TEXT]), 300).content())
    with pytest.raises(DataError, match="prepared with, but that is another"):
        opened(out, tokenizer=str(other))
    with pytest.raises(DataError, match="prepared with, but that is another"):
        opened(out, tokenizer="byte")
    (out / "tokenizer.json").write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="does not match the manifest"):
        opened(out)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": 3}\n', "must hold text in `text`"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', "fields are .'body', 'id'"),
        ("a.jsonl", b"{\n", "Line 1 of .* must be JSON"),
        ("a.jsonl", b"[1]\n", "must be an object with a text field"),
        ("a.parquet", b"PAR1 no", "must be a Parquet file, but is not"),
        ("a.arrayrecord", b"no" * 99, "must be an ArrayRecord file, but is not"),
        ("a.txt", b"", "must hold text, but is empty"),
        ("a.jsonl", b"", "must hold text, but is empty"),
    ],
)
def test_files_that_are_not_what_they_say_get_one_sentence(
    name, content, message, tmp_path
):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason='pip install "physnn[data]"')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare(str(tmp_path / name), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*.bin"))


def test_an_extra_that_is_missing_gets_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "physnn\[data\]"'):
        list(read(tmp_path / "a.parquet"))


def test_nothing_of_an_extra_is_imported_unasked(corpus, tmp_path):
    code = (
        "import sys; from train.tasks import TextConfig; import train.sinks;"
        f"TextConfig(path={str(corpus)!r}).build(cache=__import__('pathlib')"
        f".Path({str(tmp_path / 'cache')!r})); extras = {{'tokenizers', 'pyarrow',"
        " 'sentencepiece', 'datasets', 'tensorboard', 'wandb', 'trackio', 'grain'};"
        "print(sorted(extras & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_a_streamed_data_set_is_prepared(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason='pip install "physnn[data]"')
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    for i in range(2):
        rows = (json.dumps({"text": each}) for each in RECORDS[i::2])
        (tmp_path / "set" / f"train-{i}.jsonl").write_text("\n".join(rows))
    code = (
        "import sys, json; from pathlib import Path;"
        "from train.corpus.prepare import prepare;"
        "print(json.dumps(prepare(sys.argv[1], Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", code, f"hf:{tmp_path / 'set'}", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    splits = json.loads(done.stdout)["splits"]
    assert sum(each["bytes"] for each in splits.values()) == len(TEXT)
    share = splits["test"]["bytes"] / len(TEXT)
    assert share == pytest.approx(0.05, rel=0.05)
    found = text_of(opened(tmp_path / "out")).decode().splitlines()
    assert sorted(found) == sorted(RECORDS)


def test_the_command_prepares_and_trains_a_vocabulary(corpus, tmp_path):
    pytest.importorskip("tokenizers", reason='pip install "physnn[data]"')
    command = [sys.executable, "-m", "physnn", "prepare", str(corpus)]
    command += ["--out", str(tmp_path / "out"), "--workers", "1", "--quiet"]
    learned = [*command, "--train-tokenizer", "bpe", "--vocabulary", "300"]
    done = subprocess.run(learned, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "300 tokens of kind tokenizers" in done.stdout
    wrong = subprocess.run(
        [*command, "--vocabulary", "300"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "goes with a tokenizer that is trained" in wrong.stderr


def test_the_token_before_a_split_is_a_line_feed_where_there_is_one(merges):
    assert Bytes().before == 10
    assert merges.decode([merges.before]) == b"\n"
    assert Characters([65]).before == 0
