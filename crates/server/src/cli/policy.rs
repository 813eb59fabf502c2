//! `spanlake policy`: what an attribute policy does.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use spanlake_ingest::{Signal, json};

use crate::reading;

pub(super) fn command() -> Command {
    let file = Arg::new("file")
        .value_name("FILE")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("the body of an export request, as protobuf or JSON");
    let policy = Arg::new("policy")
        .long("policy")
        .value_name("FILE")
        .env("SPANLAKE_POLICY")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("the policy");
    let signal = Arg::new("signal")
        .long("signal")
        .value_name("SIGNAL")
        .value_parser(Signal::ALL.map(Signal::name))
        .default_value(Signal::Traces.name())
        .help("what the request carries");
    Command::new("policy")
        .about("Try an attribute policy")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("test").about("Show what a policy does to a request").args([file, policy, signal]))
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let Some(("test", matches)) = matches.subcommand() else { bail!("say what to do: test") };
    let path = |name: &str| matches.get_one::<PathBuf>(name).expect("invariant: required");
    let policy = reading::policy(Some(path("policy").as_path()))?;
    let told = matches.get_one::<String>("signal").map_or("", String::as_str);
    let signal = Signal::ALL.into_iter().find(|signal| signal.name() == told).context("no such signal")?;
    let file = path("file");
    let mut body = std::fs::read(file).with_context(|| file.display().to_string())?;
    if body.trim_ascii_start().starts_with(b"{") {
        body = json::to_protobuf(signal, &body).with_context(|| file.display().to_string())?;
    }
    let shown = policy.show(signal, &body);
    let (left, changes) = shown
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} is no {} (see --signal)", file.display(), signal.request_message()))?;
    let mut out = std::io::stdout().lock();
    for change in &changes {
        writeln!(out, "{}  [{}]", change.place, change.rules)?;
        writeln!(out, "  - {}", change.before.escape_debug())?;
        match &change.after {
            Some(after) => writeln!(out, "  + {}", after.escape_debug())?,
            None => writeln!(out, "  dropped")?,
        }
    }
    writeln!(out, "{} values changed, {} bytes become {}", changes.len(), body.len(), left.len())?;
    Ok(())
}
