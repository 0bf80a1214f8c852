"""Measured tiles: what is found, where it is kept, and what becomes of a file that is damaged."""

import json
import threading

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from kdnative.ops.backends.triton import measured, tuning  # noqa: E402
from kdnative.ops.backends.triton.configurations import SHIPPED, Tile, candidates, shipped  # noqa: E402
from kdnative.ops.backends.triton.measured import configuration, file_of, load, save, shape_class  # noqa: E402
from kdnative.ops.backends.triton.w8a8 import linear_w8a8  # noqa: E402

OTHER = Tile(16, 128, 128, 4, 3)
"""One that no table has."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path))
    load.cache_clear()
    yield
    load.cache_clear()


class Clock:
    """Says that one tile is the fastest, without running anything."""

    def __init__(self, fastest):
        self.fastest, self.calls = fastest, 0

    def __call__(self, run):
        self.calls += 1
        return 1.0 if run.args[0] == self.fastest else 2.0


def test_the_fastest_tile_is_used_from_then_on(triton_driver):
    clock, capability = Clock(OTHER), triton_driver.capability
    before = configuration("w8a8", 5, 100, 100, capability, "interpreter")
    found = tuning.tune(["w8a8"], [(100, 100)], [5, 300], "cpu", clock)
    assert clock.calls == 2 * len(candidates("w8a8", capability))
    assert found == {("w8a8", shape_class(m, 100, 100)): OTHER for m in (5, 300)}
    assert before == shipped("w8a8", 5, capability) != OTHER
    for m, n, k in ((16, 128, 65), (1000, 65, 128)):  # of the same classes
        assert configuration("w8a8", m, n, k, capability, "interpreter") == OTHER
    for m, n, k in ((17, 100, 100), (5, 129, 100), (5, 100, 64)):
        assert configuration("w8a8", m, n, k, capability, "interpreter") == shipped("w8a8", m, capability)
    assert configuration("w8a8", 5, 100, 100, capability, "another") == shipped("w8a8", 5, capability)
    assert not triton_driver.launches


def test_a_launch_takes_it(triton_driver):
    """The number of programs tells which tile it was: 16 x 128 in place of 16 x 64."""
    codes, scale = torch.zeros(256, 16, dtype=torch.int8), torch.ones(256)
    grids = []
    for _ in range(2):
        linear_w8a8(torch.ones(1, 16), codes, scale)
        grids.append(triton_driver.launches[-1].grid[0])
        tuning.tune(["w8a8"], [(256, 16)], [1], "cpu", Clock(OTHER))
    assert grids == [4, 2]


def test_instructions_as_a_clock(triton_driver, monkeypatch):
    """Candidates run: here the one with the fewest instructions of a warp wins."""
    taken = {}
    few = [Tile(16, 32, 0, 4, 4), Tile(16, 64, 0, 4, 4)]
    monkeypatch.setattr(tuning, "candidates", lambda kernel, capability: few)

    def measure(run):
        run()
        taken[run.args[0]] = float(triton_driver.launches[-1].stats.instructions.total())
        return taken[run.args[0]]

    found = tuning.tune(["w4a16-g32"], [(20, 32)], [2], "cpu", measure)
    assert list(taken) == few
    assert found == {("w4a16-g32", shape_class(2, 20, 32)): min(taken, key=taken.get)}


def test_files_of_one_device_are_added_to():
    key, other = ("w8a8", shape_class(1, 8, 8)), ("w4a16-g64", shape_class(1, 64, 64))
    save("Some GPU", 80, {key: OTHER})
    path = save("Some GPU", 80, {other: Tile(16, 32, 0, 4, 4)})
    assert path == file_of("Some GPU")
    assert path.name == "some-gpu.json"
    assert load("Some GPU", 80) == {key: OTHER, other: Tile(16, 32, 0, 4, 4)}
    assert [file.name for file in path.parent.iterdir()] == ["some-gpu.json"]


def test_another_version_of_a_kernel_forgets(monkeypatch):
    save("gpu", 80, {("w8a8", shape_class(1, 8, 8)): OTHER})
    monkeypatch.setattr(measured, "version", lambda kernel: "another")
    load.cache_clear()
    assert load("gpu", 80) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[1]",
        '{"w8a8": 3}',
        '{"w8a8": {}}',
        '{"w8a8": {"version": VERSION, "tiles": {"a": [1, 2, 3, 4, 5]}}}',
    ],
)
def test_a_damaged_file_is_left_alone_with_a_warning(text):
    path = file_of("gpu")
    path.parent.mkdir(parents=True)
    path.write_text(text.replace("VERSION", json.dumps(measured.version("w8a8"))))
    with pytest.warns(UserWarning, match="is no file of measured tiles"):
        assert configuration("w8a8", 1, 8, 8, 80, "gpu") == shipped("w8a8", 1, 80)


def test_writers_at_once_leave_a_whole_file():
    tiles = candidates("w8a8", 80)
    threads = [
        threading.Thread(target=save, args=("gpu", 80, {("w8a8", shape_class(1, 2**i, 8)): tile}))
        for i, tile in enumerate(tiles)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.cache_clear()
    found = load("gpu", 80)
    assert found
    assert set(found.values()) <= set(tiles)


def test_bad_arguments(triton_driver):
    with pytest.raises(ValueError, match="kernel 'blocks-int8' can't be measured; allowed are w8a8"):
        tuning.tune(["blocks-int8"], [(8, 8)], [1], "cpu", Clock(OTHER))
    with pytest.raises(ValueError, match="w4a16-g64 can't be measured with 96 inputs"):
        tuning.tune(["w4a16-g64"], [(8, 96)], [1], "cpu", Clock(OTHER))


def test_the_command_without_a_gpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for arguments, message in (
        (["--shapes", "4096"], "each is outputs x inputs"),
        (["--shapes", "8x8"], "there is no GPU"),
    ):
        with pytest.raises(SystemExit):
            tuning._main(arguments)
        assert message in capsys.readouterr().err


def test_every_table_ends():
    for tables in SHIPPED.values():
        assert 80 in tables
        assert all(0 in table for table in tables.values())
