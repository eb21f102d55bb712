from pathlib import Path

import pytest

from sdforge.memory.pressure import HostMemory, automatic_budget, read_host_memory

GIB = 1024**3


def test_memory_is_given_back_below_the_low_mark_and_up_to_the_high_one() -> None:
    def shortage(available: int, stall: float = 0.0) -> int:
        return HostMemory(total=20 * GIB, available=available, stall_percent=stall).shortage

    assert shortage(2 * GIB) == 0  # exactly a tenth
    assert shortage(2 * GIB - 1) == GIB + 1  # up to three of twenty
    assert shortage(int(2.5 * GIB)) == 0  # between the marks nothing happens
    assert shortage(int(2.5 * GIB), stall=50) == GIB // 2
    assert shortage(10 * GIB, stall=50) == 0  # others thrash; our leaving would not help


def test_large_machines_need_no_larger_marks() -> None:
    memory = HostMemory(total=1024 * GIB, available=5 * GIB)
    assert (memory.low_mark, memory.high_mark) == (4 * GIB, 6 * GIB)


def test_the_automatic_budget_is_half_of_the_memory_and_never_the_last_two_gib() -> None:
    assert automatic_budget(HostMemory(total=32 * GIB, available=30 * GIB), 0) == 14 * GIB
    assert automatic_budget(HostMemory(total=32 * GIB, available=5 * GIB), 4 * GIB) == 7 * GIB
    assert automatic_budget(HostMemory(total=2 * GIB, available=GIB), 0) == 0


def test_this_machine_has_memory(tmp_path: Path) -> None:
    memory = read_host_memory(tmp_path, tmp_path / "none")
    assert 0 < memory.available <= memory.total
    assert memory.stall_percent == 0


def container(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_containers_limit_counts_and_its_cached_files_do_not(tmp_path: Path) -> None:
    limit, used = 512 * 1024**2, 400 * 1024**2
    folder = container(
        tmp_path,
        memory__max=f"{limit}\n",
        memory__current=f"{used}\n",
        memory__stat=f"anon 5\ninactive_file {100 * 1024**2}\nactive_file {50 * 1024**2}\n",
        memory__swap__max="0\n",
    )
    memory = read_host_memory(folder, tmp_path / "none")
    assert memory.total == limit
    assert memory.available == limit - used + 150 * 1024**2
    assert memory.swap_free == 0


def test_a_container_without_a_limit_has_the_machines_memory(tmp_path: Path) -> None:
    folder = container(tmp_path, memory__max="max\n", memory__current="1000\n")
    assert read_host_memory(folder).total == read_host_memory(tmp_path / "none").total


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=12.50 avg60=1.00 avg300=0.10 total=9\nfull avg10=1.0\n", 12.5),
        ("nonsense", 0.0),
        ("some avg10=much", 0.0),
        ("", 0.0),
    ],
)
def test_stalls_are_read_from_the_kernel(tmp_path: Path, text: str, percent: float) -> None:
    file = tmp_path / "memory"
    file.write_text(text)
    assert read_host_memory(tmp_path, file).stall_percent == percent
