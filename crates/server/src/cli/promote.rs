//! `spanlake promote`: promoted columns for spans that were committed before.

use std::fmt::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::report::rounded;
use super::reprice::{arguments, ask};
use crate::promote::Report;

pub(super) fn command() -> Command {
    let command = Command::new("promote")
        .about("Give spans that are stored already the columns that a running server's `promote` asks for")
        .after_help(
            "Columns are right for all spans without it; it makes them fast for old ones, and visible to other readers of the tables. \
             Files that lack columns are written again, a few in each commit, and no row changes. Running it again does what is \
             left.\n\nspanlake promote --backfill --from 2026-01-01 --dry-run",
        );
    let backfill = Arg::new("backfill")
        .long("backfill")
        .action(ArgAction::SetTrue)
        .required(true)
        .help("write files of committed spans again where they lack columns");
    arguments(command, "days of spans")
        .mut_arg("from", |from| from.required(false))
        .mut_arg("to", |to| to.required(false))
        .arg(backfill)
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let report: Report = ask(matches, "promote", &[]).await?;
    print!("{}", render(&report));
    Ok(())
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    let (made, done) = match report.is_dry_run {
        true => ("would be made", "would be written again; nothing was"),
        false => ("was made", "written again"),
    };
    // Writing to a string cannot fail.
    for column in &report.columns {
        let _ =
            writeln!(text, "column {} ({}) of attribute {} {made}", column.name, column.value_type, column.attribute);
    }
    let (files, rows, bytes) = (report.files, report.rows, rounded(report.bytes));
    let _ = writeln!(text, "{files} files with {rows} spans, {bytes}, {done}");
    if report.left_files > 0 {
        let left = report.left_files;
        let _ =
            writeln!(text, "{left} files stay as they are, the server's log says why; queries compute their columns");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promote::ColumnReport;

    #[test]
    fn what_was_done_and_what_was_left_is_told() {
        let column = ColumnReport { name: "a_b".into(), attribute: "a.b".into(), value_type: "int".into() };
        let report =
            Report { columns: vec![column], files: 2, rows: 30, bytes: 20_500, left_files: 1, is_dry_run: false };
        assert_eq!(
            render(&report),
            "column a_b (int) of attribute a.b was made\n2 files with 30 spans, 20KiB, written again\n1 files stay as they are, the \
             server's log says why; queries compute their columns\n"
        );
        let report = Report { is_dry_run: true, ..Report::default() };
        assert_eq!(render(&report), "0 files with 0 spans, 0B, would be written again; nothing was\n");
    }
}
