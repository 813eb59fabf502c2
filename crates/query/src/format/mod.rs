//! Answers as bytes: JSON, NDJSON, CSV, Arrow IPC and Parquet, encoded batch by batch.

mod columnar;
mod text;

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt};

use crate::QueryError;

/// Rows encoded in one go: a few milliseconds at most, even with content.
const ROWS_PER_PIECE: usize = 1024;

/// How timestamps without a zone are written. All times of a lake are UTC.
const TIMESTAMP: &str = "%Y-%m-%dT%H:%M:%S%.fZ";

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// An array of objects.
    #[default]
    Json,
    /// An object a line.
    NdJson,
    /// Comma-separated values with a header line. NULL is empty, an empty text is `""`, nested values are JSON.
    Csv,
    /// The Arrow IPC stream format.
    ArrowStream,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// The media type for `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::ArrowStream => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// The format that an `Accept` header prefers: the highest `q`, among equals the first. `None` where it accepts none.
    ///
    /// ```
    /// use spanlake_query::Format;
    ///
    /// assert_eq!(Format::from_accept("text/csv;q=0.5, application/x-ndjson"), Some(Format::NdJson));
    /// assert_eq!(Format::from_accept("text/html, */*;q=0.8"), Some(Format::Json));
    /// assert_eq!(Format::from_accept("text/html"), None);
    /// ```
    pub fn from_accept(accept: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::default());
        }
        let mut best: Option<(Self, f32)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(format) = parts.next().and_then(Self::from_media_range) else { continue };
            let quality = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(Some(1.0), |quality| quality.trim().parse::<f32>().ok())
                .unwrap_or(0.0);
            if quality > best.map_or(0.0, |(_, best)| best) {
                best = Some((format, quality));
            }
        }
        best.map(|(format, _)| format)
    }

    fn from_media_range(range: &str) -> Option<Self> {
        match range.to_ascii_lowercase().as_str() {
            "application/json" | "*/*" | "application/*" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonlines" | "application/x-jsonlines" => {
                Some(Self::NdJson)
            }
            "text/csv" | "text/*" => Some(Self::Csv),
            "application/vnd.apache.arrow.stream" => Some(Self::ArrowStream),
            "application/vnd.apache.parquet" | "application/x-parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Turns batches into bytes, a bounded piece at a time.
trait Encode: Send {
    /// What comes before the first row.
    fn begin(&mut self) -> Result<(), QueryError>;

    /// Some rows: the columns of the schema in order, whatever the batch calls them.
    fn rows(&mut self, batch: &RecordBatch) -> Result<(), QueryError>;

    /// What comes after the last row.
    fn end(&mut self) -> Result<(), QueryError>;

    /// The bytes that are ready.
    fn take(&mut self) -> Vec<u8>;
}

/// Encodes an answer. An error is the last item, without the bytes that would make what came before it look whole: a
/// server breaks the body off there. Where the first batch fails already, nothing comes before the error.
///
/// Columns of the same name are told apart by a number: `name`, `name_1`.
pub fn encode(
    format: Format,
    batches: SendableRecordBatchStream,
) -> impl Stream<Item = Result<Bytes, QueryError>> + Send {
    let schema = distinct_names(&batches.schema());
    let encoder: Result<Box<dyn Encode>, QueryError> = match format {
        Format::Json => Ok(Box::new(text::Json::array(&schema))),
        Format::NdJson => Ok(Box::new(text::Json::lines(&schema))),
        Format::Csv => Ok(Box::new(text::Csv::new(&schema))),
        Format::ArrowStream => columnar::Ipc::new(&schema).map(|encoder| Box::new(encoder) as Box<dyn Encode>),
        Format::Parquet => columnar::Parquet::new(&schema).map(|encoder| Box::new(encoder) as Box<dyn Encode>),
    };
    let state = match encoder {
        Ok(encoder) => State::Running(Running { encoder, batches, rest: None, begun: false }),
        Err(error) => State::Failed(error),
    };
    futures::stream::unfold(state, |state| async move {
        match state {
            State::Running(running) => running.next().await,
            State::Failed(error) => Some((Err(error), State::Ended)),
            State::Ended => None,
        }
    })
}

enum State {
    Running(Running),
    Failed(QueryError),
    Ended,
}

struct Running {
    encoder: Box<dyn Encode>,
    batches: SendableRecordBatchStream,
    rest: Option<RecordBatch>,
    begun: bool,
}

impl Running {
    async fn next(mut self) -> Option<(Result<Bytes, QueryError>, State)> {
        loop {
            match self.step().await {
                Ok(true) => return Some((Ok(self.encoder.take().into()), State::Ended)),
                Ok(false) => {
                    let bytes = self.encoder.take();
                    if !bytes.is_empty() {
                        return Some((Ok(bytes.into()), State::Running(self)));
                    }
                }
                Err(error) => return Some((Err(error), State::Ended)),
            }
        }
    }

    /// Encodes some more rows, or the end; true then.
    async fn step(&mut self) -> Result<bool, QueryError> {
        let batch = match self.rest.take() {
            Some(batch) => Some(batch),
            None => self.batches.next().await.transpose()?,
        };
        if !std::mem::replace(&mut self.begun, true) {
            self.encoder.begin()?;
        }
        let Some(batch) = batch else {
            self.encoder.end()?;
            return Ok(true);
        };
        let now = batch.num_rows().min(ROWS_PER_PIECE);
        if now < batch.num_rows() {
            self.rest = Some(batch.slice(now, batch.num_rows() - now));
        }
        self.encoder.rows(&batch.slice(0, now))?;
        Ok(false)
    }
}

/// A join may answer with two columns `name`; an object of JSON, or a data frame, would lose one of them.
fn distinct_names(schema: &SchemaRef) -> SchemaRef {
    let mut taken: std::collections::HashSet<String> =
        schema.fields().iter().map(|field| field.name().clone()).collect();
    if taken.len() == schema.fields().len() {
        return Arc::clone(schema);
    }
    let mut seen = std::collections::HashSet::new();
    let mut fields: Vec<Arc<Field>> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if seen.insert(field.name().clone()) {
            fields.push(Arc::clone(field));
            continue;
        }
        let mut number = 1;
        let mut name = format!("{}_{number}", field.name());
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{}_{number}", field.name());
        }
        fields.push(Arc::new(field.as_ref().clone().with_name(name)));
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A table for people, with a header even where there are no rows.
pub fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> String {
    let options =
        FormatOptions::new().with_null("NULL").with_display_error(true).with_timestamp_format(Some(TIMESTAMP));
    let header = RecordBatch::new_empty(Arc::clone(schema));
    let with_header: Vec<RecordBatch> = std::iter::once(header).chain(batches.iter().cloned()).collect();
    match pretty_format_batches_with_options(&with_header, &options) {
        Ok(table) => table.to_string(),
        Err(error) => format!("the answer cannot be shown as a table: {error}"),
    }
}

#[cfg(test)]
mod tests;
