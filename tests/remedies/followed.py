"""Instructions that tests elsewhere follow, and those that no test can.

A place is "module:function | fragment of the text". What the tests of this folder follow stands in
them, and is found there.
"""

from __future__ import annotations

#: Test → places whose remedy it follows.
FOLLOWED: dict[str, tuple[str, ...]] = {
    "tests/web/viewer/test_labels.py::test_a_class_that_was_renamed_stops_no_painting": (
        "web.viewer.labels:_Store._check_manifest | Start the viewer again",
    ),
    "tests/web/viewer/test_scenes.py::test_a_damaged_product_is_left_out_and_said": (
        "web.viewer.copies:told_damage | fetch it again",
    ),
    "tests/web/service/test_files.py::test_the_route": (
        "web.service.files:list_folder | Begin with /api/files",
        "web.service.files:_plain | Begin with /api/files",
    ),
    "tests/cli/test_exported.py::test_an_exported_model_maps_and_no_more": (
        "api.exported:ExportedModel._model_on | Leave out --devices",
        "api.exported:open_model | Give --crop-size, --overlap",
    ),
    "tests/test_runtime_wheel.py::test_the_runtime_alone_maps_and_says_what_it_lacks": (
        "cli.failures:lacks_package | Install the whole package in its place",
    ),
    "tests/prediction/test_onnx_model.py::test_files_that_are_none_of_ours": (
        "prediction.onnx_model:OnnxModel.open | Export the run without --stacked",
        "weights.onnx_file:read_onnx | Give one that 'terrafuse export",
        "weights.onnx_file:read_onnx | Copy it again, or export the run again",
    ),
    "tests/prediction/test_onnx_model.py::test_a_graph_that_the_runtime_does_not_know": (
        "prediction.onnx_model:OnnxModel.session | use a newer onnxruntime",
    ),
    "tests/prediction/test_onnx_model.py::test_precision_and_device_are_those_there_are": (
        "prediction.onnx_model:OnnxModel.check_precision | Leave out --precision",
        "prediction.onnx_model:_no_device | Choose cpu",
    ),
    "tests/prediction/test_onnx_model.py::test_a_graph_that_fails_is_one_message": (
        "prediction.onnx_model:OnnxModel.scores | Choose another --crop-size",
    ),
    "tests/prediction/test_onnx_model.py::test_inputs_that_do_not_fit": (
        "prediction.onnx_model:_check_fits | Export the run again",
    ),
    "tests/weights/test_onnx_file.py::test_weights_elsewhere_are_refused": (
        "weights.onnx_file:_check_external | bring all files of the model into one folder",
    ),
    "tests/weights/test_onnx_file.py::test_weights_that_are_not_there": (
        "weights.onnx_file:_check_external | Copy both files",
    ),
    "tests/data/test_kept.py::test_other_places_where_the_folder_cannot_be_written": (
        "data.kept:open_keeper | or name another cache with XDG_CACHE_HOME",
    ),
    "tests/training/test_survey.py::test_a_file_is_opened_once_and_then_not_at_all": (
        "training.train:_check_data | --fresh reads them again",
    ),
    "tests/api/test_sweep_sharing.py::test_what_shards_and_ray_refuse": (
        "api.sweep_sharing:check_alone | Set both to 1, or leave out",
        "api.sweeps:_slots | Leave out one of them",
    ),
    "tests/training/test_processes.py::test_a_group_that_works": (
        "training.processes:_check_address | Set MASTER_ADDR to the name or number of the machine",
        "training.processes:_check_address | Set MASTER_ADDR to the name or number by which",
        "training.processes:_check_address | Set MASTER_PORT to a free one",
        "training.processes:_wait_for_server | Set MASTER_ADDR and MASTER_PORT as in the first",
        "training.processes:_open_store | Set both to a machine and a free port",
    ),
    "tests/training/test_processes.py::test_a_backend_without_processes": (
        "training.trainer:check_trainer | Leave it out",
    ),
    "tests/training/test_distributed.py::test_two_processes": (
        "training.processes:_refuse | Start all at the same time with the same command",
        "training.processes:_wait_for_all | Start all again",
    ),
    "tests/training/test_distributed.py::test_a_killed_process_ends_all_with_one_message": (
        "training.processes:_LostError.__init__ | Continue with --resume",
    ),
    "tests/training/test_distributed.py::test_resumed_on_another_number_of_processes": (
        "training.run_state:_other_step | must stay",
    ),
    "tests/api/test_synergies.py::test_finished_tests_are_not_run_again": (
        "api.synergies: | finished tests are kept; run the same command with --resume",
    ),
    "tests/api/test_synergies.py::test_the_command_prints_tables_and_json": (
        "api.synergies:read_synergy | Evaluate the run with --synergy",
    ),
    "tests/evaluation/test_synergy.py::test_missing_subsets_and_other_scenes_are_refused": (
        "evaluation.synergy.report:_check_whole | Evaluate the run with --synergy",
        "evaluation.synergy.report:_check_same | Evaluate the run with --synergy again",
    ),
    "tests/evaluation/test_alterations.py::test_tests_suit_the_modalities": (
        "evaluation.synergy.stress:find_tests | name each once",
    ),
    "tests/api/test_comparing.py::test_one_setting_is_nothing_to_compare": (
        "api.comparing:compare | Give another one too",
        "api.comparing:compare | Give runs of another one, or --groups",
    ),
    "tests/api/test_comparing.py::test_boundaries_of_other_tolerances_are_left_out_or_refused": (
        "api.comparing:_columns | or leave out boundary_f1",
        "evaluation.comparison.counts:Rule.columns | Leave it out",
    ),
    "tests/api/test_comparing.py::test_no_evidence_names_the_command": (
        "api.comparing:_runs_in | Give folders that 'terrafuse train' or 'terrafuse sweep' made",
        "evaluation.evidence:read_evidence | Evaluate the run (terrafuse evaluate RUN)",
    ),
    "tests/api/test_comparing.py::test_rows_of_a_sweep_are_settings": (
        "api.comparing:_runs_in | Run the sweep's command again",
        "api.comparing:_runs_in | Resume it",
    ),
    "tests/api/test_comparing.py::test_runs_alone_or_by_patterns": (
        "api.comparing:_by_patterns | or leave the run out",
    ),
    "tests/api/test_comparing.py::test_seeds_are_paired_where_both_have_them": (
        "api.comparing:_check_same_seeds | Leave out --pair-seeds",
    ),
    "tests/api/test_comparing.py::test_the_command_prints_all_forms": (
        "cli.compare:compare | name a .png, .svg or .pdf file",
    ),
    "tests/api/test_comparing.py::test_what_was_not_scored_alike_is_refused": (
        "evaluation.comparison.checking: | Evaluate both on the same scenes",
        "evaluation.comparison.checking:_classes | Compare runs of the same classes",
        "evaluation.comparison.checking:_rules | Evaluate one again with the",
        "evaluation.comparison.checking:_bytes | Evaluate both on one version",
    ),
    "tests/api/test_sweeps.py::test_from_run_files_to_a_table": (
        "api.comparing:judge_rows | Evaluate the run again",
    ),
    "tests/evaluation/test_evidence.py::test_the_side_follows_errors_or_the_window": (
        "evaluation.blocks:find_blocks | or more",
    ),
    "tests/evaluation/test_evidence.py::test_a_missing_or_damaged_file_is_told": (
        "evaluation.evidence:read_evidence | is damaged",
        "evaluation.evidence:read_evidence | has format",
    ),
    "tests/evaluation/test_evidence.py::test_tables_that_are_not_read_are_named": (
        "evaluation.evidence:Evidence.counts | evaluate the run again",
    ),
    "tests/api/test_reading_as_trained.py::test_a_new_run_says_its_rule_and_needs_no_word": (
        "api.mapping:TrainedModel.tell_rules | Train again to read them by 'all'",
    ),
    "tests/api/test_batches.py::test_an_item_as_a_raster": (
        "api.inputs:_unlike | Give the files themselves",
        "data.stac:_find | several assets of item",
        "data.stac:_find | Give an item that has it",
    ),
    "tests/api/test_batches.py::test_names_of_folders_are_safe_and_differ": (
        "api.batches:folder_names | Give each item an id of its own",
    ),
    "tests/api/test_batches.py::test_one_bad_scene_does_not_end_the_others": (
        "cli.batch:check_inputs | give one of --scene",
        "cli.batch:check_inputs | add that",
        "cli.predict:predict | let each job have a part of them: a manifest, a split",
        "cli.batch:tell_batch | run the same command with --resume",
    ),
    "tests/data/test_remote.py::test_a_server_that_refuses_is_one_message": (
        "data.remote: | or give a signed URL that has not expired",
        "data.remote: | correct the URL",
        "data.remote: | The server was asked several times: try again later",
    ),
    "tests/data/test_remote.py::test_a_server_that_wants_credentials": (
        "data.remote: | GDAL_HTTP_USERPWD or GDAL_HTTP_HEADERS for https://",
    ),
    "tests/data/test_remote.py::test_the_map_of_a_url_is_that_of_the_file": (
        "data.remote: | download it, and give the file",
        "data.remote: | Correct the name of the host",
    ),
    "tests/data/test_stac.py::test_a_collection_links_to_items_that_are_read_when_needed": (
        "data.stac:read_item | map all of them with --items",
    ),
    "tests/data/test_stac.py::test_a_page_of_a_search_is_taken_without_the_link": (
        "data.stac:_refuse_further_pages | or remove the link",
    ),
    "tests/data/test_stac.py::test_a_server_does_not_lead_to_this_disk": (
        "data.stac:_resolve | Download the item, and give its file",
    ),
    "tests/data/test_unreadable.py::test_a_crs_that_nobody_knows_is_not_none": (
        "data.raster_file:_check_srs | Correct its <SRS>, or remove it",
    ),
    "tests/cli/test_failures.py::test_a_disk_that_is_full_is_told": (
        "cli.failures:describe_failure | could not be written",
    ),
    "tests/cli/test_memory.py::test_a_batch_that_no_norm_learns_from_is_not_valid": (
        "describe.memory:check_small_batch | Set data.batch_size to 2 or more",
    ),
    "tests/cli/test_memory.py::test_memory_that_ends_while_mapping": (
        "api.mapping:smaller_windows | Choose a --batch-size below",
    ),
    "tests/cli/test_describe.py::test_a_trained_run": (
        "describe.overview:_check_overrides | Set keys of data and training",
    ),
    "tests/cli/test_stored_colors.py::"
    "test_check_says_that_an_alpha_band_is_data_and_its_remedy_holds": (
        "doctor.files: | add its name to 'bands' of the modality",
    ),
    # Each fault there is one change of the sound method, taken back in it.
    "tests/contract/test_checks.py::test_a_sound_method_passes_every_check": (
        "contract.checks:check_built | under 'Args:' of the docstring of the class",
        "contract.checks:check_built | set it to a line that says what it is",
        "contract.checks:check_built | call super().__init__(modalities, num_classes)",
        "contract.checks:check_built | name options one by one, keyword-only",
        "contract.checks:check_influence | use inputs.images of every modality in 'segment'",
        "contract.checks:check_bands | give each a weight of its own that is not 0",
        "contract.checks:check_lacking_neighbours | ask inputs.present(name) sample by sample",
        "contract.checks:check_missing | weigh with inputs.valid or inputs.present",
        "contract.checks:check_statistics | leave the buffers of the base class",
        "contract.checks:check_backbones | make it by create_backbone, or derive the encoder",
        "contract.checks:check_learning | look for what stops its gradient",
        "contract.checks:_keep_shape | return (N, K, h, w) of any stride",
        "contract.checks:_keep_named | leave 'forward' to the base class",
        "contract.checks:_keep_gradients | use it in 'segment' whatever comes in, or take it out",
    ),
    "tests/data/test_names.py::test_the_parts_that_a_container_lists_can_be_named": (
        "data.raster_file:_describe | Name one of its parts in its place",
    ),
    "tests/data/test_polygons_elsewhere.py::test_exchanged_axes_exchanged_again": (
        "data.polygons:_advise | exchange them in the file",
    ),
    "tests/data/test_polygons_elsewhere.py::test_of_several_layers_one_has_to_be_named": (
        "data.polygons:_choose_layer | Say which in the manifest",
    ),
    "tests/data/test_unreadable.py::test_what_gdal_warns_of_is_a_finding": (
        "doctor.files:from_gdal | copy or download the file again",
    ),
    "tests/data/test_stored.py::test_a_vrt_of_more_colours_than_samples_is_refused": (
        "data.stored:_check_band | Name the file itself instead of the VRT",
    ),
    "tests/describe/test_memory.py::test_a_scene_larger_than_memory_is_not_scored": (
        "describe.memory:_refuse_whole | Divide the scene into several in the manifest",
    ),
    "tests/describe/test_memory.py::test_too_large_a_batch_is_refused_with_one_that_fits": (
        "describe.memory:_remedy | Try {…} (about",
    ),
    "tests/describe/test_memory.py::test_where_a_model_is_too_large_a_smaller_one_fits": (
        "describe.memory:_remedy | Choose a smaller model, or a machine with more memory",
    ),
    "tests/doctor/test_doctor_labels.py::test_the_value_for_no_data_is_the_code_of_a_class": (
        "doctor.labels:_check_nodata_is_class | take it out of 'classes' and put its code into",
    ),
    "tests/prediction/test_abstain_sieve.py::"
    "test_a_map_larger_than_memory_is_refused_before_it_is_made": (
        "prediction.sieve: | Leave out --sieve and sieve the finished map elsewhere",
        "prediction.sieve:check_sieve | needs about",
    ),
    "tests/prediction/test_abstain_sieve.py::"
    "test_the_value_is_no_class_nor_no_data_nor_one_that_labels_use": (
        "prediction.class_values:choose_values | Leave out --abstain, and judge by the product",
    ),
    "tests/prediction/test_abstain_sieve.py::test_confidences_outside_0_to_1_are_refused": (
        "prediction.settings:MapSettings.__post_init__ | give the least confidence of a class",
    ),
    "tests/prediction/test_abstain_sieve.py::test_what_changes_the_class_map_needs_one": (
        "prediction.settings:MapSettings.__post_init__ | give the smallest patch to keep",
        "prediction.settings:MapSettings.__post_init__ | add 'class_map' to the products",
    ),
    "tests/prediction/test_more_products.py::test_nine_modalities_have_no_bits_in_a_byte": (
        "prediction.settings:MapSettings.source_bits | Leave it out of the products",
    ),
    "tests/prediction/test_tta.py::test_what_cannot_be_shown_is_refused": (
        "prediction.tta:find_views | name each of",
        "prediction.tta:scaled_size | give a larger --crop-size, or leave",
    ),
    "tests/doctor/test_registration.py::test_the_one_that_is_off_is_named_whichever_it_is": (
        "doctor.registration:_remedy | of the origin of",
    ),
    "tests/doctor/test_remedies.py::test_bands_of_a_file_for_a_trained_model": (
        "data.rasters:_beside | give the files of the other bands too",
        "data.rasters:_beside | name the bands with the file, as in '",
    ),
    "tests/doctor/test_remedies.py::test_the_scale_that_sizes_have": (
        "data.placement:_right_scale | set that in the manifest, give sizes that fit,",
    ),
    "tests/layouts/test_looking.py::test_of_many_scenes_some_are_opened_unless_all_are_wanted": (
        "layouts.looking:Look.tell | To open all: -O look=all",
    ),
    "tests/layouts/test_mixed_copies.py::test_pieces_of_one_scene_in_several_splits_are_told": (
        "layouts.pieces:describe_pieces | to split by folders instead: -O split=",
    ),
    "tests/maps/test_mosaic.py::test_remedies": (
        "maps.mosaic:mosaic_maps | a mosaic is made of maps; name at least one",
        "maps.mosaic:mosaic_maps | Map the scene with it, or choose by order: --by first",
        "maps.mosaic:_Placed.on | Give maps that have one, or none of which has",
        "maps.mosaic:_extent | Name another map first, or the grid of another raster: --like",
    ),
    "tests/maps/test_mosaic.py::test_other_classes_are_refused": (
        "maps.mosaic:_remapped | Map the scenes with models of the same classes",
    ),
    "tests/maps/test_vectorize.py::test_maps_of_other_programs": (
        "maps.class_raster: | name its classes: --classes water=1,forest=2",
    ),
    "tests/maps/test_vectorize.py::test_remedies": (
        "maps.vectorize:vectorize_map | give 0 or more",
        "maps.vectorize:_nothing | give a smaller --min-area",
    ),
    "tests/maps/test_vectorize.py::test_remedies_of_naming": (
        "maps.class_raster:open_class_raster | has two names; give each one name",
        "maps.class_raster:parse_classes | is named twice; leave one out",
        "maps.class_raster:_nodata_of | Give its classes without it: --classes",
        "maps.class_raster:_check_confidence | Give the confidence of this map",
    ),
    "tests/maps/test_vectorize.py::test_the_command_line": (
        "maps.class_raster:_read_errors | does not exist. Check the path",
    ),
    "tests/maps/test_vectorize.py::test_what_is_no_class_map": (
        "maps.class_raster:_check_kind | Name the {…}.tif of a map, or another raster of classes",
        "maps.class_raster:open_class_raster | Name the raster of the classes itself",
    ),
    "tests/maps/test_vectorize.py::test_without_crs": (
        "maps.vector_files:_geojson | Choose a name that ends in .gpkg or .parquet",
    ),
    "tests/methods/test_decur.py::test_files_that_do_not_fit_are_refused": (
        "methods.decur.weights:load_encoder | set option 'attention' of method 'decur' to",
    ),
    "tests/splits/test_content.py::test_overlapping_scenes_that_cannot_be_divided_say_what_to_do": (
        "splits.splitting:_too_few | Join them into one raster that is cut into blocks",
    ),
    "tests/test_locking.py::test_a_lock_that_says_nothing": (
        "locking:_in_use | is writing there, delete that file",
    ),
    "tests/test_locking.py::test_another_thread_is_refused": (
        "locking:_enter | Wait for it, or choose another output",
    ),
    "tests/test_locking.py::test_the_remedy_for_another_machine_helps": (
        "locking:_in_use | If it has died, delete",
    ),
    "tests/test_locking.py::test_the_second_process_is_told_who_holds_it": (
        "locking:_in_use | Wait for it, stop it (kill",
    ),
    "tests/test_own_method.py::test_the_page_from_top_to_bottom": (
        "methods.__init__:_missing_code | If that is code you trust, set PYTHONPATH=",
    ),
    "tests/test_plugins.py::test_a_backbone_of_ones_own_stands_under_our_methods": (
        "backbones.outside:_create | Add one, or leave weights out",
    ),
    "tests/test_plugins.py::test_a_run_whose_plugin_is_not_installed_names_it": (
        "methods.__init__:_missing_code | ; install that",
    ),
    "tests/test_plugins.py::test_a_module_that_is_missing_says_where_it_was_looked_for": (
        "plugins:_import | not a folder of them: write",
    ),
    "tests/test_plugins.py::test_two_modules_of_one_name_are_not_guessed_between": (
        "plugins:_folder_of | Rename one of them",
    ),
    "tests/test_stopping.py::test_the_command_line_ends_with_a_line": (
        "stopping:how_to_go_on | run the same command again",
    ),
    "tests/test_writing.py::test_links_pipes_and_folders_are_not_replaced": (
        "writing:refuse_special | Give that path itself, or remove the link",
        "writing:refuse_special | Choose another name",
    ),
    "tests/test_writing.py::test_what_is_read_is_not_written_over": (
        "writing:refuse_inputs | is read and would be overwritten. Choose another output",
    ),
    "tests/training/test_many_scenes.py::test_a_bad_scene_is_named_when_it_is_met": (
        "training.train:_check_data | To check all:",
    ),
    "tests/cli/test_other_data.py::test_scores_in_shards": (
        "cli.options:tell_waiting | run again those that have died",
    ),
    "tests/evaluation/test_kept_scores.py::test_scores_that_were_stopped_go_on": (
        "api.runs: | scores of finished scenes are kept; run the same command with --resume",
        "evaluation.journal:ScoreJournal.begin | --resume would go on",
    ),
    "tests/evaluation/test_kept_scores.py::test_shards_in_any_order_make_the_scores": (
        "api.runs: | scores of finished scenes are kept; run the same command again",
    ),
    "tests/evaluation/test_kept_scores.py::test_a_folder_of_somebody_else_is_left_alone": (
        "evaluation.journal:ScoreJournal._check_ours | Move it",
    ),
    "tests/evaluation/test_kept_scores.py::test_a_scene_that_kills_its_workers_is_named": (
        "evaluation.scoring:_ScoreForeman._rest | or divide the scene into several",
    ),
    "tests/evaluation/test_kept_scores.py::test_other_engines_are_refused": (
        "evaluation.evaluate:evaluate | Use the engine 'local', and shards",
    ),
    "tests/api/test_run_evidence.py::test_what_cannot_be_read_is_evaluated_again": (
        "evaluation.evidence:Evidence.counts | evaluate the run again",
        "evaluation.evidence:read_evidence | this version reads {…}. Evaluate the run again",
        "evaluation.evidence:read_evidence | Evaluate the run (terrafuse evaluate RUN)",
        "evaluation.evidence:read_evidence | is damaged ({…}). Evaluate the run again",
    ),
    "tests/training/test_kills.py::test_sigterm_leaves_nothing_half_done": (
        "api.maps: | nothing was written; run the same command again",
    ),
    "tests/prediction/test_sharing.py::"
    "test_what_cannot_be_sent_to_processes_is_named_and_one_process_maps_it": (
        "prediction.torch_model:TorchModel.on_cpu | or use one process, --workers 1",
    ),
    "tests/prediction/test_sharing.py::test_a_shard_that_a_full_disk_stopped_is_run_again": (
        "prediction.products:open_map | run it again",
    ),
    "tests/describe/test_memory.py::test_each_worker_counts_and_fewer_fit": (
        "describe.memory:_remedy | Try --workers",
    ),
    "tests/prediction/test_sharing.py::test_gpus_that_there_are_not": (
        "prediction.sharing:WorkerSettings.device_names | Leave out one of both",
        "prediction.sharing:WorkerSettings.device_names | Give at most",
        "prediction.sharing:WorkerSettings.device_names | Leave out --devices; --workers uses CPUs",
    ),
    "tests/prediction/test_sharing.py::test_shards_that_there_are_not": (
        "prediction.sharing:Shard.parse | give its number and how many there are, such as 2/8",
    ),
    "tests/prediction/test_sharing.py::test_workers_that_keep_dying_are_told_and_units_stay": (
        "prediction.workers:Foreman._replace | Use fewer --workers, a smaller --batch-size",
    ),
    "tests/prediction/test_ray.py::test_what_a_node_cannot_do_is_said": (
        "prediction.ray_engine:RayCrew._heard | Install the same packages on all",
        "prediction.ray_engine:_Mapper.begin.start | Choose an --out on a disk",
    ),
    "tests/prediction/test_ray.py::test_actors_that_get_no_place_are_not_waited_for_for_ever": (
        "prediction.ray_engine:RayCrew._check_start | or give fewer --workers",
    ),
    "tests/prediction/test_ray.py::test_a_cluster_that_cannot_be_used": (
        "prediction.ray_engine:connect | Give the --ray-address of a running one",
        "prediction.ray_engine:_check_resources | Give fewer --workers, or add nodes",
    ),
    "tests/cli/test_sharing.py::test_shards_of_one_scene": (
        "api.mapping: | finished parts of the map are kept; run the same command again",
        "cli.predict:predict | --shard divides one scene; of many, let each job have a part",
        "cli.options:tell_waiting | run again those that have died",
    ),
    "tests/prediction/test_units.py::test_an_interrupted_map_goes_on_to_the_same_bytes": (
        "api.mapping: | finished parts of the map are kept; run the same command with --resume",
    ),
    "tests/prediction/test_tiling.py::test_a_folder_of_that_name_is_not_written_into": (
        "prediction.products:_check_place | Choose another --out, or move it",
    ),
    "tests/prediction/test_tiling.py::test_sizes_that_are_none": (
        "prediction.settings:MapSettings.__post_init__ | give the side of a tile in pixels",
    ),
    "tests/prediction/test_units.py::test_what_is_not_ours_is_neither_used_nor_removed": (
        "prediction.job:MapJob._check_ours | Choose another --out, or move it",
    ),
    "tests/prediction/test_units.py::test_units_of_another_map_are_refused_with_what_differs": (
        "prediction.job:MapJob._check_same | Give what it was begun with, or",
    ),
    "tests/prediction/test_units.py::test_units_that_a_full_disk_left_are_gone_on_with": (
        "prediction.products:open_map | Finished parts are kept; then",
    ),
    "tests/training/test_out_of_memory.py::test_a_run_without_memory_can_go_on": (
        "training.fitting:fit_task | or free memory and go on with --resume",
    ),
    "tests/training/test_out_of_memory.py::test_smaller_crops_or_batches_in_another_folder": (
        "training.fitting:fit_task | Start in another folder with a data.batch_size below",
    ),
    "tests/training/test_out_of_memory.py::test_whole_scenes_that_do_not_fit_are_said": (
        "training.fitting:run_training | Free memory, or leave the largest scenes out of the",
    ),
    "tests/training/test_resume.py::test_resumed_equals_uninterrupted": (
        "training.fitting:_stopped | continue with --resume",
    ),
    "tests/training/test_tuned_runs.py::test_base_weights_that_are_gone_or_others": (
        "methods.saving:load_tuned | Restore the file of base weights",
        "methods.saving:missing_base | Or put the file into the run folder",
    ),
    "tests/weights/test_foreign.py::test_a_file_that_may_not_be_read": (
        "weights.files:_read_file | Change its permissions, or copy it to where",
    ),
    "tests/weights/test_foreign.py::test_efficientnets_of_other_names_are_timms": (
        "backbones.timm.names:of_efficientnet_pytorch | Choose the one of the same size",
    ),
    "tests/weights/test_foreign.py::test_names_of_torchvision_are_said": (
        "backbones.timm.names:refuse_torchvisions | Use timm's weights of the same model",
    ),
    "tests/weights/test_weights.py::test_weights_of_another_run_are_found": (
        "weights.saved_model:read_state | bring both from one run folder. If you changed",
    ),
}

