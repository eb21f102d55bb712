"""The command line: one table of flags, with A1111's and Forge's names.

Every flag of theirs is accepted, so existing start scripts keep working. Each row says what it does
here: `ACTS`; `ALWAYS` (what it asks for is always so); `OBSOLETE` (it worked around something that
is not here); `LATER` (no effect yet, which is said at start). Standard library only: `launch.py`
reads this before anything is installed. `sdforge.launcher` turns the values into objects.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdforge.core.errors import closest_names

ACTS = "acts"
ALWAYS = "always"
OBSOLETE = "obsolete"
LATER = "later"

_SUFFIX = {ACTS: "", ALWAYS: " (always so)", OBSOLETE: " (not needed)", LATER: " (no effect yet)"}


@dataclass(frozen=True)
class Flag:
    """One flag. `kind` of bool is a switch; `group` names flags that exclude one another."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    effect: str
    nargs: str | None = None
    choices: tuple[str, ...] | None = None
    repeat: bool = False
    group: str | None = None

    @property
    def key(self) -> str:
        """The name in `Flags`: no leading dashes, underscores inside."""
        return self.name.lstrip("-").replace("-", "_")


def _switch(name: str, effect: str, text: str, group: str | None = None) -> Flag:
    return Flag(name, bool, False, text, effect, group=group)


def _text(name: str, effect: str, text: str, default: str | None = None, **more: Any) -> Flag:
    return Flag(name, str, default, text, effect, **more)


def _number(name: str, effect: str, text: str, default: float | None = None, **more: Any) -> Flag:
    more.setdefault("kind", int)
    return Flag(name, default=default, help=text, effect=effect, **more)


