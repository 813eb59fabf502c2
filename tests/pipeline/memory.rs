//! Memory under a load that the store cannot follow.
//!
//! A few seconds long by itself; SPANLAKE_SOAK_SECONDS=600 makes it ten minutes with larger limits, and SPANLAKE_SOAK_SVG names
//! a file to draw the figures into.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use spanlake_testkit::{HttpClient, S3Server, wait_until};

use crate::bounds::figure;
use crate::delta_files::DeltaFiles;
use crate::{count_spans, server, traffic};

const MIB: f64 = (1 << 20) as f64;

/// What the process takes beside `memory_limit`: its code, what is encoded and uploaded at the moment, and memory that was
/// freed and is kept for a while. Stated in ARCHITECTURE.md.
const OVERHEAD_BYTES: f64 = 256.0 * MIB;

/// The code of a binary that is not optimised, of which the more is resident the more of it runs.
const UNOPTIMISED_BYTES: f64 = if cfg!(debug_assertions) { 192.0 * MIB } else { 0.0 };

/// The limits of a run.
struct Run {
    seconds: u64,
    memory_mib: u64,
    wal_mib: u64,
    message_mib: u64,
    /// For how long the store takes nothing, between two moments in which it takes what waits.
    away: Duration,
}

impl Run {
    fn of_environment() -> Self {
        let seconds = std::env::var("SPANLAKE_SOAK_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
        match seconds {
            Some(seconds) => {
                let away = Duration::from_secs(20);
                Self { seconds, memory_mib: 64, wal_mib: 128, message_mib: 8, away }
            }
            None => Self { seconds: 4, memory_mib: 16, wal_mib: 8, message_mib: 2, away: Duration::from_millis(700) },
        }
    }
}

/// One second of a run, in MiB.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident: f64,
    hot: f64,
    spilled: f64,
    wal: f64,
}

#[derive(Default)]
struct Tally {
    spans: AtomicI64,
    push_backs: AtomicI64,
    is_over: AtomicBool,
}

/// Sends new spans for as long as the run lasts; what is pushed back comes again until it is taken.
async fn send(http: HttpClient, seed: u64, tally: Arc<Tally>) {
    const SPANS: usize = 512;
    let mut request = traffic(seed).request(SPANS);
    let mut next_id = seed << 32;
    let mut again = tokio::time::interval(Duration::from_millis(200));
    while !tally.is_over.load(Ordering::Relaxed) {
        for resource in &mut request.resource_spans {
            for span in resource.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
                next_id += 1;
                span.span_id = next_id.to_be_bytes().to_vec();
            }
        }
        let body = request.encode_to_vec();
        loop {
            let answer = http.export(body.clone()).await;
            if answer.status == 200 {
                tally.spans.fetch_add(SPANS as i64, Ordering::Relaxed);
                break;
            }
            assert!(matches!(answer.status, 429 | 503), "{} {}", answer.status, answer.text());
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
            tally.push_backs.fetch_add(1, Ordering::Relaxed);
            if tally.is_over.load(Ordering::Relaxed) {
                return;
            }
            again.tick().await;
        }
    }
}

/// Lets the store take what waits now and then only.
async fn slow_down(s3: &S3Server, away: Duration) {
    loop {
        let held = s3.hold_writes().await;
        let _ = tokio::time::timeout(away, std::future::pending::<()>()).await;
        drop(held);
        tokio::task::yield_now().await;
    }
}

