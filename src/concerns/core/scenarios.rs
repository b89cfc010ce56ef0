//! The simulated scenarios of `tests/conformance/concerns.json`, each a test, played against the core.
//!
//! Time goes in steps of 0.1 s. In each of them what was sent in the step before arrives, then every node
//! handles messages, ticks and sends: one [`Input::Round`](super::Input::Round). The links exist from the moment
//! of the dial, carry frames both ways, and lose nothing; what is sent to a node that is down waits.
//!
//! The hooks are called `request`, `tick`, `sent` and so on here; the scenarios use the names of the original.
//! What the types make impossible is played with the nearest thing there is:
//!
//! - `que-07`, a message without handler: the message of a command that no concern of the node has.
//! - `mgr-14` to `mgr-16`, answers of an odd shape: payloads that are no objects.
//! - `mgr-01`, an empty list of concerns: those that a node has unless it is told otherwise, ask-around
//!   among them. What is expected holds all the same.

mod alone;
mod elsewhere;
mod inside;
mod judge;
mod log;
mod player;
mod scenario;
mod scripted;
mod stage;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use serde_json::Value;

use scenario::Scenario;

/// All scenarios of the file, of any kind.
fn all() -> &'static [Value] {
    static FILE: OnceLock<Value> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/conformance/concerns.json"
        );
        let text = std::fs::read_to_string(path).expect("the file of the scenarios is there");
        serde_json::from_str(&text).expect("it is JSON")
    });
    file["scenarios"].as_array().expect("a list")
}

fn play(id: &str) {
    let entry = all().iter().find(|entry| entry["id"] == id);
    player::play(&Scenario::read(entry.expect("the scenario is in the file")));
}

macro_rules! scenarios {
    ($($test:ident $id:literal)*) => {
        $(
            #[test]
            fn $test() {
                play($id);
            }
        )*

        /// The scenarios that are tests here.
        const PLAYED: &[&str] = &[$($id),*];
    };
}

scenarios! {
    con_01 "con-01"
    con_02 "con-02"
    con_03 "con-03"
    con_04 "con-04"
    con_05 "con-05"
    con_06 "con-06"
    con_07 "con-07"
    con_08 "con-08"
    con_09 "con-09"
    con_10 "con-10"
    hb_01 "hb-01"
    hb_02 "hb-02"
    hb_03 "hb-03"
    hb_04 "hb-04"
    hb_05 "hb-05"
    hb_06 "hb-06"
    hb_07 "hb-07"
    hb_08 "hb-08"
    hb_09 "hb-09"
    hb_10 "hb-10"
    que_01 "que-01"
    que_02 "que-02"
    que_03 "que-03"
    que_04 "que-04"
    que_05 "que-05"
    que_06 "que-06"
    que_07 "que-07"
    que_08 "que-08"
    que_09 "que-09"
    mgr_01 "mgr-01"
    mgr_02 "mgr-02"
    mgr_03 "mgr-03"
    mgr_04 "mgr-04"
    mgr_05 "mgr-05"
    mgr_06 "mgr-06"
    mgr_07 "mgr-07"
    mgr_08 "mgr-08"
    mgr_09 "mgr-09"
    mgr_10 "mgr-10"
    mgr_11 "mgr-11"
    mgr_12 "mgr-12"
    mgr_13 "mgr-13"
    mgr_14 "mgr-14"
    mgr_15 "mgr-15"
    mgr_16 "mgr-16"
    mgr_17 "mgr-17"
    rou_01 "rou-01"
    rou_02 "rou-02"
    rou_03 "rou-03"
    rou_04 "rou-04"
    rou_05 "rou-05"
    rou_06 "rou-06"
    rou_07 "rou-07"
    rou_08 "rou-08"
    ask_01 "ask-01"
    ask_02 "ask-02"
    ask_03 "ask-03"
    ask_04 "ask-04"
    ask_10 "ask-10"
    ask_05 "ask-05"
    ask_06 "ask-06"
    ask_07 "ask-07"
    ask_08 "ask-08"
    ask_09 "ask-09"
}

#[test]
fn every_simulated_scenario_is_played() {
    let simulated = all().iter().filter(|entry| entry["kind"] == "sim");
    let ids: BTreeSet<&str> = simulated.filter_map(|entry| entry["id"].as_str()).collect();
    assert_eq!(ids.len(), 64);
    assert_eq!(ids, PLAYED.iter().copied().collect());
}
