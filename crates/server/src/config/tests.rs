use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

const MACHINE: Machine =
    Machine { memory_bytes: 8 << 30, cores: 4, open_files: 65_536, disk_free_bytes: |_| 100 << 30 };

fn file(text: &str) -> Sources {
    Sources { file: Some((PathBuf::from("lake.toml"), text.to_owned())), ..Sources::default() }
}

fn problems(sources: &Sources) -> Vec<String> {
    load(sources, MACHINE).expect_err("is refused").problems
}

#[test]
fn nothing_set_gives_working_defaults_of_this_machine() {
    let config = load(&Sources::default(), MACHINE).expect("defaults hold");
    assert_eq!(config.storage.store, DEFAULT_STORE);
    assert_eq!(config.storage.wal_dir, PathBuf::from("./spanlake-data/wal"));
    assert_eq!(config.listen.otlp_grpc_addr.to_string(), "127.0.0.1:4317");
    assert_eq!(config.listen.flight_addr.to_string(), "127.0.0.1:8081");
    assert_eq!(config.storage.ack, Ack::Wal);
    assert_eq!(config.storage.flush_interval, Duration::from_secs(10));
    assert_eq!(config.storage.flush_bytes, 64 << 20);
    assert_eq!(config.ingest.message_limit_bytes, 64 << 20);
    // A quarter of 8 GiB, of which a quarter is for requests in flight.
    assert_eq!(config.ingest.in_flight_limit_bytes, 512 << 20);
    assert_eq!(config.storage.hot_limit_bytes, 1536 << 20);
    assert_eq!(config.query.memory_limit_bytes, 2 << 30);
    assert_eq!(config.query.threads, 4);
}

#[test]
fn the_smallest_and_the_largest_machine_get_defaults_that_hold() {
    for memory_bytes in [0, 64 << 20, 512 << 20, 1 << 40, u64::MAX] {
        let machine = Machine { memory_bytes, cores: 1, open_files: 1024, disk_free_bytes: |_| 0 };
        load(&Sources::default(), machine).unwrap_or_else(|error| panic!("{memory_bytes}: {error}"));
    }
}

#[test]
fn every_documented_key_is_read_from_file_environment_and_flag() {
    let quoted = |text: &str| format!("\"{text}\"");
    for key in KEYS {
        assert_eq!(key.flag, key.name.replace('_', "-"));
        let value = if key.is_list {
            let items: Vec<_> = key.example.split(',').map(quoted).collect();
            format!("[{}]", items.join(", "))
        } else {
            quoted(key.example)
        };
        let value_of = |sources: &Sources| match load(sources, MACHINE) {
            Ok(config) => format!("{config:?}"),
            Err(error) => panic!("{}: {error}", key.name),
        };
        let from_file = value_of(&file(&format!("{} = {value}\n", key.name)));
        let from_flag =
            value_of(&Sources { flags: BTreeMap::from([(key.name, key.example.to_owned())]), ..Sources::default() });
        let variables = |name: &str| (name == key.variable()).then(|| key.example.to_owned());
        let from_environment = value_of(&Sources::default().with_environment(variables));
        let default = value_of(&Sources::default());
        assert_eq!(from_file, from_flag, "{}", key.name);
        assert_eq!(from_file, from_environment, "{}", key.name);
        // The loopback default of an address and its example differ, and so does every other example.
        assert_ne!(from_file, default, "{}: the example must differ from the default", key.name);
    }
}

