from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest, ModelError, NotFound
from sdforge.engine import JobStatus
from sdforge.output.metadata import read_infotext
from sdforge.sweeps import report, sheets
from sdforge.sweeps.manifest import CellStatus, Sweep, SweepStatus
from tests.engine.fakes import FakeRunner, a_request
from tests.sweeps.conftest import PATIENCE, Bench, Open, asked

DONE, FAILED, SKIPPED = CellStatus.DONE, CellStatus.FAILED, CellStatus.SKIPPED
WAITING = CellStatus.WAITING


def drawn(bench: Bench, *axes: tuple[str, str], **more: Any) -> Sweep:
    """Draw a sweep to its end."""
    sweep = bench.sweeps.submit(asked(*axes, **more))
    return bench.sweeps.wait(sweep.id, PATIENCE)


def statuses(sweep: Sweep) -> list[CellStatus]:
    return [sweep.cell(index).status for index in range(len(sweep.cells))]


def test_every_combination_is_drawn_once(bench: Bench) -> None:
    done = drawn(bench, ("Steps", "1-3"), ("Seed", "5, 6"))
    assert done.status is SweepStatus.DONE
    assert statuses(done) == [DONE] * 6
    assert [done.manifest.legends(i) for i in (0, 1, 3)] == [
        ("Steps: 1", "Seed: 5"), ("Steps: 2", "Seed: 5"), ("Steps: 1", "Seed: 6"),
    ]  # fmt: skip
    assert [cell.pictures[0].seed for cell in done.cells] == [5, 5, 5, 6, 6, 6]
    assert "Steps: 2" in done.cells[1].pictures[0].infotext
    assert len(bench.runner.ran) == 6


def test_the_grid_is_saved_with_the_axes_in_its_text(bench: Bench) -> None:
    done = drawn(bench, ("Seed", "5, 6"), ("Prompt S/R", 'cat, "dog, old"'))
    assert done.grid is not None and done.grid.path is not None
    path = Path(done.grid.path)
    assert path.name == "xyz_grid-0000-5.png"
    assert path.parents[1] == bench.paths.resolve_output("outputs/txt2img-grids")
    text = read_infotext(path.read_bytes())
    assert 'Script: X/Y/Z plot, X Type: Seed, X Values: "5, 6", Fixed X Values: "5, 6"' in text
    assert r'Y Type: Prompt S/R, Y Values: "cat, \"dog, old\""' in text
    with Image.open(path) as grid:
        pixels = np.asarray(grid)
    # Two columns and two rows of 64 × 64 with seed-grey cells, and room for legends.
    assert pixels.shape[0] > 128 and pixels.shape[1] > 128
    assert (pixels[-32, -32] == 6).all() and (pixels[-32, -96] == 5).all()


def test_equal_cells_are_drawn_once_and_shown_everywhere(bench: Bench) -> None:
    done = drawn(bench, ("Steps", "2, 2, 3"), ("Hires steps", "1, 2"))
    assert statuses(done) == [DONE] * 6
    assert [cell.same_as for cell in done.cells] == [None, 0, None, 0, 0, 2]
    assert len(bench.runner.ran) == 2
    assert done.cell(4).pictures == done.cell(0).pictures
    assert done.manifest.notices == (
        "Hires steps changes nothing here: all its values give one picture",
    )


def test_each_checkpoint_is_loaded_once_whatever_its_axis(bench: Bench) -> None:
    bench.engine.library.known += [  # type: ignore[attr-defined]
        type(bench.engine.library.known[0])(f"{name}.safetensors")  # type: ignore[attr-defined]
        for name in ("fox", "owl")
    ]
    done = drawn(bench, ("Steps", "1-3"), ("Checkpoint name", "cat, fox, owl"), ("Seed", "1-2"))
    assert statuses(done) == [DONE] * 18
    assert bench.runner.loads == ["cat.safetensors", "fox.safetensors", "owl.safetensors"]
    assert done.manifest.lines[1].legends[0] == "cat.safetensors"
    # While the first draws, the second is announced.
    names = [choice.checkpoint for choice in bench.runner.expected[0]]
    assert names == ["cat.safetensors", "fox.safetensors", "owl.safetensors"]


