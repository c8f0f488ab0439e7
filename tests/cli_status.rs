//! `dolmen status`: what a state file says, for people and for programs.
#![cfg(feature = "cli")]

mod common;

use serde_json::{Value as Json, json};

use common::command::Room;

const STATE: &str = "pipeline_state.json";

/// A state as the original writes it.
fn state() -> Json {
    let stage = |status: &str| {
        json!({
            "status": status,
            "started_at": null,
            "completed_at": null,
            "duration_seconds": null,
            "inputs": {},
            "outputs": {},
            "error": null,
        })
    };
    let mut chunking = stage("completed");
    chunking["started_at"] = json!("2026-01-22T17:27:41.213097");
    chunking["completed_at"] = json!("2026-01-22T17:27:41.218575");
    chunking["duration_seconds"] = json!(0.005482);
    chunking["outputs"] = json!({"files": ["never/there.fa"], "more": {"also": "here.fa"}});
    let mut translation = stage("failed");
    translation["started_at"] = json!("2026-01-22T17:28:00.000001");
    translation["failed_at"] = json!("2026-01-22T17:29:41.5");
    translation["error"] = json!("disk full\nand so on");
    json!({
        "created_at": "2026-01-22T17:27:41.213038",
        "pipeline_config": {"config_hash": "9ef5f4", "expected_length": 500},
        "stages": {"CHUNKING": chunking, "TRANSLATION": translation, "CONSENSUS": stage("not_started")},
        "updated_at": "2026-01-22T17:27:58.250002",
    })
}

#[test]
fn it_shows_progress_and_a_line_for_each_stage() {
    let room = Room::new();
    room.put(STATE, state().to_string());
    let ran = room.run(&["status", "."]);
    let lines: Vec<&str> = ran.succeeded().lines().collect();
    assert_eq!(
        lines,
        [
            "Progress: 1/3 stages complete, resuming from: TRANSLATION",
            "  stage        status       duration  when                 error",
            "  CHUNKING     completed     0.005 s  2026-01-22 17:27:41",
            "  TRANSLATION  failed                 2026-01-22 17:29:41  disk full\\nand so on",
            "  CONSENSUS    not_started",
        ]
    );
    assert_eq!(room.names(), [STATE], "nothing is made");
}

#[test]
fn it_says_so_when_all_stages_are_complete() {
    let room = Room::new();
    let mut state = state();
    for stage in ["CHUNKING", "TRANSLATION", "CONSENSUS"] {
        state["stages"][stage]["status"] = json!("completed");
    }
    room.put(STATE, state.to_string());
    let ran = room.run(&["status", "."]);
    assert_eq!(ran.succeeded().lines().next(), Some("Progress: 3/3 stages complete"));
    assert_eq!(room.json(0, &["status", ".", "--json"])["next"], Json::Null);
}

#[test]
fn json_has_all_that_the_state_says() {
    let room = Room::new();
    room.put(STATE, state().to_string());
    let json = room.json(0, &["status", ".", "--json"]);
    assert_eq!(
        json,
        json!({
            "path": "./pipeline_state.json",
            "complete": 1,
            "total": 3,
            "next": "TRANSLATION",
            "created_at": "2026-01-22T17:27:41.213038",
            "updated_at": "2026-01-22T17:27:58.250002",
            "config_hash": "9ef5f4",
            "stages": [
                {
                    "name": "CHUNKING",
                    "status": "completed",
                    "started_at": "2026-01-22T17:27:41.213097",
                    "completed_at": "2026-01-22T17:27:41.218575",
                    "failed_at": null,
                    "duration_seconds": 0.005482,
                    "inputs": [],
                    "outputs": ["never/there.fa", "here.fa"],
                    "error": null,
                },
                {
                    "name": "TRANSLATION",
                    "status": "failed",
                    "started_at": "2026-01-22T17:28:00.000001",
                    "completed_at": null,
                    "failed_at": "2026-01-22T17:29:41.5",
                    "duration_seconds": null,
                    "inputs": [],
                    "outputs": [],
                    "error": "disk full\nand so on",
                },
                {
                    "name": "CONSENSUS",
                    "status": "not_started",
                    "started_at": null,
                    "completed_at": null,
                    "failed_at": null,
                    "duration_seconds": null,
                    "inputs": [],
                    "outputs": [],
                    "error": null,
                },
            ],
            "failed_checkpoints": [],
        })
    );
    let help = room.run(&["status", "--help"]);
    for key in json.as_object().unwrap().keys().chain(json["stages"][0].as_object().unwrap().keys()) {
        assert!(help.out.contains(&format!("\"{key}\"")), "the help does not speak of {key}");
    }
}

