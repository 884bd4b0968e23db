"""Folders of spoken words, as they are published and as they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.errors import UsageError
from edgedeploy.tasks.speech_files import WORDS, Unlisted, is_clips, read_clips


def folder(root: Path, files: list[str], **lists: list[str]) -> Path:
    """A folder with such files; nothing looks into them before they are played."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")
    for name, lines in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(lines) + "\n")
    return root


WORDS_FILES = ["yes/a_nohash_0.wav", "yes/a_nohash_1.wav", "no/b_nohash_0.wav", "no/c.wav", "up/c_nohash_0.flac"]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    listed = {"testing": ["yes/a_nohash_0.wav"], "validation": ["no/b_nohash_0.wav"]}
    return folder(tmp_path / "words", [*WORDS_FILES, "_background_noise_/hum.wav", "yes/notes.txt"], **listed)


def test_words_by_folder_and_parts_by_list(words: Path) -> None:
    whole = read_clips(words, "all")
    assert (whole.name, whole.labels, whole.faults) == ("words", ("no", "up", "yes"), ())
    assert [clip.path.relative_to(words).as_posix() for clip in whole.clips] == sorted(WORDS_FILES)
    assert [clip.word for clip in whole.clips] == [0, 0, 1, 2, 2]
    assert [clip.speaker for clip in whole.clips] == ["b", "", "c", "a", "a"]
    assert whole.speakers == ("a", "b", "c")
    parts = {split: [clip.path.name for clip in read_clips(words, split).clips] for split in ("train", "val", "test")}
    assert parts["test"] == ["a_nohash_0.wav"]
    assert parts["val"] == ["b_nohash_0.wav"]
    assert parts["train"] == ["c.wav", "c_nohash_0.flac", "a_nohash_1.wav"]
    assert read_clips(words, "test").labels == whole.labels  # a part knows every word
    assert is_clips(words)


def test_the_official_words_have_the_order_of_the_models(tmp_path: Path) -> None:
    root = folder(tmp_path / "sc", [f"{word}/s_nohash_0.wav" for word in WORDS])
    data = read_clips(root, "all")
    assert len(set(WORDS)) == 35
    assert data.labels == WORDS
    assert [data.labels[clip.word] for clip in data.clips] == sorted(WORDS)
    (root / "backward" / "s_nohash_0.wav").unlink()
    assert read_clips(root, "all").labels == tuple(sorted(WORDS[1:]))


def test_digits_by_file_name(tmp_path: Path) -> None:
    names = ["3_ann_4.wav", "3_ann_5.wav", "0_bob_0.wav", "notes_1.wav"]
    root = folder(tmp_path / "digits", [f"recordings/{name}" for name in names])
    (root / "recordings" / "7_ann_9.wav").touch()
    for path in (root, root / "recordings"):
        data = read_clips(path, "all")
        assert data.name == "digits"
        assert [(data.labels[clip.word], clip.speaker) for clip in data.clips] == [
            ("zero", "bob"),
            ("three", "ann"),
            ("three", "ann"),
        ]
        assert [clip.path.name for clip in read_clips(path, "test").clips] == ["0_bob_0.wav", "3_ann_4.wav"]
        assert [clip.path.name for clip in read_clips(path, "train").clips] == ["3_ann_5.wav"]
        assert is_clips(path)
    assert len(data.faults) == 2
    assert "'notes_1.wav'" in data.faults[0]
    assert "empty" in data.faults[1]
    with pytest.raises(UsageError, match="no split 'val': hold out speakers"):
        read_clips(root, "val")


def test_faults_are_told(words: Path) -> None:
    (words / "quiet").mkdir()
    (words / "up" / "d_nohash_0.wav").touch()
    with (words / "testing_list.txt").open("a") as file:
        file.write("no/b_nohash_0.wav\nno/gone.wav\n../secret.wav\n")
    data = read_clips(words, "all")
    assert data.labels == ("no", "up", "yes")
    assert len(data) == 5
    said = " ".join(data.faults)
    assert "'quiet'" in said
    assert "'up/d_nohash_0.wav'" in said
    assert "both lists and were taken for the test, the first is 'no/b_nohash_0.wav'" in said
    assert "2 recordings that a list names are not there, the first is '../secret.wav'" in said
    with pytest.raises(UsageError, match="no recording in its split 'val'"):
        read_clips(words, "val")


@pytest.mark.parametrize(("split", "missing"), [("test", "testing"), ("train", "testing"), ("val", "validation")])
def test_without_lists_there_are_no_parts(tmp_path: Path, split: str, missing: str) -> None:
    root = folder(tmp_path / "own", ["a/1.wav", "b/2.wav"])
    assert len(read_clips(root, "all")) == 2
    with pytest.raises(Unlisted, match=f"{missing}_list.txt.*split '{split}': take 'all', and hold out speakers"):
        read_clips(root, split)


def test_what_is_no_set_of_recordings_is_refused(tmp_path: Path, words: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "images").mkdir()
    folder(tmp_path / "images", ["train/a.png"])
    for path in (tmp_path / "bare", tmp_path / "images"):
        assert not is_clips(path)
        with pytest.raises(UsageError, match="no folder with recordings"):
            read_clips(path, "all")
    for path in (tmp_path / "none", words / "testing_list.txt"):
        assert not is_clips(path)
        with pytest.raises(UsageError, match="is no folder"):
            read_clips(path, "all")
    with pytest.raises(UsageError, match=r"no split 'tset'\. Did you mean 'test'"):
        read_clips(words, "tset")
    (words / "testing_list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as a list"):
        read_clips(words, "all")


def test_published_sets_are_whole(shared: Path) -> None:
    parts = {split: read_clips(shared / "data" / "fsdd", split) for split in ("train", "test", "all")}
    assert [len(parts[split]) for split in ("train", "test", "all")] == [2700, 300, 3000]
    assert len(parts["all"].speakers) == 6
    commands = {split: read_clips(shared / "data" / "speech_commands", split) for split in ("train", "val", "test")}
    assert sum(map(len, commands.values())) == 300
    assert len(commands["train"].labels) == 30
    speakers = [set(data.speakers) for data in commands.values()]
    assert not speakers[0] & speakers[1] | speakers[0] & speakers[2] | speakers[1] & speakers[2]
    assert set(parts["all"].labels) < set(commands["train"].labels)
    assert not any(data.faults for data in (*parts.values(), *commands.values()))
