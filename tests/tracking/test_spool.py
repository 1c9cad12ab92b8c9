"""The spool against its promises: nothing taken is lost, nothing delivered is kept, whatever dies or is full."""

import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from adaloss_lightning.tracking.logger.records import End, Header, Metrics, Params, Record, Tags, Text
from adaloss_lightning.tracking.logger.spool import Limits, Spool

HEADER: Header = {"tracking_uri": "sqlite:///x.db", "run_key": "k"}
AT_ONCE = Limits(retry_disk_s=0.0)  # a disk that was full is tried with the next record
SHORT = Limits(segment_bytes=200, retry_disk_s=0.0)


def points(count: int, start: int = 0) -> list[Record]:
    return [Metrics({"a": step * 0.1}, time=step, step=step) for step in range(start, start + count)]


def spool_of(folder: Path, records: list[Record], limits: Limits = AT_ONCE) -> tuple[Spool, Path]:
    spool = Spool.create(folder, HEADER, limits)
    for record in records:
        spool.append(record)
    assert spool.folder is not None
    return spool, spool.folder


def read_all(spool: Spool) -> list[Record]:
    records: list[Record] = []
    while (batch := spool.read()).records:
        assert spool.read().records == batch.records  # until it is delivered
        spool.advance(batch)
        records += batch.records
    return records


def left_in(folder: Path) -> list[Record]:
    """What the next process finds."""
    adopted = Spool.adopt(folder)
    assert adopted is not None
    assert adopted.header == HEADER
    return read_all(adopted)


def fail(*_: Any) -> int:
    raise OSError("no space left")


def run_python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_spool_gives_records_once_in_order_and_exactly(tmp_path: Path) -> None:
    exact = Metrics({"x": 1 / 3, "y": 1.7976931348623157e308}, time=1, step=2**40)
    spool, _ = spool_of(tmp_path, [exact, *points(2500)])
    assert read_all(spool) == [exact, *points(2500)]
    assert spool.appended == spool.settled == 2501
    assert read_all(spool) == []


