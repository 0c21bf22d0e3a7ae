"""MONAI Label's real server over HTTP, with bundles unpacked from their archives, and what is sent to it."""

import email
import email.policy
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.archive import build_archives
from common.runtime.model_settings import with_defaults

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "bundles").glob("*/configs/inference.json"))
AXES = {
    path.parents[1]: with_defaults(json.loads(path.read_text(encoding="utf-8")))["spatial_dims"] for path in CONFIGS
}
BUNDLES = {dims: [bundle for bundle, own in AXES.items() if own == dims] for dims in (2, 3)}
"""Those of pictures and those of volumes, which have studies of their own kind."""

SHAPE = (24, 28, 32)
NUM_KNOWN = 5
COPY = "_copy"
COPY_VERSION = "9.9.9"
COPY_CODE = """

_load = LoadScand.__call__
LoadScand.__call__ = lambda self, data, reader=None: {**_load(self, data, reader), "result": {"code": "of the copy"}}
"""
"""Makes itself known in every response, whatever else the bundle's code does."""


def pytest_generate_tests(metafunc):
    """Gives every test that asks for ``bundle`` the name of each, those of volumes unless its module says otherwise."""
    if "bundle" in metafunc.fixturenames:
        paths = BUNDLES[getattr(metafunc.module, "SPATIAL_DIMS", 3)]
        metafunc.parametrize("bundle", [path.name for path in paths], scope="session")


@pytest.fixture(scope="session")
def label_python():
    """The Python that has monailabel; where it is named, it must work."""
    python = os.environ.get("MONAILABEL_PYTHON")
    if not python:
        pytest.skip("MONAILABEL_PYTHON names no Python that has monailabel: make test-label does")
    return Path(python)


@pytest.fixture(scope="session")
def label_environment(label_python, environment):
    """The environment of an activated virtual environment without a network."""
    dead = "http://127.0.0.1:9"
    offline = {"http_proxy": dead, "https_proxy": dead, "no_proxy": "127.0.0.1"}
    path = f"{label_python.parent}{os.pathsep}{os.environ['PATH']}"
    # The server imports the code of a bundle for every request, which takes long where it is never kept compiled.
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | offline | {"PATH": path, "PYTHONPATH": str(Path(__file__).parent / "site")}


def _encode(fields, files):
    """A multipart form: its content type and its bytes."""
    boundary = "----a-part-of-the-form"
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [(f'name="{name}"; filename="{file.name}"', file.read_bytes()) for name, file in files.items()]
    lines = [f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data for head, data in parts]
    return f"multipart/form-data; boundary={boundary}", b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()])


