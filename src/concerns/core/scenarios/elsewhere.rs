//! Which test follows which of the scenarios that are not played here.
//!
//! Where the original's wire, queues or store have no counterpart, what is expected is asked of what is there
//! instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{PLAYED, all};

/// Scenario and test; or the file, where something is measured.
const FOLLOWED: &[(&str, &str)] = &[
    ("cod-01", "a_message_between_neighbours_names_neither"),
    (
        "cod-02",
        "a_message_over_a_hop_says_for_whom_it_is_and_a_forwarded_one_who_made_it",
    ),
    (
        "cod-03",
        "a_message_over_a_hop_says_for_whom_it_is_and_a_forwarded_one_who_made_it",
    ),
    ("cod-04", "a_message_between_neighbours_names_neither"),
    (
        "cod-05",
        "a_message_without_receiver_or_command_cannot_be_made",
    ),
    ("cod-06", "a_payload_comes_as_it_went_whatever_is_in_it"),
    ("cod-07", "a_message_between_neighbours_names_neither"),
    (
        "cod-08",
        "a_message_over_a_hop_says_for_whom_it_is_and_a_forwarded_one_who_made_it",
    ),
    (
        "cod-09",
        "a_frame_that_does_not_hold_together_ends_the_link",
    ),
    (
        "cod-10",
        "content_that_cannot_be_a_message_is_given_out_as_such",
    ),
    ("cod-11", "a_kind_that_nobody_knows_is_told_and_dropped"),
    ("cod-12", "a_kind_that_nobody_knows_is_told_and_dropped"),
    (
        "cod-13",
        "content_that_cannot_be_a_message_is_given_out_as_such",
    ),
    (
        "cod-14",
        "content_that_cannot_be_a_message_is_given_out_as_such",
    ),
    ("cod-15", "all_kinds_and_numbers_arrive_as_they_were"),
    (
        "cod-16",
        "an_answer_goes_back_over_the_hop_its_request_came_from_and_lives_for_30_seconds",
    ),
    (
        "cod-17",
        "an_answer_goes_back_over_the_hop_its_request_came_from_and_lives_for_30_seconds",
    ),
    ("cod-18", "a_lifetime_that_ends_now_is_not_over"),
    (
        "cod-19",
        "a_payload_may_use_any_key_and_changes_nothing_else",
    ),
    (
        "pee-01",
        "unanswered_heart_beats_come_after_4_6_8_and_then_10_seconds",
    ),
    (
        "pee-02",
        "who_is_not_reached_is_tried_again_and_who_was_heard_gets_heart_beats",
    ),
    ("pee-03", "every_state_can_be_printed"),
    (
        "pee-04",
        "a_hello_tells_host_and_port_and_changes_no_state_that_it_should_not",
    ),
    (
        "pee-05",
        "a_hello_tells_host_and_port_and_changes_no_state_that_it_should_not",
    ),
    ("quu-01", "a_round_gives_out_all_fast_messages"),
    (
        "quu-02",
        "fast_messages_to_one_destination_keep_their_order",
    ),
    (
        "quu-03",
        "a_round_gives_out_the_oldest_medium_message_of_each_destination",
    ),
    ("quu-04", "a_round_gives_out_the_oldest_slow_message"),
    (
        "quu-05",
        "nothing_is_left_of_destinations_with_nothing_queued",
    ),
    (
        "sto-01",
        "a_new_file_has_an_identity_of_32_hexadecimal_digits",
    ),
    (
        "sto-02",
        "the_identity_survives_and_each_life_has_a_higher_incarnation",
    ),
    (
        "sto-03",
        "an_identity_that_differs_from_the_one_in_the_file_is_an_error",
    ),
    ("sto-04", "peers_that_are_learned_are_saved_and_loaded"),
    (
        "sto-05",
        "what_others_change_in_the_file_reaches_the_node_once",
    ),
    (
        "sto-06",
        "what_others_change_in_the_file_reaches_the_node_once",
    ),
    ("sto-07", "peers_that_are_learned_are_saved_and_loaded"),
    (
        "sto-08",
        "what_others_change_in_the_file_reaches_the_node_once",
    ),
    ("sto-09", "a_peer_that_was_removed_stays_removed"),
    (
        "sto-10",
        "what_others_change_in_the_file_reaches_the_node_once",
    ),
    (
        "sto-11",
        "a_file_that_cannot_be_understood_is_an_error_and_left_alone",
    ),
    ("sto-12", "keys_that_are_not_known_are_kept"),
    ("sto-13", "peers_that_are_learned_are_saved_and_loaded"),
    (
        "live-01",
        "a_peer_that_comes_back_at_another_port_is_reached_there",
    ),
    (
        "live-02",
        "a_peer_that_comes_back_at_the_same_port_is_reached_again",
    ),
    (
        "live-03",
        "what_is_for_a_peer_at_a_closed_port_is_not_sent_and_that_is_told",
    ),
    (
        "live-04",
        "a_message_whose_lifetime_is_over_is_dropped_and_not_delivered_late",
    ),
    (
        "live-05",
        "a_peer_that_does_not_read_holds_up_nobody_and_no_end",
    ),
    ("live-06", "a_port_that_is_taken_is_an_error_of_the_start"),
    (
        "live-07",
        "a_concern_that_does_not_start_undoes_the_start_of_the_node",
    ),
    ("live-08", "another_version_is_told_once_on_both_sides"),
    ("live-09", "a_link_belongs_to_the_identity_of_its_hello"),
    ("live-10", "benches/concerns.rs"),
    (
        "live-11",
        "a_reply_has_the_number_of_its_request_and_says_who_made_it",
    ),
    (
        "live-12",
        "hundreds_of_nodes_leave_no_thread_and_no_descriptor",
    ),
    (
        "live-13",
        "an_ordinary_life_is_no_warning_and_the_log_has_no_payload_and_no_secret",
    ),
    ("live-14", "all_hooks_run_on_one_thread"),
];

/// The names of all tests below a folder.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source is text");
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line != "#[test]" {
                    continue;
                }
                let name = lines.find_map(|line| line.strip_prefix("fn "));
                let name = name.and_then(|rest| rest.split_once('('));
                names.insert(name.expect("a test has a name").0.to_owned());
            }
        }
    }
}

#[test]
fn every_scenario_is_followed_by_a_test_that_there_is() {
    let ids: BTreeSet<&str> = all()
        .iter()
        .filter_map(|entry| entry["id"].as_str())
        .collect();
    let followed: BTreeMap<&str, &str> = FOLLOWED.iter().copied().collect();
    let named = PLAYED.iter().chain(followed.keys()).copied().collect();
    assert_eq!(ids, named);

    let mut names = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src/concerns", "tests"] {
        tests(&root.join(folder), &mut names);
    }
    let there =
        |test: &str| names.contains(test) || (test.contains('/') && root.join(test).exists());
    let missing = FOLLOWED.iter().filter(|(_, test)| !there(test));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
