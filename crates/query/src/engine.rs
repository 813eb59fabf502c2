use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::physical_plan::execute_stream;
use futures::{Stream, StreamExt};
use spanlake_storage::TableSource;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::answer::{AbortOnDrop, Answer, Bounds, Message, WAITING_BATCHES, cut_off, produce};
use crate::contents::NEEDED;
use crate::format::{self, Format};
use crate::session::{base_state, empty_state, runtime_env, statement_state};
use crate::stats::{Counters, QueryStats};
use crate::views::Views;
use crate::{Parameters, QueryError, guard};

/// Stack of a query thread. Freeing a deep expression recurses; [`guard`] bounds how deep it can be.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Statements that may wait for a slot, for each slot there is.
const WAITING_PER_SLOT: usize = 32;

/// Encoded pieces of an answer that wait for a slow reader.
const WAITING_PIECES: usize = 4;

/// Bounds of queries.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// Memory of all running queries; beyond it they spill.
    pub memory_limit_bytes: usize,
    /// Bytes of spill files on disk at most.
    pub spill_limit_bytes: u64,
    /// Longest run of a query.
    pub timeout: Duration,
    /// Most rows of an answer.
    pub row_limit: usize,
    /// Queries that run at once; further ones wait.
    pub concurrency: usize,
    /// Threads of the query runtime.
    pub threads: usize,
}

/// Runs read-only SQL of one tenant at a time, on threads of its own.
#[derive(Debug)]
pub struct QueryEngine {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    source: Arc<dyn TableSource>,
    options: QueryOptions,
    env: Arc<RuntimeEnv>,
    base: Arc<SessionState>,
    views: Arc<Views>,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    counters: Counters,
}

/// What to run.
struct Request {
    source: Arc<dyn TableSource>,
    tenant: String,
    statement: String,
    parameters: Parameters,
}

impl QueryEngine {
    /// An engine with its own CPU runtime and the product's views. Those are constants that a test plans, so that they are
    /// not planned again.
    pub fn new(source: Arc<dyn TableSource>, options: QueryOptions) -> Result<Arc<Self>, QueryError> {
        Ok(Arc::new(Self::unchecked(source, options, Views::built_in()?)?))
    }

    /// An engine with its own CPU runtime and the given views, each of which is planned to see that it is right.
    ///
    /// # Errors
    /// [`QueryErrorKind::Invalid`](crate::QueryErrorKind::Invalid) where a view cannot be planned; the message names file,
    /// line and column.
    pub fn with_views(
        source: Arc<dyn TableSource>,
        options: QueryOptions,
        views: Views,
    ) -> Result<Arc<Self>, QueryError> {
        let engine = Self::unchecked(source, options, views)?;
        check_views(engine.runtime()?, &engine.base, &engine.source, &engine.views)?;
        Ok(Arc::new(engine))
    }

    fn unchecked(source: Arc<dyn TableSource>, options: QueryOptions, views: Views) -> Result<Self, QueryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("spanlake-query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| QueryError::internal(format!("the query threads cannot be started: {error}")))?;
        let env = runtime_env(&options)?;
        let base = Arc::new(base_state(&options, Arc::clone(&env)));
        let views = Arc::new(views);
        let slots = Arc::new(Semaphore::new(options.concurrency.max(1)));
        let counters = Counters::default();
        let waiting = AtomicUsize::new(0);
        Ok(Self { runtime: Some(runtime), source, options, env, base, views, slots, waiting, counters })
    }

    /// Plans and starts one statement. Dropping the stream cancels it. Must run within a tokio runtime with a timer.
    ///
    /// Errors of the stream carry a [`QueryError`]; `QueryError::from` takes it out again. An answer that would have more
    /// rows than [`QueryOptions::row_limit`] ends with such an error, so that part of an answer never looks whole.
    ///
    /// # Errors
    /// Every kind of [`QueryErrorKind`](crate::QueryErrorKind).
    pub async fn sql(
        &self,
        tenant: &str,
        statement: &str,
        parameters: Parameters,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let bounds = Bounds { timeout: self.options.timeout, row_limit: self.options.row_limit };
        self.sql_over(Arc::clone(&self.source), tenant, statement, parameters, bounds).await
    }

    /// As [`QueryEngine::sql`], encoded. The encoding, too, runs on the engine's own threads.
    ///
    /// # Errors
    /// As [`QueryEngine::sql`]. The stream's first error is its last item.
    pub async fn sql_encoded(
        &self,
        tenant: &str,
        statement: &str,
        parameters: Parameters,
        format: Format,
    ) -> Result<impl Stream<Item = Result<Bytes, QueryError>> + Send + Unpin + use<>, QueryError> {
        let batches = self.sql(tenant, statement, parameters).await?;
        let (sender, mut pieces) = mpsc::channel(WAITING_PIECES);
        let task = self.runtime()?.spawn(async move {
            let mut encoded = Box::pin(format::encode(format, batches));
            while let Some(piece) = encoded.next().await {
                if sender.send(Some(piece)).await.is_err() {
                    return;
                }
            }
            // A reader that has gone needs no last word.
            let _gone = sender.send(None).await;
        });
        let task = AbortOnDrop(task.abort_handle());
        let mut ended = false;
        Ok(futures::stream::poll_fn(move |context| {
            let _task = &task;
            if ended {
                return std::task::Poll::Ready(None);
            }
            let piece = match std::task::ready!(pieces.poll_recv(context)) {
                Some(piece) => piece,
                None => Some(Err(cut_off())),
            };
            ended = !matches!(piece, Some(Ok(_)));
            std::task::Poll::Ready(piece)
        }))
    }

