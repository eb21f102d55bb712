"""What tests show of each model family: docs/families.md is made from these rows.

A test holds that every family has a row and that every named test is there.
"""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = "test_equal_latents.py"
PACKED = "test_packed.py::test_packed_weights_draw_what_their_numbers_draw_in_every_mode"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One family: its kinds of files, and the tests as "file::function".

    Attributes:
        family: name in `FAMILIES`.
        kinds: what is drawn with.
        files: what its files hold, and which networks come from files of their own.
        latents: equal to those of diffusers' own pipeline, to 1e-5 in fp32.
        modes: medvram and lowvram draw bit by bit what normal draws.
        packed: a GGUF file draws what its unpacked numbers draw, in all memory modes.
        headers: the published files are known by their header, and nothing in them is left over.
        more: what else is tested.
    """

    family: str
    kinds: str
    files: str
    latents: str
    modes: str
    headers: str
    packed: str = PACKED
    more: tuple[str, ...] = ()


SHOWN: tuple[Shown, ...] = (
    Shown(
        family="sd1",
        kinds="1.4, 1.5, inpainting, InstructPix2Pix; ε and v",
        files="all in one; another VAE",
        latents=f"{EQUAL}::test_sd1_draws_what_diffusers_draws",
        modes=f"{EQUAL}::test_memory_modes_draw_the_same",
        headers="test_sd.py::test_recipes_of_a_full_size_checkpoint_are_complete",
    ),
    Shown(
        family="sd2",
        kinds="2.0, 2.1, Turbo, inpainting; ε 512 and v 768",
        files="all in one; another VAE",
        latents=f"{EQUAL}::test_sd2_draws_what_diffusers_draws",
        modes=f"{EQUAL}::test_memory_modes_draw_the_same",
        headers="test_sd2.py::test_a_full_size_file_is_recognised_and_its_recipes_are_complete",
        more=("test_sd2.py::test_where_nothing_says_it_the_network_is_asked",),
    ),
    Shown(
        family="sdxl",
        kinds="base, inpainting, Turbo, Lightning, LCM, Hyper, DMD2; ε and v, zero terminal noise",
        files="all in one; another VAE",
        latents=f"{EQUAL}::test_sdxl_draws_what_diffusers_draws",
        modes=f"{EQUAL}::test_memory_modes_draw_the_same",
        headers="test_sdxl.py::test_a_full_size_file_is_recognised_and_its_recipes_are_complete",
        more=(
            "test_sdxl.py::test_the_refiner_takes_over_from_the_base",
            "test_sdxl.py::test_a_lora_reaches_both_text_encoders_and_the_network",
            "test_sdxl.py::test_an_embedding_of_two_parts_stands_for_words_in_both_encoders",
        ),
    ),
    Shown(
        family="sdxl-refiner",
        kinds="the refiner, alone or behind a base",
        files="all in one; another VAE",
        latents=f"{EQUAL}::test_the_refiner_draws_what_diffusers_draws",
        modes=f"{EQUAL}::test_memory_modes_draw_the_same",
        headers="test_sdxl.py::test_a_full_size_file_is_recognised_and_its_recipes_are_complete",
    ),
    Shown(
        family="sd3",
        kinds="3 medium, 3.5 medium, 3.5 large and its Turbo",
        files="all in one; a folder of diffusers; the transformer with CLIP-L, CLIP-G, VAE and, "
        "if wanted, T5 apart",
        latents="test_sd3.py::test_sd3_draws_what_diffusers_draws",
        modes="test_sd3.py::test_memory_modes_draw_the_same",
        headers="test_sd3.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_sd3.py::test_one_file_may_hold_everything_and_so_may_a_folder",
            "test_sd3.py::test_missing_parts_are_named_and_t5_is_none_of_them",
            "test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",
            "test_later_control.py::test_one_of_sd3_draws_what_diffusers_draws",
        ),
    ),
    Shown(
        family="flux",
        kinds="dev, schnell, Fill, Kontext",
        files="the transformer in its authors' or diffusers' names, with CLIP-L, T5 and VAE apart; "
        "all in one; a folder of diffusers",
        latents="test_flux.py::test_flux_draws_what_diffusers_draws",
        modes="test_flux.py::test_memory_modes_draw_the_same",
        headers="test_flux.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_flux.py::test_one_file_may_hold_everything_and_so_may_a_folder",
            "test_flux.py::test_a_lora_in_every_spelling_reaches_its_rows",
            "test_flux.py::test_missing_parts_are_named",
            "test_flux_tools.py::test_fill_draws_what_diffusers_draws",
            "test_flux_tools.py::test_kontext_draws_what_diffusers_draws",
        ),
    ),
    Shown(
        family="flux2-klein",
        kinds="Flux.2 [klein] 4B and 9B, distilled and base; pictures to change through img2img",
        files="the transformer in its authors' or diffusers' names, with Qwen3 and VAE apart "
        "(also the VAE with a smaller decoder); all in one; a folder of diffusers; scaled fp8",
        latents="test_flux2.py::test_klein_draws_what_diffusers_draws",
        modes="test_flux2.py::test_memory_modes_draw_the_same",
        headers="test_flux2.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_flux2.py::test_klein_changes_a_picture_as_diffusers_does",
            "test_flux2.py::test_fp8_weights_draw_what_their_numbers_draw",
            "test_flux2.py::test_tiles_of_a_large_picture_are_the_whole_picture",
            "test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",
        ),
    ),
    Shown(
        family="flux2",
        kinds="Flux.2 [dev]; pictures to change through img2img",
        files="the transformer in its authors' or diffusers' names, with Mistral and VAE apart; "
        "a folder of diffusers; Mistral as GGUF; its tokenizer from the encoder's file, the folder "
        "or beside",
        latents="test_flux2_dev.py::test_dev_draws_what_diffusers_draws",
        modes="test_flux2_dev.py::test_memory_modes_draw_the_same",
        headers="test_flux2_dev.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_flux2_dev.py::test_dev_changes_a_picture_as_diffusers_does",
            "test_flux2_dev.py::test_missing_parts_are_named",
            "test_flux2_dev.py::test_a_gguf_reader_draws_what_its_numbers_draw",
        ),
    ),
    Shown(
        family="chroma",
        kinds="Chroma1 (HD, Base) and its fine-tunes",
        files="the transformer in its authors' names, with T5 and VAE apart; a folder of diffusers",
        latents="test_chroma.py::test_chroma_draws_what_diffusers_draws",
        modes="test_chroma.py::test_memory_modes_draw_the_same",
        headers="test_chroma.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=("test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",),
    ),
    Shown(
        family="zimage",
        kinds="Z-Image, Z-Image-Turbo",
        files="the transformer in its authors' or diffusers' names, with Qwen3 and VAE apart; "
        "all in one; a folder of diffusers",
        latents="test_z_image.py::test_z_image_draws_what_diffusers_draws",
        modes="test_z_image.py::test_memory_modes_draw_the_same",
        headers="test_z_image.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_z_image.py::test_one_file_may_hold_everything_and_so_may_a_folder",
            "test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",
            "test_later_control.py::test_one_of_z_image_draws_what_diffusers_draws",
        ),
    ),
    Shown(
        family="qwen-image",
        kinds="Qwen-Image and its Lightning versions",
        files="the transformer with Qwen2.5-VL and VAE apart; a folder of diffusers",
        latents="test_qwen_image.py::test_qwen_image_draws_what_diffusers_draws",
        modes="test_qwen_image.py::test_memory_modes_draw_the_same",
        headers="test_qwen_image.py::"
        "test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_qwen_image.py::test_missing_parts_are_named",
            "test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",
        ),
    ),
    Shown(
        family="qwen-image-edit",
        kinds="Qwen-Image-Edit, -2509 and -2511, told from Qwen-Image by their names; pictures to "
        "change through img2img",
        files="the transformer with Qwen2.5-VL and VAE apart (the vision part in the encoder's "
        "file or as llama.cpp's mmproj); a folder of diffusers",
        latents="test_qwen_image_edit.py::test_it_changes_a_picture_as_diffusers_does",
        modes="test_qwen_image_edit.py::test_memory_modes_draw_the_same",
        headers="test_qwen_image_edit.py::test_names_tell_the_versions",
        more=(
            "test_qwen_image_edit.py::test_later_versions_change_a_picture_as_diffusers_does",
            "test_qwen_image_edit.py::test_a_vision_part_may_lie_apart_as_llama_cpp_saves_it",
            "test_qwen_image_edit.py::"
            "test_prompts_are_read_with_their_own_picture_and_without_its_mark",
        ),
    ),
    Shown(
        family="lumina2",
        kinds="Lumina-Image 2.0 and its fine-tunes (Neta Lumina)",
        files="the transformer in its authors' or diffusers' names, with Gemma 2 and VAE apart; "
        "all in one; a folder of diffusers; Gemma's tokenizer from the encoder's file, the folder "
        "or beside",
        latents="test_lumina2.py::test_lumina2_draws_what_diffusers_draws",
        modes="test_lumina2.py::test_memory_modes_draw_the_same",
        headers="test_lumina2.py::test_a_full_size_file_is_recognised_and_its_recipe_is_complete",
        more=(
            "test_lumina2.py::test_one_file_may_hold_everything",
            "test_lumina2.py::test_without_a_tokenizer_the_file_that_would_do_is_named",
            "test_lumina2.py::test_an_own_instruction_takes_the_place_of_the_usual_one",
            "test_loras.py::test_every_kind_acts_on_the_layers_of_every_family",
        ),
    ),
)
