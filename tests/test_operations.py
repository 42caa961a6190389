"""Every promise of docs/operations.md has tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TEXT = (HERE.parent / "docs" / "operations.md").read_text(encoding="utf-8")

PROVEN = {
    1: [
        "extraction/test_invalidation_fuzz.py::test_random_edits_recompute_what_changed_and_serve_nothing_stale",
        "extraction/test_changed_samples.py::test_the_command_says_which_samples_changed_and_exits_3",
        "fuzz/test_changing_data.py::test_whatever_is_edited_at_whichever_read_no_row_lies_under_another_contents_id",
    ],
    2: ["extraction/test_invalidation.py::test_an_edit_that_keeps_size_and_modification_time_is_seen"],
    3: ["extraction/test_invalidation.py::test_a_transform_that_cannot_be_fingerprinted_is_refused_with_what_to_do"],
    4: ["store/test_durability.py::test_an_extraction_killed_at_random_moments_loses_nothing_and_shows_nothing_torn"],
    5: [
        "store/test_durability.py::test_an_extraction_killed_at_random_moments_loses_nothing_and_shows_nothing_torn",
        "cli/test_cli.py::test_a_killed_extract_goes_on_at_its_last_whole_shard",
    ],
    6: [
        "store/test_durability.py::test_every_write_fsync_and_rename_may_fail_with_a_clean_error_and_a_valid_store",
        "store/test_durability.py::test_a_shard_that_the_disk_does_not_take_is_a_clean_error",
    ],
    7: ["catalog/test_gc.py::test_temporary_files_of_dead_writers_are_swept_and_those_of_living_ones_stay"],
    8: ["cli/test_cli.py::test_signals_save_what_was_computed_and_say_so"],
    9: ["catalog/test_gc.py::test_a_disk_that_is_too_small_is_an_error_before_anything_is_computed"],
    10: [
        "store/test_durability.py::test_eight_processes_compute_each_row_about_once_while_others_read_verify_and_collect",
        "store/test_durability.py::test_a_claim_of_another_machine_counts_while_it_is_touched",
        "store/test_durability.py::test_the_claim_and_the_lock_of_a_dead_process_do_not_count",
    ],
    11: [
        "store/test_durability.py::test_eight_processes_compute_each_row_about_once_while_others_read_verify_and_collect"
    ],
    12: ["test_operations.py::test_no_lock_of_the_operating_system_is_used"],
    13: [
        "store/test_shard.py::test_a_shard_of_another_recipe_is_refused",
        "store/test_hostile.py::test_bytes_that_are_no_shard_are_refused",
    ],
    14: ["store/test_shard.py::test_every_flipped_bit_of_the_features_is_noticed_before_it_is_read"],
    15: [
        "store/test_integrity.py::test_a_flipped_bit_in_any_file_of_a_store_is_noticed_or_harmless",
        "store/test_integrity.py::test_verify_finds_every_flipped_bit_that_matters",
    ],
    16: [
        "store/test_integrity.py::test_damage_is_named_by_shard_and_rows_and_repair_drops_just_those",
        "store/test_integrity.py::test_repair_never_drops_what_only_cannot_be_read",
    ],
    17: ["store/test_integrity.py::test_rows_compare_equal_with_fresh_ones_and_wrong_ones_show"],
    18: [
        "store/test_hostile.py::test_what_a_stranger_puts_into_a_shard_is_refused_unread",
        "store/test_hostile.py::test_what_a_stranger_puts_into_a_snapshot_is_refused_unread",
    ],
    19: ["store/test_hostile.py::test_no_pickle_is_ever_read"],
    20: [
        "store/test_hostile.py::test_names_from_outside_cannot_leave_the_folder_of_the_store",
        "store/test_hostile.py::test_names_of_samples_classes_and_splits_are_only_text",
    ],
    21: [
        "store/test_hostile.py::test_a_head_cannot_have_code_run_that_came_with_the_store",
        "store/test_hostile.py::test_a_symbolic_link_in_a_store_is_never_followed",
    ],
    22: ["catalog/test_gc.py::test_gc_says_what_nothing_refers_to_and_deletes_only_when_told"],
    23: [
        "catalog/test_gc.py::test_what_the_caller_names_a_pin_or_a_head_refers_to_is_kept",
        "catalog/test_gc.py::test_what_a_living_process_works_with_is_kept_and_what_a_dead_one_did_is_not",
        "catalog/test_gc.py::test_gc_pin_and_budget_from_the_command_line",
    ],
    24: ["catalog/test_gc.py::test_max_size_evicts_the_least_recently_used_until_the_rest_fits"],
    25: ["catalog/test_gc.py::test_rows_of_deleted_samples_stay_in_a_set_that_is_kept"],
    26: ["catalog/test_gc.py::test_a_budget_stops_extract_before_it_is_passed_with_the_number_needed"],
    27: [
        "store/test_format.py::test_featcache_reads_every_row_of_a_golden_store",
        "store/test_format.py::test_a_reader_that_knows_only_the_description_reads_and_checks_a_golden_store",
    ],
}


def test_every_promise_is_listed_with_its_tests() -> None:
    promised = [int(number) for number in re.findall(r"^(\d+)\. ", TEXT, re.MULTILINE)]
    assert promised == sorted(PROVEN)
    assert promised == list(range(1, len(promised) + 1))


@pytest.mark.parametrize("number", sorted(PROVEN))
def test_the_tests_of_a_promise_exist(number: int) -> None:
    for name in PROVEN[number]:
        file, _, test = name.partition("::")
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_no_lock_of_the_operating_system_is_used() -> None:
    for path in (HERE.parent / "featcache").rglob("*.py"):
        words = path.read_text(encoding="utf-8")
        assert not re.search(r"\bfcntl\b|\bflock\b|\blockf\b|\bmsvcrt\b", words), path


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (HERE.parent / "docs" / target).exists(), target
