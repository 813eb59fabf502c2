//! `spanlake renormalise`: stored spans, read again by the rules of a running server.

use std::fmt::Write;

use clap::{ArgMatches, Command};

use super::report::aligned;
use super::reprice::{arguments, ask};
use crate::renormalise::Report;

pub(super) fn command() -> Command {
    let command = Command::new("renormalise")
        .about("Read stored spans again by the rules that a running server has now")
        .after_help(
            "Prints by column what changes, and records it; queries and rollups follow. Of spans of which something was read in prompts \
             and answers, which are kept apart, what is known stays.\n\nspanlake renormalise --from 2026-01-01 --to 2026-02-01 --dry-run",
        );
    arguments(command, "spans")
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let report: Report = ask(matches, "renormalise", &[]).await?;
    print!("{}", render(&report));
    Ok(())
}

fn render(report: &Report) -> String {
    let header = ["COLUMN", "SPANS", "FROM", "TO"].map(str::to_owned);
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".to_owned());
    let mut rows = vec![header];
    for (name, told) in &report.columns {
        let told_one_by_one: u64 = told.examples.iter().map(|example| example.spans).sum();
        for example in &told.examples {
            rows.push([name.clone(), example.spans.to_string(), shown(&example.from), shown(&example.to)]);
        }
        if told_one_by_one < told.changed {
            let rest = told.changed - told_one_by_one;
            rows.push([name.clone(), rest.to_string(), "others".to_owned(), String::new()]);
        }
    }
    let mut text = if report.columns.is_empty() { String::new() } else { aligned(&rows) };
    let done = if report.is_dry_run { "would change; nothing was recorded" } else { "changed" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{} of {} spans {done}", report.changed, report.spans);
    text
}
