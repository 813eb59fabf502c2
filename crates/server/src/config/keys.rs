//! The table of keys: name, meaning, default, and how its text is read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use spanlake_schema::spans;
use spanlake_storage::PromotionList;

use super::units::{parse_bytes, parse_duration};
use super::{Ack, LogFormat};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file. The environment variable has capitals and the prefix `SPANLAKE_`.
    pub name: &'static str,
    /// Its flag without the two hyphens: the name with hyphens in it.
    pub flag: &'static str,
    /// What stands for the value in help texts.
    pub placeholder: &'static str,
    /// The default, as text for people.
    pub default: &'static str,
    /// A value that differs from the default, for example files and tests.
    pub example: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether it holds several values.
    pub is_list: bool,
    /// Reads one text into the settings.
    pub(super) read: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Key {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("SPANLAKE_{}", self.name.to_ascii_uppercase())
    }
}

/// What was set by anyone; the rest gets its default.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) store: Option<String>,
    pub(super) wal_dir: Option<PathBuf>,
    pub(super) otlp_grpc_addr: Option<SocketAddr>,
    pub(super) otlp_http_addr: Option<SocketAddr>,
    pub(super) http_addr: Option<SocketAddr>,
    pub(super) flight_addr: Option<SocketAddr>,
    pub(super) connection_limit: Option<usize>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) body_timeout: Option<Duration>,
    pub(super) ack: Option<Ack>,
    pub(super) ack_timeout: Option<Duration>,
    pub(super) shutdown_timeout: Option<Duration>,
    pub(super) retry_window: Option<Duration>,
    pub(super) flush_interval: Option<Duration>,
    pub(super) flush_bytes: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) wal_limit: Option<u64>,
    pub(super) message_limit: Option<u64>,
    pub(super) otlp_path_prefixes: Option<Vec<String>>,
    pub(super) dialects: Option<PathBuf>,
    pub(super) prices: Option<PathBuf>,
    pub(super) policy: Option<PathBuf>,
    pub(super) promote: Option<PromotionList>,
    pub(super) query_memory_limit: Option<u64>,
    pub(super) query_timeout: Option<Duration>,
    pub(super) query_row_limit: Option<usize>,
    pub(super) sql_dir: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<LogFormat>,
}

