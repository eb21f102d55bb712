from pathlib import Path

from sdforge.core.paths import Paths
from sdforge.flags import parse, wants_cpu
from sdforge.from_flags import make_paths, make_settings, with_settings


def test_another_installations_folders_are_searched_after_our_own(tmp_path: Path) -> None:
    home = tmp_path / "stable-diffusion-webui"
    flags = parse(["--data-dir", str(tmp_path), "--forge-ref-a1111-home", str(home)], {})
    paths = make_paths(flags)
    assert paths.checkpoints == (
        tmp_path / "models" / "Stable-diffusion",
        home / "models" / "Stable-diffusion",
    )
    assert home / "models" / "VAE" in paths.vaes
    assert home / "models" / "Lora" in paths.loras
    assert home / "embeddings" in paths.embeddings
    assert home / "models" / "ControlNet" in paths.controlnets
    assert home / "models" / "ESRGAN" in paths.upscalers
    assert paths.standard == Paths.under(tmp_path).standard
    assert paths.settings == tmp_path / "config.json"


def test_a_folder_of_text_encoders_is_searched_too(tmp_path: Path) -> None:
    flags = parse(["--data-dir", str(tmp_path), "--text-encoder-dir", str(tmp_path / "clip")], {})
    assert make_paths(flags).text_encoders[-1] == tmp_path / "clip"


def test_a_settings_file_may_ask_for_the_cpu_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"memory_mode": "always-cpu"}')
    flags = parse(["--data-dir", str(tmp_path)])
    assert not wants_cpu(flags)
    assert wants_cpu(with_settings(flags, make_settings(flags, make_paths(flags))))
    (tmp_path / "config.json").write_text('{"memory_mode": "lowvram"}')
    assert not wants_cpu(with_settings(flags, make_settings(flags, make_paths(flags))))
