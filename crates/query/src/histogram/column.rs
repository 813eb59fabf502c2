//! Columns of histograms.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, NullBufferBuilder};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use spanlake_metrics::Histogram;

use super::refused;
use crate::QueryError;

/// A column of any binary type as the plain one.
pub(super) fn plain(column: &ArrayRef) -> Result<BinaryArray> {
    let column =
        if column.data_type() == &DataType::Binary { Arc::clone(column) } else { cast(column, &DataType::Binary)? };
    Ok(column.as_binary::<i32>().clone())
}

/// Reads a column of histograms for a function, which errors name.
pub(super) struct Reader<'a> {
    function: &'a str,
    column: BinaryArray,
    /// The row that was read last, and its histogram: constants and joins repeat one many times.
    last: Option<(usize, Histogram)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(function: &'a str, column: &ArrayRef) -> Result<Self> {
        Ok(Self { function, column: plain(column)?, last: None })
    }

    pub(super) fn rows(&self) -> usize {
        self.column.len()
    }

    /// The histogram of a row, `None` where it is NULL.
    pub(super) fn get(&mut self, row: usize) -> Result<Option<&Histogram>> {
        if self.column.is_null(row) {
            return Ok(None);
        }
        let bytes = self.column.value(row);
        let known = self.last.take().filter(|(last, _)| self.column.value(*last) == bytes);
        let histogram = match known {
            Some((_, histogram)) => histogram,
            None => Histogram::decode(bytes).map_err(|error| refused(self.function, error))?,
        };
        Ok(Some(&self.last.insert((row, histogram)).1))
    }
}

/// Makes a column of histograms.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    present: NullBufferBuilder,
}

impl Writer {
    pub(super) fn new(rows: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { bytes: Vec::new(), ends, present: NullBufferBuilder::new(rows) }
    }

    pub(super) fn push(&mut self, histogram: Option<&Histogram>) -> Result<()> {
        if let Some(histogram) = histogram {
            histogram.encode_into(&mut self.bytes);
        }
        let end = i32::try_from(self.bytes.len())
            .map_err(|_| QueryError::exhausted("the histograms of one batch take more than 2 GiB"))?;
        self.ends.push(end);
        self.present.append(histogram.is_some());
        Ok(())
    }

    pub(super) fn finish(mut self) -> BinaryArray {
        // The column counts with all that is set aside for it.
        self.bytes.shrink_to_fit();
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        BinaryArray::new(ends, self.bytes.into(), self.present.finish())
    }
}