/// Every key, in the order of the documentation.
pub static KEYS: &[Key] = &[
    Key {
        name: "store",
        flag: "store",
        placeholder: "DIR|URL",
        default: "./spanlake-data",
        example: "s3://telemetry/lake",
        help: "where the tables lie: a directory, or s3://bucket/prefix (credentials from the usual AWS_* variables)",
        is_list: false,
        read: |settings, text| set(&mut settings.store, non_empty(text)),
    },
    Key {
        name: "wal_dir",
        flag: "wal-dir",
        placeholder: "DIR",
        default: "`wal` below a local store, else ./spanlake-wal",
        example: "/var/lib/spanlake/wal",
        help: "the write-ahead log: always a local directory, on a disk that survives a restart",
        is_list: false,
        read: |settings, text| set(&mut settings.wal_dir, non_empty(text).map(PathBuf::from)),
    },
    Key {
        name: "otlp_grpc_addr",
        flag: "otlp-grpc-addr",
        placeholder: "IP:PORT",
        default: "127.0.0.1:4317",
        example: "0.0.0.0:4317",
        help: "where OTLP over gRPC is taken",
        is_list: false,
        read: |settings, text| set(&mut settings.otlp_grpc_addr, address(text)),
    },
    Key {
        name: "otlp_http_addr",
        flag: "otlp-http-addr",
        placeholder: "IP:PORT",
        default: "127.0.0.1:4318",
        example: "0.0.0.0:4318",
        help: "where OTLP over HTTP is taken",
        is_list: false,
        read: |settings, text| set(&mut settings.otlp_http_addr, address(text)),
    },
    Key {
        name: "http_addr",
        flag: "http-addr",
        placeholder: "IP:PORT",
        default: "127.0.0.1:8080",
        example: "0.0.0.0:8080",
        help: "where SQL over HTTP, the start page, /metrics, /healthz and /readyz are served",
        is_list: false,
        read: |settings, text| set(&mut settings.http_addr, address(text)),
    },
    Key {
        name: "flight_addr",
        flag: "flight-addr",
        placeholder: "IP:PORT",
        default: "127.0.0.1:8081",
        example: "0.0.0.0:8081",
        help: "where control over gRPC (rollups) is served",
        is_list: false,
        read: |settings, text| set(&mut settings.flight_addr, address(text)),
    },
    Key {
        name: "connection_limit",
        flag: "connection-limit",
        placeholder: "COUNT",
        default: "a quarter of the open files allowed (ulimit -n), at most 4096",
        example: "1000",
        help: "connections of one port at a time; beyond it those that do nothing are closed, the longest idle first",
        is_list: false,
        read: |settings, text| set(&mut settings.connection_limit, count(text, "connections")),
    },
    Key {
        name: "idle_timeout",
        flag: "idle-timeout",
        placeholder: "DURATION",
        default: "65s",
        example: "30s",
        help: "how long a connection may be without a request, and how long a request's headers may take",
        is_list: false,
        read: |settings, text| set(&mut settings.idle_timeout, parse_duration(text)),
    },
    Key {
        name: "body_timeout",
        flag: "body-timeout",
        placeholder: "DURATION",
        default: "20s",
        example: "5s",
        help: "longest pause within a request's body; the whole body may take 15 times as long",
        is_list: false,
        read: |settings, text| set(&mut settings.body_timeout, parse_duration(text)),
    },
    Key {
        name: "ack",
        flag: "ack",
        placeholder: "wal|commit",
        default: "wal",
        example: "commit",
        help: "when a sender gets its answer: once the log is synced, or once the table's commit is done",
        is_list: false,
        read: |settings, text| set(&mut settings.ack, choice(text, &[("wal", Ack::Wal), ("commit", Ack::Commit)])),
    },
    Key {
        name: "retry_window",
        flag: "retry-window",
        placeholder: "DURATION",
        default: "15min",
        example: "1h",
        help: "how long a request is known, so that it is stored once however often it comes again (takes up to a sixteenth of memory_limit more)",
        is_list: false,
        read: |settings, text| set(&mut settings.retry_window, parse_duration(text)),
    },
    Key {
        name: "ack_timeout",
        flag: "ack-timeout",
        placeholder: "DURATION",
        default: "8s",
        example: "20s",
        help: "with ack = commit, how long a sender waits for the commit before it is told to come again",
        is_list: false,
        read: |settings, text| set(&mut settings.ack_timeout, parse_duration(text)),
    },
    Key {
        name: "flush_interval",
        flag: "flush-interval",
        placeholder: "DURATION",
        default: "10s",
        example: "30s",
        help: "how long a span waits in memory for its Parquet file at most (1s at most with ack = commit)",
        is_list: false,
        read: |settings, text| set(&mut settings.flush_interval, parse_duration(text)),
    },
    Key {
        name: "flush_bytes",
        flag: "flush-bytes",
        placeholder: "SIZE",
        default: "64MiB, or a quarter of the memory for spans",
        example: "32MiB",
        help: "bytes of spans in memory that start a flush before its time",
        is_list: false,
        read: |settings, text| set(&mut settings.flush_bytes, parse_bytes(text)),
    },
    Key {
        name: "memory_limit",
        flag: "memory-limit",
        placeholder: "SIZE",
        default: "a quarter of the memory, from 256MiB to 4GiB",
        example: "1GiB",
        help: "memory for requests in flight and spans that wait for their flush; beyond half of that spans wait on the disk",
        is_list: false,
        read: |settings, text| set(&mut settings.memory_limit, parse_bytes(text)),
    },
    Key {
        name: "wal_limit",
        flag: "wal-limit",
        placeholder: "SIZE",
        default: "a quarter of the free disk, from 512MiB to 64GiB",
        example: "20GiB",
        help: "bytes of write-ahead log beyond which senders are pushed back: how long the store may be away",
        is_list: false,
        read: |settings, text| set(&mut settings.wal_limit, parse_bytes(text)),
    },
    Key {
        name: "message_limit",
        flag: "message-limit",
        placeholder: "SIZE",
        default: "64MiB",
        example: "16MiB",
        help: "largest OTLP request, as sent and decompressed",
        is_list: false,
        read: |settings, text| set(&mut settings.message_limit, parse_bytes(text)),
    },
    Key {
        name: "otlp_path_prefixes",
        flag: "otlp-path-prefixes",
        placeholder: "PREFIX,...",
        default: "none",
        example: "/otel,/ingest/otlp",
        help: "prefixes behind which OTLP over HTTP is taken as well, such as /otel for /otel/v1/traces",
        is_list: true,
        read: |settings, text| set(&mut settings.otlp_path_prefixes, prefixes(text)),
    },
    Key {
        name: "dialects",
        flag: "dialects",
        placeholder: "FILE",
        default: "none",
        example: "/etc/spanlake/dialects.toml",
        help: "rules of your own for reading spans, before the built-in ones (crates/ingest/rules/README.md)",
        is_list: false,
        read: |settings, text| set(&mut settings.dialects, non_empty(text).map(PathBuf::from)),
    },
    Key {
        name: "prices",
        flag: "prices",
        placeholder: "FILE",
        default: "none",
        example: "/etc/spanlake/prices.toml",
        help: "a price catalogue of your own, before the built-in one; `spanlake prices check` reads it",
        is_list: false,
        read: |settings, text| set(&mut settings.prices, non_empty(text).map(PathBuf::from)),
    },
    Key {
        name: "policy",
        flag: "policy",
        placeholder: "FILE",
        default: "none",
        example: "/etc/spanlake/policy.toml",
        help: "which attributes are kept, dropped, masked, hashed or cut before anything is stored; `spanlake policy test` shows it",
        is_list: false,
        read: |settings, text| set(&mut settings.policy, non_empty(text).map(PathBuf::from)),
    },
    Key {
        name: "promote",
        flag: "promote",
        placeholder: "ATTRIBUTE,...",
        default: "none",
        example: "customer.tier,reg:customer[.]tag[.].*",
        help: "attributes that become typed columns of `spans`, by name or, behind reg:, by a pattern of whole names; `spanlake attributes` shows which are worth it",
        is_list: true,
        read: |settings, text| set(&mut settings.promote, promotion(text)),
    },
    Key {
        name: "query_memory_limit",
        flag: "query-memory-limit",
        placeholder: "SIZE",
        default: "a quarter of the memory, at least 128MiB",
        example: "3GiB",
        help: "memory of all running queries together; beyond it they spill to disk",
        is_list: false,
        read: |settings, text| set(&mut settings.query_memory_limit, parse_bytes(text)),
    },
    Key {
        name: "query_timeout",
        flag: "query-timeout",
        placeholder: "DURATION",
        default: "60s",
        example: "5min",
        help: "longest run of a query",
        is_list: false,
        read: |settings, text| set(&mut settings.query_timeout, parse_duration(text)),
    },
    Key {
        name: "query_row_limit",
        flag: "query-row-limit",
        placeholder: "ROWS",
        default: "1000000",
        example: "50000",
        help: "most rows of an answer",
        is_list: false,
        read: |settings, text| set(&mut settings.query_row_limit, count(text, "rows")),
    },
    Key {
        name: "shutdown_timeout",
        flag: "shutdown-timeout",
        placeholder: "DURATION",
        default: "30s",
        example: "1min",
        help: "how long SIGTERM waits for requests, flush and commit; what is not committed then stays in the log",
        is_list: false,
        read: |settings, text| set(&mut settings.shutdown_timeout, parse_duration(text)),
    },
    Key {
        name: "sql_dir",
        flag: "sql-dir",
        placeholder: "DIR",
        default: "none",
        example: "/etc/spanlake/sql",
        help: "a directory with views of your own, DIR/views/NAME.sql, and rollups, DIR/rollups/NAME.sql, which queries see beside the tables",
        is_list: false,
        read: |settings, text| set(&mut settings.sql_dir, non_empty(text).map(PathBuf::from)),
    },
    Key {
        name: "log_level",
        flag: "log-level",
        placeholder: "LEVEL",
        default: "info",
        example: "info,spanlake_storage=debug",
        help: "error, warn, info, debug, trace, or directives such as info,spanlake_storage=debug",
        is_list: false,
        read: |settings, text| set(&mut settings.log_level, log_level(text)),
    },
    Key {
        name: "log_format",
        flag: "log-format",
        placeholder: "text|json",
        default: "text",
        example: "json",
        help: "how log lines are written to standard error",
        is_list: false,
        read: |settings, text| {
            set(&mut settings.log_format, choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]))
        },
    },
];

