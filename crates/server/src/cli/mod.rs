//! The command line.
//!
//! Exit codes: 0 all is well; 1 something failed; 2 wrong usage or configuration; 3 no server answers; 130 and 143 a second
//! SIGINT or SIGTERM ended a server at once.

mod attributes;
mod policy;
mod prices;
mod promote;
mod renormalise;
mod report;
mod reprice;
mod rollup;
mod sql;
mod verify;
mod wal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{Config, ConfigError, DEMO_STORE, KEYS, Machine, Sources, load};
use crate::demo::DemoOptions;
use crate::logging;
use crate::serve::{self, ServeOptions};

/// Something failed.
const FAILED: u8 = 1;

/// Wrong usage or configuration; clap's own choice.
const WRONG_USAGE: u8 = 2;

/// No server answers.
const UNREACHABLE: u8 = 3;

const EXIT_CODES: &str = "Exit codes: 0 all is well; 1 something failed; 2 wrong usage or configuration; 3 no server \
                          answers; 130, 143 a second SIGINT or SIGTERM ended a server at once.";

/// No server answers at an address: what is to be done about it.
#[derive(Debug)]
struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// Runs the program.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let code = if error.is::<ConfigError>() {
                WRONG_USAGE
            } else if error.is::<Unreachable>() {
                UNREACHABLE
            } else {
                FAILED
            };
            ExitCode::from(code)
        }
    }
}

/// A reader such as `head` that has seen enough is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("serve", matches)) => serve(matches, None),
        Some(("demo", matches)) => serve(matches, Some(demo_options(matches)?)),
        Some(("policy", matches)) => policy::run(matches),
        Some(("prices", matches)) => prices::run(matches),
        Some(("attributes", matches)) => runtime()?.block_on(attributes::run(matches)),
        Some(("sql", matches)) => runtime()?.block_on(sql::run(matches)),
        Some(("renormalise", matches)) => runtime()?.block_on(renormalise::run(matches)),
        Some(("promote", matches)) => runtime()?.block_on(promote::run(matches)),
        Some(("reprice", matches)) => runtime()?.block_on(reprice::run(matches)),
        Some(("verify", matches)) => runtime()?.block_on(verify::run(matches)),
        Some(("rollup", matches)) => runtime()?.block_on(rollup::run(matches)),
        Some(("wal", matches)) => wal::run(matches),
        _ => {
            println!("spanlake {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

fn serve(matches: &ArgMatches, demo: Option<DemoOptions>) -> anyhow::Result<()> {
    let config = configuration(matches, if demo.is_some() { DEMO_STORE } else { "" })?;
    logging::start(&config.log)?;
    warn_of_unknown_variables();
    let options = ServeOptions { print_addresses: matches.get_flag("print-addresses"), demo };
    let runtime = runtime()?;
    let result = runtime.block_on(serve::run(config, options));
    // Whatever still runs has been told to stop, or is not worth waiting for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The runtime of sockets. What computes has threads of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("spanlake-io")
        .enable_all()
        .build()
        .context("cannot start threads")
}

fn configuration(matches: &ArgMatches, default_store: &'static str) -> anyhow::Result<Config> {
    let mut sources = Sources { default_store, ..Sources::default() };
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError { problems: vec![format!("--config {}: {error}", path.display())] })?;
        sources.file = Some((path.clone(), text));
    }
    for key in KEYS {
        if let Some(value) = matches.get_one::<String>(key.name) {
            sources.flags.insert(key.name, value.clone());
        }
    }
    let sources = sources.with_environment(|name| std::env::var(name).ok());
    Ok(load(&sources, Machine::detect())?)
}

/// The environment may hold variables of this prefix that others have set (Kubernetes does for a service `spanlake`), so
/// that unknown ones are not refused. A slip of the pen is worth a word.
fn warn_of_unknown_variables() {
    const OTHERS: &[&str] = &["SPANLAKE_CONFIG", "SPANLAKE_SERVER", "SPANLAKE_CONTROL"];
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("SPANLAKE_")) else { continue };
        if !OTHERS.contains(&name) && !KEYS.iter().any(|key| key.variable() == name) {
            tracing::warn!("the environment variable {name} is no key of the configuration and does nothing");
        }
    }
}

