"""Settings of weights in every bundle: those that are shipped, and those that a further bank changes."""

import json
import shutil

import pytest
from monai.bundle import ConfigParser

from common.own_network import judge_scans
from common.runtime.files import write_json
from common.runtime.model_settings import DEFAULTS, NEEDED, SETTINGS_FILE
from common.runtime.shipped_settings import write_shipped_settings


def test_shipped_settings_are_those_of_the_training_config(all_bundles, bundle_importable, tmp_path):
    for bundle in all_bundles:
        shutil.copytree(bundle / "configs", tmp_path / bundle.name / "configs")
        # The classes of the data that the weights were trained on are all that is taken from here.
        shipped = json.loads((bundle / "models" / SETTINGS_FILE).read_text(encoding="utf-8"))
        kept = {key: shipped[key] for key in ("foreground_labels", "class_names") if shipped.get(key)}
        write_json(kept, tmp_path / bundle.name / "models" / SETTINGS_FILE)
    with bundle_importable(all_bundles[0]):
        write_shipped_settings(str(tmp_path))
    for bundle in all_bundles:
        shipped = (bundle / "models" / SETTINGS_FILE).read_text(encoding="utf-8")
        assert shipped == (tmp_path / bundle.name / "models" / SETTINGS_FILE).read_text(encoding="utf-8")


def test_every_kept_setting_is_asked_for_by_each_workflow(written_configs, configs):
    """A setting that is kept and read from the config alone would be right only by chance."""
    for name in ("evaluate", "inference", "as_trained"):
        kept = [key for key in (*NEEDED, *DEFAULTS) if key in written_configs[name]]
        assert {"in_channels", "out_channels", "roi_size", "feature_layers"} <= set(kept)
        for key in kept:
            assert written_configs[name][key] == f"$@model_settings.get({key!r}, {configs['train'][key]!r})"
    assert configs["as_trained"]["planned"] is False
    assert set(configs["as_trained"]) - {"model_settings", "network_def#_target_", "planned"} == {
        key for key in (*NEEDED, *DEFAULTS) if key in configs["train"]
    }
    target = written_configs["as_trained"]["network_def#_target_"]
    assert target == written_configs["inference"]["network_def"]["_target_"]


@pytest.mark.two_bundles
def test_bank_is_fitted_again_with_the_settings_of_the_weights(
    bundle, trained, dataset, run_config, fail_config, configs, tmp_path, caplog
):
    models = tmp_path / "m"
    shutil.copytree(trained.models, models)
    before = json.loads((models / SETTINGS_FILE).read_text(encoding="utf-8"))
    assert before["roi_size"] != configs["train"]["roi_size"]
    places = {"dataset_dir": dataset, "output_dir": tmp_path / "t", "model_dir": models, "quality_cases": 0}
    names = ["train.json", "as_trained.json"]
    run_config(bundle, names, "fit_bank", tiny=False, overlap=0.5, **places)
    after = json.loads((models / SETTINGS_FILE).read_text(encoding="utf-8"))
    assert after == before | {"overlap": 0.5}
    assert f"overlap is 0.5, in training it was {before['overlap']}: later runs take it" in caplog.text
    error = str(fail_config(bundle, names, "fit_bank", tiny=False, out_channels=9, **places))
    assert error.startswith("out_channels is 9, but the weights in ")
    assert error.endswith("; lay as_trained.json over train.json to take it from the weights")


@pytest.mark.two_bundles
def test_scans_are_judged_by_weights_of_a_training_as_inference_does(
    bundle, trained, dataset, bundle_importable, run_config, tmp_path
):
    scan = next(iter(sorted((dataset / "imagesTr").iterdir())))
    with bundle_importable(bundle):
        judge_scans(str(scan), bundle=str(bundle), model_dir=str(trained.models), output_dir=str(tmp_path / "judged"))
    places = {"dataset_dir": scan, "model_dir": trained.models, "output_dir": tmp_path / "segmented"}
    run_config(bundle, "inference.json", tiny=False, **places)
    judged, segmented = ((tmp_path / name / "ood_report.csv").read_bytes() for name in ("judged", "segmented"))
    assert judged == segmented


def test_weights_without_settings_take_those_of_the_config(bundle, configs, bundle_importable, tmp_path):
    for name in ("evaluate", "inference"):
        with bundle_importable(bundle):
            parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / f"{name}.json"))
            parser.update({"model_dir": str(tmp_path), "device": "cpu"})
            found = {key: parser.get_parsed_content(key) for key in (*NEEDED, *DEFAULTS) if key in parser}
        assert found == {key: configs["train"][key] for key in found}
