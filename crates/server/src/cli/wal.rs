//! `spanlake wal`: looks at a write-ahead log that no server can be asked about.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use spanlake_schema::System;
use spanlake_storage::wal::{self, Inspection, Logged, SegmentReport};
use spanlake_storage::{Error, ErrorKind, Position};

use crate::config::format_bytes;

/// What a frame's kind is called in file names, and where OTLP over HTTP takes it.
const KINDS: [(u8, &str); 3] = [(1, "traces"), (2, "metrics"), (3, "logs")];

pub(super) fn command() -> Command {
    let wal_dir = Arg::new("wal-dir")
        .long("wal-dir")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .env("SPANLAKE_WAL_DIR")
        .hide_env(true)
        .global(false)
        .help("the log's directory (wal_dir) [env: SPANLAKE_WAL_DIR]");
    let json = flag("json", "as JSON, with all that is known");
    let output = Arg::new("output")
        .long("output")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("where the requests are written; made where it is missing, refused where it holds something");
    let positions = |help: &'static str| {
        Arg::new("positions").long("positions").value_name("FIRST-LAST").value_parser(parse_positions).help(help)
    };
    let all = flag("all", "also requests that are committed already: sent again they would be stored twice");
    let set_aside = flag("set-aside", "only segments set aside for their damage; works beside a running server");
    Command::new("wal")
        .about("Inspect a write-ahead log, export requests from it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("inspect")
                .about("Segments, positions, tenants, damage; writes nothing and works beside a running server")
                .args([wal_dir.clone(), json]),
        )
        .subcommand(
            Command::new("export")
                .about("Write each request to a file of its own, with a manifest, to be sent again")
                .args([wal_dir.clone(), output, positions("only these positions"), all, set_aside]),
        )
        .subcommand(
            Command::new("give-up")
                .about("Let requests be lost whose files are gone, so that a server opens the log again")
                .args([wal_dir, positions("the positions that the server named").required(true)]),
        )
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn parse_positions(text: &str) -> Result<(Position, Position), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("is not two positions such as 17-20".to_owned()),
    }
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (action, matches) = matches.subcommand().expect("invariant: clap requires one");
    let dir = matches.get_one::<PathBuf>("wal-dir").expect("invariant: clap requires it");
    // Opening would make a missing directory, which a question should not.
    anyhow::ensure!(dir.is_dir(), "--wal-dir {}: no such directory", dir.display());
    match action {
        "inspect" => {
            let inspection = wal::inspect(dir)?;
            let text = if matches.get_flag("json") {
                format!("{}\n", serde_json::to_string_pretty(&inspection)?)
            } else {
                render(&inspection)
            };
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
        "export" => export(dir, matches),
        _ => {
            let positions = *matches.get_one("positions").expect("invariant: clap requires it");
            let lost = wal::give_up(dir, Arc::new(System), positions)?;
            let text = match lost.as_slice() {
                [] => "nothing is missing".to_owned(),
                lost => lost
                    .iter()
                    .map(|lost| format!("given up: {}", range(lost.first, lost.last)))
                    .collect::<Vec<_>>()
                    .join("\n"),
            };
            println!("{text}");
            Ok(())
        }
    }
}

/// The page for people.
fn render(inspection: &Inspection) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(page, "{name:<10} {value}");
    };
    line("directory", inspection.dir.display().to_string());
    match (&inspection.identity, &inspection.identity_problem) {
        (Some(identity), _) => {
            line("store", identity.store_url.clone());
            line("writer", format!("{}, opened {} times", identity.writer_id, identity.epoch));
            let tables = identity.tables.keys().cloned().collect::<Vec<_>>();
            line("tables", if tables.is_empty() { "none yet".to_owned() } else { tables.join(", ") });
        }
        (None, Some(problem)) => line("identity", problem.clone()),
        (None, None) => line("identity", "there is none".to_owned()),
    }
    line("committed", format!("up to position {}, later ones may be", inspection.committed_position));
    if let Some(holder) = &inspection.in_use_by {
        line("in use", format!("by process {holder}: what follows may be older than what it does"));
    }
    if inspection.spare_bytes > 0 {
        line("spare", format!("{} of files to be used again", format_bytes(inspection.spare_bytes)));
    }
    if !inspection.segments.is_empty() {
        page.push_str(&table(&inspection.segments));
    }
    let damage: Vec<String> = inspection.segments.iter().flat_map(problems).collect();
    if !damage.is_empty() {
        let _ = write!(page, "\ndamage\n{}", damage.concat());
    }
    if !inspection.lost().is_empty() {
        page.push_str("\nnoted as lost\n");
        for lost in inspection.lost() {
            let reason = format!("{:?}", lost.reason).to_lowercase();
            let place = format!("{} at offset {}", lost.file, lost.offset);
            let when = time(Some(lost.noticed_unix_nano));
            let _ = writeln!(page, "  {}: {reason}, {place}, noticed {when}", range(lost.first, lost.last));
        }
    }
    page
}

