"""Our app: scores every image, proposes the strangest first, and keeps answers apart when many ask at once."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest

from common.spectral import SignatureBank

pytestmark = [pytest.mark.label, pytest.mark.slow]

IMAGES = ("known_0", "inverted", "noise", "blurred")


@pytest.fixture(scope="module")
def judging(models):
    """The names of the copies of bundles that judge scans: their banks are of phantoms."""
    return sorted(path.parents[1].name for path in models.glob("*_copy/models/signature_bank.npz"))


@pytest.fixture(scope="module")
def make_app(models, judging, make_studies, tmp_path_factory):
    """Copies the app out of an archive, as its page says, puts bundles into it and makes studies."""

    def make():
        folder = tmp_path_factory.mktemp("own")
        shutil.copytree(models / judging[0] / "scripts" / "common" / "label_app", folder / "apps" / "ood")
        for name in judging:
            shutil.copytree(models / name, folder / "apps" / "ood" / "model" / name)
        studies = make_studies(folder, IMAGES)
        nib.save(nib.Nifti1Image(np.full((24, 28, 32), 7, np.float32), np.eye(4)), studies / "constant.nii.gz")
        return folder

    return make


@pytest.fixture(scope="module")
def server(serve, make_app):
    """Scores images when a test asks for it."""
    with serve(make_app(), "apps/ood", MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        yield server


@pytest.fixture(scope="module")
def threaded_server(serve, make_app):
    """Scores images by itself, in a process beside it; segments in a pool of threads."""
    with serve(make_app(), "apps/ood", MONAI_LABEL_INFER_CONCURRENCY="8") as server:
        yield server


@pytest.fixture(scope="module")
def withholding_server(serve, make_app):
    """Keeps back segmentations of scans out of distribution."""
    settings = ["--conf", "withhold_ood", "true"]
    with serve(make_app(), "apps/ood", *settings, MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        yield server


@pytest.fixture
def model(bundle, judging):
    if f"{bundle}_copy" not in judging:
        pytest.skip("this bundle does not judge scans")
    return f"{bundle}_copy"


def propose(server, **request):
    return server.json("POST", "activelearning/most_ood_first", body=request)


def score(server, **request):
    return server.json("POST", "scoring/oodm", body=request, run_sync=True)


def info_of(server, image):
    return server.json("GET", "datastore/image/info", image=image)


def judge_all(server, model):
    """Image -> its OODM, highest first, as single requests give it."""
    found = {image: server.judge(model, image)["oodm"] for image in IMAGES}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def test_app_serves_all_bundles_in_its_folder(server, judging):
    info = server.json("GET", "info/")
    assert sorted(info["models"]) == sorted(info["trainers"]) == judging
    assert set(info["strategies"]) == {"most_ood_first", "random", "first"}
    assert info["strategies"]["most_ood_first"]["config"] == {"model": judging}, "what a client lets its user choose"
    assert set(info["scoring"]) == {"oodm"}


def test_segmentations_out_of_distribution_are_kept_back_unless_asked_for(withholding_server, model):
    ask = {"method": "POST", "path": f"infer/{model}", "image": "noise"}
    status, _, content = withholding_server.ask(**ask, fields={"params": "{}"})
    assert status == 422
    assert json.loads(content)["detail"].startswith("OUT OF DISTRIBUTION: OODM ")
    params, mask = withholding_server.segment(model, "noise", despite_verdict=True)
    assert params["is_ood"] is True
    assert mask.shape == (24, 28, 32)
    assert withholding_server.segment(model, "known_0")[0]["is_ood"] is False
    assert withholding_server.json("GET", "info/")["models"][model]["config"]["despite_verdict"] is False


def test_without_scores_images_come_by_name(server, model):
    answer = propose(server, model=model)
    assert [entry["id"] for entry in answer["ranking"]] == sorted([*IMAGES, "constant"])
    assert {entry["oodm"] for entry in answer["ranking"]} == {None}
    assert answer["id"] == "blurred"


def test_scoring_keeps_the_verdict_of_every_image_and_goes_on_after_a_bad_one(server, model):
    assert score(server, model=model) == {model: {"scored": 4, "fresh": 0, "failed": 1}}
    for image, oodm in judge_all(server, model).items():
        info, params = info_of(server, image), server.judge(model, image)
        assert info[f"oodm_{model}"] == oodm
        names = ("threshold", "is_ood", "reason")
        assert [info[f"{name}_{model}"] for name in names] == [params[name] for name in names]
    bad = info_of(server, "constant")
    assert bad[f"oodm_{model}"] is None
    assert "every voxel is 7" in bad[f"reason_{model}"]
    assert server.logged(f"no OODM of image constant by model {model}")


def test_fresh_scores_are_kept_until_the_bank_changes(server, model):
    assert score(server, model=model) == {model: {"scored": 0, "fresh": 4, "failed": 1}}
    file = server.studies.parent / "apps" / "ood" / "model" / model / "models" / "signature_bank.npz"
    bank, threshold = SignatureBank.load(file), info_of(server, "noise")[f"threshold_{model}"]
    settings = vars(bank.settings) | {"layer_sizes": bank.layers.sizes, "c": bank.c + 1}
    SignatureBank.fit(bank.signatures, **settings).save(file)
    assert {entry["oodm"] for entry in propose(server, model=model)["ranking"]} == {None}, "a stale score is none"
    assert score(server, model=model) == {model: {"scored": 4, "fresh": 0, "failed": 1}}
    assert info_of(server, "noise")[f"threshold_{model}"] > threshold


def test_fresh_scores_are_kept_until_an_image_or_the_code_changes(server, model):
    image, before = server.studies / "noise.nii.gz", info_of(server, "noise")[f"oodm_{model}"]
    content = image.read_bytes()
    shutil.copyfile(server.studies / "blurred.nii.gz", image)
    ranking = {entry["id"]: entry["oodm"] for entry in propose(server, model=model)["ranking"]}
    assert ranking.pop("noise") is ranking.pop("constant") is None
    assert None not in ranking.values(), "the scores of the other images are still theirs"
    assert score(server, model=model) == {model: {"scored": 1, "fresh": 3, "failed": 1}}
    assert info_of(server, "noise")[f"oodm_{model}"] == info_of(server, "blurred")[f"oodm_{model}"] != before
    image.write_bytes(content)
    assert score(server, model=model) == {model: {"scored": 1, "fresh": 3, "failed": 1}}
    assert info_of(server, "noise")[f"oodm_{model}"] == before
    manifest = server.studies.parent / "apps" / "ood" / "model" / model / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert score(server, model=model) == {model: {"scored": 4, "fresh": 0, "failed": 1}}


def test_other_weights_than_the_banks_leave_images_without_a_score(server, model):
    weights = server.studies.parent / "apps" / "ood" / "model" / model / "models" / "model.pt"
    bank = weights.with_name("signature_bank.npz")
    content = bank.read_bytes()
    bank.unlink()
    assert score(server, model=model)[model]["scored"] == 4
    info = info_of(server, "noise")
    assert info[f"oodm_{model}"] is info[f"is_ood_{model}"] is None
    assert "no signature bank" in info[f"reason_{model}"]
    bank.write_bytes(content)
    assert score(server, model=model)[model]["scored"] == 4
    assert info_of(server, "noise")[f"reason_{model}"] is None


def test_unknown_model_is_an_error_after_which_the_server_goes_on(server, judging):
    for path in ("activelearning/most_ood_first", "scoring/oodm"):
        status, _, _ = server.ask("POST", path, body={"model": "nobody"}, run_sync=True)
        assert status == 500
        assert server.logged(f"there is no model 'nobody'; the models are {', '.join(judging)}")
    assert propose(server)["model"] == propose(server, model=judging)["model"] == judging[0]


def test_strangest_image_is_proposed_first_until_all_are_labeled(server, model, labels):
    """Labels are taken back at the end: every model sees all images."""
    score(server, model=model)
    expected = judge_all(server, model)
    assert list(expected)[-1] == "known_0", "the known phantom is the least strange"
    gaps = [(first - second) / first for first, second in pairwise(expected.values())]
    assert min(gaps) > 0.05, "clearly different"
    order = []
    while answer := propose(server, model=model):
        order.append(answer["id"])
        waiting = [image for image in expected if image not in order[:-1]]
        ranked = {entry["id"]: entry["oodm"] for entry in answer["ranking"]}
        assert ranked == {image: expected[image] for image in waiting} | {"constant": None}
        assert list(ranked) == [*waiting, "constant"]
        assert answer["oodm"] == expected.get(answer["id"])
        assert answer["is_ood"] is (None if answer["id"] == "constant" else answer["id"] != "known_0")
        assert answer["path"].endswith(f"/studies/{answer['id']}.nii.gz")
        server.label(answer["id"], labels["known_0"])
    assert order == [*expected, "constant"]
    assert answer == {}
    for image in order:
        server.json("DELETE", "datastore/label", id=image, tag="final")


def test_server_scores_by_itself(threaded_server, model):
    """At its start, in another process, whose scores reach the server through the datastore's file."""
    assert threaded_server.wait_for("scoring")["status"] == "DONE"
    expected = judge_all(threaded_server, model)
    answer = propose(threaded_server, model=model)
    assert [entry["id"] for entry in answer["ranking"]] == [*expected, "constant"]
    assert answer["oodm"] == next(iter(expected.values()))