class Server:
    """A running server: ``ask`` returns status, content type and body of any request, the others what they are for."""

    def __init__(self, process, port, log, studies):
        self.process, self.port, self.log, self.studies = process, port, log, studies

    def ask(self, method, path, *, fields=None, files=None, body=None, **query):
        if body is None:
            kind, data = _encode(fields or {}, files or {})
        else:
            kind, data = "application/json", json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, data if method != "GET" else None, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=240) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def json(self, method, path, **given):
        status, _, content = self.ask(method, path, **given)
        assert status == 200, f"{path}: {status}\n{self.tail()}"
        return json.loads(content)

    def judge(self, model, image, **params):
        """The params of a response that is asked for as JSON."""
        return self.json("POST", f"infer/{model}", fields={"params": json.dumps(params)}, image=image, output="json")

    def answer(self, model, image, **params):
        """The params of a whole response and the file of the segmentation, as bytes."""
        query = {"fields": {"params": json.dumps(params)}, "image": image}
        status, kind, content = self.ask("POST", f"infer/{model}", **query)
        assert status == 200, f"{image}: {status}\n{self.tail()}"
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        message = email.message_from_bytes(head + content, policy=email.policy.HTTP)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        assert set(parts) == {"params", "image"}
        return json.loads(parts["params"].get_content()), parts["image"].get_content()

    def segment(self, model, image, **params):
        """The params and the segmentation of a whole response."""
        answer, content = self.answer(model, image, **params)
        return answer, nib.Nifti1Image.from_bytes(gzip.decompress(content))

    def label(self, image, file):
        """Saves the final label of an image, as a client's submit button does."""
        return self.json("PUT", "datastore/label", files={"label": file}, image=image, tag="final")

    def train(self, model, meanwhile=lambda: None, **request):
        """Starts training, as a client does, waits for its end and returns the last lines of its log."""
        task = self.json("POST", f"train/{model}", body=request)
        while task["status"] in ("SUBMITTED", "RUNNING"):
            meanwhile()
            time.sleep(0.3)
            task = self.json("GET", "train/")
        assert task["status"] == "DONE", "\n".join(task["details"])
        return "\n".join(task["details"])

    def wait_for(self, task):
        """Waits for ``train`` or ``scoring`` and returns its status."""
        deadline = time.monotonic() + 180
        while (status := self.json("GET", f"{task}/"))["status"] in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.3)
        return status

    def logged(self, text):
        """Whether the server's log holds a text, soon: errors are answered before they are logged."""
        deadline = time.monotonic() + 10
        while text not in self.log.read_text(encoding="utf-8", errors="replace"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def tail(self):
        return self.log.read_text(encoding="utf-8", errors="replace")[-6000:]


@pytest.fixture(scope="session")
def serve(label_environment):
    """Starts the server as the documentation says, ``serve(folder, "apps/<app>", settings..., NAME=value...)``."""

    @contextmanager
    def start(folder, app, *options, **variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["monailabel", "start_server", "--app", app, "--studies", "studies", *options]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        log = folder / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=label_environment | variables, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        server = Server(process, port, log, folder / "studies")
        try:
            _wait_until_it_answers(server)
            yield server
        finally:
            # The group: training and scoring are children of the server.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)

    return start


def _wait_until_it_answers(server):
    deadline = time.monotonic() + 120
    while True:
        assert server.process.poll() is None, server.tail()
        assert time.monotonic() < deadline, server.tail()
        try:
            server.json("GET", "info/")
        except urllib.error.URLError:
            time.sleep(0.3)
        else:
            return


@pytest.fixture(scope="session")
def download_app(label_environment):
    """Puts MONAI Label's own app into a folder and returns where its bundles go."""

    def download(folder):
        command = ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", "apps"]
        subprocess.run(command, cwd=folder, env=label_environment, check=True, capture_output=True, timeout=120)
        return folder / "apps" / "monaibundle" / "model"

    return download


@pytest.fixture(scope="session")
def serve_app(serve):
    """Starts that app with all bundles in it."""

    def start(folder):
        names = ",".join(sorted(path.name for path in (folder / "apps" / "monaibundle" / "model").iterdir()))
        options = ["--conf", "models", names, "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
        return serve(folder, "apps/monaibundle", *options)

    return start


@pytest.fixture(scope="session")
def install(label_python, environment, repository, tmp_path_factory):
    """Installs the bundles of pictures, ``install(2, folder)``, or of volumes, from their archives."""
    archives = tmp_path_factory.mktemp("dist")
    build_archives(str(repository / "bundles"), str(archives))

    def start(spatial_dims, folder):
        for bundle in BUNDLES[spatial_dims]:
            (archive,) = archives.glob(f"{bundle.name}_v*.zip")
            # By MONAI Label's Python: the versions there must pass as well.
            command = [label_python, archives / "bundle_tool.pyz", "install", archive, "--into", folder]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    return start


@pytest.fixture(scope="session")
def models(install, run_bundle, make_dataset, make_scan, tmp_path_factory):
    """Every bundle of volumes as installed, and a copy of each: other version, other code, bank of phantoms."""
    folder, data = (tmp_path_factory.mktemp(name) for name in ("models", "phantoms"))

    def scan(index, *_):
        image, label = make_scan(index, SHAPE)
        return {"imagesTr": (image.round(), np.eye(4)), "labelsTr": (label, np.eye(4))}

    make_dataset(data, 8, edit=scan)
    install(3, folder)
    for bundle in BUNDLES[3]:
        copy = folder / f"{bundle.name}{COPY}"
        shutil.copytree(folder / bundle.name, copy)
        metadata = json.loads((copy / "configs" / "metadata.json").read_text(encoding="utf-8"))
        (copy / "configs" / "metadata.json").write_text(json.dumps(metadata | {"version": COPY_VERSION}))
        with open(copy / "scripts" / "common" / "transforms" / "scan.py", "a", encoding="utf-8") as file:
            file.write(COPY_CODE)
        if (copy / "models" / "signature_bank.npz").is_file():
            run_bundle(copy, "train.json", "fit_bank", dataset_dir=data, threshold_c=3)
    return folder


@pytest.fixture(scope="session")
def run_bundle(run_python):
    """Runs ``python -m monai.bundle`` with this Python, from elsewhere."""

    def run(bundle, config, *run_id, **settings):
        command = ["-m", "monai.bundle", "run", *run_id, "--config_file", bundle / "configs" / config]
        command += [part for key, value in settings.items() for part in (f"--{key}", value)]
        done = run_python([str(part) for part in command], cwd=bundle.parent)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def run_inference(run_bundle):
    """Runs ``inference.json`` of an unpacked bundle in the main environment and returns its report."""

    def run(bundle, dataset_dir, output_dir):
        run_bundle(bundle, "inference.json", dataset_dir=dataset_dir, output_dir=output_dir, device="cpu")
        return json.loads((output_dir / "ood_report.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="session")
def scans(make_scan):
    """Name -> voxels, whole numbers: known phantoms and strange ones."""
    known = {f"known_{index}": make_scan(100 + index, SHAPE)[0].round() for index in range(NUM_KNOWN)}
    first, noise = known["known_0"], np.random.default_rng(0).standard_normal(SHAPE)
    blurred = gaussian_filter(first, 1.5).round()
    return known | {"inverted": first.max() - first, "noise": np.abs(100 * noise).round(), "blurred": blurred}


@pytest.fixture(scope="session")
def labels(make_scan, tmp_path_factory):
    """Name -> file of the label of every known phantom."""
    folder = tmp_path_factory.mktemp("labels")
    files = {f"known_{index}": folder / f"known_{index}.nii.gz" for index in range(NUM_KNOWN)}
    for index, file in enumerate(files.values()):
        nib.save(nib.Nifti1Image(make_scan(100 + index, SHAPE)[1], np.eye(4)), file)
    return files


@pytest.fixture(scope="session")
def make_studies(scans):
    """Fills the folder ``studies`` with the scans named, or all."""

    def make(folder, names=None):
        (folder / "studies").mkdir(parents=True)
        for name in names or scans:
            nib.save(nib.Nifti1Image(scans[name].astype(np.float32), np.eye(4)), folder / "studies" / f"{name}.nii.gz")
        return folder / "studies"

    return make
