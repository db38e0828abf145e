"""The served page: its interface, limits, guards and batches, and what it does in a browser."""

import asyncio
import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from browser import browser_page, opened  # noqa: F401
from dataset_files import random_image
from fastapi.testclient import TestClient
from PIL import Image
from starlette.datastructures import Headers
from typer.testing import CliRunner

import segue
from segue import exporting
from segue.cli import commands as cli
from segue.errors import SegueError
from segue.inference.model import Ensemble, Model
from segue.label_space import CITYSCAPES, LabelSpace
from segue.models import MODELS
from segue.serving import app, batching, listening, served, uploads
from segue.serving import serve as serve_page

SIZE = (64, 48)
SETTINGS = {"kind": "deeplab_v2", "backbone": "test_resnet"}
BY = "\N{MULTIPLICATION SIGN}"
# Pages must show names as they are.
ODD = LabelSpace.from_settings(
    "<i>odd</i>", ["<b>sky</b>", "road & rail", *[f"class {n}" for n in range(17)]]
)


def model_of(seed, *, size=SIZE, space=CITYSCAPES, heads=None):
    torch.manual_seed(seed)
    arguments = {"second_head": True} if heads else {}
    segmenter = MODELS["deeplab_v2"](space.num_classes, backbone="test_resnet", **arguments)
    with torch.no_grad():  # what a head starts with leaves all classes alike
        for parameter in segmenter.heads.parameters():
            parameter.mul_(20)
    segmenter.eval()
    return Model(segmenter, space, size, SETTINGS | arguments, heads or {"main": 1.0})


@pytest.fixture(scope="module")
def models():
    """An ensemble of different sizes and heads, and one to compare it with."""
    after = Ensemble([model_of(0, heads={"main": 1.0, "layer3": 0.5}), model_of(1, size=(75, 41))])
    return served.Served(after, "runs/after", Ensemble([model_of(2)]), "runs/before")


@pytest.fixture
def client(models):
    with client_of(models) as made:
        yield made


@contextmanager
def client_of(models, limits=None, host="127.0.0.1"):
    made = app.create_app(models, limits or uploads.Limits(), host=host)
    address = "http://127.0.0.1:8000"
    with TestClient(made, base_url=address, raise_server_exceptions=False) as client:
        yield client


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def upright(data):
    return np.array(Image.open(io.BytesIO(data)))


def send(client, data, path="/labels", name="a.png"):
    return client.post(path, files={"image": (name, data)})


# ---- answers


def test_labels_are_those_of_predict(client, models):
    image = random_image(0, (90, 50))
    reply = send(client, encoded(image))
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    label = Image.open(io.BytesIO(reply.content))
    assert label.mode == "L"
    assert (np.array(label) == models.after.predict(image)).all()


def test_the_page_gets_both_models_with_shares(client, models):
    image = random_image(1, (70, 40))
    told = send(client, encoded(image), "/predict").json()
    assert (told["width"], told["height"]) == (70, 40)
    expected = {"after": models.after.predict(image), "before": models.before.predict(image)}
    for side, label in expected.items():
        assert (upright(base64.b64decode(told[side]["labels"])) == label).all()
        assert sum(told[side]["shares"].values()) == pytest.approx(1)
        for name, share in told[side]["shares"].items():
            assert share == (label == models.label_space.train_id(name)).mean()
    assert told["changed"] == (expected["before"] != expected["after"]).mean() > 0
    assert told["seconds"] > 0


def test_without_another_model_there_is_no_before(models):
    with client_of(replace(models, before=None, before_name=None)) as client:
        told = send(client, encoded(random_image(0, (33, 21))), "/predict").json()
        assert told["before"] is told["changed"] is client.get("/model").json()["before"] is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_every_format_is_read(client, models, kind):
    data = encoded(random_image(3, (40, 30)), kind)
    expected = models.after.predict(Image.open(io.BytesIO(data)))
    assert (upright(send(client, data).content) == expected).all()


def test_an_image_is_turned_upright(client, models):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    data = encoded(random_image(4, (60, 30)), "JPEG", exif=exif)
    label = upright(send(client, data).content)
    turned = np.rot90(np.array(Image.open(io.BytesIO(data))), -1)
    assert label.shape == (60, 30)
    assert (label == models.after.predict(np.ascontiguousarray(turned))).all()