fn table(segments: &[SegmentReport]) -> String {
    let mut rows = vec![
        ["segment", "positions", "frames", "bytes", "first arrival", "last arrival", "tenants", "kinds"]
            .map(str::to_owned),
    ];
    rows.extend(segments.iter().map(|segment| {
        let tenants = segment.tenants.iter().map(|(tenant, frames)| format!("{tenant} {frames}"));
        let kinds = segment.kinds.iter().map(|(kind, frames)| format!("{} {frames}", kind_name(*kind)));
        [
            segment.file.clone(),
            segment.first_position.zip(segment.last_position).map_or("-".to_owned(), |(a, b)| format!("{a}-{b}")),
            segment.frames.to_string(),
            format!("{} of {}", segment.frame_bytes, segment.file_bytes),
            time(segment.first_received_unix_nano),
            time(segment.last_received_unix_nano),
            tenants.collect::<Vec<_>>().join(", "),
            kinds.collect::<Vec<_>>().join(", "),
        ]
    }));
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::from("\n");
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn problems(segment: &SegmentReport) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(segment.header_problem.iter().map(|problem| format!("  {problem}\n")));
    lines.extend(segment.damage.iter().map(|damage| {
        let lost = range(damage.first_position, damage.last_position);
        format!("  {} at offset {}, {} bytes: {lost} cannot be read\n", segment.file, damage.offset, damage.bytes)
    }));
    if segment.torn_bytes > 0 {
        let end = segment.last_position.map_or("its header".to_owned(), |last| format!("position {last}"));
        lines.push(format!(
            "  {}: {} bytes behind {end} of a write that did not end\n",
            segment.file, segment.torn_bytes
        ));
    }
    lines
}

fn range(first: Position, last: Position) -> String {
    if first == last { format!("position {first}") } else { format!("positions {first} to {last}") }
}

fn time(unix_nano: Option<u64>) -> String {
    let seconds = unix_nano.and_then(|nano| i64::try_from(nano / 1_000_000).ok());
    let time = seconds.and_then(DateTime::from_timestamp_millis);
    time.map_or("-".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn kind_name(kind: u8) -> String {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(format!("kind{kind}"), |(_, name)| (*name).to_owned())
}

fn export(dir: &Path, matches: &ArgMatches) -> anyhow::Result<()> {
    let output = matches.get_one::<PathBuf>("output").expect("invariant: clap requires it");
    let (first, last) = matches.get_one("positions").copied().unwrap_or((0, Position::MAX));
    let (all, set_aside) = (matches.get_flag("all"), matches.get_flag("set-aside"));
    let committed = wal::inspect(dir)?.committed_position;
    std::fs::create_dir_all(output).with_context(|| format!("--output {}", output.display()))?;
    let is_empty = std::fs::read_dir(output).map(|mut entries| entries.next().is_none());
    anyhow::ensure!(is_empty.unwrap_or(false), "--output {}: is not empty", output.display());
    let (mut entries, mut left_out) = (Vec::new(), 0_u64);
    let inspection = wal::export(dir, !set_aside, &mut |segment, logged| {
        if !(first..=last).contains(&logged.position) {
            return Ok(());
        }
        if logged.position <= committed && !all {
            left_out += 1;
            return Ok(());
        }
        entries.push(write_request(output, segment, &logged)?);
        Ok(())
    })?;
    let manifest = json!({
        "wal_dir": dir,
        "store": inspection.identity.as_ref().map(|identity| &identity.store_url),
        "committed_position": committed,
        "requests": entries,
        "damage": inspection.segments.iter().map(|segment| (segment.file.clone(), json!(segment.damage))).collect::<Value>(),
        "lost": inspection.lost(),
    });
    let path = output.join("manifest.json");
    std::fs::write(&path, format!("{manifest:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} requests in {}", entries.len(), output.display());
    if left_out > 0 {
        println!(
            "{left_out} requests up to position {committed} are committed and were left out; --all exports them too"
        );
    }
    if !entries.is_empty() {
        println!("send them again with");
        for (kind, name) in KINDS {
            if entries.iter().any(|entry| entry["kind"] == kind) {
                println!(
                    "  for file in {}/*.{name}.pb; do curl --fail-with-body -H 'Content-Type: application/x-protobuf' \
                     --data-binary @$file http://localhost:4318/v1/{name}; done",
                    output.display()
                );
            }
        }
    }
    Ok(())
}

/// Writes one request, and returns its line of the manifest.
fn write_request(output: &Path, segment: &str, logged: &Logged) -> Result<Value, Error> {
    let (frame, position) = (&logged.frame, logged.position);
    let file = format!("{position:020}.{}.pb", kind_name(frame.kind));
    let path = output.join(&file);
    std::fs::write(&path, &logged.payload)
        .map_err(|error| Error::new(ErrorKind::Retry, format!("cannot write {}", path.display())).with_source(error))?;
    Ok(json!({
        "position": position,
        "file": file,
        "segment": segment,
        "tenant": frame.tenant,
        "kind": frame.kind,
        "received": time(Some(frame.received_unix_nano)),
        "received_unix_nano": frame.received_unix_nano,
        "bytes": logged.payload.len(),
    }))
}
