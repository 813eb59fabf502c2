//! Putting file, environment and flags together, and checking the whole.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Settings};
use super::machine::Machine;
use super::{
    Ack, ClientLimits, Config, DEFAULT_STORE, IngestConfig, ListenConfig, LogConfig, LogFormat, QueryConfig,
    StorageConfig, format_bytes,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A configuration that is refused: everything that is wrong with it, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, each naming its origin.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "configuration refused: {one}"),
            many => {
                write!(f, "configuration refused:")?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// From where values come, strongest first: flags, environment, file.
#[derive(Debug, Default)]
pub struct Sources {
    /// Values of flags, by the key's name.
    pub flags: BTreeMap<&'static str, String>,
    /// Values of environment variables, by the key's name.
    pub variables: BTreeMap<&'static str, String>,
    /// The file's path and text.
    pub file: Option<(PathBuf, String)>,
    /// The store where nobody names one; empty for the usual one.
    pub default_store: &'static str,
}

impl Sources {
    /// Takes the environment's values for all keys.
    #[must_use]
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        for key in KEYS {
            if let Some(value) = variable(&key.variable()) {
                self.variables.insert(key.name, value);
            }
        }
        self
    }
}

/// The complete configuration of these sources on this machine.
///
/// # Errors
/// Everything that is wrong, with its origin: file and line, variable or flag.
pub fn load(sources: &Sources, machine: Machine) -> Result<Config, ConfigError> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    if let Some((path, text)) = &sources.file {
        read_file(path, text, &mut settings, &mut problems);
    }
    for key in KEYS {
        // Weaker sources are read even where a stronger one follows: what is written must be right.
        if let Some(text) = sources.variables.get(key.name) {
            let read = (key.read)(&mut settings, text);
            problems.extend(read.err().map(|problem| format!("{}: {problem}", key.variable())));
        }
        if let Some(text) = sources.flags.get(key.name) {
            let read = (key.read)(&mut settings, text);
            problems.extend(read.err().map(|problem| format!("--{}: {problem}", key.flag)));
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let default_store = if sources.default_store.is_empty() { DEFAULT_STORE } else { sources.default_store };
    let config = complete(settings, machine, default_store);
    check(&config, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

fn read_file(path: &Path, text: &str, settings: &mut Settings, problems: &mut Vec<String>) {
    let at = |offset: usize| format!("{}:{}", path.display(), line_of(text, offset));
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let place = error.span().map_or_else(|| path.display().to_string(), |span| at(span.start));
            problems.push(format!("{place}: {}", error.message()));
            return;
        }
    };
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let place = at(name.span().start);
        let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref().as_ref()) else {
            problems.push(format!("{place}: unknown key `{}`{}", name.get_ref(), suggestion(name.get_ref())));
            continue;
        };
        let read = text_of(key, value.get_ref()).and_then(|text| (key.read)(settings, &text));
        problems.extend(read.err().map(|problem| format!("{place}: {}: {problem}", key.name)));
    }
}