def test_a_checkpoint_that_cannot_run_leaves_holes_and_the_rest_is_drawn(bench: Bench) -> None:
    """`half` is known to be broken, `dog` breaks while it is loaded."""
    done = drawn(bench, ("Checkpoint name", "cat, half, dog"), ("Seed", "1, 2"))
    assert done.status is SweepStatus.DONE
    assert statuses(done) == [DONE, FAILED, FAILED] * 2
    assert "truncated" in done.cells[1].error.message  # type: ignore[union-attr]
    assert "damaged" in sheets.hole_text(done, 5)
    assert "damaged" in report.page(done, lambda index: f"cell/{index}")
    assert done.grid is not None


def test_a_sweep_of_which_nothing_can_be_drawn_is_refused(bench: Bench) -> None:
    with pytest.raises(ModelError, match="truncated"):
        bench.sweeps.submit(asked(("Checkpoint name", "half")))
    assert bench.sweeps.newest(10) == []


def test_a_bad_value_refuses_the_sweep_before_anything_is_drawn(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="Sampler"):
        bench.sweeps.submit(asked(("Sampler", "Euler, Eulre")))
    with pytest.raises(InvalidRequest, match="width"):
        bench.sweeps.submit(asked(("Size", "64x64, 16000x16000")))
    assert bench.runner.ran == []


def test_pictures_that_are_not_to_be_saved_survive_in_the_sweeps_own_folder(bench: Bench) -> None:
    sweep = bench.sweeps.submit(asked(("Seed", "1-3")), save_images=False)
    done = bench.sweeps.wait(sweep.id, PATIENCE)
    assert done.grid is None
    assert not bench.paths.resolve_output("outputs").exists()
    paths = [Path(cell.pictures[0].path) for cell in done.cells]
    assert {path.parent for path in paths} == {bench.paths.sweeps / sweep.id}
    assert all(path.is_file() for path in paths)
    assert sheets.draw(done).startswith(b"\x89PNG")


def test_cells_make_no_grids_of_their_own(bench: Bench) -> None:
    done = drawn(bench, ("Seed", "1, 9"), batch_size=2)
    assert [len(cell.pictures) for cell in done.cells] == [2, 2]
    grids = list(bench.paths.resolve_output("outputs/txt2img-grids").rglob("*.png"))
    assert [path.name for path in grids] == ["xyz_grid-0000-1.png"]


def test_cells_run_with_the_settings_of_their_acceptance(open_bench: Open) -> None:
    bench = open_bench()
    sweep = bench.sweeps.submit(asked(("Clip skip", "1, 2"), ("Extra noise", "0.5")))
    bench.engine.change_settings({"eta_ddim": 0.7})
    bench.engine.start()
    bench.sweeps.wait(sweep.id, PATIENCE)
    used = [(one.CLIP_stop_at_last_layers, one.eta_ddim) for one in bench.runner.settings]
    assert used == [(1, 0.0), (2, 0.0)]
    assert {one.img2img_extra_noise for one in bench.runner.settings} == {0.5}


# --- what people ask of a running sweep ----------------------------------------------------------


@pytest.fixture
def standing(open_bench: Open) -> tuple[Bench, Sweep]:
    """A sweep of six cells whose first one stands at the gate."""
    bench = open_bench(FakeRunner(gate_step=1))
    sweep = bench.sweeps.submit(asked(("Seed", "1-6")))
    bench.engine.start()
    assert bench.runner.reached.acquire(timeout=PATIENCE)
    return bench, sweep


def go_on(bench: Bench) -> None:
    bench.runner.gate_step = None
    bench.runner.gate.set()


