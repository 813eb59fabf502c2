//! Kill tests: the real binary, killed again and again at random moments while several connections send, and every request
//! that got no answer sent again as an exporter would.
//!
//! `SPANLAKE_KILLS` says how many times each test kills, `SPANLAKE_KILLS_SEED` from which seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use serde_json::{Map, Value};
use spanlake_testkit::{
    Code, DEADLINE, HttpClient, OtlpGrpcClient, PROTOBUF, S3Fault, S3Server, ServerOptions, ServerProcess, SplitMix64,
    spans_of, stored_as_promised,
};
use tokio::sync::{Mutex, watch};

use crate::{hex, server, traffic};

const SENDERS: usize = 4;
const SPANS: usize = 6;
/// Short, so that there are several flushes between two kills.
const FLUSH_INTERVAL: &str = "50ms";
const VERIFY_EVERY: u64 = 5;
const KILLS_PER_STORE: u64 = 25;

/// A number that the environment may set.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

/// A body with its span ids, and how often it was sent.
struct Body {
    bytes: Vec<u8>,
    span_ids: Vec<String>,
    sent: i64,
    acknowledged: bool,
}

/// One connection's client and what it knows: which of its bodies were answered with success. All but the last one were.
struct Sender {
    number: usize,
    traffic: spanlake_testkit::Traffic,
    bodies: Vec<Body>,
}

impl Sender {
    /// The body to send next: the one that got no answer, else a new one.
    fn next(&mut self) -> &mut Body {
        if self.bodies.last().is_none_or(|body| body.acknowledged) {
            let request = self.traffic.request(SPANS);
            let span_ids = spans_of(&request).map(|span| hex(&span.span_id)).collect();
            self.bodies.push(Body { bytes: request.encode_to_vec(), span_ids, sent: 0, acknowledged: false });
        }
        self.bodies.last_mut().expect("a body was made")
    }

    /// Sends over a connection of its own, odd ones over gRPC, until the server is gone.
    async fn send_until_killed(&mut self, http: HttpClient, grpc: OtlpGrpcClient, acknowledged: watch::Sender<u64>) {
        let over_grpc = self.number % 2 == 1;
        loop {
            let body = self.next();
            body.sent += 1;
            let done = if over_grpc {
                let answer = grpc.export(body.bytes.clone()).await;
                (answer.code == Code::Ok, answer.details.is_some())
            } else {
                let headers = [("content-type", PROTOBUF)];
                let answer = http.try_request("POST", "/v1/traces", &headers, body.bytes.clone()).await;
                let status = answer.map_or(0, |answer| answer.status);
                (status == 200, status == 429 || status == 503)
            };
            match done {
                (true, _) => {
                    body.acknowledged = true;
                    acknowledged.send_modify(|count| *count += 1);
                }
                // Pushed back by a server that lives: sent again at once, which is ruder than any exporter.
                (false, true) => {}
                (false, false) => return,
            }
        }
    }
}

/// One server's life after life.
struct Trial {
    options: ServerOptions,
    random: SplitMix64,
    senders: Vec<Arc<Mutex<Sender>>>,
}

