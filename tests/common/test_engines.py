import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.inferers import SimpleInferer
from torch import nn

from common.engine.cases import CaseDataset, CaseEvaluator
from common.errors import ImageError, OutputError

CASES = [{"image": float(k), "case": f"c{k}", "task": "t", "other": k, "in_distribution": k < 4} for k in range(5)]


def prepare(data):
    if data["case"] == "c1":
        raise RuntimeError("applying transform") from ImageError("case 'c1': image\n is broken")
    return dict(data) | {"image": torch.full((1, 2, 2), data["image"])}


def save(data):
    if data["case"] == "c3":
        raise OutputError("cannot write c3: disk full")
    return dict(data) | {"saved": True}


@pytest.fixture
def results():
    """What an evaluator reports for five cases of which one cannot be loaded and one cannot be saved."""
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(CASES, prepare), batch_size=1),
        network=nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=save,
    )
    rows = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: rows.append((engine.state.batch, engine.state.output))
    )
    evaluator.run()
    return rows


def test_every_case_is_reported_in_order(results):
    assert [batch[0]["case"] for batch, _ in results] == [case["case"] for case in CASES]
    assert all(len(batch) == len(output) == 1 for batch, output in results)


def test_cases_that_fail_tell_why_in_one_line(results):
    errors = {batch[0]["case"]: output[0].get("error") for batch, output in results}
    assert errors == {
        "c0": None,
        "c1": "case 'c1': image is broken",
        "c2": None,
        "c3": "case 'c3': cannot write c3: disk full",
        "c4": None,
    }


def test_other_cases_are_finished(results):
    finished = {b[0]["case"]: float(o[0]["pred"].mean()) for b, o in results if o[0].get("saved")}
    assert finished == {"c0": 0.0, "c2": 2.0, "c4": 4.0}


def test_failed_case_keeps_what_describes_it(results):
    batch, _ = results[1]
    assert batch[0]["task"] == "t"
    assert "image" not in batch[0]


def test_failed_case_is_described_by_plain_values(results):
    # Batches turn flags into tensors, which no report can hold.
    for index in (1, 3):
        batch, output = results[index]
        described = {"case": f"c{index}", "task": "t", "in_distribution": True}
        assert {key: batch[0].get(key) for key in described} == described
        assert {type(value) for value in [*batch[0].values(), *output[0].values()]} <= {str, bool}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("disk full", "case 'c0': disk full"),
        ("case 'c0': label is broken", "case 'c0': label is broken"),
        ("cannot write c0", "case 'c0': cannot write c0"),
        ("case 'c00': foreign", "case 'c0': case 'c00': foreign"),
    ],
)
def test_reason_names_its_case_once(reason, told):
    def fail(data):
        raise OutputError(reason)

    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(CASES[:1], prepare), batch_size=1),
        network=nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=fail,
    )
    evaluator.run()
    assert evaluator.state.output[0]["error"] == told


def test_dataset_keeps_the_named_keys_only():
    assert set(CaseDataset(CASES, prepare)[0]) == {"image", "case", "task", "in_distribution"}
    assert set(CaseDataset(CASES, prepare, keep=("case", "other"))[0]) == {"case", "other"}
    described = {"case": "c1", "task": "t", "in_distribution": True}
    assert CaseDataset(CASES, prepare)[1] == described | {"error": "case 'c1': image is broken"}


def test_log_counts_cases_and_what_was_found(caplog):
    caplog.set_level("INFO", "common.runtime.progress")

    def judge(data):
        return dict(save(data)) | {"result": {"is_ood": data["case"] in ("c0", "c4")}}

    class Report:
        def is_done(self, case):
            return case["case"] == "c2"

    cases = [case | {"image": str(case["image"])} for case in CASES]
    CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(cases, lambda data: prepare(data | {"image": 1.0}), report=Report())),
        network=nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=judge,
    ).run()
    assert caplog.messages[-1] == (
        "segmentation: 5 of 5 cases in 0:00:00, 1 done before, 2 failed, 2 out of distribution"
    )