fn demo_options(matches: &ArgMatches) -> anyhow::Result<DemoOptions> {
    let number = |name: &str| *matches.get_one::<f64>(name).expect("invariant: has a default");
    let (per_second, history_hours) = (number("rate"), number("history"));
    let is_fine = per_second > 0.0 && per_second <= 1_000.0 && (0.0..=72.0).contains(&history_hours);
    if !is_fine {
        let problem = "demo: --rate must lie above 0 and up to 1000, --history between 0 and 72 hours";
        return Err(ConfigError { problems: vec![problem.to_owned()] }.into());
    }
    let seed = *matches.get_one::<u64>("seed").expect("invariant: has a default");
    Ok(DemoOptions { seed, per_second, history: Duration::from_secs_f64(history_hours * 3600.0) })
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("spanlake")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A lakehouse for LLM telemetry: OpenTelemetry in, Delta Lake tables, SQL out")
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve_command("serve", "Take OTLP, store it, answer SQL"))
        .subcommand(
            serve_command("demo", "The same as serve, with made-up traffic of a small company")
                .arg(
                    option("rate", "N", "traces a second, on average")
                        .default_value("1")
                        .value_parser(value_parser!(f64)),
                )
                .arg(
                    option("history", "HOURS", "history to send first")
                        .default_value("6")
                        .value_parser(value_parser!(f64)),
                )
                .arg(
                    option("seed", "N", "the same seed makes the same traffic")
                        .default_value("1")
                        .value_parser(value_parser!(u64)),
                ),
        )
        .subcommand(sql::command())
        .subcommand(rollup::command())
        .subcommand(attributes::command())
        .subcommand(policy::command())
        .subcommand(prices::command())
        .subcommand(promote::command())
        .subcommand(renormalise::command())
        .subcommand(reprice::command())
        .subcommand(verify::command())
        .subcommand(wal::command())
        .subcommand(Command::new("version").about("Print the version"))
}

fn serve_command(name: &'static str, about: &'static str) -> Command {
    let config =
        option("config", "FILE", "configuration file (TOML) with the keys below, in snake_case [env: SPANLAKE_CONFIG]")
            .value_parser(value_parser!(PathBuf))
            .env("SPANLAKE_CONFIG")
            .hide_env(true);
    let print_addresses = Arg::new("print-addresses")
        .long("print-addresses")
        .action(ArgAction::SetTrue)
        .hide(true)
        .help("Print the addresses as one JSON line once ready");
    let keys = KEYS.iter().map(|key| {
        let default = if key.name == "store" && name == "demo" { DEMO_STORE } else { key.default };
        let help = format!("{} [default: {default}] [env: {}]", key.help, key.variable());
        option(key.name, key.placeholder, help).long(key.flag).help_heading("Configuration")
    });
    let precedence = "A flag beats its environment variable, which beats the file. Durations and sizes have units: 500ms, 10s, \
                      15min, 1h; 64MiB, 2GiB.";
    Command::new(name)
        .about(about)
        .after_help(format!("{precedence}\n\n{EXIT_CODES}"))
        .arg(config)
        .arg(print_addresses)
        .args(keys)
}

fn option(name: &'static str, placeholder: &'static str, help: impl Into<String>) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together_and_helps() {
        command().debug_assert();
        let mut command = command();
        for name in ["serve", "demo"] {
            let help = command.find_subcommand_mut(name).expect("is there").render_long_help().to_string();
            for key in KEYS {
                assert!(help.contains(&format!("--{} <{}>", key.flag, key.placeholder)), "{name} {}: {help}", key.name);
                assert!(help.contains(&key.variable()), "{name} {}", key.name);
            }
            assert!(help.contains("Exit codes") && !help.contains("--print-addresses"), "{help}");
        }
    }

    #[test]
    fn flags_reach_the_configuration_and_files_are_read() {
        let directory = tempfile::tempdir().expect("has a directory");
        let path = directory.path().join("lake.toml");
        std::fs::write(&path, "query_row_limit = 9\nflush_interval = \"7s\"\n").expect("writes");
        let path = path.to_str().expect("is text");
        let arguments =
            ["spanlake", "serve", "--config", path, "--flush-interval", "8s", "--otlp-path-prefixes", "/otel"];
        let matches = command().try_get_matches_from(arguments).expect("is right");
        let (_, matches) = matches.subcommand().expect("has one");
        let config = configuration(matches, "").expect("is right");
        assert_eq!(config.storage.flush_interval, Duration::from_secs(8));
        assert_eq!(config.query.row_limit, 9);
        assert_eq!(config.ingest.otlp_path_prefixes, ["/otel"]);
    }

    #[test]
    fn a_missing_file_and_wild_demo_options_are_wrong_usage() {
        let matches = |arguments: &[&str]| command().try_get_matches_from(arguments).expect("is right");
        let missing = matches(&["spanlake", "serve", "--config", "/nowhere/lake.toml"]);
        let error = configuration(missing.subcommand().expect("has one").1, "").expect_err("is refused");
        assert!(error.is::<ConfigError>() && error.to_string().contains("/nowhere/lake.toml"), "{error}");
        for arguments in [["--rate", "0"], ["--rate", "NaN"], ["--history", "-1"], ["--history", "inf"]] {
            let wild = matches(&["spanlake", "demo", &format!("{}={}", arguments[0], arguments[1])]);
            let error = demo_options(wild.subcommand().expect("has one").1).expect_err("is refused");
            assert!(error.is::<ConfigError>(), "{arguments:?}");
        }
    }
}
