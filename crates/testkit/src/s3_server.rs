//! A real S3 protocol server on the loopback interface, with its objects in a temporary directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use crate::S3Fault;
use crate::s3_faults::{FaultyListener, S3Faults};

const ACCESS_KEY_ID: &str = "SPANLAKETESTKEY";
const SECRET_ACCESS_KEY: &str = "spanlake/test+secret";
const REGION: &str = "eu-central-1";

/// Serves until dropped. Requests must be signed with its keys.
///
/// Two conditional puts of one object that race have exactly one winner here, as on S3: the underlying implementation
/// checks and then writes, so a lock is held around each request that changes something.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    bucket: String,
    directory: TempDir,
    writing: Arc<Mutex<()>>,
    faults: S3Faults,
    serving: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server with one empty bucket.
    ///
    /// # Panics
    /// Where the system gives no directory or socket.
    pub async fn start(bucket: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(bucket)).expect("a directory for the bucket");
        let files = s3s_fs::FileSystem::new(directory.path()).expect("an S3 file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let service = builder.build();
        let writing = Arc::new(Mutex::new(()));
        let faults = S3Faults::default();
        let (lock, plan) = (Arc::clone(&writing), faults.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (service, writing, faults) = (service.clone(), Arc::clone(&lock), plan.clone());
            async move { answer_or_fail(&service, &writing, &faults, request).await }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("the socket has an address");
        let listener = FaultyListener { listener, faults: faults.clone() };
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the S3 server serves");
        });
        Self { address, bucket: bucket.to_owned(), directory, writing, faults, serving }
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// Where the server listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The directory that holds the bucket's objects as files.
    pub fn bucket_directory(&self) -> PathBuf {
        self.directory.path().join(&self.bucket)
    }

    /// Lets requests that change something wait until what this returns is dropped: a store that hangs.
    pub async fn hold_writes(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.writing).lock_owned().await
    }

    /// From now on any request fails with so many chances in a thousand, with one of these faults, and any read from or
    /// write to a connection cuts it as often where [`S3Fault::Cut`] is among them.
    pub fn fail_by_seed(&self, seed: u64, per_mille: u64, faults: &[S3Fault]) {
        self.faults.fail_by_seed(seed, per_mille, faults);
    }

    /// Works again, and answers those that wait.
    pub fn heal(&self) {
        self.faults.heal();
    }

    /// How many faults took place.
    pub fn injected(&self) -> u64 {
        self.faults.injected()
    }

    /// The environment variables that lead a client here.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// A client of the bucket, for tests that look at the objects themselves.
    ///
    /// # Panics
    /// Where the client refuses its configuration.
    pub fn client(&self) -> object_store::aws::AmazonS3 {
        object_store::aws::AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_region(REGION)
            .with_access_key_id(ACCESS_KEY_ID)
            .with_secret_access_key(SECRET_ACCESS_KEY)
            .with_bucket_name(&self.bucket)
            .build()
            .expect("a client of the S3 server")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer_or_fail(service: &S3Service, writing: &Mutex<()>, faults: &S3Faults, request: Request) -> Response {
    let status = |code: u16| {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, "injected fault").into_response()
    };
    match faults.meet_request() {
        Some(S3Fault::Status(code)) => return status(code),
        Some(S3Fault::LostAnswer) => {
            answer(service, writing, request).await;
            return status(500);
        }
        Some(S3Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(S3Fault::Silent) => {
            faults.silence().await;
            return status(503);
        }
        Some(S3Fault::Cut) | None => {}
    }
    answer(service, writing, request).await
}

async fn answer(service: &S3Service, writing: &Mutex<()>, request: Request) -> Response {
    let changes = matches!(request.method().as_str(), "PUT" | "POST" | "DELETE");
    let guard = if changes { Some(writing.lock().await) } else { None };
    let answer = service.call(request.map(s3s::Body::http_body_unsync)).await;
    drop(guard);
    match answer {
        Ok(response) => response.map(axum::body::Body::new),
        Err(error) => {
            let message = format!("{error:?}");
            (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;
    use object_store::path::Path;
    use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

    use super::{S3Fault, S3Server};

    /// Guarantee: of many writers that create one object at the same time, one wins and the others are told, as Delta
    /// commits need it.
    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_conditional_puts_wins() {
        let server = S3Server::start("lake").await;
        let client = Arc::new(server.client());
        for round in 0..10 {
            let path = Path::from(format!("a/_delta_log/{round:020}.json"));
            let puts = (0..8).map(|writer| {
                let (client, path) = (Arc::clone(&client), path.clone());
                tokio::spawn(async move {
                    let body = format!("writer {writer}");
                    client.put_opts(&path, body.clone().into(), PutMode::Create.into()).await.map(|_| body)
                })
            });
            let mut winners = Vec::new();
            for put in futures::future::join_all(puts).await {
                match put.unwrap() {
                    Ok(body) => winners.push(body),
                    Err(Error::AlreadyExists { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert_eq!(client.get(&path).await.unwrap().bytes().await.unwrap(), winners[0]);
        }
    }

    /// Guarantee: with one request in seven going wrong, a client that tries again gets every object there and back, and no
    /// conditional put succeeds twice.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_gets_through_faults() {
        let server = S3Server::start("lake").await;
        let client = server.client();
        let slow = S3Fault::Slow(std::time::Duration::from_millis(5));
        let faults = [S3Fault::Status(500), S3Fault::Status(503), S3Fault::LostAnswer, slow, S3Fault::Cut];
        server.fail_by_seed(7, 70, &faults);
        for number in 0..12 {
            let path = Path::from(format!("object-{number}"));
            client.put(&path, vec![number; 1_000].into()).await.unwrap();
            assert_eq!(client.get(&path).await.unwrap().bytes().await.unwrap(), vec![number; 1_000]);
            let mut again = client.put_opts(&path, "other".into(), PutMode::Create.into()).await;
            // A conditional put is not repeated by itself where its connection is cut.
            while matches!(again, Err(Error::Generic { .. })) {
                again = client.put_opts(&path, "other".into(), PutMode::Create.into()).await;
            }
            assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        }
        assert!(server.injected() > 0);
        server.heal();
        assert_eq!(client.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 12);
    }

    #[tokio::test]
    async fn serves_ranges_multipart_uploads_and_lists_and_refuses_strangers() {
        let server = S3Server::start("lake").await;
        let client = server.client();
        let path = Path::from("data/date=2026-01-15/part 1+ü.parquet");
        let mut upload = client.put_multipart(&path).await.unwrap();
        upload.put_part(vec![1_u8; 5 * 1024 * 1024].into()).await.unwrap();
        upload.put_part(vec![2_u8; 10].into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(client.head(&path).await.unwrap().size, 5 * 1024 * 1024 + 10);
        let end = 5 * 1024 * 1024;
        assert_eq!(client.get_range(&path, end - 1..end + 2).await.unwrap().to_vec(), [1, 2, 2]);
        let listed: Vec<_> =
            client.list(Some(&Path::from("data"))).map_ok(|meta| meta.location).try_collect().await.unwrap();
        assert_eq!(listed, std::slice::from_ref(&path));
        client.delete(&path).await.unwrap();
        assert!(matches!(client.head(&path).await, Err(Error::NotFound { .. })));

        let unsigned = crate::HttpClient::new(server.address).get("/lake/data").await;
        assert_eq!(unsigned.status, 403, "{}", unsigned.text());
    }
}