impl Trial {
    fn new(options: ServerOptions, seed: u64) -> Self {
        let senders = (0..SENDERS).map(|number| {
            let traffic = traffic(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            Arc::new(Mutex::new(Sender { number, traffic, bodies: Vec::new() }))
        });
        Self { options, random: SplitMix64::new(seed), senders: senders.collect() }
    }

    /// Starts a server as one is started after a crash; one in four answers only after the commit.
    async fn start(&mut self) -> ServerProcess {
        let ack = if self.random.chance(250) { "commit" } else { "wal" };
        self.options.clone().arg("--ack", ack).start().await
    }

    /// Loads the server from all connections and kills it at a random moment.
    async fn load_and_kill(&mut self, server: ServerProcess) {
        let (sender, mut acknowledged) = watch::channel(0);
        let sending: Vec<_> = self
            .senders
            .iter()
            .map(|it| {
                let addresses = server.addresses();
                let (http, grpc) = (HttpClient::new(addresses.otlp_http), OtlpGrpcClient::new(addresses.otlp_grpc));
                let (it, acknowledged) = (Arc::clone(it), sender.clone());
                tokio::spawn(async move { it.lock().await.send_until_killed(http, grpc, acknowledged).await })
            })
            .collect();
        drop(sender);
        // So many answers, or so much time: a store that answers nothing gets its kill too.
        let enough = self.random.between(1, 25);
        let patience = Duration::from_millis(self.random.between(1, 500));
        let reached = tokio::time::timeout(patience, acknowledged.wait_for(|count| *count >= enough)).await;
        let reached = reached.map(|seen| seen.is_ok());
        // Then not just after an answer, but somewhere in what the server does by itself.
        let moment = Duration::from_micros(self.random.between(0, 30_000));
        let _ = tokio::time::timeout(moment, acknowledged.wait_for(|_| false)).await;
        assert!(reached != Ok(false), "senders stopped:\n{}", server.stderr());
        server.sigkill().await;
        for sender in sending {
            let ended = tokio::time::timeout(DEADLINE, sender).await.expect("a sender ends when the server is gone");
            ended.expect("a sender does not panic");
        }
    }

    /// Every acknowledged span is there exactly once, however often it was sent; of a body without an answer all or nothing.
    async fn check(&self, mut stored: BTreeMap<String, usize>, when: &str) {
        for sender in &self.senders {
            for body in &sender.lock().await.bodies {
                let counts: Vec<usize> = body.span_ids.iter().map(|id| stored.remove(id).unwrap_or(0)).collect();
                let kept = stored_as_promised(body.acknowledged, &counts);
                kept.unwrap_or_else(|broken| panic!("{when}: {broken}, sent {} times: {:?}", body.sent, body.span_ids));
            }
        }
        assert!(stored.is_empty(), "{when}: spans that nobody sent: {stored:?}");
    }

    /// The same seen by a running server, and by nothing but the tables.
    async fn check_live(&self, server: &ServerProcess, when: &str) {
        let rows = server.sql(COUNTS).await;
        self.check(counts_of(&rows), when).await;
    }

    /// The ledger says so too.
    async fn verify_live(&self, server: &ServerProcess, when: &str) {
        let answer = server.http().get("/api/v1/verify").await;
        let report: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(report["is_clean"], true, "{when}: {report:#}");
    }

    async fn check_at_rest(&self) {
        let output = self.options.run(&["sql", COUNTS, "--format", "json", "--store", self.options.store_url()]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<_> = serde_json::from_slice(&output.stdout).expect("rows");
        self.check(counts_of(&rows), "at rest").await;
        let output = self.options.run(&["verify", "--store", self.options.store_url(), "--json"]).await;
        assert!(output.status.success(), "verify at rest: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Sends again what got no answer, and insists on one.
    async fn settle(&self, server: &ServerProcess) {
        for sender in &self.senders {
            let mut sender = sender.lock().await;
            if sender.bodies.last().is_none_or(|body| body.acknowledged) {
                continue;
            }
            let body = sender.next();
            body.sent += 1;
            let answer = server.otlp_http().export(body.bytes.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            body.acknowledged = true;
        }
    }

    async fn acknowledged(&self) -> usize {
        let mut count = 0;
        for sender in &self.senders {
            count += sender.lock().await.bodies.iter().filter(|body| body.acknowledged).count();
        }
        count
    }
}

const COUNTS: &str = "SELECT span_id, count(*) AS n FROM spans GROUP BY span_id";

fn counts_of(rows: &[Map<String, Value>]) -> BTreeMap<String, usize> {
    let count = |row: &Map<String, Value>| {
        (row["span_id"].as_str().expect("an id").to_owned(), row["n"].as_u64().expect("a count") as usize)
    };
    rows.iter().map(count).collect()
}

/// What the store is in for next.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Start,
    Check,
    Load,
}

/// Kills, starts and checks so many times; before each stage the store is told how to behave. Returns how many requests were
/// acknowledged.
async fn kill_again_and_again(mut trial: Trial, kills: u64, store: impl Fn(Stage, u64)) -> usize {
    store(Stage::Start, 0);
    let mut server = trial.start().await;
    for kill in 1..=kills {
        store(Stage::Load, kill);
        trial.load_and_kill(server).await;
        store(Stage::Start, kill);
        server = trial.start().await;
        store(Stage::Check, kill);
        let when = format!("after kill {kill}");
        trial.check_live(&server, &when).await;
        // A binary that is not optimised takes half a second for it.
        if kill % VERIFY_EVERY == 0 {
            trial.verify_live(&server, &when).await;
        }
    }
    trial.settle(&server).await;
    let when = "after the last request was answered";
    trial.check_live(&server, when).await;
    trial.verify_live(&server, when).await;
    server.stop().await;
    trial.check_at_rest().await;
    trial.acknowledged().await
}

/// Seeds, each with its number of kills: every so many kills begin with an empty store.
fn trials(kills: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = setting("SPANLAKE_KILLS_SEED", 1);
    let kills = setting("SPANLAKE_KILLS", kills);
    (0..kills.div_ceil(KILLS_PER_STORE)).map(move |trial| {
        let these = KILLS_PER_STORE.min(kills - trial * KILLS_PER_STORE);
        println!("SPANLAKE_KILLS_SEED={}: {these} kills", first + trial);
        (first + trial, these)
    })
}

/// Scenario: four connections send over gRPC and HTTP while flushes follow each other, SIGKILL at a random moment, start
/// again on the same directories, what got no answer is sent again; 25 times over.
/// Guarantee: every acknowledged span is there exactly once, hot and cold; a body without an answer whole or not at all; `verify`
/// is clean after every fifth kill, and at rest.
#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_acknowledged() {
    for (seed, kills) in trials(25) {
        let trial = Trial::new(server().arg("--flush-interval", FLUSH_INTERVAL), seed);
        let acknowledged = kill_again_and_again(trial, kills, |_, _| {}).await;
        println!("{kills} kills, {acknowledged} requests acknowledged");
    }
}

/// Scenario: the same on S3, whose connections are cut and which answers 500, 503, slowly, after having done it nevertheless,
/// or not at all.
/// Guarantee: the same, and the server starts by itself while the store fails.
#[tokio::test(flavor = "multi_thread")]
async fn kills_on_a_failing_store_lose_nothing_acknowledged() {
    for (seed, kills) in trials(10) {
        kills_on_a_failing_store(seed, kills).await;
    }
}

async fn kills_on_a_failing_store(seed: u64, kills: u64) {
    let s3 = S3Server::start("telemetry").await;
    let options = server().store(s3.url("lake")).envs(s3.environment()).arg("--flush-interval", FLUSH_INTERVAL);
    let answers = [
        S3Fault::Status(500),
        S3Fault::Status(503),
        S3Fault::LostAnswer,
        S3Fault::Slow(Duration::from_millis(40)),
        S3Fault::Cut,
    ];
    let all = [&answers[..], &[S3Fault::Silent]].concat();
    let store = |stage, kill| {
        let seed = seed.wrapping_mul(31).wrapping_add(kill);
        s3.heal();
        match stage {
            // Silence ends with the client's patience, which is longer than a test's.
            Stage::Start => s3.fail_by_seed(seed, 20, &answers),
            Stage::Load => s3.fail_by_seed(seed, 150, &all),
            Stage::Check => {}
        }
    };
    let acknowledged = kill_again_and_again(Trial::new(options, seed), kills, store).await;
    println!("{kills} kills, {} faults of the store, {acknowledged} requests acknowledged", s3.injected());
    assert!(s3.injected() > 0);
}
