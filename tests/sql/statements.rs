//! Statements that nobody would write: those of the files, cut, spliced and bent by seed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use spanlake_query::{Parameters, QueryEngine, QueryError, QueryErrorKind, QueryOptions};
use spanlake_schema::DEFAULT_TENANT;
use spanlake_testkit::SplitMix64;
use tokio::runtime::Runtime;

/// What stands in no file and may be put anywhere.
const FURTHER: &[&str] = &[
    "NULL",
    "-1",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "1e400",
    "'NaN'",
    "''",
    "'\u{1F980}'",
    "*",
    "(",
    ")",
    "[]",
    "{}",
    "::",
    "->",
    "$1",
    "?",
    ";",
    "--",
    "/*",
    "\"",
    "'",
    ".",
    ",",
    "DISTINCT",
    "OVER",
    "UNION ALL",
    "EXCEPT",
    "LATERAL",
    "UNNEST",
    "RECURSIVE",
    "GROUPING SETS",
    "CUBE",
    "FILTER",
    "INTERVAL '1' YEAR",
    "DATE '0001-01-01'",
    "TIMESTAMP '9999-12-31'",
    "repeat",
    "lpad",
    "regexp_replace",
    "array_agg",
    "generate_series",
    "arrow_cast",
    "to_timestamp",
    "date_trunc",
    "median",
    "percentile_cont",
    "histogram",
    "histogram_merge",
    "histogram_quantile",
    "X'01000c00'",
    "INSERT INTO",
    "COPY",
    "CREATE EXTERNAL TABLE",
    "SET",
    "EXPLAIN ANALYZE",
    "information_schema.tables",
];

/// The statements of all files.
fn statements() -> Vec<String> {
    let mut found = Vec::new();
    for file in ["tests/slt", "tests/slt/agents"].into_iter().flat_map(super::files) {
        let text = std::fs::read_to_string(file).expect("a file");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.starts_with("query") || line.starts_with("statement") {
                let body: Vec<&str> =
                    lines.by_ref().take_while(|line| !line.is_empty() && !line.starts_with("----")).collect();
                found.push(body.join("\n"));
            }
        }
    }
    found
}

/// Words, numbers, texts and signs.
fn tokens(statement: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_text = false;
    for character in statement.chars() {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let goes_on = tokens.last().and_then(|last| last.chars().last()).is_some_and(|last| {
            in_text || (is_word(last) && is_word(character)) || (last.is_whitespace() && character.is_whitespace())
        });
        in_text ^= character == '\'';
        match tokens.last_mut().filter(|_| goes_on) {
            Some(last) => last.push(character),
            None => tokens.push(character.to_string()),
        }
    }
    tokens
}

/// One statement, some of its tokens gone, doubled, moved or taken from elsewhere.
fn bent(random: &mut SplitMix64, all: &[Vec<String>]) -> String {
    let mut statement = random.pick(all).clone();
    for _ in 0..random.between(1, 4) {
        let from = random.pick(all);
        let at = random.index(statement.len().max(1)).min(statement.len());
        let place = at.min(statement.len().saturating_sub(1));
        match random.below(8) {
            _ if statement.is_empty() => statement.extend_from_slice(from),
            0 => drop(statement.remove(place)),
            1 => statement.insert(at, statement[place].clone()),
            2 => statement.truncate(at),
            3 => statement[place].clone_from(random.pick(from)),
            4 => statement[place] = (*random.pick(FURTHER)).to_owned(),
            5 => statement.insert(at, format!(" {} ", random.pick(FURTHER))),
            6 => {
                let (start, length) = (random.index(from.len()), random.between(1, 12) as usize);
                let piece = from.iter().skip(start).take(length).cloned();
                statement.splice(at..at, piece);
            }
            _ => {
                let other = random.index(statement.len());
                statement.swap(place, other);
            }
        }
    }
    statement.concat()
}

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.insert(path);
        }
    }
    files
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Scenario: statements made from others by seed, from SPANLAKE_STATEMENTS_SEED on and SPANLAKE_STATEMENTS of them.
/// Guarantee: each is answered or refused with a reason that is the sender's, never with an internal error, never with a
/// panic, and nothing in the store or beside it is written.
#[test]
fn bent_statements_are_answered_or_refused() {
    let runtime = Runtime::new().expect("a runtime");
    let lake = runtime.block_on(super::fill(super::agents::bodies()));
    let options = QueryOptions {
        memory_limit_bytes: 64 << 20,
        spill_limit_bytes: 64 << 20,
        timeout: Duration::from_secs(2),
        row_limit: 10_000,
        concurrency: 2,
        threads: 2,
    };
    let engine = QueryEngine::new(lake.lake.clone(), options).expect("an engine");
    let all: Vec<Vec<String>> = statements().iter().map(|statement| tokens(statement)).collect();
    assert!(all.len() > 80, "only {} statements", all.len());
    let before = files_below(lake.directory.path());
    let first = setting("SPANLAKE_STATEMENTS_SEED", 1);
    let (mut answered, mut wrong) = (0, Vec::new());
    for seed in first..first + setting("SPANLAKE_STATEMENTS", 300) {
        let statement = bent(&mut SplitMix64::new(seed), &all);
        // A task of its own: a panic is its end and not the test's.
        let (engine, text) = (Arc::clone(&engine), statement.clone());
        let asked = runtime.spawn(async move {
            let stream = engine.sql(DEFAULT_TENANT, &text, Parameters::None).await?;
            stream.try_collect::<Vec<_>>().await.map_err(QueryError::from)
        });
        match runtime.block_on(asked) {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(error)) if error.kind != QueryErrorKind::Internal => {}
            Ok(Err(error)) => wrong.push(format!("SPANLAKE_STATEMENTS_SEED={seed}: {error}\n{statement}")),
            Err(panic) => wrong.push(format!("SPANLAKE_STATEMENTS_SEED={seed}: {panic}\n{statement}")),
        }
        if wrong.len() > 20 {
            break;
        }
    }
    println!("{answered} statements answered");
    assert!(answered > 0, "nothing that was made is a statement");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(files_below(lake.directory.path()), before, "something was written");
}
