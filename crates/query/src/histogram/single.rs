//! The histogram of one group, or of all rows: without GROUP BY, and in windows.

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use spanlake_metrics::{Histogram, Kind};

use super::column::plain;
use super::refused;
use super::values::Rows;

#[derive(Debug)]
pub(super) struct SingleHistogram {
    function: &'static str,
    /// What the values are; `None` where they are histograms.
    kind: Option<Kind>,
    /// `None` where there is no value yet.
    histogram: Option<Histogram>,
}

impl SingleHistogram {
    pub(super) fn new(function: &'static str, kind: Option<Kind>) -> Self {
        Self { function, kind, histogram: None }
    }

    fn merge(&mut self, other: Histogram) -> spanlake_metrics::Result<()> {
        match &mut self.histogram {
            Some(histogram) => histogram.merge(&other),
            empty => {
                *empty = Some(other);
                Ok(())
            }
        }
    }
}

impl Accumulator for SingleHistogram {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(kind) = self.kind else { return self.merge_batch(values) };
        let rows = Rows::new(self.function, values, None)?;
        if !rows.any() {
            return Ok(());
        }
        let histogram = self.histogram.get_or_insert_with(|| Histogram::new(kind));
        rows.insert_into(histogram).map_err(|error| refused(self.function, error))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let column = plain(&states[0])?;
        for bytes in column.iter().flatten() {
            let merged = Histogram::decode(bytes).and_then(|histogram| self.merge(histogram));
            merged.map_err(|error| refused(self.function, error))?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(self.histogram.as_ref().map(Histogram::encode)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        let heap = self.histogram.as_ref().map_or(0, |histogram| histogram.memory_bytes() - size_of::<Histogram>());
        size_of::<Self>() + heap
    }
}
