"""The spool against its promises: nothing taken is lost, nothing delivered is kept, whatever dies or is full."""

import os
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaloss_lightning.tracking.logger import journal
from adaloss_lightning.tracking.logger import spool as spool_module
from adaloss_lightning.tracking.logger.batch import Record
from adaloss_lightning.tracking.logger.spool import Spool

HEADER: Record = {"tracking_uri": "sqlite:///x.db", "run_key": "k"}


def points(count: int, start: int = 0) -> list[Record]:
    return [{"m": {"a": step * 0.1}, "t": step, "s": step} for step in range(start, start + count)]


def read_all(spool: Spool) -> list[Record]:
    records: list[Record] = []
    while (batch := spool.read()).records:
        assert spool.read().records == batch.records  # until it is delivered
        spool.advance(batch)
        records += batch.records
    return records


def test_records_come_out_once_in_order_and_exactly(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    spool.append({"m": {"x": 1 / 3, "y": 1.7976931348623157e308}, "t": 1, "s": 2**40})
    for record in points(2500):
        spool.append(record)
    records = read_all(spool)
    assert records[0] == {"m": {"x": 1 / 3, "y": 1.7976931348623157e308}, "t": 1, "s": 2**40}
    assert records[1:] == points(2500)
    assert spool.appended == spool.settled == 2501
    assert read_all(spool) == []


def test_a_batch_is_what_one_call_takes(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    big = {"m": {f"m{i}": 0.0 for i in range(600)}, "t": 0, "s": 0}
    wide = {"p": {f"p{i}": "v" for i in range(60)}}
    tags = {"g": {f"g{i}": "v" for i in range(60)}}
    text = {"text": "t", "file": "f"}
    for record in (big, big, wide, tags, wide, text, text, big):
        spool.append(record)
    sizes = []
    while (batch := spool.read()).records:
        sizes.append([next(iter(record)) for record in batch.records])
        spool.advance(batch)
    # 1200 metrics are too many, and so are 120 params; a text has a call of its own
    assert sizes == [["m"], ["m", "p", "g"], ["p"], ["text"], ["text"], ["m"]]
    long = [{"p": {f"p{i}": "v" * 6000 for i in range(60)}}, {"g": {f"g{i}": "v" * 8000 for i in range(80)}}]
    for record in long:
        spool.append(record)
    assert spool.read().records == long[:1]  # together they have more than a megabyte


def test_another_process_goes_on_where_this_one_died(tmp_path: Path) -> None:
    """The writer is SIGKILLed after every record it was told to write has been taken."""
    code = """
import os, signal, sys
from pathlib import Path
from adaloss_lightning.tracking.logger.spool import Spool
from tests.tracking.test_spool import HEADER, points
spool = Spool.create(Path(sys.argv[1]), HEADER)
for record in points(1500):
    spool.append(record)
spool.advance(spool.read())
print(spool.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == -9, done.stderr
    adopted = Spool.adopt(Path(done.stdout.strip()))
    assert adopted is not None
    assert adopted.header == HEADER
    assert read_all(adopted) == points(500, 1000)


def test_a_living_spool_cannot_be_adopted_and_no_folder_else_is_one(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    assert Spool.adopt(spool.folder) is None
    spool.close(delete=False)
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    adopted.close(delete=True)
    assert not spool.folder.exists()
    assert Spool.adopt(tmp_path) is None
    assert Spool.adopt(tmp_path / "nothing") is None


@pytest.mark.parametrize("seed", range(20))
def test_a_file_cut_anywhere_gives_every_whole_line_before(tmp_path: Path, seed: int) -> None:
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    for record in points(50):
        spool.append(record)
    spool.close(delete=False)
    file = spool.folder / "00000001.jsonl"
    data = file.read_bytes()
    cut = random.Random(seed).randrange(len(data))
    file.write_bytes(data[:cut])
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    assert read_all(adopted) == points(data[:cut].count(b"\n"))


def test_delivered_segments_leave_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 1000)
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    seen: list[Record] = []
    for start in range(0, 5000, 500):
        for record in points(500, start):
            spool.append(record)
        seen += read_all(spool)
        assert sum(file.stat().st_size for file in spool.folder.glob("*.jsonl")) <= 1100
    assert seen == points(5000)
    # ... and the next owner starts at the segment that is left
    spool.append({"m": {"b": 1.0}, "t": 0, "s": 0})
    spool.close(delete=False)
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    assert read_all(adopted) == [{"m": {"b": 1.0}, "t": 0, "s": 0}]


def test_a_segment_that_cannot_be_opened_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 200)
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    open_file, refused = os.open, []

    def refuse_once(path: Any, *rest: Any) -> int:
        if str(path).endswith("00000002.jsonl") and not refused:
            refused.append(path)
            raise OSError("too many open files")
        return open_file(path, *rest)

    monkeypatch.setattr(os, "open", refuse_once)
    for record in points(20):
        spool.append(record)
        spool._next_try = 0.0
    assert refused
    spool.close(delete=False)
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    assert read_all(adopted) == points(20)


def test_a_gap_between_segments_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 200)
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    for record in points(20):
        spool.append(record)
    middle = spool.folder / "00000002.jsonl"
    lost = middle.read_bytes().count(b"\n")
    first = (spool.folder / "00000001.jsonl").read_bytes().count(b"\n")
    middle.unlink()
    assert read_all(spool) == points(first) + points(20 - first - lost, first + lost)


def test_what_is_delivered_stays_until_that_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 200)
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None
    for record in points(20):
        spool.append(record)

    def fail(*_: Any) -> int:
        raise OSError("no")

    monkeypatch.setattr(os, "pwrite", fail)
    assert read_all(spool) == points(20)
    spool.close(delete=False)
    monkeypatch.undo()
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    assert read_all(adopted) == points(20)


@pytest.mark.parametrize("then", ["another record", "the end"])
def test_what_waits_in_memory_for_a_dead_store_goes_to_a_disk_that_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    spool = Spool.create(tmp_path, HEADER)
    assert spool.folder is not None

    def full(file: int, data: bytes) -> int:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for record in points(5):
            spool.append(record)
    assert spool.read().records == points(5)  # handed to a store that does not take it
    expected = points(5)
    if then == "another record":
        spool.give_back()
        spool._next_try = 0.0
        spool.append(points(1, 5)[0])
        expected = points(6)
        assert spool.read().following is not None, "they are on the disk"
    spool.close(delete=False)
    adopted = Spool.adopt(spool.folder)
    assert adopted is not None
    assert read_all(adopted) == expected


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool.create(tmp_path / "a" / "b", HEADER)
        spool.append(points(1)[0])
        spool.note("run", {"run_id": "r"})
        spool.advance(spool.read())
    finally:
        os.umask(before)
    assert spool.folder is not None
    folders = [spool.folder, tmp_path / "a" / "b", tmp_path / "a"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    files = list(spool.folder.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_without_a_folder_it_works_in_memory_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    spool = Spool.create(tmp_path / "file", HEADER)
    for record in points(1200):
        spool.append(record)
    assert read_all(spool) == points(1200)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ADALOSS_SPOOL" in caplog.text


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from adaloss_lightning.tracking.logger.spool import Spool
from tests.tracking.test_spool import HEADER, points, read_all
spool = Spool.create(Path(sys.argv[1]), HEADER)
room = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, room[1]))  # the disk takes 1000 bytes a file, in the middle of a line
for record in points(100):
    spool.append(record)
on_disk = (spool.folder / "00000001.jsonl").read_bytes()
assert 0 < len(on_disk) <= 1000 and on_disk.endswith(b"\\n"), on_disk
taken = on_disk.count(b"\\n")
batch = spool.read()
assert batch.records == points(taken)
spool.advance(batch)
resource.setrlimit(resource.RLIMIT_FSIZE, room)
spool._next_try = 0.0
if sys.argv[2] == "space again":
    spool.append(points(1, 100)[0])
    assert not spool._overflow, "what waited in memory is on the disk again"
    assert read_all(spool) == points(101 - taken, taken)
else:
    assert read_all(spool) == points(100 - taken, taken)
print("done")
"""


@pytest.mark.parametrize("then", ["space again", "delivered from memory"])
def test_a_full_disk_loses_nothing(tmp_path: Path, then: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), then],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr
    assert done.stderr.count("Cannot write to the spool") == 1  # once, not for each of 80 records


def test_memory_is_bounded_and_what_does_not_fit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_MAX_IN_MEMORY", 10)
    (tmp_path / "file").touch()
    spool = Spool.create(tmp_path / "file", HEADER)
    for record in points(25):
        spool.append(record)
    spool.append({"status": "FINISHED", "t": 0})
    assert spool.dropped == 15
    assert read_all(spool) == [*points(10), {"status": "FINISHED", "t": 0}]
    assert spool.appended == spool.settled


def test_a_half_line_that_could_not_be_taken_back_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.create(tmp_path, HEADER)
    spool.append(points(1)[0])
    write, truncate = os.write, os.ftruncate

    def half(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])

    def fail(file: int, size: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "write", half)
    monkeypatch.setattr(os, "ftruncate", fail)
    spool.append(points(1, 1)[0])
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", truncate)
    spool._next_try = 0.0
    spool.append(points(1, 2)[0])
    assert read_all(spool) == points(3)