/// A file's value as the text that a flag would have.
fn text_of(key: &Key, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Array(items) if key.is_list => {
            let texts: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            // One a line, since an item may hold a comma.
            texts
                .map(|texts| texts.iter().map(|text| format!("{text}\n")).collect())
                .ok_or_else(|| "holds something that is no string".to_owned())
        }
        _ if key.is_list => Err("is no list of strings".to_owned()),
        _ => Err("is no string".to_owned()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Names the nearest known key, where one is near.
pub(super) fn suggestion(name: &str) -> String {
    let normal = name.to_ascii_lowercase().replace('-', "_");
    let nearest = KEYS.iter().map(|key| (distance(&normal, key.name), key.name)).min();
    match nearest {
        Some((distance, name)) if distance <= (name.len() / 3).max(2) => format!(", did you mean `{name}`?"),
        _ => format!(" (known: {})", KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    }
}

/// Edits (insert, remove, replace) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The directory of a local store; `None` for an object store.
fn local_directory(store: &str) -> Option<PathBuf> {
    match store.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(path)),
        None if store.contains("://") => None,
        None => Some(PathBuf::from(store)),
    }
}

fn complete(settings: Settings, machine: Machine, default_store: &str) -> Config {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = ListenConfig {
        otlp_grpc_addr: settings.otlp_grpc_addr.unwrap_or(loopback(4317)),
        otlp_http_addr: settings.otlp_http_addr.unwrap_or(loopback(4318)),
        http_addr: settings.http_addr.unwrap_or(loopback(8080)),
        flight_addr: settings.flight_addr.unwrap_or(loopback(8081)),
        clients: ClientLimits {
            connection_limit: settings.connection_limit.unwrap_or((machine.open_files / 4).clamp(16, 4096)),
            // Longer than the usual export intervals of SDKs, the longest of which is a minute.
            idle_timeout: settings.idle_timeout.unwrap_or(Duration::from_secs(65)),
            body_timeout: settings.body_timeout.unwrap_or(Duration::from_secs(20)),
        },
    };
    let store = settings.store.unwrap_or_else(|| default_store.to_owned());
    let wal_dir = settings.wal_dir.unwrap_or_else(|| match local_directory(&store) {
        Some(directory) => directory.join("wal"),
        None => PathBuf::from("./spanlake-wal"),
    });
    let memory_quarter = quarter(machine.memory_bytes);
    let memory_limit = settings.memory_limit.unwrap_or(memory_quarter.clamp(256 * MIB, 4 * GIB));
    let message_limit = settings.message_limit.unwrap_or(64 * MIB);
    // The largest message, compressed and decompressed, must fit beside nothing else, or it would be pushed back for ever.
    let in_flight_limit = (memory_limit / 4).max(message_limit.saturating_mul(2));
    let hot_limit = memory_limit.saturating_sub(in_flight_limit);
    let disk_quarter = |path: &Path| quarter((machine.disk_free_bytes)(path));
    let wal_limit = settings.wal_limit.unwrap_or_else(|| disk_quarter(&wal_dir).clamp(512 * MIB, 64 * GIB));
    Config {
        listen,
        storage: StorageConfig {
            store,
            ack: settings.ack.unwrap_or(Ack::Wal),
            // Exporters give up by themselves after 10 s.
            ack_timeout: settings.ack_timeout.unwrap_or(Duration::from_secs(8)),
            shutdown_timeout: settings.shutdown_timeout.unwrap_or(Duration::from_secs(30)),
            retry_window: settings.retry_window.unwrap_or(Duration::from_secs(900)),
            // At 144 bytes a request, 116,000 to 1.8 million of them with the usual memory_limit.
            retry_limit_bytes: (memory_limit / 16).clamp(MIB, 256 * MIB),
            flush_interval: settings.flush_interval.unwrap_or(Duration::from_secs(10)),
            // A commit takes no more than that from memory.
            flush_bytes: settings.flush_bytes.unwrap_or((64 * MIB).min((hot_limit / 4).max(1))),
            hot_limit_bytes: hot_limit,
            wal_limit_bytes: wal_limit,
            wal_dir,
            promote: settings.promote.unwrap_or_default(),
        },
        ingest: IngestConfig {
            message_limit_bytes: saturate(message_limit),
            in_flight_limit_bytes: saturate(in_flight_limit),
            otlp_path_prefixes: settings.otlp_path_prefixes.unwrap_or_default(),
            dialects: settings.dialects,
            prices: settings.prices,
            policy: settings.policy,
        },
        query: QueryConfig {
            memory_limit_bytes: saturate(settings.query_memory_limit.unwrap_or(memory_quarter.max(128 * MIB))),
            spill_limit_bytes: disk_quarter(&std::env::temp_dir()).min(64 * GIB),
            timeout: settings.query_timeout.unwrap_or(Duration::from_secs(60)),
            row_limit: settings.query_row_limit.unwrap_or(1_000_000),
            sql_dir: settings.sql_dir,
            concurrency: machine.cores.max(2) * 2,
            threads: machine.cores,
        },
        log: LogConfig {
            level: settings.log_level.unwrap_or_else(|| "info".to_owned()),
            format: settings.log_format.unwrap_or(LogFormat::Text),
        },
    }
}

/// A quarter, in whole MiB for the eye.
fn quarter(bytes: u64) -> u64 {
    bytes / 4 / MIB * MIB
}

fn saturate(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// What single values cannot show: whether they fit together.
fn check(config: &Config, problems: &mut Vec<String>) {
    let (storage, ingest) = (&config.storage, &config.ingest);
    let message_limit = ingest.message_limit_bytes as u64;
    let memory_limit = storage.hot_limit_bytes.saturating_add(ingest.in_flight_limit_bytes as u64);
    let mut require = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    require(message_limit >= 1024, format!("message_limit: {} is under 1KiB", format_bytes(message_limit)));
    let least = message_limit.saturating_mul(4);
    require(
        memory_limit >= least && storage.hot_limit_bytes >= ingest.in_flight_limit_bytes as u64,
        format!(
            "memory_limit: must be at least four times message_limit ({}), so at least {}",
            format_bytes(message_limit),
            format_bytes(least)
        ),
    );
    require(
        storage.flush_bytes > 0 && storage.flush_bytes <= storage.hot_limit_bytes,
        format!(
            "flush_bytes: {} must lie between 1B and the part of memory_limit that is kept for spans ({})",
            format_bytes(storage.flush_bytes),
            format_bytes(storage.hot_limit_bytes)
        ),
    );
    require(
        storage.wal_limit_bytes >= least,
        format!(
            "wal_limit: {} must be at least four times message_limit, so at least {}",
            format_bytes(storage.wal_limit_bytes),
            format_bytes(least)
        ),
    );
    require(
        storage.flush_interval >= Duration::from_millis(10) && storage.flush_interval <= Duration::from_secs(3600),
        "flush_interval: must lie between 10ms and 1h".to_owned(),
    );
    require(storage.retry_window <= Duration::from_secs(86_400), "retry_window: must be at most 24h".to_owned());
    for (name, timeout) in
        [("idle_timeout", config.listen.clients.idle_timeout), ("body_timeout", config.listen.clients.body_timeout)]
    {
        let holds = timeout >= Duration::from_millis(10) && timeout <= Duration::from_secs(3600);
        require(holds, format!("{name}: must lie between 10ms and 1h"));
    }
    require(
        storage.ack_timeout >= Duration::from_millis(100) && storage.ack_timeout <= Duration::from_secs(3600),
        "ack_timeout: must lie between 100ms and 1h".to_owned(),
    );
    require(
        storage.shutdown_timeout >= Duration::from_millis(100) && storage.shutdown_timeout <= Duration::from_secs(3600),
        "shutdown_timeout: must lie between 100ms and 1h".to_owned(),
    );
    require(config.query.timeout >= Duration::from_millis(1), "query_timeout: must be at least 1ms".to_owned());
    require(
        config.query.memory_limit_bytes as u64 >= 16 * MIB,
        "query_memory_limit: must be at least 16MiB".to_owned(),
    );
    let scheme = storage.store.split_once("://").map(|(scheme, _)| scheme);
    let known = ["file", "s3", "s3a", "gs", "az", "abfs", "abfss"];
    require(
        scheme.is_none_or(|scheme| known.contains(&scheme)),
        format!("store: `{}` has an unknown scheme: use a directory or s3://bucket/prefix", scheme.unwrap_or_default()),
    );
    check_addresses(&config.listen, problems);
}

fn check_addresses(listen: &ListenConfig, problems: &mut Vec<String>) {
    let addresses = [
        ("otlp_grpc_addr", listen.otlp_grpc_addr),
        ("otlp_http_addr", listen.otlp_http_addr),
        ("http_addr", listen.http_addr),
        ("flight_addr", listen.flight_addr),
    ];
    for (index, (key, address)) in addresses.iter().enumerate() {
        let same = addresses[..index].iter().find(|(_, other)| other == address && address.port() != 0);
        problems.extend(same.map(|(other, _)| format!("{key}: {address} is the address of {other} already")));
    }
}
