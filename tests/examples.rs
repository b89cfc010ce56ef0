//! The examples with masters and slaves as their users meet them: built programs, their output and their exit codes.
//!
//! See `support/program.rs` for how they are built.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use support::program::{PATIENCE, Program};

impl Program {
    /// A slave on loopback, and its address.
    fn slave(arguments: &[&str]) -> (Self, String) {
        let mut slave = Self::start(
            "slave",
            &[&["--port", "0", "--announce"], arguments].concat(),
        );
        let port = slave.ready()["port"].as_u64().unwrap();
        (slave, format!("127.0.0.1:{port}"))
    }

    /// A master of these slaves.
    fn master(slaves: &str, arguments: &[&str]) -> Self {
        Self::start(
            "master",
            &[&["--port", "0", "--slaves", slaves], arguments].concat(),
        )
    }

    /// Waits for the ready line.
    fn ready(&mut self) -> Value {
        let line = self.line();
        assert_eq!(line["event"], "ready", "{line}");
        line
    }

    /// Gives a task, and waits for a line of output.
    fn ask(&mut self, slave: Option<&str>, data: Value) -> Value {
        self.say(json!({"slave": slave, "data": data}));
        self.line()
    }
}

/// A folder of its own, removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("interplay-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address at which nobody listens, nor can for as long as the socket lives.
fn nobody() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
        .to_string();
    (socket, address)
}

/// A slave whose tasks end when a file appears; the path of the file.
fn patient_slave(folder: &Folder, name: &str) -> (Program, String, String) {
    let file = folder.path(name);
    // The command outlives a slave that is killed, but not the folder.
    let folder = folder.0.display();
    let wait = format!("while [ -d '{folder}' ] && ! [ -e '{file}' ]; do sleep 0.05; done; echo 1");
    let (slave, address) = Program::slave(&["--exec", "sh", "-c", &wait]);
    (slave, address, file)
}

fn end_of(slave: impl Into<Value>, status: &str, data: Value, result: Value) -> Value {
    json!({"slave": slave.into(), "status": status, "data": data, "result": result})
}

#[test]
fn a_slave_sums_for_a_master_and_both_end_cleanly() {
    let (mut slave, at) = Program::slave(&["--channel", "-7"]);
    let mut master = Program::master(&at, &["--channel", "-7"]);
    let cases = [
        (json!({"a": 2, "b": 3}), "completed", json!({"sum": 5})),
        (json!({"a": 2, "b": 0.5}), "completed", json!({"sum": 2.5})),
        (
            json!({"a": u64::MAX, "b": -1}),
            "completed",
            json!({"sum": u64::MAX - 1}),
        ),
        (
            json!({"a": 2}),
            "failed",
            json!({"message": "ab not found"}),
        ),
        (
            json!({"a": 2, "b": "3"}),
            "failed",
            json!({"message": "ab not found"}),
        ),
        (json!([1, 2]), "failed", json!({"message": "ab not found"})),
    ];
    for (data, status, result) in cases {
        let line = master.ask(None, data.clone());
        assert_eq!(line, end_of(&*at, status, data, result));
    }
    assert_eq!(master.finish(), (Some(0), vec![]));
    slave.error_with("disconnected");
    slave.terminate();
    assert_eq!(slave.end().0, Some(0));
}

#[test]
fn an_announced_slave_ends_with_its_input() {
    let (mut slave, _) = Program::slave(&[]);
    assert_eq!(slave.finish(), (Some(0), vec![]));
}

#[test]
fn a_slave_in_the_background_ignores_its_input_and_ends_on_a_signal() {
    let mut slave = Program::start_as("slave", &["--port", "0"], |command| {
        command.stdin(Stdio::null());
    });
    let line = slave.error_with("started on channel 0");
    let at = line
        .split_whitespace()
        .find_map(|word| word.trim_end_matches(':').parse::<SocketAddr>().ok())
        .unwrap();
    let mut master = Program::master(&at.to_string(), &[]);
    assert_eq!(
        master.ask(None, json!({"a": 1, "b": 1}))["result"],
        json!({"sum": 2})
    );
    slave.terminate();
    assert_eq!(slave.end(), (Some(0), vec![]));
}

