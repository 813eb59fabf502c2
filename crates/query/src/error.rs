use std::error::Error as StdError;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use parquet::errors::ParquetError;

/// What the caller can do about a [`QueryError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryErrorKind {
    /// The statement cannot be planned: 400.
    Invalid,
    /// The statement would write or leave the lake: 403.
    Forbidden,
    /// Over the time limit: 408.
    Timeout,
    /// Over a memory, spill or concurrency bound: 429 or 503.
    Exhausted,
    /// The store failed: 503.
    Unavailable,
    /// A bug: 500.
    Internal,
}

/// An error of a query.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// What the caller can do.
    pub kind: QueryErrorKind,
    /// What is wrong and where.
    pub message: String,
    /// Line and column in the statement, from 1, where known.
    pub position: Option<(u64, u64)>,
}

impl QueryError {
    /// An error without a position.
    pub fn new(kind: QueryErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), position: None }
    }

    /// Adds line and column in the statement, from 1.
    #[must_use]
    pub fn at(mut self, position: Option<(u64, u64)>) -> Self {
        self.position = position;
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Invalid, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Forbidden, message)
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Exhausted, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(QueryErrorKind::Internal, message)
    }
}

/// Streams of record batches carry [`DataFusionError`]; this finds the [`QueryError`] inside, or reads one from it.
impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        if let Some(own) = own_error(&error) {
            return own.clone();
        }
        let position = position(&error);
        let kind = kind(&error);
        let message = match kind {
            QueryErrorKind::Exhausted => exhausted_message(&error),
            _ => message(&error),
        };
        Self { kind, message, position }
    }
}

impl From<QueryError> for DataFusionError {
    fn from(error: QueryError) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<ArrowError> for QueryError {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<spanlake_storage::Error> for QueryError {
    fn from(error: spanlake_storage::Error) -> Self {
        Self::new(storage_kind(error.kind()), error.to_string())
    }
}

fn storage_kind(kind: spanlake_storage::ErrorKind) -> QueryErrorKind {
    use spanlake_storage::ErrorKind as Storage;
    match kind {
        Storage::Retry | Storage::Closed => QueryErrorKind::Unavailable,
        Storage::Full => QueryErrorKind::Exhausted,
        _ => QueryErrorKind::Internal,
    }
}

/// The first error of the chain `error`, its cause, its cause's cause, … for which `find` has an answer.
fn in_chain<'a, T>(
    error: &'a DataFusionError,
    mut find: impl FnMut(&'a (dyn StdError + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(found) = find(current) {
            return Some(found);
        }
        // An I/O error that wraps another error does not call that one its source.
        next = match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    None
}

/// The deepest error of DataFusion in the chain: it says what went wrong, those above it where.
fn root(error: &DataFusionError) -> &DataFusionError {
    let mut root = error;
    in_chain(error, |current| {
        if let Some(deeper) = current.downcast_ref::<DataFusionError>() {
            root = deeper;
        } else if let Some(deeper) = current.downcast_ref::<Arc<DataFusionError>>() {
            root = deeper;
        }
        None::<()>
    });
    root
}

fn own_error(error: &DataFusionError) -> Option<&QueryError> {
    in_chain(error, |current| current.downcast_ref::<QueryError>())
}

/// How the spill limit announces itself: as an I/O error, told from others only by these words.
const SPILL_LIMIT: &str = "used disk space during the spilling process";

/// How a failing store announces itself where the Parquet reader has made text of its error.
const STORE_FAILED: &str = "Object Store error";

/// How the Parquet reader announces that a predicate could not be computed, such as a cast of text that is no number.
const PREDICATE_FAILED: &str = "Error evaluating filter predicate";

/// How DataFusion tells of a task that did not panic and has no result: it was cancelled.
const TASK_CANCELLED: &str = "Non Panic Task error";

/// How the planner announces operands of types that do not belong together, where it takes that for an error of its own.
const NOT_COERCED: &str = "Failed to coerce types";

fn kind(error: &DataFusionError) -> QueryErrorKind {
    let failed = in_chain(error, |current| {
        if let Some(error) = current.downcast_ref::<spanlake_storage::Error>() {
            return Some(storage_kind(error.kind()));
        }
        // A task of a plan is cancelled, its reader still there, only where the engine's runtime is shutting down.
        if current.downcast_ref::<tokio::task::JoinError>().is_some_and(tokio::task::JoinError::is_cancelled) {
            return Some(QueryErrorKind::Unavailable);
        }
        if current.is::<std::io::Error>() && current.to_string().contains(SPILL_LIMIT) {
            return Some(QueryErrorKind::Exhausted);
        }
        let store = current.is::<object_store::Error>() || current.is::<std::io::Error>();
        let parquet = current.is::<ParquetError>() && current.to_string().contains(STORE_FAILED);
        (store || parquet).then_some(QueryErrorKind::Unavailable)
    });
    match root(error) {
        DataFusionError::ResourcesExhausted(_) => QueryErrorKind::Exhausted,
        // The same cancelled task, where DataFusion has made text of it.
        DataFusionError::Execution(text) if text.starts_with(TASK_CANCELLED) => QueryErrorKind::Unavailable,
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_) => QueryErrorKind::Invalid,
        DataFusionError::ArrowError(inner, _) => failed.unwrap_or_else(|| arrow_kind(inner)),
        // What a predicate asks of the rows of a segment comes as an error of the Parquet reader.
        DataFusionError::ParquetError(inner) if inner.to_string().contains(PREDICATE_FAILED) => {
            failed.unwrap_or(QueryErrorKind::Invalid)
        }
        DataFusionError::Internal(text) if text.starts_with(NOT_COERCED) => QueryErrorKind::Invalid,
        _ => failed.unwrap_or(QueryErrorKind::Internal),
    }
}

