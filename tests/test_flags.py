"""The command line: A1111's and Forge's flags are accepted, mistakes are explained."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdforge import flags
from sdforge.core.settings import MEMORY_MODES
from sdforge.flags import FLAGS, LATER, FlagError, memory_mode, parse, wants_cpu

ROOT = Path(__file__).resolve().parents[1]

# Command lines from start scripts that people publish.
SEEN_IN_THE_WILD = (
    "--xformers --medvram --autolaunch --theme dark",
    "--api --listen --port 7861 --api-auth user:pass --cors-allow-origins=http://localhost:3000",
    "--no-half --precision full --use-cpu all --skip-torch-cuda-test",
    "--opt-sdp-attention --no-half-vae --upcast-sampling --opt-channelslast",
    "--always-high-vram --cuda-malloc --cuda-stream --pin-shared-memory",
    "--nowebui --api --api-log --skip-load-model-at-start --no-download-sd-model",
    "--ckpt-dir /models --vae-dir /vae --lora-dir /lora --embeddings-dir /e --disable-nan-check",
    "--directml --lowvram --use-cpu interrogate gfpgan --styles-file a.csv --styles-file b.csv",
    "--unet-in-fp8-e4m3fn --vae-in-fp32 --clip-in-fp16 --attention-pytorch",
)


@pytest.mark.parametrize("line", SEEN_IN_THE_WILD)
def test_command_lines_of_other_programs_are_accepted(line: str) -> None:
    assert parse(line.split()).ignored == ()


def test_every_flag_has_one_row_a_help_text_and_a_known_effect() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names)
    effects = {flags.ACTS, flags.ALWAYS, flags.OBSOLETE, flags.LATER}
    assert all(flag.help and flag.effect in effects for flag in FLAGS)


def test_a_flag_without_effect_is_said_so_in_one_line() -> None:
    notes = parse(["--clip-models-path", "x", "--torch-compile", "--api"]).notes()
    (note,) = notes
    assert note.startswith("accepted, but without effect in this version: --torch-compile, --clip")


def test_flags_that_act_or_ask_for_what_is_always_so_are_not_remarked_on() -> None:
    assert parse(["--api", "--medvram", "--disable-nan-check", "--port", "7000"]).notes() == []


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [("--medvam", "--medvram"), ("--prot", "--port"), ("--api-atuh=a:b", "--api-auth")],
)
def test_an_unknown_flag_is_refused_with_the_one_that_was_meant(mistake: str, meant: str) -> None:
    with pytest.raises(FlagError, match=f"did you mean .*{meant}"):
        parse([mistake])


def test_abbreviated_flags_are_refused_because_another_version_may_read_them_differently() -> None:
    with pytest.raises(FlagError, match="did you mean --no-half-vae"):
        parse(["--no-half-v"])


def test_unknown_flags_are_ignored_aloud_when_the_environment_says_so() -> None:
    parsed = parse(["--of-an-extension", "3"], {"IGNORE_CMD_ARGS_ERRORS": "1"})
    assert parsed.notes() == ["unknown arguments were ignored: --of-an-extension 3"]


def test_the_environment_adds_flags_behind_those_of_the_command_line() -> None:
    parsed = parse(["--port", "1000"], {"COMMANDLINE_ARGS": '--port 2000 --data-dir "a b"'})
    assert (parsed["port"], parsed["data_dir"]) == (2000, "a b")


def test_an_unclosed_quote_in_the_environment_is_explained() -> None:
    with pytest.raises(FlagError, match="COMMANDLINE_ARGS cannot be read"):
        parse([], {"COMMANDLINE_ARGS": '--data-dir "a b'})


@pytest.mark.parametrize(
    "pair",
    [
        ["--always-cpu", "--always-gpu"],
        ["--unet-in-bf16", "--unet-in-fp16"],
        ["--attention-split", "--attention-quad"],
    ],
)
def test_flags_that_contradict_each_other_are_refused(pair: list[str]) -> None:
    with pytest.raises(FlagError, match="not allowed with"):
        parse(pair)


@pytest.mark.parametrize("public", [["--listen"], ["--server-name", "192.168.0.7"]])
def test_listening_to_the_network_needs_a_password_or_the_word_insecure(public: list[str]) -> None:
    with pytest.raises(FlagError, match="--api-auth USER:PASSWORD, or --insecure"):
        parse(public)
    for protected in (["--api-auth", "a:b"], ["--gradio-auth", "a:b"], ["--insecure"]):
        parse([*public, *protected])


def test_the_own_machine_may_be_named_without_a_password() -> None:
    parse(["--server-name", "127.0.0.1"])


def test_a_public_tunnel_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(FlagError, match="SSH tunnel"):
        parse(["--share"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "from 0 to 65535"),
        (["--port", "http"], "invalid int value: 'http'"),
        (["--tls-keyfile", __file__], "needed both"),
        (["--ckpt", "missing.safetensors"], "there is no file missing.safetensors"),
        (["--loglevel", "LOUD"], "CRITICAL, ERROR"),
    ],
)
def test_a_value_that_cannot_be_used_is_explained(arguments: list[str], sentence: str) -> None:
    with pytest.raises(FlagError, match=sentence):
        parse(arguments)


@pytest.mark.parametrize(
    ("flag", "mode"),
    [
        ("--medvram", "medvram"),
        ("--medvram-sdxl", "medvram-sdxl"),
        ("--lowvram", "lowvram"),
        ("--always-no-vram", "always-no-vram"),
        ("--always-low-vram", "always-low-vram"),
        ("--always-normal-vram", "always-normal-vram"),
        ("--always-high-vram", "always-high-vram"),
        ("--always-gpu", "always-gpu"),
        ("--always-offload-from-vram", "always-offload-from-vram"),
        ("--disable-smart-memory", "always-offload-from-vram"),
        ("--always-cpu", "always-cpu"),
        ("--api", None),
    ],
)
def test_memory_flags_choose_the_memory_mode(flag: str, mode: str | None) -> None:
    assert memory_mode(parse([flag])) == mode
    assert mode is None or mode in MEMORY_MODES


@pytest.mark.parametrize("argument", ["--vram-limit", "--simulate-device", "--reserve-vram"])
def test_amounts_of_memory_are_above_zero(argument: str) -> None:
    with pytest.raises(FlagError, match="above 0"):
        parse([argument, "0"])


def test_the_cpu_is_asked_for_by_either_program_s_flag() -> None:
    assert wants_cpu(parse(["--always-cpu"]))
    assert wants_cpu(parse(["--use-cpu", "all"]))
    assert not wants_cpu(parse(["--use-cpu", "interrogate"]))


def test_help_lists_every_flag_at_once_and_needs_nothing_installed() -> None:
    """-S and -E hide installed packages: launch.py must manage with the standard library."""
    began = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-S", "-E", ROOT / "launch.py", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.perf_counter() - began < 2
    text = " ".join(answer.stdout.split())
    assert all(flag.name in text for flag in FLAGS)
    assert text.count("(no effect yet)") == sum(flag.effect == LATER for flag in FLAGS)


def test_a_mistyped_flag_ends_launch_py_with_status_2() -> None:
    answer = subprocess.run(
        [sys.executable, "-S", "-E", ROOT / "launch.py", "--medvam"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 2
    assert answer.stderr.startswith("launch.py: unknown argument --medvam; did you mean --medvram")


@pytest.mark.parametrize(
    "given",
    [
        ["--model", "x.safetensors"],
        ["--model", "hf:o/n/x.gguf", "--ckpt", __file__],
        ["--hub-endpoint", "huggingface.co"],
        ["--hub-endpoint", "https://a.test/path"],
        ["--hub-endpoint", "file:///x"],
    ],
)
def test_a_hub_that_cannot_be_meant_is_refused(given: list[str]) -> None:
    with pytest.raises(FlagError, match=r"--model|--hub-endpoint"):
        parse(given, {})
