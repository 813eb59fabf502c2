//! Clients that are slow, silent, endless or rude: each meets a limit, and other senders notice nothing.

use std::net::SocketAddr;

use prost::Message;
use spanlake_testkit::{DEADLINE, HttpClient, OtlpGrpcClient, ServerProcess, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{count_spans, server, traffic};

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

/// All that the server says until it ends the connection, which it has to do by itself.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await;
    // A reset is an end as well: not all that the client sent was read.
    let _ = read.unwrap_or_else(|_| panic!("the connection stays open: {:?}", String::from_utf8_lossy(&said)));
    String::from_utf8_lossy(&said).into_owned()
}

/// What others do meanwhile: each on a connection of its own, over both protocols.
async fn others_are_served(server: &ServerProcess, seed: u64) {
    let mut source = traffic(seed);
    let before = count_spans(server).await;
    let addresses = server.addresses();
    let answer = HttpClient::new(addresses.otlp_http).export(source.request(5).encode_to_vec()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = OtlpGrpcClient::new(addresses.otlp_grpc).export(source.request(5).encode_to_vec()).await;
    assert_eq!(answer.code, spanlake_testkit::Code::Ok, "{}", answer.message);
    assert_eq!(count_spans(server).await, before + 10);
}

const HEAD: &str = "POST /v1/traces HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-protobuf\r\n";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Scenario: connections that say nothing, two bytes of HTTP/2's greeting, all of it and nothing more, half of a request's
/// head, a head one byte at a time, and a head without its body.
/// Guarantee: each is closed when its time is up, the body with 408; others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn slow_and_stalled_clients_are_given_up() {
    let server = server().arg("--idle-timeout", "3s").arg("--body-timeout", "1s").start().await;
    let addresses = server.addresses();
    let stalled = async |address: SocketAddr, said: Vec<u8>| {
        let mut stream = connect(address).await;
        stream.write_all(&said).await.expect("writes");
        read_to_end(&mut stream).await
    };
    let dripping = async {
        let (mut reading, mut writing) = connect(addresses.otlp_http).await.into_split();
        let drip = async {
            writing.write_all(HEAD.as_bytes()).await.expect("writes");
            let mut turns = tokio::time::interval(std::time::Duration::from_millis(100));
            // Ends when the server has closed the connection.
            while writing.write_all(b"X: y\r\n").await.is_ok() {
                turns.tick().await;
            }
        };
        let mut said = Vec::new();
        let (read, ()) = tokio::join!(tokio::time::timeout(DEADLINE, reading.read_to_end(&mut said)), drip);
        assert!(read.is_ok(), "the connection stays open");
    };
    let body = format!("{HEAD}Content-Length: 100\r\n\r\nabc").into_bytes();
    let half_a_head = HEAD.as_bytes()[..40].to_vec();
    let (http, grpc) = (addresses.otlp_http, addresses.otlp_grpc);
    let (silent, half_preface, preface, head, body, (), ()) = tokio::join!(
        stalled(http, Vec::new()),
        stalled(grpc, b"PR".to_vec()),
        stalled(grpc, HTTP2_PREFACE.to_vec()),
        stalled(http, half_a_head),
        stalled(http, body),
        dripping,
        others_are_served(&server, 701),
    );
    assert_eq!((silent.as_str(), half_preface.as_str()), ("", ""));
    assert!(!preface.contains("200"), "{preface:?}");
    assert!(!head.contains(" 200 "), "{head}");
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("body"), "{body}");
    others_are_served(&server, 702).await;
}

/// Scenario: far more connections than the limit allows, none of which ever says anything. With SPANLAKE_LONG_TESTS they
/// are ten thousand.
/// Guarantee: the oldest make room, so that every new sender is served at once; memory does not grow with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_idle_connections_keeps_nobody_out() {
    let (crowd, limit) = if std::env::var_os("SPANLAKE_LONG_TESTS").is_some() { (10_000, 4_000) } else { (400, 100) };
    let server = server().arg("--idle-timeout", "1h").arg("--connection-limit", limit.to_string()).start().await;
    others_are_served(&server, 711).await;
    let resident_bytes = async || crate::bounds::figure(&server, "spanlake_process_resident_memory_bytes").await;
    let before = resident_bytes().await;
    let mut silent = Vec::with_capacity(crowd);
    for _ in 0..crowd {
        silent.push(connect(server.addresses().otlp_http).await);
    }
    others_are_served(&server, 712).await;
    // Those beyond the limit were closed, the oldest first; the youngest is still there.
    for stream in &mut silent[..crowd - limit] {
        assert_eq!(read_to_end(stream).await, "");
    }
    let youngest = silent.last_mut().expect("there are many");
    youngest.write_all(b"GET /v1/traces HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await.expect("writes");
    assert!(read_to_end(youngest).await.starts_with("HTTP/1.1 405 "));
    let grown = resident_bytes().await - before;
    assert!(grown < (limit * 32 * 1024) as f64 + (64 << 20) as f64, "{grown} bytes for {limit} idle connections");
}

