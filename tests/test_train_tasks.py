"""Text: splits, windows, batches, and one sentence for data that cannot be used."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.corpus.files import NOT_LIBRARY, DataError, find
from train.corpus.prepare import Preparation, cached
from train.tasks import Text, TextConfig

WORDS = "".join(f"word {i} " for i in range(2000))


def open_text(path, tmp_path, *, context=16) -> Text:
    return TextConfig(path=str(path), context=context).build(cache=tmp_path / "cache")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    return open_text(tmp_path / "words.txt", tmp_path)


def whole(text: Text, split: str) -> bytes:
    """The scored targets of a split, in order."""
    windows = text.windows(split, batch=5)
    return b"".join(tokens[:, 1:][scored].tobytes() for tokens, scored, _ in windows)


def test_batches_are_a_function_of_seed_and_step(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    a, b = (open_text(tmp_path / "words.txt", tmp_path) for _ in range(2))
    first = a.batch(7, seed=3, batch=4)
    assert first.shape == (4, 17)
    for step in (9, 1, 7):  # order and what was drawn before do not matter
        again = b.batch(step, seed=3, batch=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, a.batch(8, seed=3, batch=4))
    assert not np.array_equal(first, a.batch(7, seed=4, batch=4))


def test_batches_are_windows_of_the_training_split_up_to_both_ends(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS[:400])
    text = open_text(tmp_path / "words.txt", tmp_path)
    train = whole(text, "train")
    assert train == WORDS[:360].encode()
    rows = {
        row.tobytes()
        for step in range(200)
        for row in text.batch(step, seed=0, batch=16)
    }
    assert all(row in train for row in rows)
    assert train[:17] in rows
    assert train[-17:] in rows


@settings(deadline=None, max_examples=60)
@given(n=st.integers(17, 300), stride=st.integers(1, 16), batch=st.integers(1, 7))
def test_windows_score_every_byte_once_with_enough_context(
    n, stride, batch, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("text")
    content = bytes(np.random.default_rng(n).integers(97, 123, n, dtype=np.uint8))
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_bytes(content)
    text = TextConfig(path=str(folder), context=16).build(cache=folder / "cache")
    scored_bytes = b""
    for tokens, scored, _ in text.windows("test", batch=batch, stride=stride):
        assert tokens.shape == (batch, 17)
        for row, mask in zip(tokens, scored, strict=True):
            where = np.flatnonzero(mask)
            if not where.size:
                continue
            position = len(scored_bytes)
            scored_bytes += row[1:][mask].tobytes()
            # The first scored target of a window sees `context - stride` bytes before
            # it, as far as there are so many.
            seen = min(position, 16 - stride)
            before = row[: where[0] + 1].tobytes()
            assert before.endswith(content[position - seen : position])
            assert where[0] >= 16 - stride
    assert scored_bytes == content


def test_limited_windows_are_spread_over_the_split(text):
    tokens = [
        t for t, s, _ in text.windows("train", batch=4, limit=8) for t in t[s.any(1)]
    ]
    assert len(tokens) == 8
    everything = whole(text, "train")
    positions = [everything.find(row[1:].tobytes().rstrip(b"\n")) for row in tokens]
    assert positions == sorted(positions)
    assert positions[0] == 0
    assert positions[-1] > 0.99 * len(everything)


def test_a_single_file_is_split_by_position(text):
    parts = [whole(text, split) for split in ("train", "validation", "test")]
    assert b"".join(parts) == WORDS.encode()
    sizes = [len(part) / len(WORDS) for part in parts]
    assert sizes == pytest.approx([0.9, 0.05, 0.05], abs=1e-3)


def test_the_standard_library_is_split_by_file(tmp_path):
    text = TextConfig().build(cache=tmp_path)
    groups = [set(files) for files in text.files.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert "collections/__init__.py" in set.union(*groups)
    assert not any(NOT_LIBRARY & set(name.split("/")) for name in set.union(*groups))
    sizes = [text.n_bytes(split) for split in ("train", "validation", "test")]
    assert sizes[0] > 4e6
    assert min(sizes[1:]) > 0.03 * sum(sizes)
    assert max(sizes[1:]) < 0.15 * sum(sizes)
    # The split depends on names alone: not on where the library lies.
    assert find(None).files == find(None).files


def test_a_folder_is_split_by_file_wherever_it_lies(tmp_path):
    for place in ("here", "there"):
        folder = tmp_path / place / "sub"
        folder.mkdir(parents=True)
        for i in range(30):
            (folder / f"{i}.txt").write_text(f"{i} " * 200)
    here, there = (open_text(tmp_path / p, tmp_path) for p in ("here", "there"))
    assert here.files == there.files
    assert here.digest == there.digest
    assert sorted(f for files in here.files.values() for f in files) == sorted(
        f"sub/{i}.txt" for i in range(30)
    )
    assert all(here.files.values())


def test_three_files_give_one_to_each_split(tmp_path):
    folder = tmp_path / "three"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(WORDS)
    assert [len(f) for f in open_text(folder, tmp_path).files.values()] == [1, 1, 1]


def test_a_folder_may_bring_its_own_split_compressed(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, letter in (("train", "a"), ("valid", "b"), ("test", "c")):
        (folder / f"{name}.txt.gz").write_bytes(gzip.compress(letter.encode() * 99))
    (folder / "README.md").write_text("not part of it")
    text = open_text(folder, tmp_path)
    assert whole(text, "train") == b"a" * 99
    assert whole(text, "validation") == b"b" * 99
    assert whole(text, "test") == b"c" * 99


def test_text_is_prepared_once_and_anew_when_it_changes(tmp_path):
    path, cache = tmp_path / "words.txt", tmp_path / "cache"
    path.write_text(WORDS)
    shards = ["train-00000.bin", "validation-00000.bin", "test-00000.bin"]
    first = cached(str(path), Preparation(), cache=cache)
    written = (first / shards[0]).stat().st_mtime_ns
    assert cached(str(path), Preparation(), cache=cache) == first
    assert (first / shards[0]).stat().st_mtime_ns == written
    path.write_text(WORDS + "more")
    second = cached(str(path), Preparation(), cache=cache)
    assert second != first
    whole = b"".join((second / shard).read_bytes() for shard in shards)
    assert whole == (WORDS + "more").encode()
    # Nothing half-written stays behind.
    assert sorted(p.name for p in cache.iterdir()) == sorted([first.name, second.name])


def test_text_is_mapped_and_not_held(text):
    part = text.tokens("train")
    while part.base is not None and not isinstance(part, np.memmap):
        part = part.base
    assert isinstance(part, np.memmap)
    assert part.filename is not None
    assert part.nbytes == os.path.getsize(part.filename)


NUL = b"\x00\x01" * 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a file or a folder, but there is none"),
        (b"", "must hold text, but is empty"),
        (NUL, "must be UTF-8 text, but 50.0% of its bytes are not"),
        (b"\xff\xfe" * 500, "must be UTF-8 text, but 100.0% of its bytes are not"),
        (WORDS.encode("utf-16"), "must be UTF-8 text, but 50.0% of its bytes"),
        (
            b"too short for a context",
            "must be longer than one context of 16 bytes, but",
        ),
    ],
)
def test_data_that_cannot_be_used_gets_one_sentence(content, message, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_text(path, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_latin_text_with_few_odd_bytes_is_text(tmp_path):
    # A multi-byte character that is cut by the end of a chunk is no odd byte.
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" + "é".encode() * (1 << 20) + b"\xe9")
    assert open_text(path, tmp_path).n_bytes("train") > 1e6


@pytest.mark.parametrize("cut", [slice(None, -20), slice(20, None)])
def test_damaged_gzip_gets_one_sentence(cut, tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(WORDS.encode())[cut])
    with pytest.raises(DataError, match="must be whole gzip data, but is not"):
        open_text(path, tmp_path)


def test_an_empty_folder_gets_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="must hold text files, but holds no file"):
        open_text(tmp_path / "empty", tmp_path)


def test_a_train_file_without_test_file_gets_one_sentence(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "train.txt").write_text(WORDS)
    (folder / "valid.txt").write_text(WORDS)
    with pytest.raises(DataError, match="but it holds 0 for test"):
        open_text(folder, tmp_path)


def test_what_is_no_text_in_a_folder_is_left_out_aloud(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.txt").write_text(WORDS)
    (folder / "picture.png").write_bytes(NUL)
    with pytest.warns(UserWarning, match=r"1 files of .* were left out.*picture\.png"):
        text = open_text(folder, tmp_path)
    assert "picture.png" not in {f for files in text.files.values() for f in files}
    everything = b"".join(whole(text, s) for s in ("train", "validation", "test"))
    assert everything == WORDS.encode() * 20


def test_a_cache_that_cannot_be_written_gets_one_sentence(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="must be writable, but is not"):
        open_text(tmp_path / "words.txt", tmp_path)


@pytest.mark.skipif(
    not os.path.isdir("../shared/data/wikitext-2"),
    reason="needs WikiText-2 in ../shared/data/wikitext-2",
)
def test_wikitext_keeps_its_published_split(tmp_path):
    text = TextConfig(path="../shared/data/wikitext-2").build(cache=tmp_path)
    sizes = [text.n_bytes(split) for split in ("train", "validation", "test")]
    assert sizes == [10797148, 1121681, 1256449]