#[test]
fn both_end_when_they_are_shut_down_from_outside() {
    let mut slave = Program::start("slave", &["--port", "0", "--announce"]);
    let ready = slave.ready();
    let at = format!("127.0.0.1:{}", ready["port"]);
    let mut master = Program::master(&at, &["--announce"]);
    for (program, ready) in [(&mut master, None), (&mut slave, Some(ready))] {
        let ready = ready.unwrap_or_else(|| program.ready());
        let address = (
            "127.0.0.1",
            u16::try_from(ready["port"].as_u64().unwrap()).unwrap(),
        );
        let mut peer = TcpStream::connect(address).unwrap();
        let token = ready["self_token"].as_str().unwrap();
        write!(
            peer,
            "DELETE /shutdown HTTP/1.1\r\nHost: x\r\nToken: {token}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(program.end(), (Some(0), vec![]));
    }
}

#[test]
fn a_master_that_is_ended_by_a_signal_prints_its_task_as_lost() {
    let folder = Folder::new("signal");
    let (mut busy, busy_at, _file) = patient_slave(&folder, "never");
    let (_other, other_at) = Program::slave(&[]);
    let mut master = Program::master(&format!("{busy_at},{other_at}"), &[]);
    master.say(json!({"slave": busy_at, "data": 1}));
    // The first task has been read when the second has ended.
    assert_eq!(
        master.ask(Some(&other_at), json!({"a": 1, "b": 1}))["status"],
        "completed"
    );
    master.terminate();
    assert_eq!(
        master.line(),
        end_of(&*busy_at, "lost", json!(1), Value::Null)
    );
    assert_eq!(master.end(), (Some(0), vec![]));
    busy.error_with("disconnected");
}

#[test]
fn the_tasks_of_a_slave_that_is_down_are_lost_and_the_rest_goes_on() {
    let (_held, down) = nobody();
    let (_slave, up) = Program::slave(&[]);
    let mut master = Program::master(&format!("{down},{up}"), &[]);
    for number in 0..3 {
        master.say(json!({"slave": down, "data": number}));
        master.say(json!({"slave": up, "data": {"a": number, "b": 1}}));
        master.say(json!({"slave": null, "data": {"a": number, "b": 2}}));
    }
    let (code, lines) = master.finish();
    let mut lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut expected = Vec::new();
    for number in 0..3 {
        expected.push(end_of(&*down, "lost", json!(number), Value::Null));
        expected.push(end_of(
            &*up,
            "completed",
            json!({"a": number, "b": 1}),
            json!({"sum": number + 1}),
        ));
        expected.push(end_of(
            &*up,
            "completed",
            json!({"a": number, "b": 2}),
            json!({"sum": number + 2}),
        ));
    }
    lines.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(lines, expected);
    assert_eq!(code, Some(0));
    let told = master.error_with("cannot be reached");
    assert!(
        told.starts_with("master: no answer from slave") && told.contains(&down),
        "{told}"
    );
}

#[test]
fn a_task_for_any_slave_goes_to_one_that_is_free() {
    let folder = Folder::new("free");
    let (_busy, busy_at, file) = patient_slave(&folder, "go");
    let (_free, free_at) = Program::slave(&[]);
    let mut master = Program::master(&format!("{busy_at},{free_at}"), &[]);
    master.say(json!({"slave": busy_at, "data": "wait"}));
    for number in 0..8 {
        let line = master.ask(None, json!({"a": number, "b": 0}));
        assert_eq!(
            line,
            end_of(
                &*free_at,
                "completed",
                json!({"a": number, "b": 0}),
                json!({"sum": number})
            )
        );
    }
    fs::write(file, "").unwrap();
    assert_eq!(
        master.line(),
        end_of(&*busy_at, "completed", json!("wait"), json!(1))
    );
    assert_eq!(master.finish(), (Some(0), vec![]));
}

#[test]
fn the_tasks_of_one_slave_run_in_their_order() {
    let (_slave, at) = Program::slave(&["--exec", "cat"]);
    let mut master = Program::master(&at, &[]);
    for number in 0..50 {
        master.say(json!({"slave": at, "data": number}));
    }
    for number in 0..50 {
        let result = if number == 0 {
            json!({})
        } else {
            json!(number)
        }; // 0 is empty to the wire
        assert_eq!(
            master.line(),
            end_of(&*at, "completed", json!(number), result)
        );
    }
}

#[test]
fn more_tasks_than_may_be_open_at_once_all_end() {
    let (_one, one) = Program::slave(&[]);
    let (_two, two) = Program::slave(&[]);
    let mut master = Program::master(&format!("{one},{two}"), &[]);
    let mut input = master.input.take().unwrap();
    let writer = thread::Builder::new().spawn(move || {
        for number in 0..3000 {
            writeln!(
                input,
                r#"{{"slave": null, "data": {{"a": {number}, "b": 0}}}}"#
            )
            .unwrap();
        }
    });
    let (code, lines) = master.end();
    writer.unwrap().join().unwrap();
    let sum = |line: &String| {
        serde_json::from_str::<Value>(line).unwrap()["result"]["sum"]
            .as_u64()
            .unwrap()
    };
    let mut sums: Vec<u64> = lines.iter().map(sum).collect();
    sums.sort_unstable();
    assert!(sums.into_iter().eq(0..3000));
    assert_eq!(code, Some(0));
}

#[test]
fn lines_without_sense_are_told_by_number_and_the_rest_goes_on() {
    let (_slave, at) = Program::slave(&[]);
    let mut master = Program::master(&at, &[]);
    let lines = [
        ("nonsense", "line 1: not JSON, see column 2"),
        ("", "line 2: not JSON"),
        ("[1]", "line 3: not an object"),
        ("{}", "line 4: neither data nor cmd"),
        (
            r#"{"slave": 3, "data": 1}"#,
            "line 5: slave is 3, neither a name nor null",
        ),
        (
            r#"{"cmd": "fly", "slave": "x"}"#,
            r#"line 6: unknown cmd "fly""#,
        ),
        (
            r#"{"cmd": "disconnect"}"#,
            "line 7: disconnect without the name of a slave",
        ),
    ];
    for (line, words) in lines {
        master.say(line);
        master.error_with(words);
    }
    master
        .input
        .as_mut()
        .unwrap()
        .write_all(b"{\"data\": \"\xff\"}\n")
        .unwrap();
    master.error_with("line 8: not JSON");
    assert_eq!(
        master.ask(None, json!({"a": 1, "b": 2}))["result"],
        json!({"sum": 3})
    );
    assert_eq!(master.finish(), (Some(0), vec![]));
}

#[test]
fn a_task_for_nobody_is_lost() {
    let mut master = Program::master("", &["--announce"]);
    master.ready();
    assert_eq!(
        master.ask(None, json!(1)),
        end_of(Value::Null, "lost", json!(1), Value::Null)
    );
    master.error_with("line 1: lost: there is no slave");
    assert_eq!(
        master.ask(Some("x"), json!(1)),
        end_of("x", "lost", json!(1), Value::Null)
    );
    master.error_with("line 2: lost: there is no such slave");
    assert_eq!(master.finish(), (Some(0), vec![]));
}

#[test]
fn a_slave_that_is_started_again_on_its_port_is_connected_again() {
    let (_held, down) = nobody();
    let (mut slave, at) = Program::slave(&[]);
    let mut master = Program::master(&format!("{down},{at}"), &[]);
    let pair = json!({"a": 1, "b": 2});
    assert_eq!(master.ask(Some(&at), pair.clone())["status"], "completed");
    for name in [Some(&*at), None] {
        slave.kill();
        assert_eq!(master.ask(name, pair.clone())["status"], "lost");
        slave = start_again(&at);
        assert_eq!(master.ask(name, pair.clone())["status"], "completed");
        // Again, without anybody having noticed in between.
        slave.kill();
        slave = start_again(&at);
        assert_eq!(master.ask(name, pair.clone())["status"], "completed");
    }
    assert_eq!(master.finish(), (Some(0), vec![]));
}

/// A slave at an address that was just given up; somebody else may have the port for a moment.
fn start_again(at: &str) -> Program {
    let port = at.rsplit(':').next().unwrap();
    let attempts = (0..100).map(|_| Program::start("slave", &["--port", port, "--announce"]));
    let started = |slave: &Program| slave.output.recv_timeout(PATIENCE).is_ok();
    attempts
        .into_iter()
        .find(started)
        .expect("the port is in use")
}

#[test]
fn a_slave_of_another_master_is_reported_and_taken_when_it_is_let_go() {
    let (mut slave, at) = Program::slave(&[]);
    let mut first = Program::master(&at, &[]);
    let pair = json!({"a": 1, "b": 2});
    assert_eq!(first.ask(None, pair.clone())["status"], "completed");
    let mut second = Program::master(&at, &[]);
    second.error_with("refused");
    assert_eq!(
        second.ask(Some(&at), pair.clone()),
        end_of(&*at, "lost", pair.clone(), Value::Null)
    );
    slave.error_with(": connected");
    first.say(json!({"cmd": "disconnect", "slave": at}));
    slave.error_with(": disconnected");
    // It may have been found again by itself in the meantime.
    assert_eq!(second.ask(Some(&at), pair)["status"], "completed");
    assert_eq!(first.finish(), (Some(0), vec![]));
    assert_eq!(second.finish(), (Some(0), vec![]));
}

#[test]
fn a_slave_on_another_channel_is_reported() {
    let (_slave, at) = Program::slave(&["--channel", "1"]);
    let mut master = Program::master(&at, &["--channel", "2"]);
    assert_eq!(
        master.ask(Some(&at), json!(1)),
        end_of(&*at, "lost", json!(1), Value::Null)
    );
    master.error_with("202 channel invalid");
    assert_eq!(master.finish(), (Some(0), vec![]));
}

#[test]
fn a_refused_task_has_the_data_of_the_refusal() {
    let (_slave, at) = Program::slave(&["--task", "conformance"]);
    let mut master = Program::master(&at, &[]);
    let data = json!({"refuse": {"why": 1}});
    assert_eq!(
        master.ask(None, data.clone()),
        end_of(&*at, "refused", data, json!({"why": 1}))
    );
    let data = json!({"crash": true});
    assert_eq!(master.ask(None, data)["status"], "failed");
    assert_eq!(
        master.ask(None, json!({"echo": [null]}))["result"],
        json!({"echo": [null]})
    );
}

#[test]
fn a_task_that_takes_too_long_is_lost_and_the_next_waits_for_the_slave() {
    let folder = Folder::new("timeout");
    let (_slave, at, file) = patient_slave(&folder, "go");
    let mut master = Program::master(&at, &["--timeout", "4"]);
    assert_eq!(
        master.ask(Some(&at), json!(1)),
        end_of(&*at, "lost", json!(1), Value::Null)
    );
    master.error_with("has not ended within 4s");
    master.say(json!({"slave": at, "data": 2}));
    fs::write(file, "").unwrap();
    assert_eq!(master.line(), end_of(&*at, "completed", json!(2), json!(1)));
    assert_eq!(master.finish(), (Some(0), vec![]));
}

#[test]
fn a_command_gives_results_and_failures() {
    let script = "read task; case $task in \
        '\"json\"') echo '{\"x\": 1}';; \
        '\"text\"') echo some text;; \
        *) echo \"no $task\" >&2; exit 3;; esac";
    let (_slave, at) = Program::slave(&["--exec", "sh", "-c", script]);
    let (_none, none_at) = Program::slave(&["--exec", "/there/is/no/such/command", "--port"]);
    let (_deaf, deaf_at) = Program::slave(&["--exec", "echo", "-n", "[1, 2]"]);
    let mut master = Program::master(&format!("{at},{none_at},{deaf_at}"), &[]);
    let mut ask = |slave: &str, data: Value| {
        let line = master.ask(Some(slave), data);
        (
            line["status"].as_str().unwrap().to_owned(),
            line["result"].clone(),
        )
    };
    assert_eq!(
        ask(&at, json!("json")),
        ("completed".to_owned(), json!({"x": 1}))
    );
    assert_eq!(
        ask(&at, json!("text")),
        ("completed".to_owned(), json!("some text"))
    );
    let failure = json!({"code": 3, "stderr": "no [1,\"é\"]\n"});
    assert_eq!(ask(&at, json!([1, "é"])), ("failed".to_owned(), failure));
    let (status, result) = ask(&none_at, json!(1));
    let words = result["message"].as_str().unwrap();
    assert!(
        status == "failed" && words.starts_with("/there/is/no/such/command: "),
        "{words}"
    );
    // More than a pipe holds, for a command that never reads.
    let large = Value::String("x".repeat(1 << 20));
    assert_eq!(
        ask(&deaf_at, large),
        ("completed".to_owned(), json!([1, 2]))
    );
}

#[test]
fn a_port_that_is_taken_is_told_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for example in ["slave", "master"] {
        let mut program = Program::start(example, &["--port", &port]);
        assert_eq!(program.end(), (Some(1), vec![]));
        let told: Vec<String> = program.errors.iter().collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with(&format!("{example}: cannot listen on 127.0.0.1:{port}: ")),
            "{told:?}"
        );
    }
}

