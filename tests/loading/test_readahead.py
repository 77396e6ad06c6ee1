"""Reading ahead: what is read, how far, and what happens when it fails, ends or forks."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack import Loader
from facepack.errors import ConfigError, DamageError
from facepack.loading.choice import choose_order, pack_fits, sequential_shape, shuffled_shape
from facepack.loading.extents import Extent, Extents
from facepack.loading.maps import RandomMaps
from facepack.loading.order import BlockShape
from facepack.loading.plan import Draws, Plan
from facepack.loading.readahead import (
    NOTHING_AHEAD,
    WholePackAhead,
    WindowsAhead,
    _Files,
    _read_once,
    read_ahead,
)
from facepack.memory import Memory, free_memory, memory_limit
from facepack.store.pack import Pack

SHAPE = BlockShape(run=3, window=4)


def make_plan(pack: Pack, **changes: object) -> Plan:
    base: dict[str, object] = {
        "records": len(pack),
        "batch_size": 4,
        "seed": 1,
        "rank": 0,
        "world": 1,
        "shuffle": True,
        "mirror": True,
        "drop_last": False,
        "blocks": SHAPE,
    }
    return Plan(**{**base, **changes})  # type: ignore[arg-type]


@pytest.fixture()
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The stretches that are read, as they are read."""
    stretches: list[tuple[int, int]] = []
    of = Extents.of

    def note(self: Extents, start: int, stop: int) -> Iterator[object]:
        stretches.append((start, stop))
        return of(self, start, stop)

    monkeypatch.setattr(Extents, "of", note)
    return stretches


@pytest.fixture()
def own_pack(make_pack: Callable[..., Pack], make_image: Callable[..., bytes]) -> Pack:
    """A pack to be spoiled: 53 JPEGs in three shards."""
    return make_pack([make_image(number) for number in range(53)], shard_records=20)


def shards(pack: Pack) -> Sequence[Path]:
    return [pack.path / f"{name}.mdb" for name in pack.shard_names]


