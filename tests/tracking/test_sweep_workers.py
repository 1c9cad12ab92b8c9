"""Worker processes: their share of the machine, what they say, and how they end."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from adaloss_lightning.tracking.sweeps.executors.processes import Processes
from adaloss_lightning.tracking.sweeps.executors.shares import Devices, environment_of, gpus_of
from adaloss_lightning.tracking.sweeps.executors.task import Outcome, Task
from tests.tracking.sweeping import is_alive, wait_for


@pytest.mark.parametrize(
    ("visible", "gpus", "jobs", "expected"),
    [
        (None, 0, 2, [None, None]),
        (None, 1, 2, ["0", "0"]),
        (None, 2, 2, ["0", "1"]),
        (None, 2, 5, ["0", "1", "0", "1", "0"]),
        ("3,1", 2, 3, ["3", "1", "3"]),
        (" 3 , 1 ", 2, 2, ["3", "1"]),
        ("GPU-8932f937,MIG-7a1b", 2, 2, ["GPU-8932f937", "MIG-7a1b"]),
        ("0,1,-1,2", 2, 3, ["0", "1", "0"]),  # CUDA stops at what is not there
        ("", 0, 2, [None, None]),
        ("-1", 0, 1, [None]),
    ],
)
def test_each_worker_has_a_gpu_as_far_as_they_go(
    visible: str | None, gpus: int, jobs: int, expected: list[str | None]
) -> None:
    assert [gpus_of(slot, visible, gpus) for slot in range(jobs)] == expected


def test_cores_are_shared_and_what_the_user_set_is_respected() -> None:
    assert environment_of(0, 3, {}, cores=8, gpus=0) == {"OMP_NUM_THREADS": "2"}
    assert environment_of(0, 16, {}, cores=8, gpus=0) == {"OMP_NUM_THREADS": "1"}
    assert environment_of(0, 2, {"OMP_NUM_THREADS": "1"}, cores=8, gpus=0) == {"OMP_NUM_THREADS": "1"}
    assert environment_of(0, 2, {"OMP_NUM_THREADS": "6"}, cores=8, gpus=0) == {"OMP_NUM_THREADS": "4"}
    assert environment_of(1, 2, {"CUDA_VISIBLE_DEVICES": "5,7"}, cores=2, gpus=2) == {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "7",
    }


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, Devices()), ("auto", Devices()), (1, Devices()), (2, Devices(2)), ("2", Devices(2)),
        ([1], Devices(1, are_named=True)), ("0,3", Devices(2, are_named=True)), (-1, Devices(1, are_named=True)),
    ],
)  # fmt: skip
def test_devices_are_read_as_lightning_reads_them(asked: object, expected: Devices) -> None:
    assert Devices.of(asked) == expected


def test_a_point_on_several_gpus_sees_as_many() -> None:
    assert [gpus_of(slot, None, 4, 2) for slot in range(3)] == ["0,1", "2,3", "0,1"]
    assert gpus_of(1, "5,7,9", 3, 2) == "9,5"
    assert gpus_of(0, None, 1, 2) == "0"  # Lightning says that there are too few
    assert environment_of(1, 2, {}, cores=8, gpus=4, devices=Devices(2)) == {
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "2,3",
    }
    assert "CUDA_VISIBLE_DEVICES" not in environment_of(0, 1, {}, cores=8, gpus=4, devices=Devices(1, are_named=True))


TALKER = """
import os, sys
import torch

def main(args):
    os.write(1, b"from C, on the way to the answers?\\n")
    sys.__stdout__.write("past every redirection\\n")
    sys.__stdout__.flush()
    print("printed", sys.stdin.read())  # would eat the next task
    with open(args[0], "w") as file:
        file.write(f"{os.getpid()} {torch.get_num_threads()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    if args[1] == "raise":
        raise ValueError("\\0 and \\ud800 are nothing a database takes")
    if args[1] == "die":
        if (child := os.fork()) == 0:
            import signal
            signal.pause()  # with the pipes of its parent
        with open("child", "w") as file:
            file.write(str(child))
        os.write(2, b"last words")
        os._exit(3)
"""


def test_a_worker_is_used_again_and_replaced_when_it_dies(
    client: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "talker.py").write_text(TALKER)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ends = ["well", "raise", "die", "well"]
    outcomes: list[Outcome] = []
    with closing(Processes(1)) as executor:
        for place, end in enumerate(ends):
            executor.submit(Task("talker", [str(place), end], "sqlite:///mlflow.db", str(place)))
            assert not executor.has_room()
            while not executor.has_room():
                outcomes += [outcome for run_id, outcome in executor.wait() if run_id == str(place)]
    assert [outcome.status for outcome in outcomes] == ["FINISHED", "FAILED", "FAILED", "FINISHED"]
    assert outcomes[1].error == r"ValueError: \0 and \ud800 are nothing a database takes"
    assert outcomes[1].output.startswith("printed")
    assert "Traceback" in outcomes[1].output
    assert outcomes[2].error == "its process died with exit code 3"
    assert outcomes[2].output.endswith("last words")
    written = [Path(str(place)).read_text().split() for place in range(4)]
    pids = [int(pid) for pid, _, _ in written]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert {threads for _, threads, _ in written} == {str(len(os.sched_getaffinity(0)))}
    wait_for(lambda: not any(is_alive(pid) for pid in [*pids, int(Path("child").read_text())]))