#: Reason → places that no test follows.
EXEMPT: dict[str, tuple[str, ...]] = {
    "a cluster whose nodes do not share a disk": (
        "api.sweeps:_Sweeping._note | Choose an --out on a disk that all nodes share",
    ),
    "a file of the authors, which cannot be had without a network": (
        "backbones.croma.weights:load_published | choose a CROMA file, with the groups s1_encoder",
    ),
    "a call in Python by whoever builds a model of parts, not by a user": (
        "backbones.dofa.model:DOFA._set_of | say which one the image has",
    ),
    "16 million segments, or a process killed for lack of memory, to provoke it": (
        "generate.stitching:stitch_labels | split it into several, or request larger segments",
        "generate.workers:WindowRunner._make_there | Use fewer --workers or a smaller --window",
    ),
    "divergence is a matter of the data: that lower rates train is shown by every training": (
        "training.task:LearningTask._not_finite | Try a lower training.lr, more warmup_steps",
    ),
    "a disk that fails, of which no program can tell how to mend it": (
        "weights.files:_read_file | Check the disk",
    ),
    "a later version of the package, which there is not yet": (
        "maps.sample_file:read_sample | Update terrafuse",
    ),
    "nothing is wrong if it is true, and the finding says so": (
        "doctor.labels:_check_shares | Nothing to fix if that is true",
        "doctor.splits:_check_labels | It cannot be learned; other splits have",
        "reports.doctor_page: | look at the place, then decide",
    ),
}

