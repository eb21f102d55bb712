"""Settings of A1111 and Forge that have no effect here, with their defaults.

Clients read `GET /sdapi/v1/options`, change one key and send all of it back; pages of theirs look
keys up without asking whether they are there. So every key that A1111 or Forge registers is in the
answer. Those below are stored when they are sent, and change nothing: most are about a page, a
trainer or a part of the program that is not here. One that gets an effect moves to
`core/settings.py` and out of here; a test keeps the two apart.
"""

from __future__ import annotations

from typing import Any

# Section of A1111's settings page → key → its default there.
# fmt: off
SECTIONS: dict[str, dict[str, Any]] = {
    "saving-images": {
        "save_images_replace_action": "Replace", "font": "",
        "save_mask": False,
        "save_mask_composite": False, "save_init_img": False,
        "grid_extended_filename": False,
        "grid_prevent_empty_spots": False, "grid_zip_filename_pattern": "",
        "grid_text_active_color": "#000000", "grid_text_inactive_color": "#999999",
        "grid_background_color": "#ffffff", "save_images_before_color_correction": False,
        "export_for_4chan": True, "img_downscale_threshold": 4.0, "target_side_length": 4000,
        "use_upscaler_name_as_suffix": False,
        "save_selected_only": True, "save_write_log_csv": True, "temp_dir": "",
        "clean_temp_dir_at_start": False,
    },
    "saving-paths": {
        "outdir_grids": "",
        "outdir_save": "log/images", "outdir_init_images": "outputs/init-images",
    },
    "upscaling": {
        "realesrgan_enabled_models": ["R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B"],
        "dat_enabled_models": ["DAT x2", "DAT x3", "DAT x4"], "DAT_tile": 192,
        "DAT_tile_overlap": 8, "SCUNET_tile": 256, "SCUNET_tile_overlap": 8, "SWIN_tile": 192,
        "SWIN_tile_overlap": 8, "SWIN_torch_compile": False,
        "set_scale_by_when_changing_upscaler": False,
    },
    "face-restoration": {"face_restoration_unload": False},
    "system": {
        "auto_launch_browser": "Local", "memmon_poll_rate": 8, "samples_log_stdout": False,
        "list_hidden_files": True, "enable_console_prompts": False, "show_warnings": False,
        "show_gradio_deprecation_warnings": True, "multiple_tqdm": True,
        "enable_upscale_progressbar": True, "print_hypernet_extra": False,
        "disable_mmap_load_safetensors": False, "hide_ldm_prints": True,
        "dump_stacks_on_signal": False,
    },
    "sd": {
        "sd_checkpoints_keep_in_cpu": True, "sd_checkpoint_cache": 0, "sd_unet": "Automatic",
        "enable_batch_seeds": True, "upcast_attn": False, "enable_quantization": False,
    },
    "sdxl": {
    },
    "vae": {
        "sd_vae_checkpoint_cache": 0, "sd_vae_overrides_per_model_preferences": True,
        "auto_vae_precision": True, "sd_vae_encode_method": "Full",
        "auto_vae_precision_bfloat16": False,
    },
    "img2img": {
        "img2img_inpaint_mask_scribble_alpha": 75,
        "return_mask": False, "return_mask_composite": False,
        "img2img_batch_show_results_limit": 32, "img2img_sketch_default_brush_color": "#ffffff",
        "img2img_inpaint_mask_brush_color": "#ffffff",
        "img2img_inpaint_sketch_default_brush_color": "#ffffff",
        "img2img_inpaint_mask_high_contrast": True, "img2img_autosize": False,
    },
    "optimizations": {
        "cross_attention_optimization": "Automatic", "token_merging_ratio_img2img": 0.0,
        "fp8_storage": "Disable", "cache_fp16_weight": False,
    },
    "compatibility": {
        "forge_try_reproduce": "None", "auto_backcompat": True,
        "use_old_karras_scheduler_sigmas": False, "no_dpmpp_sde_batch_determinism": False,
        "hires_fix_use_firstpass_conds": False, "use_downcasted_alpha_bar": False,
        "use_old_emphasis_implementation": False,
    },
    "extra_networks": {
        "extra_networks_hidden_models": "When searched", "sd_hypernetwork": "None",
        "extra_networks_show_hidden_directories": True,
        "extra_networks_dir_button_function": False, "extra_networks_card_width": 0,
        "extra_networks_card_height": 0, "extra_networks_card_text_scale": 1.0,
        "extra_networks_card_show_desc": True, "extra_networks_card_description_is_html": False,
        "extra_networks_card_order_field": "Path", "extra_networks_card_order": "Ascending",
        "extra_networks_tree_view_style": "Dirs", "extra_networks_tree_view_default_enabled": True,
        "extra_networks_tree_view_default_width": 180, "ui_extra_networks_tab_reorder": "",
        "textual_inversion_print_at_load": False,
    },
    "ui_alternatives": {
        "interrupt_after_current": True, "compact_prompt_box": False, "samplers_in_dropdown": True,
        "dimensions_and_batch_together": True, "sd_checkpoint_dropdown_use_short": False,
        "hires_fix_show_sampler": False, "hires_fix_show_prompts": False,
        "txt2img_settings_accordion": False, "img2img_settings_accordion": False,
    },
    "ui": {
        "quick_setting_list": [], "send_seed": True,
        "live_preview_content": "Prompt", "live_preview_fast_interrupt": False, "ui_tab_order": [],
        "hidden_tabs": [], "tabs_without_quick_settings_bar": ["Spaces"], "ui_reorder_list": [],
        "gradio_theme": "Default", "gradio_themes_cache": True, "show_progress_in_title": True,
        "send_size": True, "enable_reloading_ui_scripts": False, "show_progressbar": True,
        "js_live_preview_in_modal_lightbox": False,
        "prevent_screen_sleep_during_generation": True,
    },
    "infotext": {
        "stealth_pnginfo_option": "Alpha", "add_vae_name_to_info": True,
        "add_vae_hash_to_info": True, "add_user_name_to_info": False,
        "disable_weights_auto_swap": True, "infotext_skip_pasting": [],
        "infotext_styles": "Apply if any",
    },
    "sampler-params": {
        "hide_samplers": [], "ddim_discretize": "uniform", "sd_noise_schedule": "Default",
    },
    "postprocessing": {
        "postprocessing_enable_in_main_ui": [], "postprocessing_operation_order": [],
        "upscaling_max_images_in_cache": 5, "postprocessing_disable_in_extras": [],
        "postprocessing_existing_caption_action": "Ignore",
    },
    "hidden": {
        "disabled_extensions": [], "disable_all_extensions": "none",
        "restore_config_state_file": "",
        "k_sched_type": "Automatic", "enable_emphasis": True,
        "dont_fix_second_order_samplers_schedule": False, "img2img_editor_height": 720,
        "sd_vae_as_default": True, "unload_sd_during_upscale": False,
        "sd_text_encoder": "Automatic", "stealth_pnginfo_opt": "None", "lora_show_all": False,
        "lora_hide_unknown_for_versions": [],
    },
    "forge": {
        "forge_async_loading": "Queue", "forge_pin_shared_memory": "CPU",
        "forge_canvas_plain": False, "forge_canvas_toolbar_always": False,
    },
    "ui_sd": {
        "sd_t2i_width": 512, "sd_t2i_height": 640, "sd_t2i_cfg": 7, "sd_t2i_hr_cfg": 7,
        "sd_i2i_width": 512, "sd_i2i_height": 512, "sd_i2i_cfg": 7, "sd_t2i_sampler": "Euler a",
        "sd_t2i_scheduler": "Automatic", "sd_i2i_sampler": "Euler a",
        "sd_i2i_scheduler": "Automatic",
    },
    "ui_xl": {
        "xl_t2i_width": 896, "xl_t2i_height": 1152, "xl_t2i_cfg": 5, "xl_t2i_hr_cfg": 5,
        "xl_i2i_width": 1024, "xl_i2i_height": 1024, "xl_i2i_cfg": 5,
        "xl_t2i_sampler": "DPM++ 2M SDE", "xl_t2i_scheduler": "Karras",
        "xl_i2i_sampler": "DPM++ 2M SDE", "xl_i2i_scheduler": "Karras",
    },
    "ui_flux": {
        "flux_t2i_width": 896, "flux_t2i_height": 1152, "flux_t2i_cfg": 1, "flux_t2i_hr_cfg": 1,
        "flux_t2i_d_cfg": 3.5, "flux_t2i_hr_d_cfg": 3.5, "flux_i2i_width": 1024,
        "flux_i2i_height": 1024, "flux_i2i_cfg": 1, "flux_i2i_d_cfg": 3.5,
        "flux_t2i_sampler": "Euler", "flux_t2i_scheduler": "Simple", "flux_i2i_sampler": "Euler",
        "flux_i2i_scheduler": "Simple",
    },
    "lora": {
        "sd_lora": "None", "lora_preferred_name": "Alias from file", "lora_filter_disabled": True,
        "lora_not_found_warning_console": False, "lora_not_found_gradio_warning": False,
        "lora_functional": False,
    },
    "extra-options": {
        "extra_options_txt2img": [], "extra_options_img2img": [], "extra_options_cols": 1,
        "extra_options_accordion": False,
    },
    "controlnet": {
        "control_net_unit_count": 3, "control_net_detectedmap_dir": "detected_maps",
        "control_net_models_path": "", "control_net_modules_path": "",
        "control_net_model_cache_size": 5,
        "control_net_detectmap_autosaving": False, "control_net_allow_script_control": False,
        "control_net_sync_field_args": True, "controlnet_increment_seed_during_batch": False,
        "controlnet_show_batch_images_in_ui": False, "controlnet_disable_openpose_edit": False,
        "controlnet_disable_photopea_edit": False, "controlnet_photopea_warning": True,
        "controlnet_input_thumbnail": True,
    },
    "saving-to-dirs": {
        "use_save_to_dirs_for_ui": False,
    },
    "profiler": {
        "profiling_enable": False, "profiling_activities": ["CPU"],
        "profiling_record_shapes": True, "profiling_profile_memory": True,
        "profiling_with_stack": True, "profiling_filename": "trace.json",
    },
    "training": {
        "unload_models_when_training": False, "pin_memory": False, "save_optimizer_state": False,
        "save_training_settings_to_txt": True, "dataset_filename_word_regex": "",
        "dataset_filename_join_string": " ", "training_image_repeats_per_epoch": 1,
        "training_write_csv_every": 500, "training_xattention_optimizations": False,
        "training_enable_tensorboard": False, "training_tensorboard_save_images": False,
        "training_tensorboard_flush_every": 120,
    },
    "sd3": {
        "sd3_enable_t5": False,
    },
    "interrogate": {
        "interrogate_keep_models_in_memory": False, "interrogate_return_ranks": False,
        "interrogate_clip_num_beams": 1, "interrogate_clip_min_length": 24,
        "interrogate_clip_max_length": 48, "interrogate_clip_dict_limit": 1500,
        "interrogate_clip_skip_categories": [], "interrogate_deepbooru_score_threshold": 0.5,
        "deepbooru_sort_alpha": True, "deepbooru_use_spaces": True, "deepbooru_escape": True,
        "deepbooru_filter_tags": "",
    },
    "ui_prompt_editing": {
        "keyedit_precision_attention": 0.1, "keyedit_precision_extra": 0.05,
        "keyedit_delimiters": '.,\\/!?%^*;:{}=`~() ',
        "keyedit_delimiters_whitespace": ["Tab", "Carriage Return", "Line Feed"],
        "keyedit_move": True, "disable_token_counters": False,
    },
    "ui_gallery": {
        "do_not_show_images": False, "js_modal_lightbox": True,
        "js_modal_lightbox_initially_zoomed": True, "js_modal_lightbox_gamepad": False,
        "js_modal_lightbox_gamepad_repeat": 250, "sd_webui_modal_lightbox_icon_opacity": 1,
        "sd_webui_modal_lightbox_toolbar_opacity": 0.9, "gallery_height": "",
        "open_dir_button_choice": "Subdirectory", "hires_button_gallery_insert": False,
    },
    "html": {
        "profiling_explanation": "", "sd_vae_explanation": "", "infotext_explanation": "",
    },
}
# fmt: on

FOREIGN_OPTIONS: dict[str, Any] = {
    key: default for section in SECTIONS.values() for key, default in section.items()
}
