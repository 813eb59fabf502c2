//! The real binary as a child process: real sockets, real signals, real deaths.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use crate::{DEADLINE, HttpAnswer, HttpClient, OtlpGrpcClient};

/// How a server is started. Its directories live in a temporary one that all servers of the same options share, and that
/// goes with the last of them.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    binary: PathBuf,
    home: Arc<TempDir>,
    store: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl ServerOptions {
    /// A server of this binary, usually `env!("CARGO_BIN_EXE_spanlake")`, on a local store in a new directory.
    ///
    /// # Panics
    /// Where the system gives no directory.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let store = home.path().join("store").to_str().expect("a temporary path is text").to_owned();
        Self { binary: binary.into(), home: Arc::new(home), store, args: Vec::new(), env: Vec::new() }
    }

    /// Another store, such as `s3://bucket/prefix`.
    #[must_use]
    pub fn store(mut self, store: impl Into<String>) -> Self {
        self.store = store.into();
        self
    }

    /// A flag and its value, such as `--flush-interval` and `1s`.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.args.extend([flag.to_owned(), value.into()]);
        self
    }

    /// Environment variables of the server, and of commands run with the same options.
    #[must_use]
    pub fn envs(mut self, env: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// The store's directory or URL.
    pub fn store_url(&self) -> &str {
        &self.store
    }

    /// The write-ahead log's directory. It lies outside of the store, so that a test can lose one and keep the other.
    pub fn wal_dir(&self) -> PathBuf {
        self.home.path().join("wal")
    }

    /// The directory that holds them, which is the working directory of the processes too.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts `spanlake serve` and waits until it is ready.
    ///
    /// # Panics
    /// Where it ends first, or is not ready in time.
    pub async fn start(&self) -> ServerProcess {
        match self.try_start().await {
            Ok(server) => server,
            Err(message) => panic!("{message}"),
        }
    }

    /// Starts `spanlake serve`, which may refuse.
    ///
    /// # Errors
    /// What it wrote to standard error, where it ended or was not ready in time.
    pub async fn try_start(&self) -> Result<ServerProcess, String> {
        let wal_dir = self.wal_dir();
        let mut command = self.command();
        command.arg("serve").args(["--store", &self.store]).arg("--wal-dir").arg(&wal_dir);
        for flag in ["--otlp-grpc-addr", "--otlp-http-addr", "--http-addr", "--flight-addr"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        command.arg(PRINT_ADDRESSES).args(&self.args);
        ServerProcess::spawn(self.clone(), command).await
    }

    /// Runs another subcommand of the binary to its end, such as `["sql", "SELECT 1", "--store", …]`.
    ///
    /// # Panics
    /// Where the binary cannot be run, or does not end in time.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null());
        let running = tokio::task::spawn_blocking(move || command.output());
        match tokio::time::timeout(DEADLINE, running).await {
            Ok(output) => output.expect("the command's thread ends").expect("the command can be run"),
            Err(_) => panic!("spanlake {args:?} has not ended after {} s", DEADLINE.as_secs()),
        }
    }

    /// The binary without anything of the test's own surroundings that could configure it.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.home.path());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("SPANLAKE_") || name.starts_with("AWS_")) {
                command.env_remove(&name);
            }
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// The flag that makes the server print one JSON line with its addresses once it is ready.
const PRINT_ADDRESSES: &str = "--print-addresses";

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// SQL, metrics and health over HTTP.
    pub http: SocketAddr,
    /// Control over gRPC.
    pub control: SocketAddr,
}

impl Addresses {
    fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let address = |name: &str| line[name].as_str()?.parse().ok();
        Some(Self {
            otlp_grpc: address("otlp_grpc")?,
            otlp_http: address("otlp_http")?,
            http: address("http")?,
            control: address("control")?,
        })
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    options: ServerOptions,
    child: Child,
    addresses: Addresses,
    stderr: Arc<Mutex<String>>,
    /// Turns true when the process has closed its standard output, which it does by ending.
    ended: watch::Receiver<bool>,
    grpc: OtlpGrpcClient,
    otlp_http: HttpClient,
    http: HttpClient,
}

