"""Training by ``train.json`` alone: what is planned, what is given, and when there is no plan."""

import json
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from tests.running import own_error


class TestPlanner:
    """Training by ``train.json`` alone."""

    GIVEN = {"network_def#features": [2, 2, 2], "batch_size": 1, "quality_cases": 0}

    @pytest.fixture
    def train(self, run_config, make_dataset, repository, tmp_path):
        """Trains a bundle with nothing tiny but what is given."""
        data = make_dataset(tmp_path / "data")

        def start(**settings):
            places = {"dataset_dir": data, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"}
            run_config(
                repository / "bundles" / "spectral_ood", "train.json", tiny=False,
                **(places | self.GIVEN | settings),
            )  # fmt: skip
            return json.loads((tmp_path / "m" / "model_settings.json").read_text(encoding="utf-8"))

        return start

    def test_training_plans_and_goes_on_by_its_plan(self, train, tmp_path, caplog):
        caplog.set_level("INFO")
        given = {"iterations": 4, "max_epochs": 2, "optimizer_name": "sgd"}
        settings = train(**given, minutes=0.001)
        assert settings["roi_size"] == [24, 24, 16]
        assert "settings planned from the data; --planned False takes those of train.json" in caplog.text
        assert caplog.messages[-2].startswith("validation Dice 0.")
        assert " after 4 iterations: not yet a network to use; train longer (" in caplog.messages[-2]
        assert caplog.messages[-1].startswith("to see what it does all the same; segment scans with: ")
        assert f" segment SCANS -o RESULTS --model_dir {tmp_path / 'm'}" in caplog.messages[-1]
        plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
        kept = json.loads((tmp_path / "m" / "plan.json").read_text(encoding="utf-8"))
        assert kept == {"plan": plan["plan"]}
        rows = {row["setting"]: (row["value"], row["why"]) for row in plan["plan"]}
        assert rows["optimizer_name"] == ("sgd", "given; planned was adamw")
        assert rows["network_def"] == ("DenseSkipUNet", "given")
        assert rows["averaged"][0] is True
        assert train(**given, resume=True) == settings
        # The plan of the run's folder holds, not one of now, which would be as before.
        other = json.dumps(plan | {"batch_size": 2, "roi_size": [16, 24, 16]})
        (tmp_path / "out" / "plan.json").write_text(other, encoding="utf-8")
        with pytest.raises(RuntimeError) as caught:
            train(**given, resume=True)
        assert str(own_error(caught.value)).startswith("roi_size is [16, 24, 16], but ")

    def test_training_that_is_not_planned_goes_by_the_config(self, train, tmp_path):
        settings = train(planned="false", roi_size=[16, 16, 16], max_epochs=1)
        assert settings["roi_size"] == [16, 16, 16]
        assert not (tmp_path / "out" / "plan.json").exists()

    @pytest.fixture
    def parsed(self, bundle_importable, tmp_path):
        """Returns what ``train.json`` of a bundle comes to, once a training has planned: ``parsed(bundle, names)``."""

        def parse(bundle, names, first="run#1", **settings):
            with bundle_importable(bundle):
                parser = ConfigParser()
                parser.read_config(str(bundle / "configs" / "train.json"))
                parser.update({"output_dir": str(tmp_path / "out")} | settings)
                return [parser.get_parsed_content(name) for name in (first, *names)][1:]

        return parse

    @pytest.mark.parametrize("name", sorted(path.parent.name for path in Path("bundles").glob("*/configs")))
    def test_every_bundle_plans(self, make_dataset, shape_of, parsed, repository, name, tmp_path):
        bundle = repository / "bundles" / name
        shape = shape_of(json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8")))
        data = make_dataset(tmp_path / "data", **shape)
        names = ["roi_size", "max_epochs", "optimizer_name", "averaged"]
        window, *rest = parsed(bundle, names, dataset_dir=str(data), iterations=200)
        default, *others = parsed(bundle, names)
        assert max(window) < max(default)
        assert rest == [4, "adamw", True]
        assert others[0] > 20
        # Epochs that are given keep the bundle's own course.
        assert parsed(bundle, names, dataset_dir=str(data), max_epochs=3)[1:] == [3, *others[1:]]
        unplanned = {"dataset_dir": str(data), "iterations": 200}
        assert parsed(bundle, names, **unplanned, planned=False) == [default, *others]
        assert parsed(bundle, names, **unplanned, initial_weights="model.pt") == [default, *others]
        assert parsed(bundle, names, **unplanned, **{"train#dataset#data": []}) == [default, *others]

    def test_plan_of_the_same_request_holds_again(self, make_dataset, parsed, repository, tmp_path, caplog):
        caplog.set_level("INFO")
        bundle, path = repository / "bundles" / "spectral_ood", tmp_path / "out" / "plan.json"
        given = {"dataset_dir": str(make_dataset(tmp_path / "data")), "iterations": 200}
        assert parsed(bundle, ["roi_size"], **given) == [[24, 24, 16]]
        path.write_text(path.read_text(encoding="utf-8").replace("[24, 24, 16]", "[16, 24, 16]"), encoding="utf-8")
        assert parsed(bundle, ["roi_size"], **given, test_fraction=0.1) == [[16, 24, 16]]
        assert f"settings planned before, in {path}" in caplog.text
        assert parsed(bundle, ["roi_size"], **given, batch_size=1) == [[24, 24, 16]]
        # Properties of a workflow, a federated client or the fitting of a bank plan nothing.
        path.unlink()
        assert parsed(bundle, ["roi_size"], first="fit_bank#0", **given) == [[96, 96, 96]]
        assert not path.exists()

    @pytest.mark.parametrize("name", ["spectral_ood", "double_mix"])
    def test_slices_far_apart_get_their_network(self, make_dataset, parsed, repository, name, tmp_path):
        def edit(_index, image, label):
            affine = np.diag([1.0, 1.0, 6.0, 1.0])
            return {"imagesTr": (image, affine), "labelsTr": (label, affine)}

        bundle = repository / "bundles" / name
        given = {"dataset_dir": str(make_dataset(tmp_path / "data", edit=edit)), "iterations": 200}
        names = ["roi_size", "divisor", "network_def", "settings_writer", "loss"]
        window, divisor, network, writer, loss = parsed(bundle, names, **given)
        assert (window, divisor) == ([32, 32, 1], [16, 16, 1])
        assert any(type(module).__name__ == "SliceWise" for module in network.modules())
        overlay = json.loads((bundle / "configs" / "slices.json").read_text(encoding="utf-8"))["network_def"]
        assert writer.collect()["network_def"]["_target_"] == overlay["_target_"]
        assert writer.collect()["network_def"]["out_channels"] == writer.collect()["out_channels"]
        assert name != "spectral_ood" or loss.batch
        # A network that is given stays.
        window, _divisor, network, *_ = parsed(bundle, names, **given, **{"network_def#features": [2, 2, 2]})
        assert not any(type(module).__name__ == "SliceWise" for module in network.modules())

    def test_plan_that_cannot_be_read_is_named(self, train, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "plan.json").write_text("[]", encoding="utf-8")
        with pytest.raises(Exception) as caught:  # noqa: PT011 (MONAI wraps what a component raises)
            train(resume=True)
        assert "plan.json holds no plan; train anew, without --resume" in str(own_error(caught.value))
