"""From flags to a server that runs, and back to nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.core.paths import install_root
from sdforge.flags import parse
from sdforge.launcher import StartError, credentials, make_folders, make_paths, make_settings
from sdforge.ports import url_of

START_SECONDS = 60


def test_folders_are_a1111_s_and_flags_add_to_them(tmp_path: Path) -> None:
    paths = make_paths(
        parse(["--data-dir", f"{tmp_path}", "--ckpt-dir", f"{tmp_path}/c", "--vae-dir", "v"])
    )
    assert paths.checkpoints == (tmp_path / "models/Stable-diffusion", tmp_path / "c")
    assert paths.vaes == (tmp_path / "models/VAE", Path.cwd() / "v")
    assert paths.settings == tmp_path / "config.json"


def test_folders_of_loras_and_embeddings_are_added_too(tmp_path: Path) -> None:
    named = ["--lora-dir", "l", "--lyco-dir-backcompat", "y", "--embeddings-dir", "e"]
    paths = make_paths(parse(["--data-dir", f"{tmp_path}", *named]))
    here, models = Path.cwd(), tmp_path / "models"
    assert paths.loras == (models / "Lora", models / "LyCORIS", here / "l", here / "y")
    assert paths.embeddings == (tmp_path / "embeddings", models / "embeddings", here / "e")


def test_styles_lie_in_the_data_folder_or_where_flags_say(tmp_path: Path) -> None:
    assert make_paths(parse(["--data-dir", f"{tmp_path}"])).styles == (tmp_path / "styles.csv",)
    named = ["--styles-file", f"{tmp_path}/a.csv", "--styles-file", f"{tmp_path}/b*.csv"]
    assert make_paths(parse(named)).styles == (tmp_path / "a.csv", tmp_path / "b*.csv")


def test_the_folders_for_models_are_made_at_the_first_start(tmp_path: Path) -> None:
    paths = make_paths(parse(["--data-dir", f"{tmp_path}/new"]))
    make_folders(paths)
    assert all(folder.is_dir() for folder in (paths.checkpoints[0], paths.vaes[0], paths.cache))


def test_without_a_data_folder_the_program_s_own_is_used() -> None:
    assert make_paths(parse([])).data == install_root()


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be written .*choose another with --data-dir"):
        make_folders(make_paths(parse(["--data-dir", f"{tmp_path}/file"])))


def test_flags_decide_settings_for_this_run_only(tmp_path: Path) -> None:
    checkpoint = tmp_path / "elsewhere" / "my.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    arguments = f"--data-dir {tmp_path} --medvram --ckpt {checkpoint} --vae-path {checkpoint}"
    flags = parse(arguments.split())
    paths = make_paths(flags)
    current = make_settings(flags, paths).current
    assert (current.memory_mode, current.sd_model_checkpoint) == ("medvram", "my.safetensors")
    assert current.sd_vae == "my.safetensors"
    assert checkpoint.parent in paths.checkpoints
    assert checkpoint.parent in paths.vaes
    eight = make_settings(parse(["--unet-in-fp8-e5m2"]), paths).current
    assert eight.forge_unet_storage_dtype == "float8-e5m2"
    without = make_settings(parse([]), paths).current
    assert without.forge_unet_storage_dtype == "Automatic"
    assert (without.memory_mode, without.sd_model_checkpoint) == ("auto", "")


def test_advice_is_printed_without_a_server_or_torch(tmp_path: Path) -> None:
    command = "--advise --simulate-device 8192 --data-dir"
    code = (
        "import sys; from sdforge.launcher import main; status = main(sys.argv[1:]); "
        "sys.stderr.write(str('torch' in sys.modules)); sys.exit(status)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *command.split(), f"{tmp_path}/data"],
        cwd=install_root(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "False")
    assert "8,192 MiB" in answer.stdout
    for family in ("SD 1.5", "SDXL", "Flux.1", "Z-Image"):
        assert family in answer.stdout
    assert not (tmp_path / "data").exists()


def test_user_names_come_from_all_three_flags(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("carl:3,dora:4\n\neve:5\n")
    flags = parse(["--api-auth", "a:1", "--gradio-auth", "b:2", "--gradio-auth-path", f"{file}"])
    assert credentials(flags) == "a:1,b:2,carl:3,dora:4,eve:5"
    assert credentials(parse([])) is None


@pytest.mark.parametrize(
    ("arguments", "host", "url"),
    [
        ([], "127.0.0.1", "http://127.0.0.1:{port}/"),
        (["--listen", "--insecure"], "0.0.0.0", "http://127.0.0.1:{port}/"),
        (["--subpath", "/sd/"], "127.0.0.1", "http://127.0.0.1:{port}/sd"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(
    arguments: list[str], host: str, url: str
) -> None:
    with socket.create_server((host, 0)) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound, parse(arguments)) == url.format(port=port)


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sdforge", "--port", f"{self.port}", "--data-dir", f"{folder}",
             "--skip-load-model-at-start", *arguments],
            cwd=install_root(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text; waits until the server accepts connections."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except urllib.error.URLError:
                assert time.monotonic() < end and self.process.poll() is None, self.output()
                time.sleep(0.05)

    def wait_for_page(self) -> str:
        end = time.monotonic() + START_SECONDS
        while (answer := self.get("/"))[0] == 503:
            assert time.monotonic() < end, self.output()
            time.sleep(0.1)
        assert answer[0] == 200
        return answer[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def output(self) -> str:
        self.process.kill()
        return self.process.communicate()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def test_the_api_is_there_first_then_the_page_and_a_signal_ends_both(folder: Path) -> None:
    server = Process(folder)
    assert server.get("/healthz")[0] == 200
    status, waiting = server.get("/")
    assert status == 503
    assert "being built" in waiting
    assert "gradio" in server.wait_for_page()
    assert server.get("/sdapi/v1/samplers")[0] == 200
    assert server.stop() == 0
    text = server.output()
    assert f"API and page at http://127.0.0.1:{server.port}/" in text
    assert "Page ready after" in text
    assert text.rstrip().endswith("Stopped")


def test_without_a_page_the_server_needs_no_gradio_and_stops_on_ctrl_c(folder: Path) -> None:
    server = Process(folder, "--nowebui")
    assert server.get("/healthz")[0] == 200
    assert server.get("/")[0] == 404
    assert server.stop(signal.SIGINT) == 0


def test_a_taken_port_ends_the_start_with_one_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        answer = subprocess.run(
            [sys.executable, "-m", "sdforge", "--port", f"{taken}", "--data-dir", f"{folder}"],
            cwd=install_root(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"sdforge: port {taken} is taken")
    assert answer.stderr.count("\n") == 1


def test_two_servers_cannot_share_a_data_folder(folder: Path) -> None:
    first = Process(folder, "--nowebui")
    first.get("/healthz")
    second = Process(folder, "--nowebui")
    assert second.process.wait(START_SECONDS) == 1
    assert "sdforge: " in second.output()
    assert first.stop() == 0


def test_flags_freeze_settings(tmp_path: Path) -> None:
    paths = make_paths(parse(["--data-dir", f"{tmp_path}"]))

    def change(arguments: str, **values: object) -> None:
        make_settings(parse(arguments.split()), paths).update(values)

    with pytest.raises(InvalidRequest, match="freeze"):
        change("--freeze-settings", jpeg_quality=70)
    with pytest.raises(InvalidRequest, match="jpeg_quality"):
        change("--freeze-specific-settings eta_ddim,jpeg_quality", jpeg_quality=70)
    with pytest.raises(InvalidRequest, match="jpeg_quality"):
        change("--freeze-settings-in-sections saving-images", jpeg_quality=70)
    change("--freeze-settings-in-sections sd,ui", jpeg_quality=70)
    assert make_settings(parse([]), paths).current.jpeg_quality == 70


@pytest.mark.parametrize("route", ["server-stop", "server-kill", "server-restart"])
def test_the_server_ends_when_its_routes_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    marker = folder / "restart"
    monkeypatch.setenv("SD_WEBUI_RESTART", str(marker))
    server = Process(folder, "--nowebui", "--api-server-stop")
    server.get("/healthz")
    url = f"http://127.0.0.1:{server.port}/sdapi/v1/{route}"
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, method="POST"))
    assert server.process.wait(START_SECONDS) == 0
    assert marker.exists() == (route == "server-restart")