impl ServerProcess {
    async fn spawn(options: ServerOptions, mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", options.binary.display()));
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr_pipe = child.stderr.take().expect("standard error is piped");
        let stderr = Arc::new(Mutex::new(String::new()));
        let stderr_ended = read_stderr(stderr_pipe, Arc::clone(&stderr));
        let (ready, ended) = read_stdout(stdout);
        let addresses = match tokio::time::timeout(DEADLINE, ready).await {
            Ok(Ok(addresses)) => addresses,
            outcome => {
                let why = if outcome.is_err() { "is not ready in time" } else { "ended before it was ready" };
                // The process may live on; it must not outlive the test.
                let _ = child.kill();
                let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let _ = tokio::time::timeout(DEADLINE, stderr_ended).await;
                return Err(format!("spanlake serve {why} ({status}):\n{}", stderr.lock()));
            }
        };
        Ok(Self {
            options,
            child,
            addresses,
            stderr,
            ended,
            grpc: OtlpGrpcClient::new(addresses.otlp_grpc),
            otlp_http: HttpClient::new(addresses.otlp_http),
            http: HttpClient::new(addresses.http),
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// How it was started.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// A sender of OTLP over gRPC.
    pub fn grpc(&self) -> &OtlpGrpcClient {
        &self.grpc
    }

    /// A sender of OTLP over HTTP.
    pub fn otlp_http(&self) -> &HttpClient {
        &self.otlp_http
    }

    /// A client of SQL, metrics and health.
    pub fn http(&self) -> &HttpClient {
        &self.http
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().clone()
    }

    /// The rows of a query.
    ///
    /// # Panics
    /// Where the query fails.
    pub async fn sql(&self, sql: &str) -> Vec<Map<String, Value>> {
        self.sql_with(sql, json!([])).await
    }

    /// The rows of a query with parameters: an array for `$1`, `$2`, …, or an object for `$name`.
    ///
    /// # Panics
    /// Where the query fails.
    pub async fn sql_with(&self, sql: &str, params: Value) -> Vec<Map<String, Value>> {
        let answer = self.post_sql(&json!({"sql": sql, "params": params}), &[]).await;
        assert_eq!(answer.status, 200, "{sql}\n{}\n{}", answer.text(), self.stderr());
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} in {}", answer.text()))
    }

    /// The one value of a query's one row, as an integer; NULL is zero.
    ///
    /// # Panics
    /// Where the query fails or answers something else.
    pub async fn sql_int(&self, sql: &str) -> i64 {
        let rows = self.sql(sql).await;
        let value = match rows.as_slice() {
            [row] if row.len() == 1 => row.values().next().cloned().unwrap_or_default(),
            _ => panic!("{sql}: not one value: {rows:?}"),
        };
        match &value {
            Value::Null => 0,
            _ => value.as_i64().unwrap_or_else(|| panic!("{sql}: no integer: {value}")),
        }
    }

    /// Posts a body to the SQL endpoint as JSON, with further headers, and gives the raw answer.
    pub async fn post_sql(&self, body: &Value, headers: &[(&str, &str)]) -> HttpAnswer {
        let headers: Vec<_> = [("content-type", "application/json")].iter().chain(headers).copied().collect();
        self.http.post("/api/v1/sql", &headers, body.to_string()).await
    }

    /// Asks it to end in good order, and does not wait.
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name.
    ///
    /// # Panics
    /// Where the process is gone.
    pub fn signal(&self, name: &str) {
        // The child is not waited for before it has ended, so that its id cannot belong to another process by now.
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(status.success(), "{command}: {status}");
    }

    /// Kills it at once, as a power cut would, and waits for its end.
    ///
    /// # Panics
    /// Where it cannot be killed.
    pub async fn sigkill(mut self) -> ServerOptions {
        self.child.kill().expect("the server can be killed");
        self.wait().await;
        self.options.clone()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub async fn wait(&mut self) -> ExitStatus {
        let ended = self.ended.wait_for(|ended| *ended);
        if tokio::time::timeout(DEADLINE, ended).await.is_err() {
            panic!("the server has not ended after {} s:\n{}", DEADLINE.as_secs(), self.stderr());
        }
        self.child.wait().expect("the server can be waited for")
    }

    /// Ends it in good order and gives its options, to start it again.
    ///
    /// # Panics
    /// Where it does not end well.
    pub async fn stop(mut self) -> ServerOptions {
        self.sigterm();
        let status = self.wait().await;
        assert!(status.success(), "the server ended with {status}:\n{}", self.stderr());
        self.options.clone()
    }

    /// Ends it in good order and starts it again on the same directories.
    ///
    /// # Panics
    /// Where it does not end well or is not ready in time.
    pub async fn restart(self) -> Self {
        self.stop().await.start().await
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- standard error of spanlake serve ---\n{}---", self.stderr.lock());
        }
    }
}

fn read_stderr(mut pipe: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            into.lock().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        let _ = sender.send(());
    });
    ended
}

/// Reads standard output to its end, because a full pipe would stop the server. The first line that names addresses says
/// that it is ready.
fn read_stdout(pipe: impl Read + Send + 'static) -> (oneshot::Receiver<Addresses>, watch::Receiver<bool>) {
    let (ready, when_ready) = oneshot::channel();
    let (ended, when_ended) = watch::channel(false);
    std::thread::spawn(move || {
        let mut ready = Some(ready);
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(addresses) = Addresses::parse(&line)
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(addresses);
            }
        }
        drop(ready);
        let _ = ended.send(true);
    });
    (when_ready, when_ended)
}

#[cfg(test)]
mod tests {
    use super::ServerOptions;

    fn script(lines: &str) -> ServerOptions {
        let options = ServerOptions::new("/bin/sh");
        // `sh serve --store …` runs this file with the server's flags as its arguments.
        std::fs::write(options.home().join("serve"), lines).expect("a script");
        options
    }

    const READY: &str =
        r#"echo '{"otlp_grpc":"127.0.0.1:1","otlp_http":"127.0.0.1:2","http":"127.0.0.1:3","control":"127.0.0.1:4"}'"#;

    #[tokio::test]
    async fn is_ready_with_the_address_line_and_ends_by_signal() {
        let server = script(&format!("trap 'exit 0' TERM\necho hello\n{READY}\nread line < fifo"));
        let made = std::process::Command::new("mkfifo").arg(server.home().join("fifo")).status().expect("mkfifo");
        assert!(made.success());
        let server = server.start().await;
        assert_eq!(server.addresses().http.port(), 3);
        let options = server.stop().await;
        assert!(options.home().exists());
    }

    #[tokio::test]
    async fn says_why_a_server_did_not_start() {
        let message = script("echo 'store is locked' >&2; exit 3").try_start().await.expect_err("it ends at once");
        assert!(message.contains("ended before it was ready (exit status: 3)"), "{message}");
        assert!(message.contains("store is locked"), "{message}");
    }

    #[tokio::test]
    async fn a_kill_leaves_the_directories() {
        let server = script(&format!("touch kept\n{READY}\nmkfifo fifo\nread line < fifo"));
        let options = server.start().await.sigkill().await;
        assert!(options.home().join("kept").exists());
    }
}