def test_images_of_16_bits(client):
    deep = (np.arange(30 * 20, dtype=np.uint16).reshape(20, 30) * 100).astype(np.uint16)
    assert upright(send(client, encoded(deep)).content).shape == (20, 30)


def test_what_is_served_is_told(client, models):
    told = client.get("/model").json()
    assert (told["name"], told["before"]) == ("runs/after", "runs/before")
    assert told["classes"] == list(models.label_space.classes)
    assert [one["size"] for one in told["networks"]] == [[64, 48], [75, 41]]
    assert {one["policy"] for one in told["networks"]} == {"scaled"}
    health = {"status": "ok", "waiting": 0, "batches": 0}
    assert client.get("/health").json() == health
    send(client, encoded(random_image(0, (9, 9))))
    assert client.get("/health").json() == health | {"batches": 1}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/carla/source-only/seed_0", "source-only/seed_0"),
        ("runs/my/train/model.safetensors", "my/train"),
        ("/", ""),
    ],
)
def test_titles(path, name):
    assert served.title(path) == name


# ---- limits


def refused(reply, status, told):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert re.search(told, error), error
    assert len(error.splitlines()) == 1
    return reply


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (b"", 422, "a.png: the file is empty"),
        (b"# text", 415, "a.png: no image that is known here; send JPEG, PNG"),
        (encoded(random_image(0, (64, 64)))[:900], 422, "a.png: .*truncated or damaged"),
        (encoded(random_image(0, (64, 64)), "TIFF"), 415, "no image that is known"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), 415, "no image that is known"),
        (encoded(np.zeros((1001, 1000), np.uint8)), 413, "1000x1001 pixels are more than 1 mega"),
        (encoded(np.zeros((14000, 14000), np.uint8)), 413, "a.png: "),
        (bytes(200_001), 413, "the file is larger than 0.2 MB"),
        (bytes(900_000), 413, "the file is larger than 0.2 MB"),
    ],
)
def test_what_is_refused(models, data, status, told):
    with client_of(models, uploads.Limits(megabytes=0.2, megapixels=1)) as client:
        refused(send(client, data), status, told)
        assert client.get("/health").json()["waiting"] == 0
        assert send(client, encoded(random_image(0, (9, 9)))).status_code == 200


def test_names_cannot_break_lines_or_steer_terminals(client):
    refused(send(client, b"x", name="a\x1b[31m.png"), 415, r"a(\\x1b|%1B)\[31m.png: no image")


@pytest.mark.parametrize(
    "request_of",
    [
        {},
        {"data": {"image": "text"}},
        {"files": {"picture": b"x"}},
        {"content": b"x", "headers": {"Content-Type": "image/png"}},
    ],
)
def test_a_form_with_a_file_is_asked_for(client, request_of):
    refused(client.post("/labels", **request_of), 422, "multipart/form-data.*`image`")


def test_broken_and_crowded_forms(client):
    broken = {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}}
    assert client.post("/labels", **broken).status_code in (400, 422)
    many = [("image", ("a.png", b"x")), ("image", ("b.png", b"y"))]
    refused(client.post("/labels", files=many), 400, "Too many files")
    refused(client.get("/labels"), 405, "Method Not Allowed")
    refused(client.get("/docs"), 404, "Not Found")


def test_a_large_upload_is_refused_before_it_has_been_read(models):
    """Where its length is told before anything is read, else as soon as it is too long."""
    limits = uploads.Limits(megabytes=0.1)
    read = 0
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'

    async def receive():
        nonlocal read
        read += 1
        body = (head if read == 1 else b"") + bytes(65536)
        return {"type": "http.request", "body": body, "more_body": True}

    def asked(headers):
        kind = (b"content-type", b"multipart/form-data; boundary=x")
        scope = {"type": "http", "method": "POST", "headers": [kind, *headers]}
        request = uploads.Request(scope, receive)
        with pytest.raises(uploads.RefusalError, match=r"larger than 0\.1 MB") as error:
            asyncio.run(uploads.received(request, limits))
        assert error.value.status == 413
        return read

    assert asked([(b"content-length", b"200000")]) == 0
    assert asked([]) == 2


