//! A disk of the log without space, on a real small file system.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use spanlake_testkit::{Code, wait_until};

use crate::{count_spans, export, server, traffic};

/// A file system of its own of 16 MiB below a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where this process may not mount.
    fn mount(directory: &Path) -> Option<Self> {
        std::fs::create_dir_all(directory).expect("a directory");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(directory).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(directory.to_owned()))
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.0.join("ballast")).expect("a name");
        while ballast.write_all(&[7; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it keeps it until its end.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Scenario: another program fills the log's disk while requests come in; the server is killed and started on the full disk;
/// the space returns.
/// Guarantee: senders get 503 and UNAVAILABLE with when to come again, which disk it is and what to do; nothing of what was
/// refused is stored and all that was acknowledged is there, also after the start; with the space back requests are taken
/// without anybody's help, and `verify` is clean.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pushes_senders_back_until_there_is_space() {
    let options = server().arg("--wal-limit", "8MiB").arg("--message-limit", "1MiB").arg("--flush-interval", "1h");
    let Some(disk) = SmallDisk::mount(&options.wal_dir()) else {
        // The same on a simulated disk: crates/storage/src/wal/tests/failing_disk.rs.
        println!("this process may not mount a file system");
        return;
    };
    let running = options.start().await;
    let mut source = traffic(91);
    let mut sent = export(&running, &source.request(64)).await;
    disk.fill();
    // The segment at hand was set aside when it was made, and takes requests to its end.
    let refusal = loop {
        let answer = running.otlp_http().export(source.request(64).encode_to_vec()).await;
        if answer.status != 200 {
            break answer;
        }
        sent += 64;
        assert!(sent < 64 * 200, "a segment of 1 MiB took {sent} spans");
    };
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.header("retry-after").is_some(), "{:?}", refusal.headers);
    let directory = options.wal_dir().to_str().expect("text").to_owned();
    for part in ["the disk of the write-ahead log is full, free some space", &directory] {
        assert!(refusal.text().contains(part), "{part} is not in: {}", refusal.text());
    }
    let refusal = running.grpc().export(source.request(64).encode_to_vec()).await;
    assert_eq!(refusal.code, Code::Unavailable, "{}", refusal.message);
    assert!(refusal.details.and_then(|status| status.retry_delay()).is_some(), "no RetryInfo: {}", refusal.message);
    assert_eq!(count_spans(&running).await, sent);

    let running = running.sigkill().await.start().await;
    assert_eq!(count_spans(&running).await, sent, "after a start on the full disk");
    let refused = source.request(64).encode_to_vec();
    assert_eq!(running.otlp_http().export(refused.clone()).await.status, 503);

    disk.empty();
    wait_until("the refused request to be taken", async || {
        (running.otlp_http().export(refused.clone()).await.status == 200).then_some(())
    })
    .await;
    sent += 64;
    for _ in 0..20 {
        sent += export(&running, &source.request(64)).await;
    }
    assert_eq!(count_spans(&running).await, sent);
    assert_eq!(running.sql_int("SELECT count(DISTINCT span_id) FROM spans").await, sent);
    let (is_clean, report) = crate::verify::verify_server(&running).await;
    assert!(is_clean, "{report:#}");
    running.stop().await;
    let (is_clean, report) = crate::verify::verify_store(&options, options.store_url()).await;
    assert!(is_clean, "{report:#}");
}