def test_batch_is_what_one_call_takes(tmp_path: Path) -> None:
    big = Metrics({f"m{i}": 0.0 for i in range(600)}, time=0, step=0)
    wide, tags = Params({f"p{i}": "v" for i in range(60)}), Tags({f"g{i}": "v" for i in range(60)})
    text = Text("t", "f")
    spool, _ = spool_of(tmp_path, [big, big, wide, tags, wide, text, text, big])
    batches = []
    while (batch := spool.read()).records:
        batches.append(batch.records)
        spool.advance(batch)
    # 1200 metrics are too many, and so are 120 params; a text has a call of its own
    assert batches == [[big], [big, wide, tags], [wide], [text], [text], [big]]
    long: list[Record] = [
        Params({f"p{i}": "v" * 6000 for i in range(60)}),
        Tags({f"g{i}": "v" * 8000 for i in range(80)}),
    ]
    for record in long:
        spool.append(record)
    assert spool.read().records == long[:1]  # together they have more than a megabyte


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.tracking.test_spool import points, spool_of
spool, folder = spool_of(Path(sys.argv[1]), points(1500))
spool.advance(spool.read())
print(folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.process
def test_spool_goes_on_where_a_killed_process_stopped(folder: Path) -> None:
    done = run_python(KILLED, folder)
    assert done.returncode == -9, done.stderr
    assert left_in(Path(done.stdout.strip())) == points(500, 1000)


def test_spool_of_a_living_process_is_borrowed_and_not_adopted(tmp_path: Path) -> None:
    spool, folder = spool_of(tmp_path, points(3))
    assert Spool.adopt(folder) is None
    borrowed = Spool.borrow(folder)
    assert borrowed is not None
    assert read_all(borrowed) == points(3)
    for content in ({"run_id": "first"}, {"run_id": "second"}):
        borrowed.note("run", content)
    assert spool.noted("run") == {"run_id": "first"}
    borrowed.close(delete=True)
    assert read_all(spool) == points(3)
    spool.close(delete=False)
    adopted = Spool.adopt(folder)
    assert adopted is not None
    adopted.close(delete=True)
    for none in (folder, tmp_path):
        assert Spool.adopt(none) is Spool.borrow(none) is None


def test_spool_cut_anywhere_gives_every_whole_line_before(tmp_path: Path) -> None:
    spool, folder = spool_of(tmp_path, points(50))
    spool.close(delete=False)
    file = folder / "00000001.jsonl"
    data = file.read_bytes()
    for cut in random.Random(0).sample(range(len(data)), 20):
        (folder / "cursor").unlink()
        file.write_bytes(data[:cut])
        assert left_in(folder) == points(data[:cut].count(b"\n"))


def test_spool_deletes_what_is_delivered(tmp_path: Path) -> None:
    spool, folder = spool_of(tmp_path, [], Limits(segment_bytes=1000))
    seen: list[Record] = []
    for start in range(0, 5000, 500):
        for record in points(500, start):
            spool.append(record)
        seen += read_all(spool)
        assert sum(file.stat().st_size for file in folder.glob("*.jsonl")) <= 1100
    assert seen == points(5000)
    spool.append(points(1)[0])
    spool.close(delete=False)
    assert left_in(folder) == points(1)  # the next owner starts at the segment that is left


def test_spool_leaves_no_gap_where_a_segment_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file, refused = os.open, []

    def refuse_once(path: Any, *rest: Any) -> int:
        if str(path).endswith("00000002.jsonl") and not refused:
            refused.append(path)
            raise OSError("too many open files")
        return open_file(path, *rest)

    monkeypatch.setattr(os, "open", refuse_once)
    spool, folder = spool_of(tmp_path, points(20), SHORT)
    assert refused
    spool.close(delete=False)
    assert left_in(folder) == points(20)


def test_spool_hides_nothing_behind_a_lost_segment(tmp_path: Path) -> None:
    spool, folder = spool_of(tmp_path, points(20), SHORT)
    first, lost = (path.read_bytes().count(b"\n") for path in sorted(folder.glob("*.jsonl"))[:2])
    (folder / "00000002.jsonl").unlink()
    assert read_all(spool) == points(first) + points(20 - first - lost, first + lost)


def test_spool_keeps_what_it_cannot_note_as_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, folder = spool_of(tmp_path, points(20), SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        assert read_all(spool) == points(20)
    spool.close(delete=False)
    assert left_in(folder) == points(20)


@pytest.mark.parametrize("then", ["another record", "the end"])
def test_spool_in_memory_goes_to_a_disk_that_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    spool, folder = spool_of(tmp_path, [])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        for record in points(5):
            spool.append(record)
    assert spool.read().records == points(5)  # handed to a store that does not take it
    expected = points(5)
    if then == "another record":
        spool.give_back()
        spool.append(points(1, 5)[0])
        expected = points(6)
        assert spool.in_memory == 0
    spool.close(delete=False)
    assert left_in(folder) == expected


def test_spool_is_its_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool, folder = spool_of(tmp_path / "a" / "b", points(1))
        spool.note("run", {"run_id": "r"})
        spool.advance(spool.read())
    finally:
        os.umask(before)
    folders = [folder, tmp_path / "a" / "b", tmp_path / "a"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    files = list(folder.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.tracking.test_spool import points, read_all, spool_of
spool, folder = spool_of(Path(sys.argv[1]), [])
room = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, room[1]))  # the disk takes 1000 bytes a file, in the middle of a line
for record in points(100):
    spool.append(record)
on_disk = (folder / "00000001.jsonl").read_bytes()
assert 0 < len(on_disk) <= 1000 and on_disk.endswith(b"\\n"), on_disk
taken = on_disk.count(b"\\n")
batch = spool.read()
assert batch.records == points(taken)
spool.advance(batch)
resource.setrlimit(resource.RLIMIT_FSIZE, room)
if sys.argv[2] == "space again":
    spool.append(points(1, 100)[0])
    assert not spool.in_memory
    assert read_all(spool) == points(101 - taken, taken)
else:
    assert read_all(spool) == points(100 - taken, taken)
print("done")
"""


@pytest.mark.process
@pytest.mark.parametrize("then", ["space again", "delivered from memory"])
def test_spool_on_a_full_disk_loses_nothing(folder: Path, then: str) -> None:
    done = run_python(FULL_DISK, folder, then)
    assert done.stdout.endswith("done\n"), done.stderr
    assert done.stderr.count("Cannot write to the spool") == 1  # once, not for each of 80 records


def test_spool_in_memory_is_reported_and_bounded_and_counts_what_does_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    spool = Spool.create(tmp_path / "file", HEADER, Limits(in_memory=1010))
    end = End("FINISHED", time=0)
    for record in [*points(1025), end]:
        spool.append(record)
    assert spool.dropped == 15
    assert read_all(spool) == [*points(1010), end]
    assert spool.appended == spool.settled
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ADALOSS_SPOOL" in caplog.text


def test_spool_of_a_file_system_without_locks_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the oldest filelock that is taken says it; later ones lock in another way."""
    _, left = spool_of(tmp_path, points(1))

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    spool = Spool.create(tmp_path / "new", HEADER)
    spool.append(points(1)[0])
    assert (spool.folder, read_all(spool)) == (None, points(1))
    assert "does not appear to support flock" in caplog.text
    assert Spool.adopt(left) is None


def test_spool_that_is_gone_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Spool.adopt(tmp_path / "gone") is None
    spool, folder = spool_of(tmp_path, points(1))
    spool.close(delete=False)
    acquire = FileLock.acquire

    def acquire_too_late(lock: FileLock, *args: Any, **rest: Any) -> Any:
        shutil.rmtree(folder)  # another process has delivered it
        return acquire(lock, *args, **rest)

    monkeypatch.setattr(FileLock, "acquire", acquire_too_late)
    assert Spool.adopt(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_spool_skips_half_a_line_that_could_not_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = spool_of(tmp_path, points(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        patch.setattr(os, "ftruncate", fail)
        spool.append(points(1, 1)[0])
    spool.append(points(1, 2)[0])
    assert read_all(spool) == points(3)
