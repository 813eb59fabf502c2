//! The columns that only metric points have, while a request is walked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use spanlake_schema::ColumnType;

use crate::columns::{Fixed, Repaired, Text, TextMap};
use crate::lists::finish_structs;
use crate::span_columns::element;

/// Exemplars of all rows.
#[derive(Debug)]
pub(crate) struct ExemplarColumns {
    pub(crate) count: usize,
    pub(crate) time: Fixed<i64>,
    pub(crate) time_unix_nano: Fixed<i64>,
    pub(crate) value_int: Fixed<i64>,
    pub(crate) value_double: Fixed<f64>,
    pub(crate) trace_id: Text,
    pub(crate) span_id: Text,
    pub(crate) attributes: TextMap,
    pub(crate) attribute_types: Text,
    ends: Vec<i32>,
}

impl ExemplarColumns {
    pub(crate) fn new() -> Self {
        Self {
            count: 0,
            time: Fixed::default(),
            time_unix_nano: Fixed::default(),
            value_int: Fixed::default(),
            value_double: Fixed::default(),
            trace_id: Text::default(),
            span_id: Text::default(),
            attributes: TextMap::default(),
            attribute_types: Text::default(),
            ends: vec![0],
        }
    }

    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.count as i32);
    }

    pub(crate) fn finish(self, repaired: &mut Repaired) -> ArrayRef {
        let mut bad = Repaired::new();
        let columns = vec![
            self.time.finish_timestamp(self.count),
            self.time_unix_nano.finish(self.count),
            self.value_int.finish(self.count),
            self.value_double.finish(self.count),
            self.trace_id.finish(self.count, &mut bad),
            self.span_id.finish(self.count, &mut bad),
            Arc::new(self.attributes.finish(self.count, &mut bad)) as Arc<dyn Array>,
            self.attribute_types.finish_required(self.count, &mut bad),
        ];
        finish_structs(&element(ColumnType::Exemplars), self.ends, columns, &bad, repaired)
    }
}

/// Quantiles of all rows.
#[derive(Debug)]
pub(crate) struct QuantileColumns {
    count: usize,
    quantile: Fixed<f64>,
    value: Fixed<f64>,
    ends: Vec<i32>,
}

impl QuantileColumns {
    pub(crate) fn new() -> Self {
        Self { count: 0, quantile: Fixed::default(), value: Fixed::default(), ends: vec![0] }
    }

    pub(crate) fn push(&mut self, quantile: f64, value: f64) {
        self.quantile.set(self.count, quantile);
        self.value.set(self.count, value);
        self.count += 1;
    }

    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.count as i32);
    }

    pub(crate) fn finish(self, repaired: &mut Repaired) -> ArrayRef {
        let columns = vec![self.quantile.finish(self.count), self.value.finish(self.count)];
        finish_structs(&element(ColumnType::Quantiles), self.ends, columns, &[], repaired)
    }
}
