//! An object store that fails when told to, or by seed.

mod upload;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use parking_lot::Mutex;
use upload::FaultyUpload;

use crate::SplitMix64;

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A whole object is put, conditionally or not.
    Put,
    /// A multipart upload begins.
    PutMultipart,
    /// A part of a multipart upload.
    PutPart,
    /// A multipart upload is completed.
    Complete,
    /// An object, its ranges or its head are read.
    Get,
    /// An object is deleted.
    Delete,
    /// Objects are listed.
    List,
    /// An object is copied or renamed.
    Copy,
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing was done.
    Fail,
    /// It was done, but the answer is an error: the connection broke after the request went through.
    LostAnswer,
    /// A get breaks off half way with an error; a put leaves half of the object and answers with an error. Other
    /// operations fail.
    Truncate,
    /// It is done, after this time by tokio's clock.
    Delay(Duration),
    /// A put answers with an error and is carried out by [`FaultyStore::deliver_late`]: the request was on its way when its
    /// sender gave up, or died. Other operations fail.
    Late,
    /// A put is answered with success and not done. Other operations are done. No store may do so: with this a test of a test
    /// shows that it notices.
    Forget,
    /// As [`Fault::Late`], but whatever its condition says, over what has come there meanwhile. No store may do so either.
    Overwrite,
}

/// One fault that waits for its operation.
#[derive(Clone, Debug)]
struct Injection {
    operation: Operation,
    path_part: String,
    /// How many matching operations still pass unharmed.
    skip: u64,
    /// How many are hit after those.
    hits: u64,
    fault: Fault,
}

/// Faults that follow from a seed, from what is asked for and for the how manieth time: what other operations run at the
/// same time makes no difference.
#[derive(Debug)]
struct BySeed {
    seed: u64,
    per_mille: u64,
    faults: Vec<Fault>,
    asked: HashMap<u64, u64>,
}

impl BySeed {
    fn meet(&mut self, operation: Operation, path: &str) -> Option<Fault> {
        // Names of files may hold randomness of their own; their folder says enough.
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut hasher = DefaultHasher::new();
        (self.seed, operation, folder).hash(&mut hasher);
        let key = hasher.finish();
        let count = self.asked.entry(key).or_default();
        *count += 1;
        let mut random = SplitMix64::new(key.wrapping_add(*count));
        random.chance(self.per_mille).then(|| *random.pick(&self.faults))
    }
}

/// A put that is still on its way.
#[derive(Debug)]
struct LatePut {
    location: Path,
    payload: PutPayload,
    options: PutOptions,
}

#[derive(Debug, Default)]
struct Plan {
    injections: Vec<Injection>,
    by_seed: Option<BySeed>,
    late: Vec<LatePut>,
    log: Vec<(Operation, String)>,
    injected: u64,
}

impl Plan {
    /// Takes note of an operation and says what goes wrong with it.
    fn meet(&mut self, operation: Operation, path: &str) -> Option<Fault> {
        self.log.push((operation, path.to_owned()));
        let mut fault = None;
        for injection in &mut self.injections {
            if injection.operation != operation || !path.contains(&injection.path_part) || injection.hits == 0 {
                continue;
            }
            if injection.skip > 0 {
                injection.skip -= 1;
            } else if fault.is_none() {
                injection.hits -= 1;
                fault = Some(injection.fault);
            }
        }
        if fault.is_none()
            && let Some(by_seed) = &mut self.by_seed
        {
            fault = by_seed.meet(operation, path);
        }
        self.injected += u64::from(fault.is_some());
        fault
    }
}

/// Wraps a store and makes its operations fail. Clones share the plan, so that a test keeps one and gives one away.
///
/// ```
/// use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
/// use spanlake_testkit::{Fault, FaultyStore, Operation};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = FaultyStore::new(InMemory::new());
/// store.inject(Operation::Put, "_delta_log", 2, Fault::LostAnswer);
/// let path = Path::from("spans/_delta_log/00000000000000000000.json");
/// assert!(store.put(&path, "first".into()).await.is_ok());
/// assert!(store.put(&path, "second".into()).await.is_err());
/// assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "second");
/// # });
/// ```
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: Arc<S>,
    faults: Faults,
}

impl<S> Clone for FaultyStore<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), faults: self.faults.clone() }
    }
}

/// The plan that all clients of a store share, and the life of one client.
#[derive(Clone, Debug, Default)]
struct Faults {
    plan: Arc<Mutex<Plan>>,
    /// Operations until the client's process dies; none where it lives on.
    life: Arc<Mutex<Option<u64>>>,
    /// The part of a path: the client dies while it puts such an object.
    last_put: Arc<Mutex<Option<String>>>,
}

