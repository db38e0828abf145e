"""Videos, cameras and pipes: what is read, written, left out and gone on with."""

import io
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from dataset_files import random_image, save_image
from PIL import Image
from rich.console import Console

from segue import work_dir
from segue.errors import SegueError
from segue.inference.model import Ensemble, Model
from segue.label_space import CITYSCAPES
from segue.models import MODELS
from segue.predicting import clips, frames, kinds, plan, predict
from segue.predicting.frames import opened
from segue.predicting.kept_labels import KeptLabels
from segue.predicting.piped import images_in
from segue.predicting.sources import source_of, streamed
from segue.runtime import signals as stopping
from segue.runtime.processes import World

NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}
SIZE = (64, 48)


class Counting(Ensemble):
    """Counts images that went through, and may end before one of them."""

    seen, before = 0, None

    def predict_all(self, images, **more):
        if self.before is not None and self.seen + len(images) > self.before:
            raise KeyboardInterrupt
        self.seen += len(images)
        return super().predict_all(images, **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](19, backbone="test_resnet")
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    Model(segmenter, CITYSCAPES, (64, 32), NETWORK, {"main": 1.0}).save(file)
    return work_dir.load(file)


@pytest.fixture
def models(trained):
    return Counting(trained.models)


def scene(number, size=SIZE):
    """Smooth, so that a codec changes little, and another for each number."""
    coarse = random_image(number, (4, 3))
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def write_video(path, count=7, size=SIZE, codec="MJPG", rate=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)
    for number in range(count):
        writer.write(scene(number, size)[..., ::-1].copy())
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    found = []
    while (frame := capture.read())[0]:
        found.append(frame[1][..., ::-1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return found, rate


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.MKV", "MJPG"), ("a.mov", "mp4v")]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_video_becomes_an_overlay_video(models, tmp_path, name, codec, batch):
    video, output = write_video(tmp_path / name, codec=codec), tmp_path / "out"
    assert predict(models, [video], output, batch=batch) == [output / "a_overlay.mp4"]
    assert names(output) == ["a_overlay.mp4"], "nothing else is left"
    laid, rate = read_video(output / "a_overlay.mp4")
    assert rate == pytest.approx(10)
    seen, _ = read_video(video)
    assert len(laid) == len(seen) == 7
    for image, over in zip(seen, laid, strict=True):
        wanted = models.show(np.ascontiguousarray(image)).overlay
        assert over.shape == wanted.shape
        assert np.abs(over.astype(int) - wanted).mean() < 12, "the codec's own loss"


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_of_a_video_as_files(models, tmp_path, batch):
    video, output = write_video(tmp_path / "a.avi"), tmp_path / "out"
    write = kinds(confidence=True)
    predicted = predict(models, [video], output, write=write, frames=True, batch=batch)
    assert predicted == [output / "a_frames"]
    expected = [f"{n:06}_{kind}.png" for n in range(7) for kind in sorted(write)]
    assert names(output / "a_frames") == expected
    for number, image in enumerate(read_video(video)[0]):
        label = np.array(Image.open(output / f"a_frames/{number:06}_label.png"))
        assert (label == models.predict(np.ascontiguousarray(image))).mean() > 0.999


def test_interrupted_frames_go_on(models, tmp_path):
    video, output = write_video(tmp_path / "a.avi"), tmp_path / "out"
    models.before = 4
    with pytest.raises(KeyboardInterrupt):
        predict(models, [video], output, frames=True)
    assert "000001_label.png" in names(output / "a_frames")
    models.before, models.seen = None, 0
    with pytest.raises(SegueError, match=r"a_frames: holds frames of an earlier .*add --resume"):
        predict(models, [video], output, frames=True)
    (output / "a_frames" / "000001_colour.png").unlink(missing_ok=True)
    predict(models, [video], output, frames=True, resume=True)
    assert 4 <= models.seen <= 7 - 1
    assert len(names(output / "a_frames")) == 14
    before = models.seen
    predict(models, [video], output, frames=True, resume=True)
    assert models.seen == before, "nothing is left"


def test_an_interrupted_overlay_video_goes_on(models, tmp_path):
    video = write_video(tmp_path / "a.avi")
    predict(models, [video], tmp_path / "whole")
    output = tmp_path / "out"
    models.seen, models.before = 0, 4
    with pytest.raises(KeyboardInterrupt):
        predict(models, [video], output)
    assert names(output) == ["a_overlay.mp4.labels"], "half a video is none"
    models.seen, models.before = 0, None
    predict(models, [video], output, resume=True)
    assert models.seen == 7 - 4
    assert names(output) == ["a_overlay.mp4"]
    both = [(folder / "a_overlay.mp4").read_bytes() for folder in (output, tmp_path / "whole")]
    assert both[0] == both[1]
    assert predict(models, [video], output, resume=True) == []
    os.utime(video, (time.time() + 10,) * 2)
    assert len(predict(models, [video], output, resume=True)) == 1, "the video is a newer one"


@pytest.mark.parametrize("harm", ["cut", "flip", "other video", "without --resume"])
def test_kept_labels_that_are_no_longer_what_they_were(models, tmp_path, harm):
    video, output = write_video(tmp_path / "a.avi"), tmp_path / "out"
    models.before = 4
    with pytest.raises(KeyboardInterrupt):
        predict(models, [video], output)
    models.seen, models.before = 0, None
    kept = output / "a_overlay.mp4.labels"
    whole = bytearray(kept.read_bytes())
    if harm == "cut":
        kept.write_bytes(whole[:-3])
    elif harm == "flip":
        whole[-3] ^= 1
        kept.write_bytes(whole)
    elif harm == "other video":
        write_video(video, count=8)
    predict(models, [video], output, resume=harm != "without --resume")
    assert models.seen == {"cut": 4, "flip": 4, "other video": 8}.get(harm, 7)
    assert names(output) == ["a_overlay.mp4"]


def test_labels_are_kept(tmp_path):
    video = tmp_path / "v"
    video.write_bytes(b"a video")
    maps = [np.random.default_rng(n).integers(0, 19, (5, 7), np.uint8) for n in range(3)]
    kept = KeptLabels(tmp_path / "x" / "kept", video, ("a", "b"), resume=True)
    assert list(kept.stored()) == []
    for one in maps:
        kept.add(one)
    kept.close()
    again = KeptLabels(kept.path, video, ("a", "b"), resume=True)
    np.testing.assert_array_equal(list(again.stored()), maps)
    again.close()
    other = KeptLabels(kept.path, video, ("a", "c"), resume=True)
    assert list(other.stored()) == []
    other.close()


def test_images_and_videos_of_a_folder(models, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    save_image(folder / "day/a.png", scene(0))
    write_video(folder / "day/b.mp4", codec="mp4v")
    (folder / "night").mkdir()
    (folder / "night/broken.mp4").write_bytes(b"no video" * 100)
    shown = io.StringIO()
    with pytest.raises(SegueError, match=r"1 of 3 images and videos could not .* others are done"):
        predict(models, [folder], output, console=Console(file=shown, width=200))
    assert names(output) == ["day/a_colour.png", "day/a_label.png", "day/b_overlay.mp4"]
    assert f"{folder}/night/broken.mp4: cannot be opened as a video; copy or" in shown.getvalue()
    assert "predict b: 7/7" in shown.getvalue()
    assert "frame" in shown.getvalue()


def test_a_lone_video_that_cannot_be_read(models, tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(SegueError, match=r"a\.mp4: cannot be opened as a video") as caught:
        predict(models, [tmp_path / "a.mp4"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "OpenCV and ffmpeg keep silent"


def test_a_video_that_was_cut_short_says_so(models, tmp_path):
    video = write_video(tmp_path / "a.avi", count=30)
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    shown = io.StringIO()
    predict(models, [video], tmp_path / "out", console=Console(file=shown, width=200))
    found, _ = read_video(tmp_path / "out/a_overlay.mp4")
    assert 5 < len(found) < 27
    assert f"a.avi: {len(found)} of about 30 frames could be read" in shown.getvalue()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"write": kinds(confidence=True)}, r"overlay video shows no confidence; add --frames"),
        ({"write": ["acdc"]}, r"a submission to acdc is made of image files; leave it out"),
    ],
)
def test_what_a_video_cannot_become(models, tmp_path, more, message):
    video = write_video(tmp_path / "a.avi", count=1)
    with pytest.raises(SegueError, match=message):
        predict(models, [video], tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told(models, tmp_path, monkeypatch):
    class Forgets:
        def __init__(self, *given):
            self.writer, self.left = cv2.VideoWriter(*given), 3

        def isOpened(self):  # noqa: N802
            return self.writer.isOpened()

        def write(self, image):
            self.left -= 1
            if self.left >= 0:
                self.writer.write(image)

        def release(self):
            self.writer.release()

    video = write_video(tmp_path / "a.avi")
    forgets = SimpleNamespace(**{**vars(cv2), "VideoWriter": Forgets})
    Forgets.fourcc = cv2.VideoWriter.fourcc
    monkeypatch.setattr(clips, "cv2", forgets)
    with pytest.raises(SegueError, match=r"only 3 of 7 frames could be written; .*disk is full"):
        predict(models, [video], tmp_path / "out")
    assert names(tmp_path / "out") == ["a_overlay.mp4.labels"], "to go on with"


def test_a_long_video_is_never_held(models, tmp_path):
    """However far the network is behind, few frames wait for it."""
    made = []

    def read(wanted):
        for number in range(200):
            made.append(number)
            yield number, np.zeros((2, 2, 3), np.uint8)

    film = frames.Film(source_of(tmp_path / "a.mp4"), 25.0, 200, read)
    for number, _ in film.frames(most=3):
        assert len(made) <= number + 5
    assert len(made) == 200


def test_processes_share_videos_and_the_first_takes_streams(models, tmp_path, monkeypatch):
    videos = [write_video(tmp_path / f"{n}.avi", count=1) for n in range(3)]
    monkeypatch.setattr("sys.stdin", piped(png(0)))
    whole = plan([*videos, "-"], tmp_path / "out")
    from segue.predicting import _share

    shares = [_share(whole.clips, World(rank, 2)) for rank in range(2)]
    told = [[clip.source.name for clip in share] for share in shares]
    assert told == [["0", "2", "stdin"], ["1"]]


# What is piped in.


def encoded(number, ending, *more, size=SIZE):
    return cv2.imencode(ending, scene(number, size)[..., ::-1], *more)[1].tobytes()


def png(number):
    return encoded(number, ".png")


PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
FRAMES = [
    *(encoded(0, ".ppm"), png(1), encoded(2, ".jpg"), encoded(3, ".jpg", PROGRESSIVE)),
    *(encoded(4, ".ppm", size=(31, 20)), b"P5\n# grey\n3 2\n255\n" + bytes(range(6)), png(6)),
    b"P6 2 1 65535\n" + bytes(12),
]


class Slowly(io.RawIOBase):
    """Gives few bytes at a time, as pipes may."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def read1(self, size=-1):
        chunk, self.data = self.data[: self.step], self.data[self.step :]
        return chunk


def piped(data):
    return SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(data))


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_stream_is_cut_into_its_images(step):
    assert list(images_in(Slowly(b"".join(FRAMES), step))) == FRAMES


def test_an_image_is_there_as_soon_as_it_is_whole():
    reading, writing = os.pipe()
    with open(writing, "wb", 0) as into, open(reading, "rb") as out:  # noqa: PTH123
        found = images_in(out)
        for frame in FRAMES:
            into.write(frame)
            assert next(found) == frame


def test_piped_images_become_files(models, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", piped(b"".join(FRAMES)))
    output = tmp_path / "out"
    assert predict(models, ["-"], output) == [output / "stdin_frames"]
    assert len(names(output)) == 2 * len(FRAMES)
    label = np.array(Image.open(output / "stdin_frames/000001_label.png"))
    np.testing.assert_array_equal(label, models.predict(scene(1)))
    # The same stream again goes on.
    for number in (2, 5):
        (output / f"stdin_frames/{number:06}_label.png").unlink()
    models.seen = 0
    monkeypatch.setattr("sys.stdin", piped(b"".join(FRAMES)))
    predict(models, ["-"], output, resume=True)
    assert models.seen == 2


@pytest.mark.parametrize(
    ("data", "message", "whole"),
    [
        (b"", r"stdin: no image came; make them as `ffmpeg -i VIDEO", 0),
        (png(0) + png(1)[:-20], r"frame 1: the stream ends within an image; what was whole", 1),
        (png(0) + FRAMES[0][:-1], r"frame 1: the stream ends within an image", 1),
        (FRAMES[2][: len(FRAMES[2]) // 2], r"frame 0: the stream ends within an image", 0),
        (b"P6 12", r"frame 0: the stream ends within an image", 0),
        (png(0) + b"RIFF\x00\x00\x00\x00AVI ", r"frame 1: is no PPM, PNG or JPEG .*b'RIFF", 1),
        (b"P6 many 3 255\n", r"frame 0: is damaged, its header is none", 0),
        (b"P6 0 3 255\n", r"frame 0: is damaged, its header is none", 0),
        (b"P6 99999999 99999999 255\n", r"frame 0: is too large to open safely", 0),
        (b"\xff\xd8\xff\xe0\x00\x00", r"frame 0: is damaged, its header is none", 0),
        (png(0) + png(1).replace(b"IDAT", b"IDAT\0\0\0", 1), r"stdin, frame 1: ", 1),
    ],
)
def test_streams_that_will_not_do(models, tmp_path, monkeypatch, data, message, whole):
    monkeypatch.setattr("sys.stdin", piped(data))
    with pytest.raises(SegueError, match=message) as caught:
        predict(models, ["-"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert len(names(tmp_path / "out")) == 2 * whole


def test_a_terminal_is_no_pipe(models, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(SegueError, match="stdin: nothing is piped in; make them as `ffmpeg"):
        predict(models, ["-"], tmp_path / "out")


# Cameras and streams, which no test machine has: OpenCV's capture is replaced.


class Camera:
    """A camera with a frame every few milliseconds, until it is unplugged."""

    def __init__(self, address, count=40, pause=0.01, rate=0.0):
        self.address, self.count, self.pause, self.rate = address, count, pause, rate
        self.released, self.place = False, 0

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return self.rate if what == cv2.CAP_PROP_FPS else -1.0

    def grab(self):
        time.sleep(self.pause)
        self.place += 1
        return self.place <= self.count

    def retrieve(self):
        return True, scene(self.place)[..., ::-1].copy()

    def release(self):
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    made = []

    def plug(**more):
        def capture(address):
            made.append(Camera(address, **more))
            return made[-1]

        replaced = SimpleNamespace(**{**vars(cv2), "VideoCapture": capture})
        monkeypatch.setattr(frames, "cv2", replaced)
        return made

    return plug


def test_of_a_camera_what_the_network_has_time_for(models, tmp_path, camera):
    made = camera(rate=20.0)

    class Slow(Counting):
        def predict_all(self, images, **more):
            assert len(images) == 1, "none waits for another"
            time.sleep(0.05)
            return super().predict_all(images, **more)

    slow = Slow(models.models)
    (video,) = predict(slow, ["camera:0"], tmp_path / "out", batch=4)
    assert video == tmp_path / "out" / "camera_0_overlay.mp4"
    assert made[0].address == 0
    assert made[0].released
    assert slow.seen < 30, "some were left out"
    found, rate = read_video(video)
    assert len(found) == 40, "the video is as long as time was"
    assert rate == pytest.approx(20)
    with pytest.raises(SegueError, match=r"overlay\.mp4: holds an earlier recording; choose"):
        predict(slow, ["camera:0"], tmp_path / "out")


def test_numbers_of_a_cameras_frames_tell_which_were_left_out(models, tmp_path, camera):
    camera(count=10, pause=0.001)
    (folder,) = predict(models, ["rtsp://me:secret@10.0.0.7/x"], tmp_path / "out", frames=True)
    assert folder.name == "10.0.0.7_x_frames"
    numbers = [int(name[:6]) for name in names(folder) if name.endswith("label.png")]
    assert numbers[-1] == 9, "the last frame is not lost"
    assert len(numbers) < 10


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    reason="tests were started where Ctrl-C is ignored",
)
def test_ctrl_c_ends_a_camera_well(models, tmp_path, camera):
    camera(count=4000, pause=0.005)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with stopping.listening():
        (video,) = predict(models, ["camera:3"], tmp_path / "out")
    found, rate = read_video(video)
    assert len(found) > 5
    assert rate == frames.USUAL_RATE


def test_sigterm_ends_a_camera_too_and_is_told(models, tmp_path, camera):
    camera(count=4000, pause=0.005)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with stopping.listening(), pytest.raises(stopping.Stopped):
        predict(models, ["camera:3"], tmp_path / "out")
    assert read_video(tmp_path / "out/camera_3_overlay.mp4")[0]


def test_a_camera_that_is_not_there(models, tmp_path, capfd):
    with pytest.raises(SegueError, match=r"camera:77: cannot be opened as a video; look whether"):
        predict(models, ["camera:77"], tmp_path / "out")
    assert capfd.readouterr().err == ""


def test_addresses_keep_their_passwords_to_themselves(models, tmp_path):
    with pytest.raises(SegueError, match="cannot be opened") as caught:
        predict(models, ["http://me:secret@127.0.0.1:9/a.mp4?key=secret"], tmp_path / "out")
    assert "secret" not in str(caught.value)
    film = streamed("https://host/films/a.mp4?x=1")
    assert (film.name, film.live, film.kind) == ("a", False, "address")
    assert streamed("photos/a.png") is None


def test_only_frames_that_are_wanted_are_decoded(tmp_path):
    video = write_video(tmp_path / "a.avi")
    with opened(source_of(video)) as film:
        found = list(film.frames(lambda number: number % 3 == 0))
    assert [number for number, _ in found] == [0, 3, 6]
    assert film.total == 7
    for number, image in found:
        assert np.abs(image.astype(int) - scene(number)).mean() < 12
    assert json.dumps(film.rate) == "10.0"
