"""What the files of every bundle must be, checked without running them: files, pages, versions and bank."""

import importlib.metadata
import json
import re
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import numpy as np
import pytest
from monai.bundle import ConfigParser

HERE = Path(__file__).resolve().parent


FILES = [
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/logging.conf",
    "configs/multi_gpu_train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "LICENSE",
    "models/model.pt",
    "models/signature_bank.npz",
]


@pytest.mark.parametrize("file", FILES)
def test_file_exists(bundle, file):
    assert (bundle / file).is_file()


def test_config_files_end_with_a_newline(bundle):
    files = [path for path in (bundle / "configs").iterdir() if path.is_file()]
    assert not [path.name for path in files if not path.read_bytes().endswith(b"\n")]


def linked_files(readme):
    """Files that a page links, by Markdown or HTML; places on the web and in the page itself do not count."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']+)", text)
    links += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    local = [unquote(link.split("#")[0]) for link in links if not re.match(r"[a-z][a-z0-9+.-]*:|#|//", link)]
    return {link: readme.parent / link for link in local}


def test_links_are_found(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "[![a](a.png)](b.md#part) <img src='c%20d.png'> [e](https://f.g/h) [i](#j) `[k](l)`\n[m](n/ \"o\")\n[p]: q.md\n"
        "```\n[r](s)\n```\n[t](mailto:u@v.w)\n"
    )
    assert set(linked_files(page)) == {"a.png", "b.md", "c d.png", "n/", "q.md"}


def test_linked_files_exist(bundle):
    linked = {link: path for page in (bundle / "docs").glob("*.md") for link, path in linked_files(page).items()}
    assert not [link for link, path in linked.items() if not path.exists()]


def test_files_linked_from_the_readme_of_the_collection_exist(repository, all_bundles):
    linked = linked_files(repository / "README.md")
    others = [repository / "CONTRIBUTING.md", *(repository / "docs").glob("*.md")]
    for page in (linked, *map(linked_files, others)):
        assert not [link for link, path in page.items() if not path.exists()]
    pages = {path.resolve() for path in linked.values()}
    assert not [path.name for path in all_bundles if (path / "docs" / "README.md").resolve() not in pages]


def test_files_are_small_enough_to_pass_on(bundle):
    own = [path for path in bundle.rglob("*") if path.is_file() and "output" not in path.parts]
    assert not [path for path in own if path.stat().st_size > 25e6]
    assert (bundle / "models" / "model.pt").stat().st_size <= 8e6


def test_name_makes_monai_label_segment(bundle):
    assert re.fullmatch("[a-z][a-z0-9_]*", bundle.name)
    assert not [word for word in ("deepedit", "deepgrow", "detection", "classification") if word in bundle.name]


def test_metadata_follows_the_schema(configs):
    schema = json.loads((HERE / "meta_schema_20240725.json").read_text(encoding="utf-8"))
    assert configs["metadata"]["schema"].endswith("meta_schema_20240725.json")
    jsonschema.validate(configs["metadata"], schema)
    for key in ("name", "version", "changelog", "intended_use", "references"):
        assert configs["metadata"][key], key


def test_version_has_a_changelog_entry(configs):
    version, changelog = configs["metadata"]["version"], configs["metadata"]["changelog"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert all(changelog.values())
    assert version == max(changelog, key=lambda text: tuple(map(int, text.split("."))))


def test_versions_are_the_supported_ones(configs, repository):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    supported = dict(line.split("==") for line in lines if "==" in line)
    metadata = configs["metadata"]
    named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    assert {package: metadata[key] for package, key in named.items()} == {name: supported[name] for name in named}
    packages = metadata["required_packages_version"] | metadata.get("dicom_seg_packages_version", {})
    for package, version in packages.items():
        assert supported[package] == version, package


def test_versions_for_monai_label_are_those_of_its_environment(configs, repository):
    lines = (repository / "requirements-label.txt").read_text(encoding="utf-8").splitlines()
    supported = dict(line.split("==") for line in lines if "==" in line)
    for package, version in configs["metadata"]["monailabel_packages_version"].items():
        assert supported[package] == version, package


def test_supported_versions_are_installed(repository):
    for line in (repository / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if "==" in line:
            package, version = line.split("==")
            assert importlib.metadata.version(package).split("+")[0] == version, package


def test_bank_belongs_to_the_weights(bundle, judges, configs, bundle_importable):
    if not judges:
        pytest.skip("this bundle gives no verdict")
    with bundle_importable(bundle):
        from scripts.common.runtime.weights import read_checkpoint
        from scripts.common.spectral import SignatureBank, bank_settings, weights_digest

        state = read_checkpoint(bundle / "models" / "model.pt")
        bank = SignatureBank.load(bundle / "models" / "signature_bank.npz")
        parser = ConfigParser(configs["inference"])
        names = ("image_transforms", "inferer", "network_def")
        transforms, inferer, network = (parser.get_parsed_content(name) for name in names)
        bank.check(**bank_settings(inferer, transforms, weights_digest(state)))
    for name in ("per_voxel", "precision", "overlap", "divisor"):
        assert getattr(bank.settings, name) == configs["inference"][name], name
    assert bank.settings.roi_size == tuple(configs["inference"]["roi_size"])
    assert bank.settings.layers == tuple(configs["inference"]["feature_layers"])
    network.load_state_dict(state)
    assert all(value.isfinite().all() for value in state.values())


def test_bank_tells_nothing_of_a_patient(bundle, judges):
    if not judges:
        pytest.skip("this bundle gives no verdict")
    with np.load(bundle / "models" / "signature_bank.npz", allow_pickle=False) as bank:
        content = {name: bank[name] for name in bank.files}
    texts = [str(text) for value in content.values() if value.dtype.kind == "U" for text in value.ravel()]
    assert all(value.dtype.kind in "Ufib" for value in content.values())
    assert not [text for text in texts if re.search(r"[/\\]|\.nii|\.dcm|case|patient|\d\.\d+\.\d+\.", text)]