# fmt: off
SECTIONS: dict[str, tuple[Flag, ...]] = {
    "network and access": (
        _number("--port", ACTS, "port to listen on; without it 7860 (7861 with --nowebui) or the next free one"),
        _switch("--listen", ACTS, "listen on all interfaces, so that other machines can connect; needs --api-auth"),
        _text("--server-name", ACTS, "address to listen on instead of 127.0.0.1"),
        _switch("--insecure", ACTS, "allow --listen without a password: anybody on the network can use the server"),
        _text("--allowed-hosts", ACTS, "further host names under which the server may be reached, with commas between"),
        _switch("--api", ALWAYS, "serve the REST API"),
        _switch("--nowebui", ACTS, "serve the REST API without the page"),
        _text("--api-auth", ACTS, "user:password[,user:password]: ask for a password, for the API and the page"),
        _switch("--api-log", ACTS, "log every request"),
        _switch("--api-server-stop", ACTS, "serve the routes that stop and restart the server"),
        _switch("--add-stop-route", OBSOLETE, "an older name of --api-server-stop"),
        _text("--gradio-auth", ACTS, "the same as --api-auth; both lists count"),
        _text("--gradio-auth-path", ACTS, "file of user:password pairs, with commas or line breaks between"),
        _text("--webhook-hosts", ACTS, "hosts that jobs may tell of their end, with commas between; needs --webhook-secret"),
        _text("--webhook-secret", ACTS, "signs what is told to webhooks"),
        _text("--cors-allow-origins", ACTS, "origins whose pages may use the API, with commas between"),
        _text("--cors-allow-origins-regex", ACTS, "the same, as a regular expression"),
        _text("--tls-keyfile", ACTS, "private key; with --tls-certfile serves https"),
        _text("--tls-certfile", ACTS, "certificate; with --tls-keyfile serves https"),
        _switch("--disable-tls-verify", OBSOLETE, "accept a self-signed certificate of one's own"),
        _text("--subpath", ACTS, "path under which a reverse proxy serves this server"),
        _number("--timeout-keep-alive", ACTS, "seconds that an idle connection is kept", 30),
        _switch("--autolaunch", ACTS, "open the page in the browser"),
        _switch("--share", ACTS, "refused: public tunnels are not in this version"),
        _text("--ngrok", ACTS, "refused: public tunnels are not in this version"),
        _text("--ngrok-options", OBSOLETE, "options of --ngrok"),
        _text("--ngrok-region", OBSOLETE, "region of --ngrok"),
        _switch("--gradio-debug", OBSOLETE, "debug mode of the page"),
        _switch("--gradio-queue", ALWAYS, "queue the page's events"),
        _switch("--no-gradio-queue", OBSOLETE, "do not queue the page's events"),
        _text("--gradio-allowed-path", ACTS, "a further folder that batches from a directory may read and write", repeat=True),
        _text("--gradio-img2img-tool", OBSOLETE, "the page's picture editor"),
        _text("--gradio-inpaint-tool", OBSOLETE, "the page's mask editor"),
        _text("--theme", ACTS, "colours of the page; without it the browser decides", choices=("light", "dark")),
        _switch("--use-textbox-seed", OBSOLETE, "a text box for the seed"),
        _switch("--no-progressbar-hiding", OBSOLETE, "keep the progress bar"),
        _number("--max-batch-count", ACTS, "end of the batch count slider", 100),
        _switch("--show-negative-prompt", OBSOLETE, "show the negative prompt"),
        _switch("--enable-insecure-extension-access", LATER, "extensions may be installed with --listen"),
        _switch("--administrator", LATER, "the page may change everything with --listen"),
    ),
    "memory and precision": (
        _switch("--medvram", ACTS, "keep one part of the model on the device at a time (setting memory_mode)"),
        _switch("--medvram-sdxl", ACTS, "the same, for SDXL models only"),
        _switch("--lowvram", ACTS, "stream the model through the device in pieces (setting memory_mode)"),
        _switch("--lowram", OBSOLETE, "load weights straight to the device"),
        _switch("--always-batch-cond-uncond", OBSOLETE, "now the setting batch_cond_uncond"),
        _switch("--no-half", ACTS, "compute in 32 bits"),
        _switch("--no-half-vae", ACTS, "compute the VAE in 32 bits"),
        _text("--precision", ACTS, "'full' computes in 32 bits; the others are the same here", "autocast", choices=("full", "half", "autocast")),
        _switch("--upcast-sampling", LATER, "sample in 32 bits with 16-bit weights"),
        _switch("--opt-channelslast", LATER, "memory layout with channels last"),
        _switch("--force-channels-last", LATER, "memory layout with channels last"),
        _switch("--disable-nan-check", OBSOLETE, "do not look for pictures of nothing but NaN"),
        _text("--use-cpu", ACTS, "parts to compute on the CPU; 'all' and 'sd' act here", nargs="+"),
        _switch("--use-ipex", LATER, "use an Intel GPU"),
        Flag("--directml", int, None, "use DirectML", LATER, nargs="?"),
        _number("--device-id", ACTS, "number of the GPU to use"),
        _number("--gpu-device-id", ACTS, "the same, and hide the other GPUs from this process"),
        _switch("--disable-model-loading-ram-optimization", OBSOLETE, "load models the plain way"),
        _switch("--all-in-fp32", ACTS, "compute in 32 bits", "all"),
        _switch("--all-in-fp16", ACTS, "compute in fp16, the VAE too", "all"),
        _switch("--unet-in-bf16", ACTS, "denoiser in bf16", "unet"),
        _switch("--unet-in-fp16", ACTS, "denoiser in fp16", "unet"),
        _switch("--unet-in-fp8-e4m3fn", ACTS, "denoiser's weights in 8 bits (setting forge_unet_storage_dtype)", "unet"),
        _switch("--unet-in-fp8-e5m2", ACTS, "the same with a wider range and less precision", "unet"),
        _switch("--fp32-unet", ACTS, "denoiser in 32 bits", "unet"),
        _switch("--vae-in-fp16", ACTS, "VAE in fp16", "vae"),
        _switch("--vae-in-fp32", ACTS, "VAE in 32 bits", "vae"),
        _switch("--vae-in-bf16", ACTS, "VAE in bf16", "vae"),
        _switch("--vae-in-cpu", ACTS, "VAE on the CPU"),
        _switch("--clip-in-fp8-e4m3fn", LATER, "text encoders' weights in 8 bits", "clip"),
        _switch("--clip-in-fp8-e5m2", LATER, "text encoders' weights in 8 bits", "clip"),
        _switch("--clip-in-fp16", ACTS, "text encoders in fp16", "clip"),
        _switch("--clip-in-fp32", ACTS, "text encoders in 32 bits", "clip"),
        _switch("--bf16-text-enc", ACTS, "text encoders in bf16", "clip"),
        _switch("--always-gpu", ACTS, "keep everything on the device", "vram"),
        _switch("--always-high-vram", ACTS, "keep models on the device after use", "vram"),
        _switch("--always-normal-vram", ACTS, "memory_mode normal, never chosen by measuring", "vram"),
        _switch("--always-low-vram", ACTS, "keep a part of the model on the device, stream the rest", "vram"),
        _switch("--always-no-vram", ACTS, "as --lowvram, with as little memory as can be", "vram"),
        _switch("--always-cpu", ACTS, "compute on the CPU", "vram"),
        _switch("--always-offload-from-vram", ACTS, "take each part off the device as soon as it has run"),
        _switch("--disable-smart-memory", ACTS, "another name of --always-offload-from-vram"),
        _number("--reserve-vram", ACTS, "GB of the device to leave to other programs", kind=float),
        _number("--vram-limit", ACTS, "MiB of the device to use at most: plays a smaller card, or shares one"),
        _number("--simulate-device", ACTS, "make an accelerator of that many MiB out of main memory, to try memory modes"),
        _switch("--advise", ACTS, "print which models suit this machine, in which mode, and stop"),
        _switch("--cuda-malloc", ACTS, "use CUDA's own allocator"),
        _switch("--cuda-stream", ALWAYS, "copy weights while computing"),
        _switch("--async-offload", ALWAYS, "copy weights while computing"),
        _switch("--pin-shared-memory", ALWAYS, "keep streamed weights in pinned memory"),
        _switch("--disable-mmap", LATER, "read model files instead of mapping them"),
        _switch("--pytorch-deterministic", LATER, "use deterministic algorithms only"),
        _switch("--torch-compile", LATER, "compile the denoiser"),
        _text("--fast", LATER, "faster arithmetic of less precision", nargs="*"),
        _switch("--disable-gpu-warning", OBSOLETE, "less output"),
        _switch("--disable-ipex-hijack", OBSOLETE, "less output"),
    ),
    "attention": (
        _switch("--xformers", ACTS, "install xformers and use it where it works"),
        _switch("--force-enable-xformers", ACTS, "use xformers without trying it first"),
        _switch("--xformers-flash-attention", ALWAYS, "xformers' flash attention, which it takes where it can"),
        _switch("--disable-xformers", ACTS, "do not use xformers"),
        _switch("--reinstall-xformers", ACTS, "install xformers anew"),
        _switch("--opt-sdp-attention", ALWAYS, "torch's scaled dot product attention"),
        _switch("--opt-sdp-no-mem-attention", ACTS, "the same, deterministic"),
        _switch("--opt-split-attention", ACTS, "attention in slices"),
        _switch("--opt-split-attention-v1", ACTS, "attention in slices"),
        _switch("--opt-split-attention-invokeai", ACTS, "attention in slices"),
        _switch("--disable-opt-split-attention", OBSOLETE, "attention in one piece"),
        _switch("--opt-sub-quad-attention", ACTS, "attention in chunks"),
        _number("--sub-quad-q-chunk-size", ACTS, "chunk of queries", 1024),
        _number("--sub-quad-kv-chunk-size", ACTS, "chunk of keys and values"),
        _number("--sub-quad-chunk-threshold", LATER, "percentage of memory from which on to use chunks"),
        _switch("--attention-split", ACTS, "attention in slices", "attention"),
        _switch("--attention-quad", ACTS, "attention in chunks", "attention"),
        _switch("--attention-pytorch", ALWAYS, "torch's scaled dot product attention", "attention"),
        _switch("--use-sage-attention", ACTS, "SageAttention's package, where it works"),
        _switch("--use-flash-attention", ACTS, "FlashAttention's own package, where it works"),
        _switch("--force-upcast-attention", ACTS, "attention in 32 bits", "upcast"),
        _switch("--disable-attention-upcast", ALWAYS, "attention never in 32 bits", "upcast"),
    ),
    "folders and files": (
        _text("--data-dir", ACTS, "folder of config.json, outputs and models (default: this program's own)"),
        _text("--models-dir", ACTS, "folder of models (default: models in the data folder)"),
        _text("--ckpt", ACTS, "checkpoint to start with; its folder need not be one of the model folders"),
        _text("--model", ACTS, "hf:owner/name/file: fetch this checkpoint from the hub unless it is there, and start with it"),
        _switch("--hub-downloads", ACTS, "let clients and the Models tab fetch model files from the hub"),
        _text("--hub-endpoint", ACTS, "address of the hub instead of https://huggingface.co, such as a mirror's"),
        _text("--ckpt-dir", ACTS, "a further folder of checkpoints"),
        _text("--vae-dir", ACTS, "a further folder of VAEs"),
        _text("--vae-path", ACTS, "VAE file to use for every checkpoint"),
        _text("--history-dir", ACTS, "a further folder whose pictures the history can import", repeat=True),
        _text("--ui-settings-file", ACTS, "file of settings (default: config.json in the data folder)"),
        _text("--ui-config-file", LATER, "file of the page's defaults"),
        _text("--styles-file", ACTS, "file of styles (default: styles.csv in the data folder); several, or with *, are read together", repeat=True),
        _text("--text-encoder-dir", ACTS, "a further folder of text encoders"),
        _text("--lora-dir", ACTS, "a further folder of LoRA files"),
        _text("--lyco-dir-backcompat", ACTS, "a further folder of LyCORIS files"),
        _text("--embeddings-dir", ACTS, "a further folder of embeddings"),
        _text("--hypernetwork-dir", ACTS, "a further folder of hypernetworks"),
        _text("--controlnet-dir", ACTS, "a further folder of ControlNet models"),
        _text("--controlnet-preprocessor-models-dir", LATER, "folder of the preprocessors' models"),
        _text("--controlnet-annotator-models-path", LATER, "folder of the preprocessors' models"),
        _text("--controlnet-loglevel", LATER, "how much ControlNet logs"),
        _switch("--no-half-controlnet", LATER, "ControlNet in 32 bits"),
        _text("--esrgan-models-path", ACTS, "a further folder of ESRGAN models"),
        _text("--realesrgan-models-path", ACTS, "a further folder of Real-ESRGAN models"),
        _text("--bsrgan-models-path", ACTS, "a further folder of BSRGAN models, which are ESRGAN's kind"),
        _text("--dat-models-path", LATER, "folder of DAT models"),
        _text("--scunet-models-path", LATER, "folder of ScuNET models"),
        _text("--swinir-models-path", LATER, "folder of SwinIR models"),
        _text("--ldsr-models-path", LATER, "folder of LDSR models"),
        _text("--codeformer-models-path", ACTS, "a further folder of CodeFormer models"),
        _text("--gfpgan-models-path", ACTS, "a further folder of GFPGAN models"),
        _text("--gfpgan-dir", OBSOLETE, "folder of GFPGAN's program"),
        _text("--gfpgan-model", LATER, "GFPGAN model"),
        _text("--clip-models-path", LATER, "folder of CLIP models"),
        _text("--textual-inversion-templates-dir", LATER, "folder of training templates"),
        _text("--localizations-dir", ACTS, "folder of translations"),
        _text("--forge-ref-a1111-home", ACTS, "an installation of A1111 or Forge whose model folders to search too, in place"),
        _text("--model-ref", LATER, "a folder of models to use too"),
        _text("--config", OBSOLETE, "the first checkpoint's configuration"),
    ),
    "start and installation": (
        _switch("--skip-install", ACTS, "install nothing; use the environment as it is"),
        _switch("--skip-prepare-environment", ACTS, "the same as --skip-install"),
        _switch("--skip-python-version-check", ACTS, "start with an unsupported Python version"),
        _switch("--skip-version-check", OBSOLETE, "do not check the versions of packages"),
        _switch("--skip-torch-cuda-test", ALWAYS, "start without a GPU too"),
        _switch("--reinstall-torch", ACTS, "install torch anew"),
        _switch("--skip-load-model-at-start", ACTS, "load the checkpoint with the first job, not before"),
        _switch("--no-hashing", ACTS, "do not compute the checkpoints' SHA-256"),
        _switch("--no-download-sd-model", ALWAYS, "download no model"),
        _switch("--do-not-download-clip", ALWAYS, "download no model"),
        _text("--loglevel", ACTS, "how much to log: CRITICAL, ERROR, WARNING, INFO or DEBUG", "INFO"),
        _switch("--log-startup", ALWAYS, "say how long the start took"),
        _switch("--update-check", OBSOLETE, "look for a new version"),
        _switch("--update-all-extensions", LATER, "update extensions"),
        _switch("--disable-all-extensions", ACTS, "use no extensions"),
        _switch("--disable-extra-extensions", ACTS, "use only the extensions that come with the program"),
        _switch("--dump-sysinfo", LATER, "write what is known of this machine to a file and stop"),
        _switch("--test-server", LATER, "settings for a test run"),
        _switch("--ui-debug-mode", LATER, "start without a model"),
        Flag("-f", bool, False, "run as root", ALWAYS),
    ),
    "other": (
        _switch("--disable-console-progressbars", LATER, "no progress bars in the terminal"),
        _switch("--enable-console-prompts", LATER, "log prompts"),
        _switch("--allow-code", LATER, "the page may run code of its own"),
        _switch("--disable-safe-unpickle", OBSOLETE, "files that can run code are never read"),
        _switch("--freeze-settings", ACTS, "settings cannot be changed"),
        _text("--freeze-settings-in-sections", ACTS, "sections of settings that cannot be changed"),
        _text("--freeze-specific-settings", ACTS, "settings that cannot be changed"),
        _switch("--hide-ui-dir-config", LATER, "do not show folders in the settings"),
        _switch("--unix-filenames-sanitization", LATER, "allow what Linux allows in file names"),
        _number("--filenames-max-length", LATER, "longest file name", 128),
        _switch("--no-prompt-history", LATER, "do not keep the last prompt"),
        _switch("--deepdanbooru", OBSOLETE, "DeepDanbooru"),
        _switch("--unload-gfpgan", OBSOLETE, "unload GFPGAN after use"),
    ),
}
# fmt: on

