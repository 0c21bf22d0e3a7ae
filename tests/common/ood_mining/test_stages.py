import numpy as np
import pytest
import torch
from monai.handlers import CheckpointLoader
from torch import nn
from torch.testing import assert_close

from common.errors import ConfigError, MissingDataError
from common.ood_mining.mine import read_selection
from tests.common.ood_mining.tiny import SKIPPED, STARTED, stages, weights


class TestStages:
    def test_second_run_skips_everything(self, make, caplog):
        training = make()
        training.run()
        before = training.weights_file.read_bytes()
        stages(caplog)
        make().run()
        assert stages(caplog) == SKIPPED
        assert training.weights_file.read_bytes() == before

    def test_stages_one_by_one_give_the_same_as_all_at_once(self, make, caplog):
        whole = make("whole")
        whole.run()
        for stage in ("baseline", "mine", "combine"):
            make("single").run(stage)
        single = make("single")
        assert_close(weights(single.weights_file), weights(whole.weights_file), rtol=0, atol=0)
        for name in ("ood_candidates.csv", "ood_selected.json", "proportion.json"):
            assert (single.folder / name).read_bytes() == (whole.folder / name).read_bytes()

    @pytest.mark.parametrize("stage", ["mine", "combine"])
    def test_stage_alone_needs_the_one_before(self, make, stage):
        with pytest.raises(MissingDataError, match="stage baseline is not done for these inputs"):
            make().run(stage)

    def test_stage_of_other_inputs_is_not_built_upon(self, make):
        make().run("baseline")
        with pytest.raises(MissingDataError, match=r"stage baseline is not done.*settings changed"):
            make(rate=0.01).run("mine")

    def test_unknown_stage_is_named(self, make):
        with pytest.raises(ConfigError, match="stage is 'prune'; accepted are baseline, mine, combine"):
            make().run("prune")

    @pytest.mark.parametrize(
        ("change", "repeated"),
        [
            ({"ood_fraction": 0.3}, [2, 3]),
            ({"only_ood": True}, [3]),
            ({"epochs": 3}, [0, 3]),
            ({"rate": 0.01}, [0, 1, 2, 3]),
            ({"seed": 1}, [0, 1, 2, 3]),
            ({"val_interval": 2}, [0, 3]),
        ],
        ids=str,
    )
    def test_changed_input_repeats_what_depends_on_it(self, make, caplog, change, repeated):
        make(ood_fraction=1.0).run()
        stages(caplog)
        make(**({"ood_fraction": 1.0} | change)).run()
        found = stages(caplog)
        assert [found[index] for index in repeated] == [STARTED[index] for index in repeated]
        if change.keys() <= {"ood_fraction", "only_ood"}:
            assert [line for line in found if "skipped" in line] == SKIPPED[: repeated[0]]

    def test_changed_data_repeat_everything(self, make, cases, caplog):
        make().run()
        stages(caplog)
        with np.load(cases[0]["image"]) as arrays:
            content = {key: arrays[key] for key in arrays.files}
        np.savez(cases[0]["image"], **(content | {"image": content["image"] + 1}))
        make().run()
        assert stages(caplog) == STARTED

    def test_weights_that_a_handler_loads_are_an_input(self, make, tmp_path, caplog):
        torch.save(make().miner.network.state_dict(), tmp_path / "start.pt")

        def loading():
            network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
            return [CheckpointLoader(str(tmp_path / "start.pt"), {"model": network}, map_location="cpu")]

        make(handlers=loading()).run("baseline")
        assert stages(caplog) == STARTED[:1]
        make(handlers=loading()).run("baseline")
        assert stages(caplog) == SKIPPED[:1]
        torch.save({k: v * 2 for k, v in weights(tmp_path / "start.pt").items()}, tmp_path / "start.pt")
        make(handlers=loading()).run("baseline")
        assert stages(caplog) == STARTED[:1]

    def test_trainings_may_share_a_baseline(self, make, caplog):
        make("one", baseline_dir="base", ood_fraction=1.0).run()
        stages(caplog)
        second = make("two", baseline_dir="base", ood_fraction=0.5)
        second.run()
        assert stages(caplog) == SKIPPED[:2] + STARTED[2:]
        selections = [read_selection(second.folder.parent / name / "ood_selected.json") for name in ("one", "two")]
        assert set(selections[1]) < set(selections[0])


class TestResuming:
    def test_longer_run_goes_on_where_the_selection_is_the_same(self, make):
        make("whole", ood_fraction=0.0, epochs=3).run()
        make("parts", ood_fraction=0.0, epochs=1).run()
        resumed = make("parts", ood_fraction=0.0, epochs=3, resume=True)
        resumed.run()
        whole = make("whole", ood_fraction=0.0, epochs=3)
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)

    def test_checkpoint_of_another_selection_is_not_gone_on_from(self, make, caplog):
        make("parts", ood_fraction=1.0, epochs=1).run()
        make("parts", ood_fraction=0.5, epochs=2, resume=True).run()
        assert "was written for other inputs than this run's: training starts from the beginning" in caplog.text
        whole = make("whole", ood_fraction=0.5, epochs=2)
        whole.run()
        resumed = make("parts", ood_fraction=0.5, epochs=2)
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)

    def test_nothing_to_resume_from_is_an_error(self, make):
        with pytest.raises(MissingDataError, match=r"baseline/checkpoint\.pt"):
            make(resume=True).run()

    def test_run_stopped_before_its_last_stage_is_resumed(self, make, caplog):
        make().run("baseline")
        make().run("mine")
        stages(caplog)
        resumed = make(resume=True)
        resumed.run()
        assert stages(caplog) == SKIPPED[:3] + STARTED[3:]
        whole = make("whole")
        whole.run()
        assert_close(weights(resumed.weights_file), weights(whole.weights_file), rtol=0, atol=0)