/// Scenario: as many requests under way as there may be connections, and one more connection.
/// Guarantee: it is refused at once, in words; when a request has ended there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn where_all_connections_are_busy_a_new_one_is_refused() {
    let server = server().arg("--connection-limit", "2").start().await;
    let address = server.addresses().otlp_http;
    let head = format!("{HEAD}Connection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(address).await;
        stream.write_all(head.as_bytes()).await.expect("writes");
        // The request is with its handler once its body is asked for.
        let mut asked = [0; 25];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut asked)).await.expect("in time").expect("is asked");
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        busy.push(stream);
    }
    let refusal = read_to_end(&mut connect(address).await).await;
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("\r\nRetry-After: 1\r\n"), "{refusal}");
    let (head, text) = refusal.split_once("\r\n\r\n").expect("a head and a body");
    assert!(
        text.contains("connection_limit") && head.contains(&format!("Content-Length: {}", text.len())),
        "{refusal}"
    );

    let mut first = busy.swap_remove(0);
    first.write_all(b"oops").await.expect("writes");
    assert!(read_to_end(&mut first).await.starts_with("HTTP/1.1 400 "));
    wait_until("room for a sender", async || {
        let body = traffic(721).request(1).encode_to_vec();
        let headers = [("content-type", spanlake_testkit::PROTOBUF)];
        let answer = HttpClient::new(address).try_request("POST", "/v1/traces", &headers, body).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

/// Scenario: a head of a mebibyte, a head of a thousand lines, and streams of HTTP/2 that are opened and given up without end.
/// Guarantee: each connection is ended, heads with 431 where anything is said; others are served.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_and_of_resets_end_their_connection() {
    let server = server().start().await;
    let addresses = server.addresses();
    let flood = async |head: String| {
        let (mut reading, mut writing) = connect(addresses.otlp_http).await.into_split();
        // The server may stop reading at any byte.
        let write = async { writing.write_all(head.as_bytes()).await.is_ok() };
        let mut said = Vec::new();
        let (read, _) = tokio::join!(tokio::time::timeout(DEADLINE, reading.read_to_end(&mut said)), write);
        assert!(read.is_ok(), "the connection stays open");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");
    };
    flood(format!("{HEAD}X-Large: {}\r\n", "x".repeat(1 << 20))).await;
    flood(format!("{HEAD}{}\r\n", "X: y\r\n".repeat(1000))).await;
    others_are_served(&server, 731).await;

    let (mut reading, mut writing) = connect(addresses.otlp_grpc).await.into_split();
    let resets = async {
        writing.write_all(HTTP2_PREFACE).await.expect("writes");
        for wave in 0_u32.. {
            let frames: Vec<u8> = (0..500).flat_map(|stream| opened_and_reset(1 + 2 * (500 * wave + stream))).collect();
            if writing.write_all(&frames).await.is_err() {
                return;
            }
        }
    };
    let mut said = Vec::new();
    let read = async { tokio::join!(reading.read_to_end(&mut said), resets) };
    assert!(tokio::time::timeout(DEADLINE, read).await.is_ok(), "the connection stays open");
    others_are_served(&server, 732).await;
}

/// HEADERS (`POST http://a/`) and RST_STREAM of one stream.
fn opened_and_reset(stream: u32) -> Vec<u8> {
    const FIELDS: &[u8] = b"\x83\x86\x84\x41\x01a";
    let mut frames = vec![0, 0, FIELDS.len() as u8, 1, 4];
    frames.extend(stream.to_be_bytes());
    frames.extend(FIELDS);
    frames.extend([0, 0, 4, 3, 0]);
    frames.extend(stream.to_be_bytes());
    frames.extend(8_u32.to_be_bytes());
    frames
}

/// Scenario: senders of large bodies that stop before the end, as many as the memory for requests allows.
/// Guarantee: one more is pushed back with 429; small ones that fit are taken; when the large ones have gone there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unfinished_bodies_is_pushed_back() {
    const BODY_BYTES: usize = 900 << 10;
    let options = server().arg("--message-limit", "1MiB").arg("--memory-limit", "4MiB").arg("--flush-bytes", "1MiB");
    let server = options.start().await;
    let address = server.addresses().otlp_http;
    let head = format!("{HEAD}Connection: close\r\nContent-Length: {}\r\n\r\n", BODY_BYTES + 1);
    let mut unfinished = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(address).await;
        stream.write_all(head.as_bytes()).await.expect("writes");
        stream.write_all(&vec![0; BODY_BYTES]).await.expect("writes");
        unfinished.push(stream);
    }
    wait_until("the bodies to be read", async || {
        let held = crate::bounds::figure(&server, "spanlake_otlp_body_bytes").await;
        (held as usize == 2 * BODY_BYTES).then_some(())
    })
    .await;
    others_are_served(&server, 741).await;
    let answer = HttpClient::new(address).export(vec![0; BODY_BYTES]).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").is_some() && answer.text().contains("memory_limit"), "{}", answer.text());
    drop(unfinished);
    wait_until("room", async || {
        (crate::bounds::figure(&server, "spanlake_otlp_body_bytes").await == 0.0).then_some(())
    })
    .await;
    // Taken, and read as what it is: no request.
    let answer = HttpClient::new(address).export(vec![0; BODY_BYTES]).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}