def test_others_get_their_turn_between_cells(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    job = bench.engine.submit(a_request("a visitor"))
    go_on(bench)
    assert bench.engine.wait(job.id, PATIENCE).status is JobStatus.DONE
    bench.sweeps.wait(sweep.id, PATIENCE)
    assert bench.runner.ran.index("a visitor") <= 2
    assert len(bench.runner.ran) == 7


def test_a_cancelled_sweep_keeps_what_it_has_and_can_go_on(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    bench.sweeps.cancel(sweep.id)
    go_on(bench)
    stopped = bench.sweeps.wait(sweep.id, PATIENCE)
    assert stopped.status is SweepStatus.CANCELLED
    assert DONE not in statuses(stopped) and len(bench.runner.ran) == 1
    bench.sweeps.resume(sweep.id)
    assert statuses(bench.sweeps.wait(sweep.id, PATIENCE)) == [DONE] * 6


def test_an_interrupt_ends_the_whole_sweep(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    assert bench.sweeps.interrupt() is True
    go_on(bench)
    assert bench.sweeps.wait(sweep.id, PATIENCE).status is SweepStatus.CANCELLED
    assert len(bench.runner.ran) == 1
    assert bench.sweeps.interrupt() is False


def test_cells_can_be_skipped_whether_they_wait_or_run(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    bench.sweeps.skip(sweep.id, 0)
    bench.sweeps.skip(sweep.id, 4)
    go_on(bench)
    done = bench.sweeps.wait(sweep.id, PATIENCE)
    assert statuses(done) == [SKIPPED, DONE, DONE, DONE, SKIPPED, DONE]
    assert done.status is SweepStatus.DONE
    assert sheets.hole_text(done, 4) == "skipped"
    bench.sweeps.retry(sweep.id)
    assert statuses(bench.sweeps.wait(sweep.id, PATIENCE)) == [DONE] * 6


def test_a_cell_can_be_drawn_before_all_others(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    bench.sweeps.draw_first(sweep.id, 5)
    go_on(bench)
    done = bench.sweeps.wait(sweep.id, PATIENCE)
    # Two were on their way already.
    began = [bench.engine.get(cell.job).started_at or 0.0 for cell in done.cells]
    assert began[1] <= began[5] <= min(began[2:5])


def test_a_single_cell_is_drawn_again(bench: Bench) -> None:
    done = drawn(bench, ("Seed", "1-3"))
    bench.sweeps.retry(done.id, 1)
    again = bench.sweeps.wait(done.id, PATIENCE)
    assert statuses(again) == [DONE] * 3
    assert again.cells[1].job != done.cells[1].job
    assert again.cells[0].job == done.cells[0].job
    assert len(bench.runner.ran) == 4


def test_what_cannot_be_asked_is_refused(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    for action in (bench.sweeps.skip, bench.sweeps.retry, bench.sweeps.draw_first):
        with pytest.raises(InvalidRequest, match="cell: got 6"):
            action(sweep.id, 6)
        with pytest.raises(NotFound):
            action("nowhere", 0)
    with pytest.raises(InvalidRequest, match="not waiting or running"):
        bench.sweeps.retry(sweep.id, 0)


def test_a_cell_that_was_broken_from_the_start_says_why_it_cannot_be_drawn(bench: Bench) -> None:
    done = drawn(bench, ("Checkpoint name", "cat, half"))
    with pytest.raises(InvalidRequest, match="truncated"):
        bench.sweeps.retry(done.id, 1)


def test_what_cannot_be_drawn_is_left_out_when_the_rest_is_drawn_again(bench: Bench) -> None:
    done = drawn(bench, ("Checkpoint name", "cat, half, dog"))
    bench.sweeps.retry(done.id)
    again = bench.sweeps.wait(done.id, PATIENCE)
    assert statuses(again) == [DONE, FAILED, FAILED]
    assert [cell.attempt for cell in again.cells] == [0, 0, 1]
    only_broken = drawn(bench, ("Checkpoint name", "cat, half"))
    bench.sweeps.retry(only_broken.id)
    assert bench.sweeps.get(only_broken.id).status is SweepStatus.DONE


def test_whoever_listens_hears_of_every_change(standing: tuple[Bench, Sweep]) -> None:
    bench, sweep = standing
    calls: list[int] = []
    bench.sweeps.listeners.add(sweep.id, lambda: calls.append(1))
    go_on(bench)
    bench.sweeps.wait(sweep.id, PATIENCE)
    bench.engine.close()
    assert calls


# --- grids, tables, pages ------------------------------------------------------------------------


def test_a_third_axis_makes_blocks_and_a_fourth_rows_of_them(bench: Bench) -> None:
    axes = (("Seed", "1, 2"), ("Steps", "1, 2"), ("CFG Scale", "1, 2"), ("Eta", "0, 1"))
    done = drawn(bench, *axes, options={"draw_legend": False, "margin_px": 4})
    assert sheets.block_count(done) == 4
    one = sheets.pixels(done, block=3)
    assert one.shape == (132, 132, 3)
    whole = sheets.pixels(done)
    assert whole.shape == (2 * 132 + 4, 2 * 132 + 4, 3)
    with pytest.raises(InvalidRequest, match="block"):
        sheets.pixels(done, block=4)


def test_a_grid_larger_than_allowed_is_drawn_smaller(open_bench: Open) -> None:
    bench = open_bench(img_max_size_mp=0.1)
    bench.engine.start()
    done = drawn(bench, ("Seed", "1-10"), ("Steps", "1-10"))
    sheet = sheets.pixels(done)
    assert sheet.shape[0] * sheet.shape[1] <= 100_000
    assert sheets.draw(done, "webp")[:4] == b"RIFF"


def test_the_table_has_all_parameters_of_all_cells(bench: Bench) -> None:
    base = {"prompt": "=1+1 cat", "negative_prompt": "a, b"}
    done = drawn(bench, ("Seed", "1, 2"), ("Checkpoint name", "cat, half"), **base)
    rows = list(csv.DictReader(io.StringIO("".join(report.table(done, bench.sweeps.request)))))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert rows[1]["Seed"] == "Seed: 2" and rows[1]["seed"] == "2"
    assert rows[1]["steps"] == "4" and rows[1]["checkpoint"] == "cat.safetensors"
    assert rows[0]["prompt"] == "'=1+1 cat" and rows[0]["negative_prompt"] == "a, b"
    assert "Steps: 4" in rows[0]["infotext"]
    assert "truncated" in rows[2]["error"]


def test_the_page_shows_every_cell_and_escapes_what_people_wrote(bench: Bench) -> None:
    done = drawn(bench, ("Prompt S/R", "cat, <script>alert(1)</script>"), ("Seed", "1, 2"))
    text = report.page(done, lambda index: f"cells/{index}")
    assert text.count("<img ") == 4
    assert "<script>" not in text and "&lt;script&gt;" in text


# --- dry run -------------------------------------------------------------------------------------


def test_a_dry_run_counts_cells_loads_and_what_will_not_work(bench: Bench) -> None:
    plan = bench.sweeps.dry_run(asked(("Checkpoint name", "cat, dog, half"), ("Seed", "1-4, 4")))
    assert (plan["cells"], plan["to_draw"], plan["equal"]) == (15, 8, 2)
    assert (plan["checkpoints"], plan["loads"], plan["seconds"]) == (2, 2, None)
    assert plan["fits"] is False
    assert plan["problems"] == [
        {"reason": "half.safetensors is truncated", "cells": [2, 5, 8, 11, 14]}
    ]
    assert plan["text"] == (
        "15 cells, 8 to draw, 2 model loads, 5 will not work: half.safetensors is truncated"
    )
    assert bench.runner.ran == [] and bench.sweeps.newest(9) == []


def test_a_dry_run_learns_times_and_sizes_from_jobs_that_were(bench: Bench) -> None:
    drawn(bench, ("Seed", "1, 2"))
    plan = bench.sweeps.dry_run(asked(("Seed", "1-100")))
    assert isinstance(plan["seconds"], float)
    assert "about" in str(plan["text"])
    assert 0 < int(str(plan["disk_bytes"])) < 100 * 64 * 64 * 3