impl Faults {
    /// Lets a delay pass here, so that only faults that change the answer are left.
    async fn meet(&self, operation: Operation, path: &str) -> Option<Fault> {
        let fault = self
            .last_put(operation, path)
            .or_else(|| self.last_breath())
            .or_else(|| self.plan.lock().meet(operation, path));
        let fault =
            fault.filter(|fault| operation == Operation::Put || !matches!(fault, Fault::Forget | Fault::Overwrite));
        if let Some(Fault::Delay(time)) = fault {
            tokio::time::sleep(time).await;
            return None;
        }
        fault
    }

    /// The put during which the client dies.
    fn last_put(&self, operation: Operation, path: &str) -> Option<Fault> {
        let mut last = self.last_put.lock();
        if operation != Operation::Put || !last.as_ref().is_some_and(|part| path.contains(part)) {
            return None;
        }
        *last = None;
        *self.life.lock() = Some(0);
        Some(Fault::Late)
    }

    /// What becomes of an operation of a client that dies.
    fn last_breath(&self) -> Option<Fault> {
        match self.life.lock().as_mut()? {
            0 => Some(Fault::Fail),
            left => {
                *left -= 1;
                None
            }
        }
    }
}

impl<S: ObjectStore> FaultyStore<S> {
    /// A store that works, until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), faults: Faults::default() }
    }

    /// The store itself, without any faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The same store as another process sees it, with the same plan: it can die by itself.
    #[must_use]
    pub fn other_client(&self) -> Self {
        let faults = Faults { plan: Arc::clone(&self.faults.plan), life: Arc::default(), last_put: Arc::default() };
        Self { inner: Arc::clone(&self.inner), faults }
    }

    /// Lets this client, and its clones, do so many more operations; after them everything fails, whatever is healed.
    pub fn die_after(&self, operations: u64) {
        *self.faults.life.lock() = Some(operations);
    }

    /// Lets this client, and its clones, die while it puts the next object whose path contains `path_part`: the request is on
    /// its way, and [`FaultyStore::deliver_late`] carries it out.
    pub fn die_at_put(&self, path_part: &str) {
        *self.faults.last_put.lock() = Some(path_part.to_owned());
    }

    /// Carries out the puts that were on their way: any number of them from the oldest on, and how many there are still.
    pub async fn deliver_late(&self, most: usize) -> usize {
        let due: Vec<LatePut> = {
            let mut plan = self.faults.plan.lock();
            let count = plan.late.len().min(most);
            plan.late.drain(..count).collect()
        };
        for put in due {
            // Nobody waits for the answer.
            let _ = self.inner.put_opts(&put.location, put.payload, put.options).await;
        }
        self.faults.plan.lock().late.len()
    }

    /// Hits the `nth` (from 1, counted from now) of these operations whose path contains `path_part`.
    pub fn inject(&self, operation: Operation, path_part: &str, nth: u64, fault: Fault) {
        self.inject_run(operation, path_part, nth, 1, fault);
    }

    /// Hits a run of these operations: `hits` of them, from the `nth` on. `u64::MAX` hits all until
    /// [`FaultyStore::heal`].
    pub fn inject_run(&self, operation: Operation, path_part: &str, nth: u64, hits: u64, fault: Fault) {
        assert!(nth > 0, "operations are counted from 1");
        let injection = Injection { operation, path_part: path_part.to_owned(), skip: nth - 1, hits, fault };
        self.faults.plan.lock().injections.push(injection);
    }

    /// From now on any operation fails with this many chances in a thousand, with one of these faults.
    pub fn fail_by_seed(&self, seed: u64, per_mille: u64, faults: &[Fault]) {
        let by_seed = BySeed { seed, per_mille, faults: faults.to_vec(), asked: HashMap::new() };
        self.faults.plan.lock().by_seed = Some(by_seed);
    }

    /// Works again, whatever was planned.
    pub fn heal(&self) {
        let mut plan = self.faults.plan.lock();
        plan.injections.clear();
        plan.by_seed = None;
    }

    /// How many faults took place.
    pub fn injected(&self) -> u64 {
        self.faults.plan.lock().injected
    }

    /// How many of these operations were asked for, failed ones included, on paths that contain `path_part`.
    pub fn count(&self, operation: Operation, path_part: &str) -> usize {
        let plan = self.faults.plan.lock();
        plan.log.iter().filter(|(asked, path)| *asked == operation && path.contains(path_part)).count()
    }

    async fn meet(&self, operation: Operation, path: &Path) -> Option<Fault> {
        self.faults.meet(operation, path.as_ref()).await
    }
}