def open_files() -> int:
    """How many files this process has open; 0 where the system does not show them."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


class TestWindowsAhead:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("first", [0, 5, 13, 20])
    @pytest.mark.parametrize("world", [1, 3])
    def test_a_batch_is_read_before_it_is_used(
        self, faces: Pack, asked: list[tuple[int, int]], shuffle: bool, first: int, world: int
    ) -> None:
        plan = make_plan(faces, shuffle=shuffle, world=world, rank=world - 1)
        order = plan.windowed(0)
        assert order is not None
        ahead, draws = WindowsAhead(faces, plan, first, 1), Draws(plan)
        read: set[int] = set()
        for index in range(first, first + plan.batches + 2):
            if index % plan.batches == 0:
                read.clear()  # of the epoch before
            ahead.wait(index)
            stretches = list(asked)
            read |= {at for start, stop in stretches for at in range(start, stop)}
            assert read >= set(draws[index].positions.tolist())
            epochs = index // plan.batches - first // plan.batches + 1
            assert len(stretches) <= epochs * 2 * (len(faces) // SHAPE.run + 2)
        ahead.close()

    def test_goes_no_further_than_told(self, faces: Pack, asked: list[tuple[int, int]]) -> None:
        plan = make_plan(faces, shuffle=False)
        ahead = WindowsAhead(faces, plan, 0, 2)
        for index in range(plan.batches):
            ahead.wait(index)
            window = min(4 * index + 3, 52) // SHAPE.records
            furthest = max(stop for _, stop in list(asked))
            assert furthest <= (window + 3) * SHAPE.records
        ahead.close()

    def test_batches_before_a_failure_are_there(self, own_pack: Pack) -> None:
        os.truncate(shards(own_pack)[2], 4096)
        plan = make_plan(own_pack, shuffle=False)
        ahead = WindowsAhead(own_pack, plan, 0, 8)
        for index in range(9):  # 36 records: windows of twelve, the third shard begins at 40
            ahead.wait(index)
        for index in (9, 10, 9):
            with pytest.raises(DamageError, match=r"cannot be read .*facepack verify"):
                ahead.wait(index)
        ahead.close()

    def test_what_the_system_cannot_read_is_named(self, own_pack: Pack) -> None:
        ahead = WindowsAhead(own_pack, make_plan(own_pack, shuffle=False), 0, 1)
        ahead.wait(0)
        ahead.close()
        plan = make_plan(own_pack)
        shards(own_pack)[1].unlink()
        ahead = WindowsAhead(own_pack, plan, 0, 8)
        with pytest.raises(DamageError, match=r"\.mdb: .*No such file"):
            for index in range(plan.batches):
                ahead.wait(index)
        ahead.close()

    def test_closing_ends_thread_and_waits(self, faces: Pack) -> None:
        before = threading.active_count()
        plan = make_plan(faces)
        ahead = WindowsAhead(faces, plan, 0, 1)
        reached = threading.Event()

        def wait_for_ever() -> None:
            for index in range(10**9):
                ahead.wait(index)
                reached.set()
                if ahead._closed:
                    return

        consumer = threading.Thread(target=wait_for_ever)
        consumer.start()
        reached.wait()
        ahead.close()
        ahead.close()
        consumer.join()
        assert threading.active_count() == before
        ahead.wait(10**6)  # returns

    def test_open_files_do_not_grow(self, faces: Pack) -> None:
        plan = make_plan(faces)
        before = open_files()
        for _ in range(5):
            ahead = WindowsAhead(faces, plan, 0, 1)
            ahead.wait(plan.batches)
            ahead.close()
        assert open_files() == before

    @pytest.mark.parametrize("system", ["linux", "darwin"])
    def test_reads_where_the_system_cannot_help(
        self, own_pack: Pack, monkeypatch: pytest.MonkeyPatch, system: str
    ) -> None:
        def refuse(*_: object) -> int:  # as some network file systems do
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        if system == "linux":
            monkeypatch.setattr(os, "sendfile", refuse, raising=False)
            monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
            monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
        else:
            monkeypatch.delattr(os, "posix_fadvise", raising=False)
        monkeypatch.setattr("sys.platform", system)
        plan = make_plan(own_pack, shuffle=False)
        ahead = WindowsAhead(own_pack, plan, 0, 1)
        for index in range(plan.batches):
            ahead.wait(index)
        ahead.close()
        size = shards(own_pack)[0].stat().st_size
        with _Files() as files, pytest.raises(DamageError, match="the file ends there"):
            list(files.load(iter([Extent(shards(own_pack)[0], size - 5000, 6000)])))


class TestRandomMaps:
    @pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")
    def test_the_system_is_told_and_told_again(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(1 << 16))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            assert "rr" not in flags_of(path)
            maps = RandomMaps([path, tmp_path / "other"])
            maps.tell()
            maps.tell()
            assert "rr" in flags_of(path)
            maps.take_back()
            assert "rr" not in flags_of(path)
            link = tmp_path / "link"
            link.symlink_to(path)
            others = RandomMaps([link])
            others.tell()
            assert "rr" in flags_of(path)
            maps.take_back()  # one reader ends, the other goes on
            others.tell()
            assert "rr" in flags_of(path)

    def test_maps_that_are_hidden_are_left_alone(
        self, faces: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("facepack.loading.maps._MAPS", Path("/nowhere"))
        plan = make_plan(faces)
        ahead = WindowsAhead(faces, plan, 0, 1)
        ahead.wait(plan.batches - 1)
        ahead.close()


def flags_of(path: Path) -> list[str]:
    """The flags that the system shows for a file's map (rr: read at random)."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split()[0].endswith(":"):
            if here and line.startswith("VmFlags:"):
                return line.split()[1:]
        else:
            here = line.endswith(str(path))
    raise AssertionError("no such map")