#[test]
fn the_state_is_found_in_a_directory_in_its_checkpoints_and_by_its_own_name() {
    let room = Room::new();
    room.put("run/.checkpoints/pipeline_state.json", state().to_string());
    for path in ["run", "run/.checkpoints", "run/.checkpoints/pipeline_state.json"] {
        assert_eq!(room.json(0, &["status", path, "--json"])["total"], 3, "{path}");
    }
    room.put("run/pipeline_state.json", json!({"stages": {}}).to_string());
    assert_eq!(room.json(0, &["status", "run", "--json"])["total"], 0, "the directory's own comes first");
}

#[test]
fn without_a_state_it_exits_with_1() {
    let room = Room::new();
    room.run(&["status", "."]).failed(1, &["there is no pipeline_state.json here", "name the directory"]);
    room.run(&["status", "nowhere"]).failed(1, &["nowhere", "No such file"]);
    assert_eq!(room.run(&["status"]).code, 2);
}

#[test]
fn a_corrupted_state_exits_with_3_and_one_of_a_newer_version_as_well() {
    let room = Room::new();
    let text = state().to_string();
    for broken in [&text[..text.len() - 2], "", "[]", "{\"stages\": {\"A\": {\"status\": \"gone\"}}}"] {
        room.put(STATE, broken);
        room.run(&["status", "."]).failed(3, &["pipeline_state.json: corrupted: "]);
        room.run(&["status", ".", "--json"]).failed(3, &["corrupted"]);
    }
    room.put(STATE, json!({"state_version": 99, "stages": {}}).to_string());
    room.run(&["status", "."]).failed(3, &["incompatible", "version 99"]);
}

#[test]
fn a_state_cannot_write_on_the_terminal() {
    let room = Room::new();
    let evil = "\u{1b}[2J\u{9b}31m\u{202e}\r";
    let stage = json!({
        "status": "failed", "started_at": evil, "failed_at": evil, "error": evil, "outputs": [evil], "duration_seconds": 1e308,
    });
    let mut state = json!({"created_at": evil, "pipeline_config": {"config_hash": evil}, "stages": {}});
    state["stages"][evil] = stage;
    room.put(STATE, state.to_string());
    for args in [&["status", "."][..], &["status", ".", "--json"]] {
        let ran = room.run(args);
        let harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.succeeded().contains(harmful), "{ran:?}");
    }
    room.put(STATE, json!({"stages": {"A": {"status": evil}}}).to_string());
    let ran = room.run(&["status", "."]);
    ran.failed(3, &["`status` is"]);
    assert!(!ran.err.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']), "{ran:?}");
}

#[test]
fn checkpoints_that_failed_follow_the_stages() {
    let room = Room::new();
    room.put(STATE, state().to_string());
    let lines: String =
        (0..7).map(|n| format!("batch_{n}.pt|corrupted: file is 0 bytes|2026-01-23T12:00:0{n}Z\n")).collect();
    room.put("failed_checkpoints.txt", lines);
    let ran = room.run(&["status", STATE]);
    let lines: Vec<&str> = ran.succeeded().lines().skip(5).collect();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], "Found 7 failed checkpoints from previous runs:");
    assert_eq!(lines[5..], ["  batch_4.pt: corrupted: file is 0 bytes", "  ... and 2 more"]);
    let json = room.json(0, &["status", ".", "--json"]);
    let failed = json["failed_checkpoints"].as_array().unwrap();
    assert_eq!(failed.len(), 7);
    let last = json!({"path": "batch_6.pt", "reason": "corrupted: file is 0 bytes", "time": "2026-01-23T12:00:06Z"});
    assert_eq!(failed[6], last);
}