def test_an_upload_may_not_take_forever(monkeypatch):
    monkeypatch.setattr(uploads, "PATIENCE", 0.01)

    async def receive():
        await asyncio.sleep(10)

    headers = Headers({"content-type": "multipart/form-data; boundary=x"}).raw
    request = uploads.Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(uploads.RefusalError, match="longer than"):
        asyncio.run(uploads.received(request, uploads.Limits()))


# ---- batches


class Slow:
    """Served models whose first forward waits until it is told to go on."""

    def __init__(self, models):
        self.models, self.go, self.sizes = models, threading.Event(), []
        self.entered = threading.Event()

    def __getattr__(self, name):
        return getattr(self.models, name)

    def answers(self, images):
        self.sizes.append(len(images))
        self.entered.set()
        assert self.go.wait(20)
        return self.models.answers(images)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_arrives_while_the_network_is_busy_runs_together(models):
    forwards = []
    networks = [model.segmenter for one in (models.after, models.before) for model in one.models]
    hooks = [net.register_forward_hook(lambda *_: forwards.append(1)) for net in networks]
    slow = Slow(models)
    images = [random_image(seed, (40 + 7 * seed, 30 + seed)) for seed in range(6)]
    with client_of(slow, uploads.Limits(together=4)) as client, ThreadPoolExecutor(6) as pool:
        first = pool.submit(send, client, encoded(images[0]))
        assert slow.entered.wait(20)
        others = [pool.submit(send, client, encoded(image)) for image in images[1:]]
        # Seen from outside: all six wait, one forward has begun.
        until(lambda: client.get("/health").json()["waiting"] == 6)
        until(lambda: client.get("/health").json()["batches"] == 1)
        time.sleep(0.3)
        slow.go.set()
        replies = [future.result() for future in [first, *others]]
    for hook in hooks:
        hook.remove()
    assert slow.sizes == [1, 4, 1]
    assert len(forwards) == 3 * len(networks) < 6 * len(networks)
    for image, reply in zip(images, replies, strict=True):
        assert (upright(reply.content) == models.after.predict(image)).all()


def test_several_at_once_are_what_they_are_alone(models):
    images = [random_image(seed, (31 + 50 * seed, 77 - 9 * seed)) for seed in range(4)]
    for image, answer in zip(images, models.answers(images), strict=True):
        assert (answer.after == models.after.predict(image)).all()
        assert (answer.before == models.before.predict(image)).all()


def test_a_full_queue_says_when_to_come_again(models):
    slow = Slow(models)
    data = encoded(random_image(0, (20, 20)))
    with client_of(slow, uploads.Limits(waiting=2)) as client, ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(send, client, data) for _ in range(2)]
        until(lambda: client.get("/health").json()["waiting"] == 2)
        reply = refused(send(client, data), 503, "busy: 2 images are waiting; try again")
        assert int(reply.headers["retry-after"]) >= 1
        slow.go.set()
        assert [future.result().status_code for future in inside] == [200, 200]
        assert send(client, data).status_code == 200


def test_one_bad_item_does_not_spoil_a_batch():
    go, started = threading.Event(), threading.Event()

    def invert(numbers):
        started.set()
        assert go.wait(20)
        return [1 / number for number in numbers]

    batcher = batching.Batcher(invert, most=8)
    first = batcher.submit(1)
    assert started.wait(20)
    others = [batcher.submit(number) for number in (2, 0, 4)]
    dropped = batcher.submit(8)
    assert dropped.cancel()
    go.set()
    assert [first.result(), others[0].result(), others[2].result()] == [1, 0.5, 0.25]
    with pytest.raises(ZeroDivisionError):
        others[1].result()
    assert batcher.batches == 5
    batcher.close()
    with pytest.raises(CancelledError):
        batcher.submit(1).result()