#[test]
fn wrong_usage_is_an_error() {
    let cases: [(&str, &[&str], i32, &str); 6] = [
        (
            "slave",
            &["--port", "x"],
            2,
            "invalid value 'x' for '--port <PORT>'",
        ),
        ("slave", &["--heartbeat=-1"], 2, "--heartbeat"),
        (
            "slave",
            &["--task", "sum", "--exec", "true"],
            2,
            "cannot be used with",
        ),
        ("master", &["--tolerance", "soon"], 2, "not a number"),
        ("master", &["--colour"], 2, "--colour"),
        (
            "master",
            &["--port", "0", "--slaves", "host:port:7"],
            1,
            "master: not the address of a slave",
        ),
    ];
    for (example, arguments, code, words) in cases {
        let mut program = Program::start(example, arguments);
        assert_eq!(program.end(), (Some(code), vec![]), "{arguments:?}");
        program.error_with(words);
    }
}

#[test]
fn quickstart_counts_words_and_names_what_it_could_not_count() {
    let folder = Folder::new("quickstart");
    fs::create_dir(folder.0.join("below")).unwrap();
    fs::write(folder.path("one.txt"), "To be, or not to be.").unwrap();
    fs::write(Path::new(&folder.path("below")).join("two.txt"), "be quick").unwrap();
    fs::write(folder.path("three.bin"), b"\xff\xfe be").unwrap();
    let mut quickstart = Program::start("quickstart", &["--dir", folder.0.to_str().unwrap()]);
    let (code, lines) = quickstart.end();
    assert_eq!(code, Some(0), "{}", quickstart.all_errors());
    let words: Vec<&str> = lines
        .iter()
        .map_while(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(words, ["be", "to", "not", "or", "quick"]);
    assert_eq!(lines[0].split_whitespace().next(), Some("3"));
    let text = lines.join("\n");
    assert!(text.contains("\n2 files counted in "), "{text}");
    assert!(
        text.contains("three.bin: the task failed with") && text.contains("UTF-8"),
        "{text}"
    );
    assert!(
        text.contains("there-is-no-such-file.txt: the task failed with"),
        "{text}"
    );
}

#[test]
fn quickstart_names_a_folder_that_is_not_there() {
    let mut quickstart = Program::start("quickstart", &["--dir", "/there/is/no/such/folder"]);
    assert_eq!(quickstart.end(), (Some(1), vec![]));
    quickstart.error_with("/there/is/no/such/folder: ");
}

#[test]
fn a_task_for_any_slave_finds_the_one_that_lives() {
    let (mut dying, dying_at) = Program::slave(&[]);
    let (_living, living_at) = Program::slave(&[]);
    let mut master = Program::master(&format!("{dying_at},{living_at}"), &[]);
    for at in [&dying_at, &living_at] {
        assert_eq!(
            master.ask(Some(at), json!({"a": 1, "b": 1}))["status"],
            "completed"
        );
    }
    dying.kill();
    for number in 0..6 {
        let data = json!({"a": number, "b": 1});
        let end = end_of(
            &*living_at,
            "completed",
            data.clone(),
            json!({"sum": number + 1}),
        );
        assert_eq!(master.ask(None, data), end);
    }
}

#[test]
fn a_task_for_any_slave_finds_the_one_that_was_started_late() {
    let held = [nobody(), nobody(), nobody(), nobody()];
    let (free, late_at) = nobody();
    let mut slaves = held.each_ref().map(|(_, at)| at.as_str()).join(",");
    slaves += &format!(",{late_at}");
    let mut master = Program::master(&slaves, &[]);
    master.error_with("cannot be reached");
    assert_eq!(
        master.ask(None, json!(1)),
        end_of(Value::Null, "lost", json!(1), Value::Null)
    );
    drop(free);
    let _late = start_again(&late_at);
    assert_eq!(
        master.ask(None, json!({"a": 1, "b": 1}))["result"],
        json!({"sum": 2})
    );
}

#[test]
fn a_disconnected_slave_is_left_alone_until_a_task_is_for_it() {
    let (mut slave, at) = Program::slave(&[]);
    let mut master = Program::master(&at, &[]);
    master.say(json!({"cmd": "disconnect", "slave": at}));
    slave.error_with(": disconnected");
    // Longer than a master takes to look for a slave that is gone.
    let quiet = slave.errors.recv_timeout(Duration::from_secs(4));
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(
        master.ask(Some(&at), json!({"a": 1, "b": 1}))["result"],
        json!({"sum": 2})
    );
    master.say(json!({"cmd": "disconnect", "slave": "x"}));
    master.error_with("there is no such slave");
    assert_eq!(master.finish(), (Some(0), vec![]));
}
