from types import SimpleNamespace

import pytest

from tests.scheduling import BUNDLES, GroupScheduling, group_of, order


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/bundles/test_readme.py::test_every_command_runs[med_ood]", "med_ood"),
        ("tests/bundles/test_bad_input.py::TestFolders::test_missing_dataset[med_ood-train.json]", "med_ood"),
        ("tests/bundles/med_ood/test_stages.py::TestStages::test_whole_run[1]", "med_ood"),
        ("tests/bundles/double_mix/test_ablations.py::test_methods", "double_mix"),
        (
            "tests/bundles/test_contract_configs.py::test_bundles_order_their_keys_alike[train]",
            "tests/bundles/test_contract_configs.py",
        ),
        ("tests/package/test_hospital.py::test_tool", "archives"),
        ("tests/common/test_double_mix.py::test_mix", "tests/common/test_double_mix.py"),
        ("common/double_mix/mixing.py::common.double_mix.mixing.double_mix", "common/double_mix/mixing.py"),
    ],
)
def test_tests_of_a_bundle_stay_together(nodeid, group):
    assert group_of(nodeid) == group


def test_every_bundle_is_a_group():
    assert len(BUNDLES) == 5


class Process:
    """A process that keeps what it is told to run."""

    shutting_down = False
    gateway = SimpleNamespace(id="gw")

    def __init__(self):
        self.given = []

    def send_runtest_some(self, indices):
        self.given += indices

    def shutdown(self):
        self.shutting_down = True


def test_processes_get_whole_groups_the_long_ones_first():
    config = SimpleNamespace(option=SimpleNamespace(loadscopereorder=True, tx=["popen", "popen"]))
    config.getvalue = lambda name: getattr(config.option, name)
    short = [f"tests/common/test_a.py::test_{index}" for index in range(4)]
    long = [f"tests/bundles/test_b.py::test_{index}[{BUNDLES[index % 2]}]" for index in range(6)]
    names = sorted(short + long, key=order)
    scheduling, processes = GroupScheduling(config), [Process(), Process()]
    for process in processes:
        scheduling.add_node(process)
        scheduling.add_node_collection(process, names)
    scheduling.schedule()
    assert [{group_of(names[index]) for index in process.given} for process in processes] == [
        {BUNDLES[0]}, {BUNDLES[1]}
    ]  # fmt: skip
    assert not processes[0].shutting_down
    for index in processes[0].given[:2]:
        scheduling.mark_test_complete(processes[0], index)
    assert {group_of(names[index]) for index in processes[0].given[3:]} == {"tests/common/test_a.py"}