def test_closing_cancels_what_waits():
    go, started = threading.Event(), threading.Event()

    def wait(items):
        started.set()
        assert go.wait(20)
        return items

    batcher = batching.Batcher(wait, most=1)
    running = batcher.submit("runs")
    assert started.wait(20)
    waits = batcher.submit("waits")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        waits.result(20)
    go.set()
    closing.join(20)
    assert running.result() == "runs"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no such kernel"), "prediction failed; see the terminal"),
        (RuntimeError("[...] can't allocate memory: you tried"), "does not fit the memory"),
    ],
)
def test_failures_are_told_and_do_not_stop_the_server(models, error, told, monkeypatch):
    data = encoded(random_image(0, (20, 20)))
    with client_of(models) as client:
        with monkeypatch.context() as broken:
            broken.setattr(served, "labels_of", lambda *_: (_ for _ in ()).throw(error))
            refused(send(client, data), 500, told)
        assert send(client, data).status_code == 200


def test_whoever_leaves_waits_no_longer(models):
    slow = Slow(models)
    with running(slow) as address, ThreadPoolExecutor(1) as pool:
        host, port = re.fullmatch(r"http://(.*):(\d+)/", address).groups()
        data = encoded(random_image(0, (20, 20)))
        body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body += data + b"\r\n--x--\r\n"
        head = f"POST /labels HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        first, second = (socket.create_connection((host, int(port))) for _ in range(2))
        first.sendall(head.encode() + body)
        assert slow.entered.wait(20)
        second.sendall(head.encode() + body)
        until(lambda: health(address)["waiting"] == 2)
        second.close()
        until(lambda: health(address)["waiting"] == 1)
        slow.go.set()
        assert pool.submit(first.recv, 16).result(20).startswith(b"HTTP/1.1 200")
        first.close()
        until(lambda: health(address)["waiting"] == 0)
        assert slow.sizes == [1]