    /// As [`QueryEngine::sql`], over other tables than the engine's own and within other bounds: a rollup reads the
    /// version it has to take in.
    pub(crate) async fn sql_over(
        &self,
        source: Arc<dyn TableSource>,
        tenant: &str,
        statement: &str,
        parameters: Parameters,
        bounds: Bounds,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        let request = Request { source, tenant: tenant.to_owned(), statement: statement.to_owned(), parameters };
        let deadline = Instant::now() + bounds.timeout;
        let mut watch = self.counters.watch();
        match self.start(request, deadline, &bounds).await {
            Ok((schema, messages, task)) => {
                let answer = Answer::new(schema, messages, sleep_until(deadline), bounds, watch, task);
                Ok(Box::pin(answer))
            }
            Err(error) => {
                watch.failed(&error);
                Err(error)
            }
        }
    }

    /// Whether there is a view of that name.
    pub(crate) fn has_view(&self, name: &str) -> bool {
        self.views.get(name).is_some()
    }

    /// Where its tables come from.
    pub(crate) fn source(&self) -> &Arc<dyn TableSource> {
        &self.source
    }

    /// Counters.
    pub fn stats(&self) -> QueryStats {
        self.counters.read(self.env.memory_pool.reserved())
    }

    async fn start(&self, request: Request, deadline: Instant, bounds: &Bounds) -> Result<Started, QueryError> {
        let slot = self.slot(deadline).await?;
        let (sender, mut messages) = mpsc::channel(WAITING_BATCHES);
        let (base, views) = (Arc::clone(&self.base), Arc::clone(&self.views));
        let task = self.runtime()?.spawn(async move {
            let _slot = slot;
            produce(Box::pin(plan(base, views, request)), sender).await;
        });
        let task = AbortOnDrop(task.abort_handle());
        match timeout_at(deadline, messages.recv()).await {
            Ok(Some(Ok(Message::Schema(schema)))) => Ok((schema, messages, task)),
            Ok(Some(Ok(_))) => Err(QueryError::internal("an answer without a schema")),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(cut_off()),
            Err(_) => Err(bounds.timed_out()),
        }
    }

    /// Waits for one of the places to run in. The queue is bounded, and so is the wait.
    async fn slot(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, QueryError> {
        let limit = self.options.concurrency.max(1) * WAITING_PER_SLOT;
        let place = Waiting::new(&self.waiting);
        if place.before > limit {
            let message = format!("{} queries wait already; try again later", place.before);
            return Err(QueryError::exhausted(message));
        }
        match timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) => Err(cut_off()),
            Err(_) => Err(QueryError::exhausted(
                "so many queries run that this one found no place within query_timeout; try again later",
            )),
        }
    }

    fn runtime(&self) -> Result<&Runtime, QueryError> {
        self.runtime.as_ref().ok_or_else(cut_off)
    }
}

impl Drop for QueryEngine {
    /// A runtime may not be dropped where it would have to wait for its threads, as in another runtime's task.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A running query: the schema of its answer, its messages, and what ends it.
type Started = (arrow::datatypes::SchemaRef, mpsc::Receiver<Result<Message, QueryError>>, AbortOnDrop);

/// One more statement in the queue for a slot, as long as this lives.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Plans every view over empty tables. It computes next to nothing, but deep plans need the stack of a query thread.
fn check_views(
    runtime: &Runtime,
    base: &Arc<SessionState>,
    source: &Arc<dyn TableSource>,
    views: &Arc<Views>,
) -> Result<(), QueryError> {
    let (base, source, views) = (Arc::clone(base), Arc::clone(source), Arc::clone(views));
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let state = empty_state(&base, &source, &views).await;
        let checked = async {
            for view in views.iter() {
                let plan = state.statement_to_plan(view.statement.clone()).await;
                let plan = plan.map_err(|error| view.locate(error.into()))?;
                let missing = |name: &&str| plan.schema().field_with_unqualified_name(name).is_err();
                if let Some(name) = NEEDED.iter().copied().filter(|_| view.fills).find(missing) {
                    return Err(view.error(&format!("a view with contents has to return the column {name}")));
                }
                let plan = state.optimize(&plan).map_err(|error| view.locate(error.into()))?;
                guard::check_plan(&plan).map_err(|error| view.locate(error))?;
                if let Some(parameter) = plan.get_parameter_names().ok().and_then(|names| names.into_iter().next()) {
                    return Err(view.error(&format!("a view has no parameters, this one has {parameter}")));
                }
            }
            Ok(())
        };
        // Whoever no longer waits needs no answer.
        let _gone = sender.send(checked.await);
    });
    answer.recv().map_err(|_| QueryError::internal("planning the views was broken off"))?
}

async fn plan(
    base: Arc<SessionState>,
    views: Arc<Views>,
    request: Request,
) -> Result<SendableRecordBatchStream, QueryError> {
    let statement = guard::parse(&request.statement)?;
    let state = statement_state(&base, request.source, &request.tenant, &views);
    let logical = state.statement_to_plan(statement).await?;
    guard::check_plan(&logical)?;
    let logical = request.parameters.bind(logical)?;
    let physical = state.create_physical_plan(&logical).await?;
    Ok(execute_stream(physical, state.task_ctx())?)
}

#[cfg(test)]
mod tests;
