//! Attributes that a user wants in columns of their own: which they are, and what their columns hold.
//!
//! ```text
//! rows ─► survey (survey.rs): which attributes are wanted (list.rs), of which type ─► metadata of the table ─► its columns
//! rows ─────────────────────────────────────────── values (values.rs) ◄─────────────────────────────────────────┘
//! ```
//!
//! What a column holds follows from the row's maps alone ([`columns_of`]), so that whoever reads a file without the column gets
//! the same from its maps.

mod list;
mod survey;
#[cfg(test)]
mod tests;
mod values;

pub use list::PromotionList;
pub(crate) use survey::Survey;
pub use values::columns_of;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use spanlake_schema::TableSpec;
use spanlake_schema::promotion::PromotedColumn;

use crate::{Error, ErrorKind, Result};

/// What did not become a value of a promoted column, although its attribute is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromotionStats {
    /// By column, values of another type than it has.
    pub conflicts: BTreeMap<String, u64>,
    /// Values of arrays, kvlists and bytes, whose attributes have no column.
    pub untyped: u64,
    /// Values of attributes whose column's name is another one's, or too long.
    pub unnamed: u64,
    /// Values of attributes for which the table has no room.
    pub beyond_limit: u64,
}

impl PromotionStats {
    /// Adds what was counted elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for (column, count) in &other.conflicts {
            *self.conflicts.entry(column.clone()).or_default() += count;
        }
        self.untyped += other.untyped;
        self.unnamed += other.unnamed;
        self.beyond_limit += other.beyond_limit;
    }
}

/// The columns of a segment: those of its table and, behind them, promoted ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) spec: &'a TableSpec,
    pub(crate) promoted: &'a [PromotedColumn],
}

impl Shape<'_> {
    /// The Arrow schema, partition column included.
    pub(crate) fn arrow_schema(&self) -> SchemaRef {
        let own = self.spec.arrow_schema();
        if self.promoted.is_empty() {
            return own;
        }
        Arc::new(Schema::new(own.fields().iter().cloned().chain(fields_of(self.promoted)).collect::<Vec<_>>()))
    }

    /// The schema of the Parquet file: without the partition column.
    pub(crate) fn file_schema(&self) -> Schema {
        let own = self.spec.file_schema();
        Schema::new(own.fields().iter().cloned().chain(fields_of(self.promoted)).collect::<Vec<_>>())
    }

    /// Rows of the table with their promoted columns. CPU work.
    pub(crate) fn fill(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if self.promoted.is_empty() {
            return Ok(batch.clone());
        }
        let failed = |source| {
            let what = format!("cannot promote attributes of table {}", self.spec.name);
            Error::new(ErrorKind::Invalid, what).with_source(source)
        };
        let promoted = columns_of(self.spec, self.promoted, batch)?;
        let columns = batch.columns().iter().cloned().chain(promoted).collect();
        RecordBatch::try_new(self.arrow_schema(), columns).map_err(failed)
    }
}

/// The Arrow fields of promoted columns.
pub fn fields_of(promoted: &[PromotedColumn]) -> impl Iterator<Item = Arc<Field>> {
    promoted.iter().map(|column| Arc::new(Field::new(&column.name, column.column_type.arrow_type(), true)))
}
