"""Images: the same pixels with OpenCV and without it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tasks import image
from edgedeploy.tasks.image import Geometry, Pixels, fill, image_size, place, read_image, resized

cv2 = pytest.importorskip("cv2")
PIL = pytest.importorskip("PIL.Image")


@pytest.fixture(params=["opencv", "numpy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(image, "_opencv", lambda: None)
    return str(request.param)


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth colours, so that JPEG and interpolation behave as on photographs."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 4, 3), np.uint8)
    smooth: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth


def test_the_engine_names_itself(engine: str) -> None:
    assert image.engine().startswith(engine)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_numpy_resizes_as_opencv_does(h: int, w: int, height: int, width: int, seed: int) -> None:
    source = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    expected = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
    result = image._resized_by_numpy(source, (height, width))
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_numpy_resizes_photographs_as_opencv_does(shared: Path) -> None:
    for path in sorted((shared / "data" / "coco_val128" / "images").rglob("*.jpg"))[:6]:
        source = read_image(path)
        for size in ((640, 640), (300, 451), (97, 33)):
            expected = cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR)
            difference = np.abs(image._resized_by_numpy(source, size).astype(int) - expected)
            assert difference.max() <= 1
            assert difference.mean() < 0.25


def test_nothing_is_resized_at_scale_one(engine: str) -> None:
    source = picture(20, 30)
    assert resized(source, (20, 30)) is source


@pytest.mark.parametrize(
    ("size", "resize", "align", "expected"),
    [
        ((100, 100), "letterbox", "center", Geometry((50, 200), (25, 100), (37, 0))),
        ((100, 100), "letterbox", "topleft", Geometry((50, 200), (25, 100), (0, 0))),
        ((100, 100), "stretch", "center", Geometry((50, 200), (100, 100), (0, 0))),
        ((400, 400), "letterbox", "center", Geometry((50, 200), (100, 400), (150, 0))),
    ],
)
def test_place(size: tuple[int, int], resize: str, align: str, expected: Geometry) -> None:
    assert place((50, 200), size, resize, align) == expected  # type: ignore[arg-type]


sides = st.integers(1, 3000)


@given(sides, sides, sides, sides, st.sampled_from(["letterbox", "stretch"]), st.sampled_from(["center", "topleft"]))
def test_boxes_find_their_way_back(h: int, w: int, height: int, width: int, resize: str, align: str) -> None:
    geometry = place((h, w), (height, width), resize, align)  # type: ignore[arg-type]
    (top, left), (inner_h, inner_w) = geometry.offset, geometry.content
    assert 0 <= top <= height - inner_h
    assert 0 <= left <= width - inner_w
    assert inner_h >= 1
    assert inner_w >= 1
    corners = np.array([[left, top, left + inner_w, top + inner_h], [-9999, -9999, 99999, 99999]], np.float32)
    assert geometry.to_image(corners) == pytest.approx(np.array([[0, 0, w, h]] * 2), rel=1e-4, abs=1e-2)


def test_fill_writes_every_pixel_once(engine: str) -> None:
    source = picture(40, 60)
    tensor = np.full((3, 100, 90), np.nan, np.float32)
    geometry = place((40, 60), (100, 90), "letterbox", "center")
    fill(tensor, source, geometry, [1, 2, 3], [0, 10, -1], 114)
    assert np.isfinite(tensor).all()
    assert tensor[:, 0, 0].tolist() == [114, 238, 341]
    assert tensor[:, -1, -1].tolist() == [114, 238, 341]
    inner = resized(source, geometry.content)
    top = geometry.offset[0]
    for channel, (gain, bias) in enumerate([(1, 0), (2, 10), (3, -1)]):
        assert (tensor[channel, top : top + geometry.content[0]] == inner[..., channel] * float(gain) + bias).all()


def test_fill_takes_views(engine: str) -> None:
    source = picture(40, 60)[::-1, ::2]
    first, second = np.empty((2, 3, 40, 30), np.float32)
    geometry = place((40, 30), (40, 30), "letterbox", "center")
    fill(first, source, geometry, [1, 1, 1], [0, 0, 0], 0)
    fill(second, source.copy(), geometry, [1, 1, 1], [0, 0, 0], 0)
    assert (first == second).all()


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    PIL.fromarray(pixels).save(path, **options)
    return path


def test_reading_keeps_colours_in_rgb_order(engine: str, tmp_path: Path) -> None:
    source = picture(31, 47)
    assert (read_image(save(tmp_path / "a.png", source)) == source).all()
    assert image_size(tmp_path / "a.png") == (31, 47)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    read = read_image(save(tmp_path / "red.jpg", red))
    assert read[8, 8].tolist() == pytest.approx([200, 0, 0], abs=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reading_honours_exif(engine: str, tmp_path: Path, orientation: int) -> None:
    source = np.zeros((24, 40, 3), np.uint8)
    source[:8, :16] = 255  # a bright corner at the top left
    exif = PIL.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.jpg", source, exif=exif, quality=95)
    turned = {
        1: source, 2: source[:, ::-1], 3: source[::-1, ::-1], 4: source[::-1], 5: source.transpose(1, 0, 2),
        6: np.rot90(source, -1), 7: source[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(source),
    }[orientation]  # fmt: skip
    read = read_image(path)
    assert read.shape == turned.shape
    assert image_size(path) == turned.shape[:2]
    assert np.abs(read.astype(int) - turned).mean() < 4


def test_grey_alpha_palette_and_sixteen_bit(engine: str, tmp_path: Path) -> None:
    grey = picture(20, 30)[..., 0].copy()
    three = np.repeat(grey[..., None], 3, axis=2)
    assert (read_image(save(tmp_path / "grey.png", grey)) == three).all()
    alpha = np.dstack([picture(20, 30), grey])
    assert (read_image(save(tmp_path / "alpha.png", alpha)) == alpha[..., :3]).all()
    deep = grey.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert np.abs(read_image(tmp_path / "deep.png").astype(int) - three).max() <= 1
    cv2.imwrite(str(tmp_path / "deep_colour.png"), np.repeat(deep[..., None], 3, axis=2))
    assert np.abs(read_image(tmp_path / "deep_colour.png").astype(int) - three).max() <= 1
    PIL.fromarray(three).convert("P").save(tmp_path / "palette.png")
    assert np.abs(read_image(tmp_path / "palette.png").astype(int) - three).mean() < 20


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_truncated_image_is_named(engine: str, tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, picture(200, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UsageError, match=f"{name} is a truncated image"):
        read_image(path)
    with pytest.raises(UsageError, match=name):
        image_size(path)


def test_trailing_bytes_do_not_matter(engine: str, tmp_path: Path) -> None:
    path = save(tmp_path / "photo.jpg", picture(50, 50))
    path.write_bytes(path.read_bytes() + b"\0" * 999)
    assert read_image(path).shape == (50, 50, 3)
    assert image_size(path) == (50, 50)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\nIEND"])
def test_what_is_no_image_is_named(engine: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        read_image(path)
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        image_size(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0"]))
def test_no_bytes_are_a_surprise(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(start + data)
    for read in (read_image, image_size):
        with contextlib.suppress(UsageError):
            read(path)


def test_a_missing_file_and_a_missing_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (read_image, image_size):
        with pytest.raises(UsageError, match=r"none\.jpg"):
            read(tmp_path / "none.jpg")
    path = save(tmp_path / "a.png", picture(5, 7))
    monkeypatch.setattr(image, "_pillow", lambda: None)
    assert image_size(path) == (5, 7)
    monkeypatch.setattr(image, "_opencv", lambda: None)
    with pytest.raises(Unavailable, match=r"edgedeploy\[images\]"):
        read_image(path)


def test_both_readers_see_the_same_photographs(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((shared / "data" / "coco_val128" / "images").rglob("*.jpg"))[:8]
    first = [read_image(path) for path in paths]
    monkeypatch.setattr(image, "_opencv", lambda: None)
    for path, one in zip(paths, first, strict=True):
        assert np.abs(one.astype(int) - read_image(path)).mean() < 1
        assert image_size(path) == one.shape[:2]