fn set<T>(slot: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *slot = Some(value?);
    Ok(())
}

fn non_empty(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        return address(&format!("127.0.0.1:{port}"));
    }
    text.parse().map_err(|_| match text.strip_prefix(':') {
        Some(port) => format!("`{text}` has no host: write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface"),
        None => format!("`{text}` is no address: write an IP address and a port, such as 127.0.0.1:4317"),
    })
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text.trim());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

fn count(text: &str, of: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no number of {of}: write a whole number from 1 on")),
        Ok(count) => Ok(count),
    }
}

/// The items of a list: lines where there are any, as a file's list becomes, or what commas divide.
fn items(text: &str) -> Vec<&str> {
    if text.contains('\n') { text.lines().collect() } else { text.split(',').collect() }
}

fn promotion(text: &str) -> Result<PromotionList, String> {
    let entries = if text.is_empty() { Vec::new() } else { items(text) };
    let entries: Vec<String> = entries.into_iter().map(|entry| entry.trim().to_owned()).collect();
    PromotionList::parse(&spans::SPEC, &entries).map_err(|problems| problems.join("; "))
}

fn prefixes(text: &str) -> Result<Vec<String>, String> {
    let mut prefixes = Vec::new();
    for prefix in items(text).into_iter().map(str::trim).filter(|prefix| !prefix.is_empty()) {
        let trimmed = prefix.trim_end_matches('/');
        if !prefix.starts_with('/') || trimmed.contains("//") || trimmed.contains(['?', '#', ' ']) {
            return Err(format!("`{prefix}` is no path prefix: write one such as /otel"));
        }
        // A bare slash adds nothing: the paths without a prefix are always served.
        if !trimmed.is_empty() {
            prefixes.push(trimmed.to_owned());
        }
    }
    Ok(prefixes)
}

fn log_level(text: &str) -> Result<String, String> {
    let text = non_empty(text)?;
    match tracing_subscriber::EnvFilter::try_new(&text) {
        // A word that is no level reads as the name of a module, which is hardly ever what was meant.
        Ok(_) if text.contains('=') || text.split(',').any(|part| part.parse::<tracing::Level>().is_ok()) => Ok(text),
        Ok(_) if text == "off" => Ok(text),
        _ => Err(format!("`{text}` is no log level: use error, warn, info, debug or trace")),
    }
}
