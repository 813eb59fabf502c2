//! Attributes in columns of their own: what the rows of a flush ask for.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::Shared;
use crate::promotion::Survey;
use crate::{Error, ErrorKind, Result, Table};

impl Shared {
    /// What rows have of attributes that have a column or are to have one.
    pub(super) async fn survey(&self, table: &Table, batches: &[RecordBatch]) -> Result<Survey> {
        let (spec, list, batches) = (table.spec(), self.options.promote.clone(), batches.to_vec());
        let present = Arc::clone(&table.snapshot().promoted);
        if spec.attributes.is_empty() || (list.is_empty() && present.is_empty()) {
            return Ok(Survey::default());
        }
        tokio::task::spawn_blocking(move || Survey::of(spec, &list, &present, &batches)).await.map_err(|error| {
            Error::new(ErrorKind::Retry, "looking through attributes ended early").with_source(error)
        })?
    }
}