class TestReadAhead:
    def test_suits_source_and_order(self, faces: Pack) -> None:
        windows = read_ahead(faces, make_plan(faces), 0)
        assert isinstance(windows, WindowsAhead)
        windows.close()
        whole = read_ahead(faces, make_plan(faces, blocks=None), 0)
        assert isinstance(whole, WholePackAhead)
        whole.close()

        class Other:
            path = faces.path

        other = read_ahead(Other(), make_plan(faces), 0)  # type: ignore[arg-type]
        assert other is NOTHING_AHEAD
        other.wait(3)
        other.close()

    def test_a_pack_that_fits_is_read_once(
        self, own_pack: Pack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        wait_for = _Files._wait_for

        def note(self: _Files, extent: Extent, file: int) -> None:
            read.append(extent.length)
            wait_for(self, extent, file)

        monkeypatch.setattr(_Files, "_wait_for", note)
        for _ in range(2):
            ahead = read_ahead(own_pack, make_plan(own_pack, blocks=None), 0)
            ahead.wait(0)
            while own_pack not in _read_once:
                time.sleep(0.001)
            ahead.close()
        assert sum(read) == sum(path.stat().st_size for path in shards(own_pack))

    @pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")
    @pytest.mark.parametrize("fits", [True, False])
    def test_maps_are_marked_while_a_pack_is_read_at_random(
        self, own_pack: Pack, monkeypatch: pytest.MonkeyPatch, fits: bool
    ) -> None:
        read: list[Extent] = []
        monkeypatch.setattr(_Files, "_wait_for", lambda self, extent, file: read.append(extent))
        memory = Memory(1 << 40 if fits else 1 << 10, "a limit")
        monkeypatch.setattr("facepack.loading.readahead.memory_limit", lambda: memory)
        ahead = read_ahead(own_pack, make_plan(own_pack, blocks=None), 0)
        own_pack.batch([0, 25, 50])  # which opens the shards, after the thread began
        for path in shards(own_pack):
            while "rr" not in flags_of(path):
                time.sleep(0.001)
        ahead.close()
        assert not any("rr" in flags_of(path) for path in shards(own_pack))
        assert bool(read) == fits


class TestChoice:
    def test_auto_follows_from_the_size(self, faces: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
        assert choose_order("auto", faces, True).name == "global"
        monkeypatch.setattr(
            "facepack.loading.choice.memory_limit", lambda: Memory(1 << 16, "a limit")
        )
        name, shape, reason = choose_order("auto", faces, True)
        assert (name, shape) == ("blocks", shuffled_shape(faces, Memory(1 << 16, "")))
        assert "more than 75% of a limit" in reason
        assert not pack_fits(faces, Memory(1 << 16, ""))[0]
        assert choose_order("global", faces, True)[:2] == ("global", None)
        assert choose_order(SHAPE, faces, True)[:2] == ("blocks", SHAPE)
        assert choose_order("auto", faces, False)[:2] == ("sequential", sequential_shape(faces))

    def test_shapes_follow_from_memory_and_record_size(self, faces: Pack) -> None:
        record = faces.manifest["payload_bytes"] // len(faces)
        shapes = [shuffled_shape(faces, Memory(n << 30, "")) for n in (1, 24, 32, 64, 5000)]
        assert {shape.run for shape in shapes} == {(512 << 10) // record}
        windows = [shape.records * record / 2**20 for shape in shapes]
        assert windows == pytest.approx([32, 512, 1024, 1024, 1024], rel=0.05)

    def test_what_is_not_possible_is_named(self, faces: Pack) -> None:
        with pytest.raises(ConfigError, match="order = 'block' is not one of auto, global, b"):
            choose_order("block", faces, True)
        with pytest.raises(ConfigError, match="but shuffle=False means the pack's own order"):
            choose_order("blocks", faces, False)


class TestMemory:
    def write(self, root: Path, files: dict[str, str]) -> None:
        for name, text in {"proc/meminfo": "MemTotal:  1000 kB\n", **files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    @pytest.mark.parametrize(
        ("files", "size"),
        [
            ({}, 1024000),
            ({"proc/self/cgroup": "0::/a/b\n"}, 1024000),
            (
                {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"},
                1024000,
            ),
            (
                {
                    "proc/self/cgroup": "0::/a/b\n",
                    "sys/fs/cgroup/a/b/memory.max": "9000\n",
                    "sys/fs/cgroup/a/memory.max": "8000\n",
                },
                8000,
            ),
            (
                {
                    "proc/self/cgroup": "4:cpu,memory:/x\n0::/\n",
                    "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "7000\n",
                    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                },
                7000,
            ),
            # In a container the group is named as outside, and mounted as the root.
            (
                {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.max": "6000\n"},
                6000,
            ),
        ],
    )
    def test_the_least_limit_counts(self, tmp_path: Path, files: dict[str, str], size: int) -> None:
        self.write(tmp_path, files)
        memory = memory_limit(tmp_path)
        assert memory.size == size
        assert memory.of == (
            "this machine's memory" if size == 1024000 else "the memory limit of this control group"
        )

    def test_this_machine_has_some(self) -> None:
        assert memory_limit().size > 1 << 20
        assert 1 << 20 < free_memory() <= memory_limit().size

    @pytest.mark.parametrize(
        ("files", "free"),
        [
            ({}, 800 << 10),
            (
                {
                    "proc/self/cgroup": "0::/a/b\n",
                    "sys/fs/cgroup/a/b/memory.max": "max\n",
                    "sys/fs/cgroup/a/b/memory.current": "5\n",
                    "sys/fs/cgroup/a/memory.max": "8000\n",
                    "sys/fs/cgroup/a/memory.current": "7000\n",
                    "sys/fs/cgroup/a/memory.stat": "anon 1\nactive_file 30\ninactive_file 4\n",
                },
                1034,
            ),
            (
                {
                    "proc/self/cgroup": "4:memory:/x\n",
                    "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "7000\n",
                    "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "6900\n",
                    "sys/fs/cgroup/memory/x/memory.stat": "active_file 1\ninactive_file 1\n"
                    "total_active_file 20\ntotal_inactive_file 3\n",
                },
                123,
            ),
        ],
    )
    def test_what_is_used_is_not_free(
        self, tmp_path: Path, files: dict[str, str], free: int
    ) -> None:
        memory = "MemTotal: 1000 kB\nMemAvailable:  800 kB\n"
        self.write(tmp_path, {"proc/meminfo": memory, **files})
        assert free_memory(tmp_path) == free


_FORK = """
import facepack, os, sys, threading
from facepack.loading.order import BlockShape

pack = facepack.open(sys.argv[1])
loader = facepack.Loader(pack, batch_size=4, order=BlockShape(run=3, window=4))
batches = iter(loader)
next(batches)

def rest():
    print([batch.positions.tolist() for batch in batches], flush=True)

child = os.fork()
if child == 0:
    rest()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
rest()
loader.close()
print(sum(thread.name.startswith("facepack-") for thread in threading.enumerate()))
"""


class TestLoader:
    @pytest.mark.parametrize("world", [1, 2])
    def test_delivers_the_order(
        self, faces: Pack, slow_batch: Callable[..., tuple], world: int
    ) -> None:
        settings = {"batch_size": 4, "world": world, "seed": 5, "drop_last": False}
        for rank in range(world):
            with Loader(faces, rank=rank, order=SHAPE, **settings) as loader:  # type: ignore[arg-type]
                assert (loader.order, loader.order_reason) == ("blocks", "it was asked for")
                for number in range(2 * len(loader)):
                    if number % len(loader) == 0:
                        batches = iter(loader)
                    images, labels, positions = next(batches)
                    wanted = slow_batch(faces, number, rank=rank, blocks=SHAPE, **settings)
                    assert images.equal(wanted[0])
                    assert labels.equal(wanted[1])
                    assert np.array_equal(positions, wanted[2])

    def test_resumes_at_any_batch(self, faces: Pack) -> None:
        with Loader(faces, batch_size=5, order=SHAPE) as loader:
            whole = [batch.positions.tolist() for _ in range(2) for batch in loader]
        for done in range(len(whole)):
            saving = Loader(faces, batch_size=5, order=SHAPE)
            saving.seek(*divmod(done, len(saving)))
            with Loader(faces, batch_size=5) as loader:
                loader.load_state_dict(saving.state_dict())
                assert loader.order == "blocks"
                assert next(iter(loader)).positions.tolist() == whole[done]

    def test_a_position_brings_its_order_where_that_is_free(self, faces: Pack) -> None:
        saved = Loader(faces, order=SHAPE, batch_size=4).state_dict()
        assert saved["blocks"] == "3x4"
        for order, fits in [
            ("auto", True),
            ("blocks", True),
            (SHAPE, True),
            ("global", False),
            (BlockShape(run=3, window=5), False),
        ]:
            loader = Loader(faces, order=order, batch_size=4)
            if fits:
                loader.load_state_dict(saved)
                assert loader.state_dict() == saved
            else:
                with pytest.raises(ConfigError, match="belongs to a loader with order='3x4'; this"):
                    loader.load_state_dict(saved)
        of_global = Loader(faces, order="global", batch_size=4).state_dict()
        loader = Loader(faces, batch_size=4)
        loader.load_state_dict(saved)
        loader.load_state_dict(of_global)
        assert loader.order == "global"
        del of_global["blocks"], of_global["augment"]  # saved before there were these
        loader.load_state_dict(of_global)
        with pytest.raises(ConfigError, match="with order='global'; this one has '3x4'"):
            Loader(faces, order=SHAPE, batch_size=4).load_state_dict(of_global)

    def test_an_error_of_the_reader_surfaces_at_its_batch(self, own_pack: Pack) -> None:
        os.truncate(shards(own_pack)[2], 4096)
        loader = Loader(own_pack, batch_size=4, shuffle=False)
        with pytest.raises(DamageError, match=r"cannot be read .*facepack verify"):
            next(iter(loader))  # all the pack is one window
        assert not [t for t in threading.enumerate() if t.name.startswith("facepack-")]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_goes_on_in_a_forked_child(
        self, faces: Pack, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        done = run_python(_FORK, faces.path)
        child, parent, threads = done.stdout.splitlines()
        assert child == parent
        assert threads == "0"

    def test_closing_ends_all_threads(self, faces: Pack) -> None:
        loader = Loader(faces, batch_size=4, order=SHAPE)
        next(iter(loader))
        loader.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("facepack-")]

    @pytest.mark.parametrize("records", [1, 2])
    def test_tiny_packs(
        self, make_pack: Callable[..., Pack], make_image: Callable[..., bytes], records: int
    ) -> None:
        pack = make_pack([make_image(number) for number in range(records)])
        for order in ("auto", "blocks", "global", BlockShape(run=100, window=1)):
            with facepack.Loader(pack, batch_size=2, order=order, drop_last=False) as loader:
                assert [sorted(batch.positions) for batch in loader] == [list(range(records))]