# Flag → setting `forge_unet_storage_dtype`.
STORAGE_OF_FLAG: Mapping[str, str] = {
    "unet_in_fp8_e4m3fn": "float8-e4m3fn",
    "unet_in_fp8_e5m2": "float8-e5m2",
}

# Flag → setting `memory_mode`. Of several the one that needs least memory counts.
MODE_OF_FLAG: Mapping[str, str] = {
    "always_no_vram": "always-no-vram",
    "lowvram": "lowvram",
    "always_low_vram": "always-low-vram",
    "always_offload_from_vram": "always-offload-from-vram",
    "disable_smart_memory": "always-offload-from-vram",
    "medvram": "medvram",
    "medvram_sdxl": "medvram-sdxl",
    "always_normal_vram": "always-normal-vram",
    "always_high_vram": "always-high-vram",
    "always_gpu": "always-gpu",
    "always_cpu": "always-cpu",
}

FLAGS: tuple[Flag, ...] = tuple(flag for section in SECTIONS.values() for flag in section)

DESCRIPTION = (
    "sdforge: a local image-generation server. Flags are those of A1111 and Forge; more may be "
    "given in the environment variable COMMANDLINE_ARGS."
)


class FlagError(Exception):
    """The command line cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Flags(Mapping[str, Any]):
    """The values of all flags by key (`--api-auth` is `api_auth`)."""

    values_by_key: Mapping[str, Any]
    given: tuple[Flag, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    def __getitem__(self, key: str) -> Any:
        return self.values_by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_key)

    def __len__(self) -> int:
        return len(self.values_by_key)

    def notes(self) -> list[str]:
        """Return sentences for the user about flags that were accepted without effect."""
        notes = []
        if later := [flag.name for flag in self.given if flag.effect == LATER]:
            notes.append(f"accepted, but without effect in this version: {', '.join(later)}")
        if self.ignored:
            notes.append(f"unknown arguments were ignored: {' '.join(self.ignored)}")
        return notes


class _Parser(argparse.ArgumentParser):
    """Raises `FlagError` where argparse would end the program."""

    def error(self, message: str) -> Any:
        raise FlagError(message)


def build_parser() -> argparse.ArgumentParser:
    """Return the argparse parser of the whole table; defaults are left to `parse`."""
    parser = _Parser(
        prog="launch.py", usage="launch.py [flags]", description=DESCRIPTION, allow_abbrev=False
    )
    exclusive: dict[str, Any] = {}
    for title, flags in SECTIONS.items():
        section = parser.add_argument_group(title)
        for flag in flags:
            owner: Any = section
            if flag.group is not None:
                if flag.group not in exclusive:
                    exclusive[flag.group] = section.add_mutually_exclusive_group()
                owner = exclusive[flag.group]
            owner.add_argument(flag.name, dest=flag.key, **_argparse_options(flag))
    return parser


def _argparse_options(flag: Flag) -> dict[str, Any]:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help_text(flag)}
    if flag.kind is bool:
        return options | {"action": "store_true"}
    options |= {"type": flag.kind, "choices": flag.choices, "nargs": flag.nargs}
    options["metavar"] = flag.key.rpartition("_")[2].upper() if flag.choices is None else None
    if flag.repeat:
        options["action"] = "append"
    return options


def _help_text(flag: Flag) -> str:
    default = f" (default {flag.default})" if flag.default not in (None, False) else ""
    return (flag.help + default + _SUFFIX[flag.effect]).replace("%", "%%")


def parse(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Flags:
    """Read the command line and `COMMANDLINE_ARGS`.

    Raises:
        FlagError: an unknown flag (unless `IGNORE_CMD_ARGS_ERRORS` is set) or an unusable value.
        SystemExit: `--help` was given; its text has been printed.
    """
    environ = environ or {}
    try:
        more = shlex.split(environ.get("COMMANDLINE_ARGS", ""))
    except ValueError as error:
        raise FlagError(f"COMMANDLINE_ARGS cannot be read: {error}") from error
    parsed, unknown = build_parser().parse_known_args([*arguments, *more])
    if unknown and not environ.get("IGNORE_CMD_ARGS_ERRORS"):
        raise FlagError(_unknown_sentence(unknown[0]))
    values = {flag.key: flag.default for flag in FLAGS} | vars(parsed)
    given = tuple(flag for flag in FLAGS if flag.key in vars(parsed))
    flags = Flags(values, given, tuple(unknown))
    _check(flags)
    return flags


def _unknown_sentence(argument: str) -> str:
    name = argument.partition("=")[0]
    close = closest_names(name, [flag.name for flag in FLAGS])
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"unknown argument {name}{hint} (launch.py --help lists all)"


_PAIRS = (
    ("tls_keyfile", "tls_certfile", "https"),
    ("webhook_hosts", "webhook_secret", "webhooks"),
)


def _check(flags: Flags) -> None:
    """Refuse combinations that cannot work, or that would be unsafe unasked."""
    if flags["port"] is not None and not 0 <= flags["port"] <= 65535:
        raise FlagError(f"--port {flags['port']}: a port is a number from 0 to 65535")
    for key in ("vram_limit", "simulate_device", "reserve_vram"):
        if flags[key] is not None and not 0 < flags[key] < 2**24:
            raise FlagError(f"--{key.replace('_', '-')} {flags[key]}: wanted a number above 0")
    if flags["share"] or flags["ngrok"]:
        raise FlagError(
            "--share and --ngrok are not in this version; to reach the server from elsewhere use "
            "--listen with --api-auth, an SSH tunnel, or a reverse proxy (--subpath)"
        )
    _check_pairs(flags)
    for key in ("tls_keyfile", "tls_certfile", "gradio_auth_path", "ckpt", "vae_path"):
        if flags[key] and not Path(flags[key]).is_file():
            raise FlagError(f"--{key.replace('_', '-')}: there is no file {flags[key]}")
    if str(flags["loglevel"]).upper() not in ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"):
        raise FlagError("--loglevel: one of CRITICAL, ERROR, WARNING, INFO, DEBUG")
    _check_hub(flags)
    protected = flags["api_auth"] or flags["gradio_auth"] or flags["gradio_auth_path"]
    if _is_public(flags) and not protected and not flags["insecure"]:
        raise FlagError(
            "--listen lets anybody on the network use this server: add --api-auth USER:PASSWORD, "
            "or --insecure to allow that"
        )


def _check_hub(flags: Flags) -> None:
    model, endpoint = flags["model"] or "", flags["hub_endpoint"]
    if model and not model.startswith("hf:"):
        raise FlagError(f"--model {model}: wanted hf:owner/name/file; --ckpt takes a file here")
    if model and flags["ckpt"]:
        raise FlagError("--model and --ckpt both name the checkpoint to start with: give one")
    if endpoint and not re.fullmatch(r"https?://[^/?#@\s]+/?", endpoint):
        raise FlagError(f"--hub-endpoint {endpoint}: wanted https://HOST and nothing behind it")


def _check_pairs(flags: Flags) -> None:
    for one, other, purpose in _PAIRS:
        if bool(flags[one]) != bool(flags[other]):
            names = f"--{one.replace('_', '-')} and --{other.replace('_', '-')}"
            raise FlagError(f"{names} are needed both, for {purpose}")


def _is_public(flags: Flags) -> bool:
    name = flags["server_name"]
    return bool(flags["listen"]) or name not in (None, "", "127.0.0.1", "::1", "localhost")


def memory_mode(flags: Flags) -> str | None:
    """Return the value of the setting `memory_mode` that the flags ask for, or None."""
    return next((mode for key, mode in MODE_OF_FLAG.items() if flags[key]), None)


def storage_type(flags: Flags) -> str | None:
    """Return the value of the setting `forge_unet_storage_dtype` that flags ask for, or None."""
    return next((dtype for key, dtype in STORAGE_OF_FLAG.items() if flags[key]), None)


def wants_cpu(flags: Mapping[str, Any]) -> bool:
    """Tell whether the denoiser is to run on the CPU."""
    parts = flags.get("use_cpu") or ()
    return bool(flags.get("always_cpu")) or not {"all", "sd"}.isdisjoint(parts)