@pytest.mark.parametrize("kind", ["server", "threaded_server"])
def test_eight_requests_at_once_get_what_each_gets_alone(request, kind, model):
    server = request.getfixturevalue(kind)

    def ask(image):
        params, segmentation = server.segment(model, image)
        return {**params, "latencies": None}, np.asarray(segmentation.dataobj)

    alone = {image: ask(image) for image in IMAGES}
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(ask, IMAGES * 2))
    assert len({params["oodm"] for params, _ in alone.values()}) == 4
    for image, (params, segmentation) in zip(IMAGES * 2, at_once, strict=True):
        assert params == alone[image][0]
        np.testing.assert_array_equal(segmentation, alone[image][1])


def test_threads_neither_mix_nor_break_two_bundles(models, make_app, label_environment, label_python, bundle, model):
    """Two bundles of other code, eight threads from the first moment on, when their code is being imported."""
    if bundle != "spectral_ood":
        pytest.skip("the same for every pair of bundles")
    folder = make_app()
    shutil.copytree(models / bundle, folder / "apps" / "ood" / "model" / bundle)
    given = [folder / "apps" / "ood", folder / "studies", f"{bundle},{model}", ",".join(IMAGES), 8]
    command = [str(label_python), "-m", "infer_in_threads", *map(str, given)]
    done = subprocess.run(command, cwd=folder, env=label_environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["serial"]) == 16
    assert result["threads"] == result["serial"]
    assert {answer.get("code") for name, _, answer in result["serial"] if name == model} == {"of the copy"}
    assert {answer.get("code") for name, _, answer in result["serial"] if name == bundle} == {None}


def test_app_without_bundles_says_what_to_do(make_app, label_environment):
    folder = make_app()
    shutil.rmtree(folder / "apps" / "ood" / "model")
    command = ["monailabel", "start_server", "--app", "apps/ood", "--studies", "studies", "--port", "0"]
    done = subprocess.run(command, cwd=folder, env=label_environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "no bundle at all in" in done.stdout + done.stderr
    assert "unpack an archive there" in done.stdout + done.stderr