/// Scenario: senders that send as fast as they can, a store that takes something only now and then, for a few seconds or (by
/// SPANLAKE_SOAK_SECONDS) minutes; then the store is well again.
/// Guarantee: resident memory stays within `memory_limit` and the stated overhead, however long the backlog grows; at
/// `wal_limit` senders are pushed back; in the end every acknowledged span is committed once.
#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_to_its_limit_while_the_load_outruns_the_store() {
    let run = Run::of_environment();
    let s3 = S3Server::start("telemetry").await;
    let limit = |mib: u64| format!("{mib}MiB");
    let options = server().store(s3.url("lake")).envs(s3.environment()).arg("--flush-interval", "1s");
    let options = options.arg("--memory-limit", limit(run.memory_mib)).arg("--wal-limit", limit(run.wal_mib));
    let options =
        options.arg("--message-limit", limit(run.message_mib)).arg("--flush-bytes", limit(run.memory_mib / 8));
    let server = options.arg("--query-memory-limit", "64MiB").start().await;
    let tally = Arc::new(Tally::default());
    let mut senders = tokio::task::JoinSet::new();
    for seed in 1..5 {
        senders.spawn(send(HttpClient::new(server.addresses().otlp_http), seed, Arc::clone(&tally)));
    }
    let samples = async {
        let (mut samples, started) = (Vec::new(), Instant::now());
        let mut turns = tokio::time::interval(Duration::from_secs(1));
        let wants_push_back = || tally.push_backs.load(Ordering::Relaxed) == 0 && started.elapsed().as_secs() < 100;
        while started.elapsed().as_secs() < run.seconds || run.seconds < 100 && wants_push_back() {
            turns.tick().await;
            samples.push(Sample {
                resident: figure(&server, "spanlake_process_resident_memory_bytes").await / MIB,
                hot: figure(&server, "spanlake_hot_bytes").await / MIB,
                spilled: figure(&server, "spanlake_spilled_bytes").await / MIB,
                wal: figure(&server, "spanlake_wal_bytes").await / MIB,
            });
        }
        samples
    };
    let samples = tokio::select! {
        samples = samples => samples,
        () = slow_down(&s3, run.away) => unreachable!("it goes on for ever"),
    };
    tally.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = senders.join_next().await {
        ended.expect("a sender");
    }
    let (spans, push_backs) = (tally.spans.load(Ordering::Relaxed), tally.push_backs.load(Ordering::Relaxed));
    let peak = samples.iter().map(|sample| sample.resident).fold(0.0, f64::max);
    let backlog = samples.iter().map(|sample| sample.wal).fold(0.0, f64::max);
    println!("{spans} spans, {push_backs} push-backs, peak {peak:.0} MiB resident, backlog {backlog:.0} MiB of log");
    if let Some(path) = std::env::var_os("SPANLAKE_SOAK_SVG") {
        std::fs::write(path, draw(&run, &samples)).expect("the drawing can be written");
    }
    assert!(push_backs > 0, "the store was to be outrun, it took all of {spans} spans");
    let allowed = run.memory_mib as f64 + (OVERHEAD_BYTES + UNOPTIMISED_BYTES) / MIB;
    assert!(peak <= allowed, "{peak} MiB resident: {samples:?}");
    assert!(backlog <= run.wal_mib as f64 + 1.0, "{backlog} MiB of log");

    assert_eq!(count_spans(&server).await, spans);
    let table = s3.bucket_directory().join("lake/default/spans");
    let mut committed = 0;
    while committed < spans as u64 {
        let before = committed;
        committed = wait_until("more to be committed", async || {
            let rows = DeltaFiles::read(&table).claimed_rows();
            (rows > before).then_some(rows)
        })
        .await;
    }
    assert_eq!(committed, spans as u64);
    assert_eq!(count_spans(&server).await, spans);
}

/// The figures over time as an SVG.
fn draw(run: &Run, samples: &[Sample]) -> String {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 360.0;
    let top =
        samples.iter().flat_map(|sample| [sample.resident, sample.wal]).fold(run.memory_mib as f64, f64::max) * 1.1;
    let y = |mib: f64| HEIGHT - mib / top * HEIGHT;
    let line = |name: &str, colour: &str, place: f64, of: fn(&Sample) -> f64| {
        let x = |index: usize| index as f64 * WIDTH / samples.len().max(2) as f64;
        let points: String = samples
            .iter()
            .enumerate()
            .map(|(index, sample)| format!("{:.1},{:.1} ", x(index), y(of(sample))))
            .collect();
        format!(
            "<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='{points}'/>\n\
             <text x='{place}' y='{}' fill='{colour}'>{name}</text>\n",
            HEIGHT + 20.0
        )
    };
    let limit = |name: &str, mib: f64| {
        let y = y(mib);
        format!(
            "<line x1='0' x2='{WIDTH}' y1='{y:.1}' y2='{y:.1}' stroke='#999' stroke-dasharray='4'/>\n\
             <text x='4' y='{:.1}' fill='#666'>{name} {mib:.0} MiB</text>\n",
            y - 4.0
        )
    };
    [
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -10 {WIDTH} {}' font-family='sans-serif' \
             font-size='12'>\n",
            HEIGHT + 40.0
        ),
        limit("memory_limit", run.memory_mib as f64),
        limit("wal_limit", run.wal_mib as f64),
        line("resident", "#c0392b", 0.0, |sample| sample.resident),
        line("hot", "#2980b9", 100.0, |sample| sample.hot),
        line("spilled", "#27ae60", 160.0, |sample| sample.spilled),
        line("write-ahead log", "#8e44ad", 240.0, |sample| sample.wal),
        format!("<text x='{}' y='{}'>{} s</text>\n</svg>\n", WIDTH - 60.0, HEIGHT + 20.0, samples.len()),
    ]
    .concat()
}