# ---- who may ask


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80", "10.1.2.3:8000"])
def test_addresses_and_localhost_are_served(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[", "a b"]
)
def test_other_names_are_not(client, host):
    refused(client.get("/health", headers={"Host": host}), 421, "this name is not served")


def test_the_name_that_was_given_is_served(models):
    with client_of(models, host="gpu-box") as client:
        assert client.get("/health", headers={"Host": "GPU-box:8000"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999"])
def test_pages_of_other_sites_may_not_ask(client, origin):
    files = {"image": encoded(random_image(0, (9, 9)))}
    reply = client.post("/predict", files=files, headers={"Origin": origin})
    refused(reply, 403, "other sites")
    assert "access-control-allow-origin" not in reply.headers
    own = client.post("/predict", files=files, headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/icon.svg", "/health", "/absent"])
def test_every_response_is_guarded(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_the_page_names_nothing_elsewhere(client):
    for path, (_, kind) in app.FILES.items():
        reply = client.get(path)
        assert reply.headers["content-type"] == kind
        text = reply.text.replace("http://www.w3.org/2000/svg", "").replace("url(#a)", "")
        assert not re.search(r"https?:|//\w|@import|url\(", text), path


# ---- the server


def health(address):
    return httpx.get(f"{address}health").json()


@contextmanager
def running(models, limits=None):
    """The server in a thread; gives its address."""
    with listening.bound("127.0.0.1", 0) as listener:
        server = listening.server_of(app.create_app(models, limits or uploads.Limits()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield listening.address("127.0.0.1", listener)
        finally:
            server.should_exit = True
            thread.join(20)


def test_a_port_in_use_is_one_line():
    with listening.bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SegueError) as error, listening.bound("127.0.0.1", port):
            pass
    told = f"127.0.0.1:{port}: the port is in use; choose another --port"
    assert str(error.value).startswith(told)


def test_no_such_host_is_one_line():
    with (
        pytest.raises(SegueError, match="no such host; give an address"),
        listening.bound("no.such.host.invalid", 0),
    ):
        pass
    with (
        pytest.raises(SegueError, match=r"203\.0\.113\.1:0: cannot listen"),
        listening.bound("203.0.113.1", 0),
    ):
        pass


def test_everywhere_is_told_by_this_machines_name(models):
    with listening.bound("0.0.0.0", 0) as listener:
        told = listening.address("0.0.0.0", listener)
    with client_of(models, host="0.0.0.0") as client:
        host = told.removeprefix("http://").removesuffix("/")
        assert socket.gethostname() in host
        assert client.get("/health", headers={"Host": host}).status_code == 200


def test_addresses_of_ipv6():
    try:
        with listening.bound("::1", 0) as listener:
            assert re.fullmatch(r"http://\[::1\]:\d+/", listening.address("::1", listener))
    except SegueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name, seed in (("after", 0), ("before", 1)):
        (folder / name).mkdir()
        model_of(seed).save(folder / name / "model.safetensors")
    model_of(0, space=ODD).save(folder / "odd.safetensors")
    return folder


def test_without_the_extra_one_line_names_it(files, monkeypatch):
    found = exporting.needs.find_spec
    absent = {"fastapi", "uvicorn", "python_multipart"}
    hide = lambda name: None if name in absent else found(name)  # noqa: E731
    monkeypatch.setattr(exporting.needs, "find_spec", hide)
    with pytest.raises(SegueError) as error:
        serve_page(files / "after")
    told = "fastapi, uvicorn, python_multipart is not installed; pip install 'segue[serve]'"
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("after", "--before: is the model itself; name another model"),
        ("odd.safetensors", "--before: has other classes than the model; compare models of one"),
        ("absent", "absent: holds no trained model"),
    ],
)
def test_models_that_cannot_be_compared(files, before, told):
    with pytest.raises(SegueError, match=re.escape(told)):
        serve_page(files / "after", before=files / before, port=0, device="cpu")


def test_help_names_what_there_is():
    told = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "100"}).output
    for word in ("--before", "127.0.0.1", "8000", "--megapixels", "segue[serve]"):
        assert word in told


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(files, number):
    command = [sys.executable, "-m", "segue", "serve", str(files / "after")]
    command += ["--before", str(files / "before"), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        address = process.stdout.readline().split()[0]
        image = random_image(0, (50, 40))
        asked = {"image": ("a.png", encoded(image))}
        reply = httpx.post(f"{address}labels", files=asked, timeout=30)
        model = segue.load(files / "after")
        assert (upright(reply.content) == model.predict(image)).all()
        process.send_signal(number)
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, error) == (0, "stopped\n", "")


# ---- in a browser


@pytest.fixture(scope="module")
def compared():
    """The address of two models whose classes have names that are markup, and the models."""
    after, before = (Ensemble([model_of(seed, space=ODD)]) for seed in (0, 1))
    models = served.Served(after, "<em>after</em>/x", before, "before & co")
    with running(models, uploads.Limits(megabytes=0.5, megapixels=1)) as address:
        yield address, models


def picture(kind="PNG", size=(120, 80), seed=5, **options):
    return {
        "name": f"<u>a</u>.{kind.lower()}",
        "mimeType": f"image/{kind.lower()}",
        "buffer": encoded(random_image(seed, size), kind, **options),
    }


def show(watched, address, file):
    watched.open(address)
    watched.page.wait_for_selector("#legend li")
    watched.page.set_input_files("#file", file)
    watched.page.wait_for_selector("#tools:not([hidden])")
    watched.page.wait_for_selector("#drop:not([aria-busy])")


def pixels(page, canvas):
    """RGBA [H, W, 4] of a canvas."""
    height, width, data = page.evaluate(
        "(id) => { const c = document.getElementById(id);"
        "return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data]]; }",
        canvas,
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def drop(page, *files):
    """Drops files onto the page, as (name, type, bytes)."""
    told = [[name, kind, base64.b64encode(data).decode()] for name, kind, data in files]
    page.evaluate(
        """(files) => {
            const held = new DataTransfer();
            for (const [name, type, data] of files) {
                const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
                held.items.add(new File([bytes], name, { type }));
            }
            for (const kind of ["dragover", "drop"]) {
                const event = new DragEvent(kind, { bubbles: true, cancelable: true,
                    dataTransfer: held });
                document.getElementById("drop").dispatchEvent(event);
                if (!event.defaultPrevented) throw new Error(`${kind} leaves the page`);
            }
        }""",
        told,
    )


def test_a_file_is_shown_with_both_labels(browser_page, compared, tmp_path):  # noqa: F811
    address, models = compared
    page = browser_page.page
    file = picture()
    show(browser_page, address, file)
    image = upright(file["buffer"])
    expected = {"after": models.after.predict(image), "before": models.before.predict(image)}
    assert (pixels(page, "picture")[..., :3] == image).all()
    for side, label in expected.items():
        assert (pixels(page, side)[..., :3] == ODD.colour(label)).all()
        assert (pixels(page, side)[..., 3] == 255).all()

    # Names are text, shares stand beside them, absent classes behind a click.
    assert (
        "<em>after</em>/x compared with before & co, 19 classes of <i>odd</i>"
        in page.inner_text("#lead")
    )
    assert page.title() == "<em>after</em>/x · Segue"
    rows = page.locator("#legend li").all_inner_texts()
    shares = [served.shares(expected[side], ODD) for side in ("before", "after")]
    assert len(rows) == len(shares[0].keys() | shares[1].keys())
    for row in rows:
        name, *told = row.split("\n")
        for one, share in zip(told, shares, strict=True):
            part = share.get(name, 0)
            assert one == ("< 0.1 %" if 0 < part < 0.001 else f"{100 * part:.1f} %")
    assert f"{19 - len(rows)} absent" in page.inner_text("#absent summary")
    differ = (expected["before"] != expected["after"]).mean()
    status = page.inner_text("#status")
    assert status.startswith(f"<u>a</u>.png · 120 {BY} 80 · ")
    assert status.endswith(f" · {100 * differ:.1f} % of pixels differ")

    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith("_label.png")
    download.value.save_as(tmp_path / "label.png")
    assert (upright((tmp_path / "label.png").read_bytes()) == expected["after"]).all()

    browser_page.assert_quiet()
    assert all(one.startswith((address, "blob:")) for one in browser_page.requests)
    assert browser_page.accessibility() == []


def test_toggles_wipe_and_overlay(browser_page, compared):  # noqa: F811
    address, models = compared
    page = browser_page.page
    file = picture()
    show(browser_page, address, file)
    label = models.after.predict(upright(file["buffer"]))
    name = page.inner_text("#legend li:first-child .name")
    hidden = label == ODD.train_id(name)
    assert hidden.any()

    # By keyboard and by mouse.
    box = page.locator("#legend li:first-child input")
    for toggle in (lambda: box.press("Space"), box.click):
        toggle()
        page.mouse.move(5, 5)
        assert (pixels(page, "after")[..., 3] == np.where(hidden, 0, 255)).all()
        toggle()
        page.mouse.move(5, 5)
        assert (pixels(page, "after")[..., 3] == 255).all()
    page.click("#none")
    page.mouse.move(5, 5)
    assert not pixels(page, "after")[..., 3].any()
    page.click("#all")
    page.mouse.move(5, 5)
    assert (pixels(page, "after")[..., 3] == 255).all()
    page.hover("#legend li:first-child")
    assert (pixels(page, "after")[..., 3] == np.where(hidden, 255, 40)).all()

    edge = lambda: page.evaluate("getComputedStyle(stage).getPropertyValue('--at')")  # noqa: E731
    page.focus("#wipe")
    for key, there in (("ArrowRight", "51%"), ("Home", "0%"), ("End", "100%")):
        page.keyboard.press(key)
        assert edge() == there
    stage = page.locator("#stage").bounding_box()
    middle = stage["y"] + stage["height"] / 2
    page.mouse.move(stage["x"] + stage["width"] - 1, middle)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 4, middle, steps=4)
    assert 24 <= float(edge().rstrip("%")) <= 26
    page.mouse.up()
    # What lies under the pointer is named, of the side on which it is.
    page.mouse.move(stage["x"] + stage["width"] - 2, middle)
    pointed = ODD.classes[label[40, 119]]
    assert page.inner_text("#pointed") == pointed

    page.focus("#opacity")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(after).opacity") == "0"
    assert page.inner_text("#opacity-told") == "0 %"
    browser_page.assert_quiet()


def test_dropping_and_pasting(browser_page, compared):  # noqa: F811
    address, models = compared
    page = browser_page.page
    browser_page.open(address)
    page.wait_for_selector("#legend li")
    assert page.is_visible("#invite")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(random_image(4, (60, 30)), "JPEG", exif=exif)
    drop(page, ("t.txt", "text/plain", b"x"), ("turned.jpg", "image/jpeg", turned))
    page.wait_for_selector("#status:has-text('the first was taken')")
    assert page.inner_text("#status").startswith(f"turned.jpg · 30 {BY} 60 · ")
    assert pixels(page, "picture").shape == pixels(page, "after").shape == (60, 30, 4)

    data = encoded(random_image(6, (50, 20)))
    page.evaluate(
        """(data) => {
            const held = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            held.items.add(new File([bytes], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: held }));
        }""",
        base64.b64encode(data).decode(),
    )
    page.wait_for_selector(f"#status:has-text('50 {BY} 20')")
    label = models.after.predict(upright(data))
    assert (pixels(page, "after")[..., :3] == ODD.colour(label)).all()
    browser_page.assert_quiet()


def test_what_goes_wrong_is_told_and_tried_again(browser_page, compared):  # noqa: F811
    address, _ = compared
    page = browser_page.page
    browser_page.open(address)
    page.wait_for_selector("#legend li")
    for name, data, told in (
        ("a<b>.png", b"no image", "a<b>.png is no image that is known here; choose JPEG"),
        ("big.png", bytes(500_001), "big.png is larger than 0.5 MB"),
        ("wide.png", encoded(np.zeros((1001, 1000), np.uint8)), "more than 1 megapixels"),
    ):
        drop(page, (name, "image/png", data))
        page.wait_for_selector(f"#problem:has-text('{told}')")
        assert page.is_visible("#invite")
        assert not page.is_visible("#stage")
        assert not page.is_visible("#again")
    browser_page.assert_quiet()
    assert browser_page.accessibility() == []

    busy = {"status": 503, "json": {"error": "busy: 16 images are waiting"}}
    page.route("**/predict", lambda route: route.fulfill(**busy))
    page.set_input_files("#file", picture())
    page.wait_for_selector("text=busy: 16 images are waiting")
    page.unroute("**/predict")
    page.press("#again", "Enter")
    page.wait_for_selector("#tools:not([hidden])")
    assert not page.is_visible("#problem")

    page.route("**/predict", lambda route: route.abort())
    page.set_input_files("#file", picture(seed=9))
    page.wait_for_selector("text=The server does not answer")
    assert page.is_visible("#stage")  # what was shown before is shown again
    assert f"120 {BY} 80" in page.inner_text("#status")


def test_narrow_screens_touch_and_one_model(models):
    alone = replace(models, before=None, before_name=None)
    narrow = {"viewport": {"width": 375, "height": 700}, "color_scheme": "dark"}
    with running(alone) as address, opened(has_touch=True, **narrow) as watched:
        page = watched.page
        watched.open(address)
        page.wait_for_selector("#legend li")
        assert watched.accessibility() == []
        show(watched, address, picture("JPEG", (800, 300)))
        assert watched.accessibility() == []
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        assert page.is_hidden("#before")
        assert page.inner_text("#left").startswith("image")
        assert "differ" not in page.inner_text("#status")
        stage = page.locator("#stage").bounding_box()
        assert stage["width"] / stage["height"] == pytest.approx(8 / 3, rel=0.02)
        page.touchscreen.tap(stage["x"] + stage["width"] / 5, stage["y"] + 20)
        at = page.evaluate("getComputedStyle(stage).getPropertyValue('--at')")
        assert 19 <= float(at.rstrip("%")) <= 21
        watched.assert_quiet()


def test_all_is_reached_by_keyboard(browser_page, compared):  # noqa: F811
    address, _ = compared
    page = browser_page.page
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))  # early: it takes a moment
    browser_page.open(address)
    page.wait_for_selector("#legend li")
    page.keyboard.press("Tab")
    page.wait_for_selector("#invite button:focus")
    page.keyboard.press("Enter")
    until(lambda: page.wait_for_timeout(20) or chosen)
    chosen[0].set_files(picture())
    page.wait_for_selector("#wipe:focus")  # the button is gone; what comes next has the focus
    count = page.locator("#legend input").count()
    reached = []
    for _ in range(6 + count):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
    expected = ["opacity", "download", "button", "all", "none", *["checkbox"] * count, None]
    assert reached == expected
    assert page.evaluate("document.activeElement.localName") == "summary"