#: Texts with a verb that tell what was done, or name things: no instructions.
NO_INSTRUCTION: tuple[str, ...] = (
    "web.service.app: | Not now; try again",  # of the description of an answer
    "web.service.jobs:Queue._now | SELECT",
    "web.listening:warn_of_others | whoever has a token can",
    "web.viewer.serving:serve_view | look at these rasters and change what is painted on them",
    "api.comparing:_notes | say nothing about other seeds",
    "reports.comparison_tables:_how | Values in %, differences in points",
    "reports.sweep_tables:_what_is_told | Differences with intervals",
    "api.datasets:data_describe | read as folders (layout 'folder')",
    "api.reporting:_pictures | map of",
    "api.runs:Run.choose_scenes | split '",
    "backbones.dofa.model:DOFA._set_of | set of bands",
    "data.placement:place_rasters | name in 'grid'",
    "data.schema:check_names | name in 'grid'",
    "data.schema:to_entry | name in ",
    "data.value_scale:_stored | scale ",
    "demo:_make_demo | map a scene",
    "describe.memory:_compare | and crop size",
    "describe.parts:describe_alike_bands | enter as their sum",
    "doctor.splits:_check_classes_elsewhere | has no pixel of",
    "doctor.structure:_check_pixel_size | where the manifest expects",
    "landscape.cover:_choose_crops | crop in leaf",
    "landscape.surfaces: | crop in leaf",
    "layouts.facts:PublishedFacts.split | split of layout",
    "layouts.options:need_split | split of layout",
    "layouts.summary:_notices | pages, read as bands",
    # SQL begins with verbs.
    "maps.sample_file: | CREATE TABLE",
    "data.painted:_layer_of | SELECT * FROM",
    "data.painted:_layers_of | SELECT c.table_name",
    "data.painted:_refuse_open | SELECT count",
    "data.painted:_replace_rows | DELETE FROM",
    "data.painted:_replace_rows | INSERT INTO",
    "data.painted:_replace_rows | SELECT column_name",
    "data.painted:_replace_rows | UPDATE gpkg_contents",
    "data.painted:_wkt | SELECT srs_name",
    "maps.sample_file:_declare_classes | INSERT INTO gpkg_contents",
    "maps.sample_file:_declare_classes | INSERT INTO gpkg_data_column_constraints",
    "maps.sample_file:_declare_classes | INSERT INTO gpkg_data_columns",
    "maps.sample_file:_declare_classes | INSERT INTO gpkg_extensions",
    "maps.sample_file:_declare_classes | INSERT INTO layer_styles",
    "maps.sample_file:_labelled_rows | SELECT column_name",
    "maps.sample_file:_labelled_rows | SELECT id, reference",
    "maps.sample_file:_reading | SELECT name FROM",
    "maps.sample_file:read_sample | SELECT id, stratum",
    "maps.sample_file:read_sample | SELECT key, value",
    "maps.sample_file:read_sample | SELECT name, value",
    "maps.sample_file:write_labels | UPDATE points",
    "plugins:_take | name in ",
    "reports.doctor_page:_add_finding | Fix in dataset.yaml",
    "reports.efficiency_table:_heading | Label efficiency of",
    "reports.run:describe_environment | terrafuse ",
    "reports.thumbnails:_title | split '",
    "training.optim: | scale of attention",
    "training.optim: | norm or scale (one dimension)",
    "reports.synergy_figures:_draw_changes | change of mIoU, points",
)