#[test]
fn all_examples_together_make_one_configuration() {
    let text: String = KEYS
        .iter()
        .filter(|key| !key.is_list)
        .map(|key| format!("{} = \"{}\"  # {}\n", key.name, key.example, key.help))
        .collect();
    let config = load(&file(&text), MACHINE).expect("examples fit together");
    assert_eq!(config.storage.store, "s3://telemetry/lake");
    assert_eq!(config.query.row_limit, 50_000);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let mut sources = file("flush_interval = \"1s\"\nquery_timeout = \"1s\"\nquery_row_limit = 7\n");
    sources = sources.with_environment(|name| match name {
        "SPANLAKE_FLUSH_INTERVAL" | "SPANLAKE_QUERY_TIMEOUT" => Some("2s".to_owned()),
        _ => None,
    });
    sources.flags.insert("flush_interval", "3s".to_owned());
    let config = load(&sources, MACHINE).expect("is right");
    assert_eq!(config.storage.flush_interval, Duration::from_secs(3));
    assert_eq!(config.query.timeout, Duration::from_secs(2));
    assert_eq!(config.query.row_limit, 7);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let cases: &[(&str, &str)] = &[
        (
            "store = \"x\"\n\nflush_intervall = \"1s\"",
            "lake.toml:3: unknown key `flush_intervall`, did you mean `flush_interval`?",
        ),
        ("otlp-http-addr = \"x\"", "lake.toml:1: unknown key `otlp-http-addr`, did you mean `otlp_http_addr`?"),
        ("elephants = 3", "lake.toml:1: unknown key `elephants` (known: store, wal_dir,"),
        ("[storage]\nstore = \"x\"", "lake.toml:1: unknown key `storage`"),
        ("flush_interval = 10", "lake.toml:1: flush_interval: `10` has no unit"),
        ("\nflush_bytes = 64.5", "lake.toml:2: flush_bytes: is no string"),
        ("flush_bytes = [\"64MiB\"]", "lake.toml:1: flush_bytes: is no string"),
        ("otlp_path_prefixes = [1]", "lake.toml:1: otlp_path_prefixes: holds something that is no string"),
        ("otlp_path_prefixes = [\"otel\"]", "lake.toml:1: otlp_path_prefixes: `otel` is no path prefix"),
        ("\npromote = [\"customer.tier\", \"reg:a(\"]", "lake.toml:2: promote: `reg:a(` is no pattern: unclosed group"),
        ("promote = [\"a{\", \"\"]", "lake.toml:1: promote: `` is no name of an attribute"),
        ("promote = [\"a.b\", \"a.b\"]", "lake.toml:1: promote: `a.b` stands there twice"),
        ("promote = [\"model\"]", "lake.toml:1: promote: `model` would be the column model, which is one"),
        ("store = \"x\"\nstore = \"y\"", "lake.toml:2: duplicate key"),
        ("store = ", "lake.toml:1: "),
        ("store = \"\"", "lake.toml:1: store: is empty"),
        ("http_addr = \":8080\"", "write 127.0.0.1:8080, or 0.0.0.0:8080"),
        ("http_addr = \"example.com:8080\"", "`example.com:8080` is no address"),
        ("ack = \"maybe\"", "lake.toml:1: ack: `maybe` is none of wal, commit"),
        ("log_level = \"loud\"", "lake.toml:1: log_level: `loud` is no log level"),
        ("query_row_limit = 0", "lake.toml:1: query_row_limit: `0` is no number of rows"),
        ("query_row_limit = \"many\"", "lake.toml:1: query_row_limit: `many` is no number of rows"),
        ("flush_interval = \"0s\"", "flush_interval: must lie between 10ms and 1h"),
        (
            "memory_limit = \"100MiB\"",
            "memory_limit: must be at least four times message_limit (64MiB), so at least 256MiB",
        ),
        ("flush_bytes = \"900GiB\"", "flush_bytes: 900GiB must lie between 1B and"),
        ("wal_limit = \"1MiB\"", "wal_limit: 1MiB must be at least four times message_limit"),
        ("message_limit = \"1B\"", "message_limit: 1B is under 1KiB"),
        ("query_memory_limit = \"1MiB\"", "query_memory_limit: must be at least 16MiB"),
        ("store = \"ftp://x/y\"", "store: `ftp` has an unknown scheme"),
        ("http_addr = \"127.0.0.1:4317\"", "http_addr: 127.0.0.1:4317 is the address of otlp_grpc_addr already"),
    ];
    for (text, expected) in cases {
        let problems = problems(&file(text));
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:?}");
    }
}

#[test]
fn a_list_in_a_file_may_hold_commas_and_one_in_a_flag_is_divided_by_them() {
    let promote = |sources: &Sources| load(sources, MACHINE).expect("is right").storage.promote;
    let list = promote(&file("promote = [\"reg:tag[.].{1,3}\", \"b\"]"));
    assert!(list.wants("tag.abc") && list.wants("b") && !list.wants("tag.abcd"));
    let one = promote(&file("promote = [\"reg:tag[.].{1,3}\"]"));
    assert!(one.wants("tag.abc") && !one.wants("b"));
    let flags = BTreeMap::from([("promote", "a, b".to_owned())]);
    let list = promote(&Sources { flags, ..Sources::default() });
    assert!(list.wants("a") && list.wants("b"));
    assert!(
        promote(&Sources::default().with_environment(|name| (name == "SPANLAKE_PROMOTE").then(String::new))).is_empty()
    );
}

#[test]
fn wrong_variables_and_flags_are_named_and_all_problems_are_told() {
    let mut sources =
        Sources::default().with_environment(|name| (name == "SPANLAKE_WAL_LIMIT").then(|| "7".to_owned()));
    sources.flags.insert("message_limit", "big".to_owned());
    let problems = problems(&sources);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("SPANLAKE_WAL_LIMIT: `7` has no unit")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("--message-limit: `big` is no size")), "{problems:?}");
}

#[test]
fn a_remote_store_keeps_its_log_beside_the_process() {
    let config = load(&file("store = \"s3://bucket/prefix\""), MACHINE).expect("is right");
    assert_eq!(config.storage.wal_dir, PathBuf::from("./spanlake-wal"));
    let config = load(&file("store = \"file:///data/lake\""), MACHINE).expect("is right");
    assert_eq!(config.storage.wal_dir, PathBuf::from("/data/lake/wal"));
    let sources = Sources { default_store: DEMO_STORE, ..Sources::default() };
    assert_eq!(load(&sources, MACHINE).expect("is right").storage.wal_dir, PathBuf::from("./spanlake-demo/wal"));
}

#[test]
fn ports_chosen_by_the_system_do_not_collide() {
    let text = "otlp_grpc_addr = \"127.0.0.1:0\"\notlp_http_addr = \"127.0.0.1:0\"\nhttp_addr = \"localhost:0\"\n";
    assert!(load(&file(text), MACHINE).is_ok());
}

#[test]
fn answers_after_commits_do_not_wait_for_a_long_flush_interval() {
    let config = load(&file("ack = \"commit\"\nflush_interval = \"30s\""), MACHINE).expect("is right");
    assert_eq!(config.storage.effective_flush_interval(), Duration::from_secs(1));
    let config = load(&file("flush_interval = \"30s\""), MACHINE).expect("is right");
    assert_eq!(config.storage.effective_flush_interval(), Duration::from_secs(30));
}

#[test]
fn the_configuration_file_that_is_shipped_is_right() {
    let config = load(&file(include_str!("../../../../deploy/spanlake.toml")), MACHINE).expect("deploy/spanlake.toml");
    assert_eq!(config.storage.wal_dir, PathBuf::from("/var/lib/spanlake/wal"));
}