fn injected(operation: Operation, path: &str) -> Error {
    Error::Generic { store: "FaultyStore", source: format!("injected fault on {operation:?} of {path}").into() }
}

impl<S: ObjectStore> Display for FaultyStore<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let lost = Err(injected(Operation::Put, location.as_ref()));
        match self.meet(Operation::Put, location).await {
            None | Some(Fault::Delay(_)) => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Fail) => lost,
            Some(Fault::Forget) => Ok(PutResult { e_tag: None, version: None }),
            Some(fault @ (Fault::Late | Fault::Overwrite)) => {
                let mode = if fault == Fault::Overwrite { PutMode::Overwrite } else { opts.mode.clone() };
                let options = PutOptions { mode, ..opts };
                let put = LatePut { location: location.clone(), payload, options };
                self.faults.plan.lock().late.push(put);
                lost
            }
            Some(Fault::LostAnswer) => {
                // A conditional put that really lost its race says so: an answer that did arrive.
                self.inner.put_opts(location, payload, opts).await?;
                lost
            }
            Some(Fault::Truncate) => {
                let whole = Bytes::from(payload);
                let half = whole.slice(..whole.len() / 2);
                self.inner.put_opts(location, half.into(), opts).await?;
                lost
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.meet(Operation::PutMultipart, location).await {
            None | Some(Fault::Delay(_)) => {}
            Some(_) => return Err(injected(Operation::PutMultipart, location.as_ref())),
        }
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FaultyUpload { inner, path: location.to_string(), faults: self.faults.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.meet(Operation::Get, location).await {
            None | Some(Fault::Delay(_)) => self.inner.get_opts(location, options).await,
            Some(Fault::Fail | Fault::LostAnswer | Fault::Late | Fault::Forget | Fault::Overwrite) => {
                Err(injected(Operation::Get, location.as_ref()))
            }
            Some(Fault::Truncate) => {
                let whole = self.inner.get_opts(location, options).await?;
                Ok(break_off(whole, location.to_string()))
            }
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.meet(Operation::Get, location).await {
            None | Some(Fault::Delay(_)) => self.inner.get_ranges(location, ranges).await,
            Some(_) => Err(injected(Operation::Get, location.as_ref())),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let one = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let fault = store.meet(Operation::Delete, &location).await;
                if matches!(fault, Some(Fault::Fail | Fault::Truncate | Fault::Late)) {
                    return Err(injected(Operation::Delete, location.as_ref()));
                }
                let only = futures::stream::iter([Ok(location.clone())]).boxed();
                let answer = store.inner.delete_stream(only).next().await;
                if fault == Some(Fault::LostAnswer) {
                    return Err(injected(Operation::Delete, location.as_ref()));
                }
                answer.unwrap_or(Ok(location))
            }
        };
        locations.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.faulty_list(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.faulty_list(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        match self.faults.meet(Operation::List, &path).await {
            None | Some(Fault::Delay(_)) => self.inner.list_with_delimiter(prefix).await,
            Some(_) => Err(injected(Operation::List, &path)),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match self.meet(Operation::Copy, to).await {
            None | Some(Fault::Delay(_) | Fault::Forget | Fault::Overwrite) => {
                self.inner.copy_opts(from, to, options).await
            }
            Some(Fault::Fail | Fault::Truncate | Fault::Late) => Err(injected(Operation::Copy, to.as_ref())),
            Some(Fault::LostAnswer) => {
                self.inner.copy_opts(from, to, options).await?;
                Err(injected(Operation::Copy, to.as_ref()))
            }
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        match self.meet(Operation::Copy, to).await {
            None | Some(Fault::Delay(_) | Fault::Forget | Fault::Overwrite) => {
                self.inner.rename_opts(from, to, options).await
            }
            Some(Fault::Fail | Fault::Truncate | Fault::Late) => Err(injected(Operation::Copy, to.as_ref())),
            Some(Fault::LostAnswer) => {
                self.inner.rename_opts(from, to, options).await?;
                Err(injected(Operation::Copy, to.as_ref()))
            }
        }
    }
}

impl<S: ObjectStore> FaultyStore<S> {
    /// A list that fails does so at its first item.
    fn faulty_list(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let faults = self.faults.clone();
        futures::stream::once(async move {
            match faults.meet(Operation::List, &path).await {
                None | Some(Fault::Delay(_)) => inner,
                Some(_) => futures::stream::iter([Err(injected(Operation::List, &path))]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }
}

/// The first half of an answer, then an error.
fn break_off(whole: GetResult, path: String) -> GetResult {
    let (meta, range, attributes) = (whole.meta.clone(), whole.range.clone(), whole.attributes.clone());
    let payload = futures::stream::once(async move {
        let broken = Err(injected(Operation::Get, &path));
        match whole.bytes().await {
            Ok(bytes) => vec![Ok(bytes.slice(..bytes.len() / 2)), broken],
            Err(error) => vec![Err(error)],
        }
    })
    .flat_map(futures::stream::iter)
    .boxed();
    GetResult { payload: GetResultPayload::Stream(payload), meta, range, attributes }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

    use super::{Fault, FaultyStore, Operation};

    fn store() -> (FaultyStore<InMemory>, Path) {
        (FaultyStore::new(InMemory::new()), Path::from("table/part-1.parquet"))
    }

    #[tokio::test]
    async fn fails_only_the_nth_operation_on_a_matching_path() {
        let (store, path) = store();
        store.inject(Operation::Put, "part-", 2, Fault::Fail);
        store.put(&path, "one".into()).await.unwrap();
        store.put(&Path::from("elsewhere"), "other".into()).await.unwrap();
        let error = store.put(&path, "two".into()).await.unwrap_err();
        assert!(error.to_string().contains("injected fault on Put of table/part-1.parquet"), "{error}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!((store.injected(), store.count(Operation::Put, "part-")), (1, 3));
    }

    #[tokio::test]
    async fn a_lost_answer_was_carried_out_and_a_lost_race_is_told() {
        let (store, path) = store();
        store.inject_run(Operation::Put, "", 1, 2, Fault::LostAnswer);
        let create = || PutMode::Create.into();
        assert!(matches!(store.put_opts(&path, "mine".into(), create()).await, Err(Error::Generic { .. })));
        assert!(matches!(store.put_opts(&path, "theirs".into(), create()).await, Err(Error::AlreadyExists { .. })));
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "mine");
    }

    #[tokio::test]
    async fn truncates_puts_and_gets() {
        let (store, path) = store();
        store.inject(Operation::Put, "", 1, Fault::Truncate);
        assert!(store.put(&path, "12345678".into()).await.is_err());
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "1234");
        store.inject(Operation::Get, "", 1, Fault::Truncate);
        assert!(store.get(&path).await.unwrap().bytes().await.is_err());
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "1234");
    }

    #[tokio::test]
    async fn fails_by_seed_until_healed_and_repeats_itself() {
        async fn outcomes(seed: u64) -> Vec<bool> {
            let (store, path) = store();
            store.fail_by_seed(seed, 300, &[Fault::Fail, Fault::LostAnswer]);
            let mut outcomes = Vec::new();
            for _ in 0..50 {
                outcomes.push(store.put(&path, "x".into()).await.is_ok());
            }
            store.heal();
            assert!(store.put(&path, "x".into()).await.is_ok());
            outcomes
        }
        let first = outcomes(3).await;
        assert!(first.contains(&true) && first.contains(&false));
        assert_eq!(first, outcomes(3).await);
        assert_ne!(first, outcomes(4).await);
    }

    #[tokio::test]
    async fn a_late_put_comes_true_when_it_is_delivered_even_after_its_sender_died() {
        let (store, path) = store();
        let client = store.other_client();
        store.inject(Operation::Put, "", 1, Fault::Late);
        assert!(client.put_opts(&path, "late".into(), PutMode::Create.into()).await.is_err());
        client.die_after(0);
        assert!(client.put(&path, "dead".into()).await.is_err());
        assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
        assert_eq!(store.deliver_late(usize::MAX).await, 0);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "late");
    }

    #[tokio::test]
    async fn multipart_uploads_lists_and_deletes_fail_too() {
        let (store, path) = store();
        store.inject(Operation::Complete, "", 1, Fault::LostAnswer);
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("body".into()).await.unwrap();
        assert!(upload.complete().await.is_err());
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "body");
        store.inject(Operation::List, "", 1, Fault::Fail);
        assert!(store.list_with_delimiter(None).await.is_err());
        store.inject(Operation::Delete, "", 1, Fault::Fail);
        assert!(store.delete(&path).await.is_err());
        store.delete(&path).await.unwrap();
        assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    }
}
