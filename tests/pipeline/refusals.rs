//! What an operator reads when a log does not fit: each text names what is wrong, where, and what to do.

use std::path::Path;

use spanlake_testkit::ServerOptions;

use crate::kept_stores::copy_directory;
use crate::{count_spans, export, server, traffic};

/// Puts a copy in the place of the log.
fn restore(copy: &Path, options: &ServerOptions) {
    std::fs::remove_dir_all(options.wal_dir()).expect("a log to be replaced");
    copy_directory(copy, &options.wal_dir());
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("a file to be edited");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("writes");
}

async fn refused(options: &ServerOptions, parts: &[&str]) {
    let text = options.try_start().await.expect_err("this log must not be taken");
    let error = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{text}"));
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

/// Scenario: a killed server's log with another store, under a newer format, and without its identity; then a copy of it from
/// before later requests, which were committed.
/// Guarantee: each is refused, with the log's directory, what does not fit and what to do; once the copy is moved away as it is
/// told there, a server starts, and every span is there once.
#[tokio::test(flavor = "multi_thread")]
async fn logs_that_do_not_fit_are_named() {
    let options = server().arg("--flush-interval", "1h").arg("--wal-limit", "8MiB").arg("--message-limit", "1MiB");
    let running = options.start().await;
    let mut source = traffic(95);
    let mut sent = export(&running, &source.request(20)).await;
    running.sigkill().await;
    let (wal_dir, kept) = (options.wal_dir(), options.home().join("kept"));
    let directory = wal_dir.to_str().expect("text").to_owned();
    copy_directory(&wal_dir, &kept);

    let elsewhere = options.home().join("elsewhere").to_str().expect("text").to_owned();
    let other = options.clone().store(&elsewhere);
    let stores = [options.store_url(), &elsewhere, &directory];
    refused(&other, &[&stores[..], &["belongs to store", "move the log directory away"]].concat()).await;

    edit(&wal_dir.join("identity"), |bytes| {
        let text = String::from_utf8_lossy(bytes).replacen("-log 1 ", "-log 2 ", 1);
        *bytes = text.into_bytes();
    });
    refused(&options, &[&directory, "format version 2"]).await;

    restore(&kept, &options);
    std::fs::remove_file(wal_dir.join("identity")).expect("removes");
    refused(&options, &[&directory, "no identity file"]).await;

    restore(&kept, &options);
    let running = options.start().await;
    assert_eq!(count_spans(&running).await, sent);
    sent += export(&running, &source.request(30)).await;
    running.stop().await;
    restore(&kept, &options);
    let told =
        ["was copied and both copies were used", "positions 1 to 1", "Move the directory away", "spanlake wal export"];
    refused(&options, &[&[directory.as_str()][..], &told].concat()).await;
    std::fs::rename(&wal_dir, options.home().join("moved")).expect("moves");
    let running = options.start().await;
    assert_eq!(count_spans(&running).await, sent);
    assert_eq!(running.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, sent);
}
