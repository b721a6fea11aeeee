"""Which tests hold each kind of fault that users of neighbouring projects reported, and that none of them is skipped.

A fault comes back in another member of its kind, so every kind is tested with at least three.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from functools import cache
from types import ModuleType

import pytest
from conftest import ROOT

# By kind the files, and the tests in them.
KINDS: dict[str, dict[str, str]] = {
    "the shared transformer outside of an edit is the bare base": {
        "core/test_shared_base": "without_coefficients_every_use_is_the_bare_base a_copied_base_is_bare",
    },
    "a cache follows the content that it is of": {
        "flux/test_shards": "changed_data_are_refused other_settings_are_refused other_weights_are_refused"
        " other_configurations_are_refused another_split_is_refused",
        "flux/test_train": "a_run_does_not_go_on_with_other_data",
        "training/test_loop": "resume_with_another_configuration",
        "test_files": "a_cache_follows_what_it_is_of edits_whose_names_look_alike_have_caches_of_their_own",
    },
    "a copy is an equal editor, or refused": {
        "core/test_shared_base": "copies_are_equal_and_apart copies_of_changed_weights_are_refused",
        "flux/test_flux_editor": "a_copy_draws_the_same",
    },
    "what other tools change on the transformer is found at the next call": {
        "core/test_shared_base": "changes_by_other_tools_are_found_at_the_next_call what_is_undone_is_forgotten"
        " a_basis_on_what_others_left_is_refused",
        "flux/test_flux_editor": "changes_by_other_tools_are_found",
    },
    "an interrupt or error leaves the base bit for bit": {
        "core/test_shared_base": "an_interrupt_at_any_line_of_freeze_leaves_the_base"
        " interrupts_while_weights_are_put_back_wait an_error_inside_freeze_or_disabled_leaves_the_base",
    },
    "inside freeze results name what drew them, and nesting is refused": {
        "core/test_shared_base": "results_inside_freeze_name_what_drew_them nesting_is_refused",
        "flux/test_flux_editor": "results_inside_freeze_name_what_drew_them",
    },
    "threads draw what one after the other draws": {
        "core/test_shared_base": "threads_draw_what_one_after_the_other_draws"
        " what_other_threads_freeze_is_seen_by_none a_freeze_that_waits_for_its_own_threads_ends",
        "flux/test_flux_editor": "threads_draw_what_one_after_the_other_draws",
    },
    "a training deletes only what it wrote": {
        "training/test_loop": "a_fresh_start_deletes_nothing_of_others",
        "training/test_sharding": "only_what_the_trainer_writes_is_a_state",
    },
    "a clear value of a PNG is composed on white": {
        "test_images_of_all_kinds": "png_with_a_clear_value_is_composed_on_white any_picture_is_read_rightly",
    },
    "FLUX takes pictures of any aspect as the release does": {
        "flux/test_dataset": "grid_size others_are_stretched_to_the_first",
        "flux/test_flux_editor": "pictures_that_are_not_square_keep_the_aspect_of_a exported_grid_is_the_released_one",
        "flux/test_shards": "pictures_of_any_aspect",
        "flux/test_train": "batches_are_of_one_size",
    },
    "what a checkpoint does not say is looked for, and what is assumed is said": {
        "flux/test_checkpoint": "configuration_beside_and_above without_configuration_it_says_what_it_assumes"
        " what_a_configuration_leaves_out_is_said configuration_that_says_otherwise",
    },
    "every pair of a folder is read, or named as skipped": {
        "flux/test_dataset": "every_format_that_pillow_reads folders_in_any_case what_is_skipped_is_named",
    },
    "bases go to the release and back": {
        "flux/test_checkpoint": "alpha_is_ignored_as_in_the_release"
        " written_configuration_has_what_the_released_inference_reads numbers_of_any_kind_agree",
        "flux/test_train": "start_is_the_released_one",
    },
    "the commands of FLUX do all of the method": {
        "flux/test_flux_editor": "exported_grid_is_the_released_one edit_command loading_an_encoder_is_quiet",
    },
    "a plan that cannot be is refused before any training": {
        "training/test_loop": "plans_that_cannot_be plans_in_numbers_of_numpy"
        " a_run_shorter_than_the_log_s_interval_has_a_log",
        "flux/test_train": "configurations_that_cannot_be",
        "flux/test_shards": "settings_that_cannot_be",
    },
    "damaged files are named": {
        "test_files": "half_and_foreign_json_is_named damaged_cache_is_made_again"
        " an_interrupted_write_leaves_the_old_file without_a_cache_that_can_be_written",
        "test_bad_input": "bad_input",
        "test_images_of_all_kinds": "damaged_files_are_read_or_named a_png_has_a_checksum",
        "emoji/test_sheets": "damaged_sheets_are_named damaged_tables_are_named",
        "models/test_weights": "a_damaged_configuration_is_named damaged_tensors_are_named truncated_weights_are_named",
        "training/test_loop": "damaged_state logs_that_are_none",
        "training/test_sharding": "progress_that_is_none",
        "flux/test_dataset": "damaged_pictures_are_named wrong_split_files",
        "flux/test_shards": "damaged_shards_are_named a_changed_byte_within_a_tensor_is_found"
        " json_of_another_shape_is_named half_a_json_file_is_named",
        "flux/test_checkpoint": "configuration_that_is_none says_exactly_what_differs",
    },
    "texts in any encoding are read or named, and any console is printed to": {
        "flux/test_dataset": "other_encodings_are_named what_nobody_sees_is_no_part_of_a_caption texts_that_are_none"
        " a_byte_order_mark_is_no_part_of_the_text two_forms_of_a_name_are_one",
        "flux/test_inspect": "consoles_that_cannot_print_everything",
        "test_files": "consoles_that_lack_characters text_in_utf8_with_or_without_a_mark",
    },
    "defaults that other libraries set change nothing": {
        "core/test_shared_base": "default_dtype_and_device_change_nothing no_entry_depends_on_defaults"
        " no_entry_depends_on_what_it_is_called_within random_numbers_of_others_stay_theirs",
        "flux/test_flux_editor": "default_dtype_and_device_change_nothing",
        "test_files": "cache_without_a_home",
    },
    "a saved base is the bare one and loads": {
        "core/test_shared_base": "a_saved_base_is_the_bare_one_and_loads",
    },
    "what other programs leave, rounding and numbers of other types are no errors": {
        "flux/test_dataset": "what_other_programs_leave_behind",
        "test_images_of_all_kinds": "the_rounding_of_floats_is_no_error one_size_limit_for_every_container"
        " whole_numbers_of_every_kind",
    },
    "any picture is read rightly, or refused": {
        "test_images_of_all_kinds": "any_picture_is_read_rightly anything_else_is_read_or_refused"
        " damaged_files_are_read_or_named",
    },
    "any sequence of calls leaves the editor as it was": {
        "core/test_shared_base": "any_sequence_of_calls_leaves_the_editor_as_it_was",
    },
}
NEVER = ("skip", "skipif", "xfail")


@cache
def _module(file: str) -> ModuleType:
    path = ROOT / "tests" / f"{file}.py"
    sys.path.append(str(path.parent))  # as pytest does
    spec = importlib.util.spec_from_file_location(f"kinds_{file.replace('/', '_')}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def _members(file: str, name: str) -> int:
    """How many cases a test has: its parameters, or the examples that hypothesis makes; none may be left out."""
    module = _module(file)
    test = getattr(module, f"test_{name}")
    marks = [*getattr(test, "pytestmark", []), *getattr(module, "pytestmark", [])]
    assert not [mark for mark in marks if mark.name in NEVER], name
    assert "pytest.skip(" not in inspect.getsource(test), name
    values = [list(mark.args[1]) for mark in marks if mark.name == "parametrize"]
    skipped = [m.name for part in values for value in part for m in getattr(value, "marks", ()) if m.name in NEVER]
    assert not skipped, name
    made = getattr(test, "_hypothesis_internal_use_settings", None)
    return math.prod(map(len, values)) * (made.max_examples if made else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_members(kind: str) -> None:
    tests = [(file, name) for file, names in KINDS[kind].items() for name in names.split()]
    assert len(set(tests)) == len(tests)
    assert sum(_members(*test) for test in tests) >= 3, kind
