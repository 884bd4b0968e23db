"""A stream gives the same however it is cut, goes on where it was stopped, and refuses what is not its own."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import Incompatible, Unavailable, UsageError
from edgedeploy.stream import Identity, Stream, StreamState, open_stream
from edgedeploy.tasks import Heard, Raw
from tests.listening.ear import SIGNATURE, TASK, Ear, Secretive, bundle, hear, quiet, stream, tone

SOUND = np.concatenate([tone("up", 0.31), tone("no", 0.2), quiet(0.103)])


def scores(answers: list[Heard]) -> list[tuple[int, bytes]]:
    return [(one.frames, one.scores.tobytes()) for one in answers]


@pytest.fixture(scope="module")
def whole() -> list[tuple[int, bytes]]:
    one = stream()
    return scores(one.push(SOUND) + one.finish())


def test_every_frame_of_a_clip_has_an_answer_and_the_last_ones_come_at_the_end(whole: list[tuple[int, bytes]]) -> None:
    assert [frames for frames, _ in whole] == list(range(1, TASK.frames + 1))
    one = stream()
    assert one.push(SOUND[: TASK.features.window + TASK.features.step - 1]) == []  # a frame, and no look-ahead yet


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, len(SOUND)), max_size=6).map(sorted))
def test_the_cuts_change_nothing_nor_does_stopping_at_one(whole: list[tuple[int, bytes]], cuts: list[int]) -> None:
    one, heard = stream(), []
    for piece in np.split(SOUND, cuts):
        state = one.save()
        one = stream()
        one.resume(state)
        heard += one.push(piece)
    assert scores(heard + one.finish()) == whole


def test_a_stream_that_has_ended_says_so_until_it_is_reset(whole: list[tuple[int, bytes]]) -> None:
    one = stream()
    one.push(SOUND[:200])
    one.finish()
    for again in (lambda: one.push(SOUND), one.finish, one.save):
        with pytest.raises(UsageError, match=r"The stream has ended and cannot .*: reset it"):
            again()
    one.reset()
    assert scores(one.push(SOUND) + one.finish()) == whole


def test_a_state_survives_a_file(tmp_path: Path, whole: list[tuple[int, bytes]]) -> None:
    one = stream()
    before = one.push(SOUND[:333])
    one.save({"who": ["me", 1.5]}).write(tmp_path / "a.npz")
    state = StreamState.read(tmp_path / "a.npz")
    assert state.context == {"who": ["me", 1.5]}
    other = stream()
    other.push(SOUND)  # something else was under way
    other.resume(state)
    assert scores(before + other.push(SOUND[333:]) + other.finish()) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_state_of_another_bundle_is_refused_and_changes_nothing(whole: list[tuple[int, bytes]]) -> None:
    mine, other = (
        Stream(TASK, Ear(), SIGNATURE, identity=Identity(n, d)) for n, d in (("a", "1" * 64), ("b", "2" * 64))
    )
    before = mine.push(SOUND[:300])
    with pytest.raises(Incompatible, match=r"the bundle 'b' \(222222222222\), and this is 'a' \(111111111111\)"):
        mine.resume(other.save())
    assert scores(before + mine.push(SOUND[300:]) + mine.finish()) == whole


@pytest.mark.parametrize("part", ["graph", "feed"])
def test_a_state_that_lacks_a_part_is_refused_and_changes_nothing(part: str, whole: list[tuple[int, bytes]]) -> None:
    one = stream()
    before = one.push(SOUND[:300])
    state = stream().save()
    parts = {"graph": state.graph, "feed": state.feed, part: {}}
    with pytest.raises(UsageError):
        one.resume(StreamState(state.identity, **parts))
    assert scores(before + one.push(SOUND[300:]) + one.finish()) == whole


def test_a_session_that_keeps_its_state_to_itself() -> None:
    one = stream(Secretive())
    with pytest.raises(Unavailable, match="ear keeps the state of a stream to itself"):
        one.save()
    with pytest.raises(Unavailable):
        one.resume(stream().save())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a.npz"
    one = stream()
    one.push(SOUND[:300])
    one.save({"n": 1}).write(path)
    return path.read_bytes()


@settings(max_examples=25)
@given(at=st.integers(0, 1 << 20), value=st.integers(0, 255), end=st.integers(0, 1 << 20))
def test_a_damaged_file_is_refused_or_the_same(
    saved: bytes, tmp_path_factory: pytest.TempPathFactory, at: int, value: int, end: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    changed = bytearray(saved)
    changed[at % len(saved)] = value
    for content in (bytes(changed), saved[: end % len(saved)]):
        path.write_bytes(content)
        try:
            state = StreamState.read(path)
        except UsageError as error:
            assert str(path) in str(error)
        else:  # a byte that says nothing, such as a time
            one, other = stream(), stream()
            one.resume(state)
            other.push(SOUND[:300])
            assert scores(one.push(SOUND[300:])) == scores(other.push(SOUND[300:]))


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def test_files_that_are_no_state(tmp_path: Path, saved: bytes) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("record.npy", bytes(1 << 20))
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    cases = {
        "text.npz": (b"hello", "is not the saved state"),
        "pickle.npz": (npz(record=np.array([{}], object)), "is not the saved state"),
        "other.npz": (npz(x=np.zeros(3)), "is not the saved state"),
        "bomb.npz": (bomb.getvalue(), "is not the saved state"),
        "nan.npz": (npz(**{**arrays, "graph/sum": np.full((1, 4), np.nan, np.float32)}), "graph/sum holds what is no"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=said):
            StreamState.read(tmp_path / name)
    for path, said in ((tmp_path / "no.npz", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(UsageError, match=said):
            StreamState.read(path)


def test_opening_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[tuple[int, bytes]]) -> None:
    hear(monkeypatch)
    one = open_stream(bundle(tmp_path))
    assert scores(one.push(SOUND) + one.finish()) == whole
    one.reset()
    state = one.save()
    open_stream(bundle(tmp_path)).resume(state)  # exported again, and the same
    with pytest.raises(Incompatible):
        open_stream(bundle(tmp_path, graph=b"other")).resume(state)
    one.close()
    assert isinstance(one.session, Ear)
    assert one.session.closed


def test_bundles_without_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hear(monkeypatch)
    with pytest.raises(UsageError, match=r"has no graph 'stream'.*export it with --streaming"):
        open_stream(bundle(tmp_path / "a", graphs=("main",)))
    with pytest.raises(UsageError, match="'raw' takes samples one by one, and no stream"):
        open_stream(bundle(tmp_path / "b", task=Raw()))
    with pytest.raises(UsageError, match="not there"):
        open_stream(tmp_path / "c.edge")


def test_an_endless_stream_does_not_grow() -> None:
    one, sound = stream(), tone("up", 2.0)
    one.push(sound)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            one.push(sound)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 10_000  # 1,000 frames: not ten bytes for each