/// Arrow's kernels report what the statement asks of the data: a division by zero, a text that is no number.
fn arrow_kind(error: &ArrowError) -> QueryErrorKind {
    match error {
        ArrowError::CastError(_)
        | ArrowError::ParseError(_)
        | ArrowError::ComputeError(_)
        | ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::InvalidArgumentError(_)
        | ArrowError::NotYetImplemented(_) => QueryErrorKind::Invalid,
        ArrowError::OffsetOverflowError(_) | ArrowError::MemoryError(_) => QueryErrorKind::Exhausted,
        _ => QueryErrorKind::Internal,
    }
}

/// DataFusion's words without its prefix for the kind, which the kind of this crate says already.
fn message(error: &DataFusionError) -> String {
    match root(error) {
        DataFusionError::SQL(parser, _) => match parser.as_ref() {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => format!("sql parser: {text}"),
            ParserError::RecursionLimitExceeded => "sql parser: the statement is nested too deeply".to_owned(),
        },
        DataFusionError::Plan(text) | DataFusionError::Execution(text) => without_backtrace(text),
        DataFusionError::SchemaError(error, _) => schema_message(error),
        other => without_backtrace(&other.strip_backtrace()),
    }
}

fn without_backtrace(text: &str) -> String {
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or(text);
    text.trim_end().to_owned()
}

/// Schema errors list every valid column; `spans` has ninety, so the list is cut.
fn schema_message(error: &SchemaError) -> String {
    const SHOWN: usize = 12;
    match error {
        SchemaError::FieldNotFound { field, valid_fields } if valid_fields.len() > SHOWN => {
            let wanted = field.name().to_lowercase();
            let mut near: Vec<&str> = valid_fields.iter().map(datafusion::common::Column::name).collect();
            near.sort_by_key(|name| {
                let shared = wanted.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
                (usize::MAX - shared, *name)
            });
            near.truncate(SHOWN);
            format!(
                "no field named {}; the nearest of {} columns: {}",
                field.quoted_flat_name(),
                valid_fields.len(),
                near.join(", ")
            )
        }
        other => without_backtrace(&other.to_string()),
    }
}

/// DataFusion names its own settings; the reader of this message has ours.
fn exhausted_message(error: &DataFusionError) -> String {
    let text = message(error);
    if text.contains(SPILL_LIMIT) {
        return "the query spills more than the disk for temporary files may take; narrow it or raise query_memory_limit"
            .to_owned();
    }
    format!("the query needs more memory than query_memory_limit allows; narrow it or raise query_memory_limit: {text}")
}

/// Line and column: from the diagnostic's span, or from the words of the parser, which has no other way to say it.
fn position(error: &DataFusionError) -> Option<(u64, u64)> {
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) {
        return Some((span.start.line, span.start.column));
    }
    let DataFusionError::SQL(parser, _) = root(error) else { return None };
    let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = parser.as_ref() else { return None };
    let (_, rest) = text.rsplit_once("at Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
    Some((line.parse().ok()?, digits.parse().ok()?))
}
