//! The smallest and the largest value of pages and chunks, as Parquet's statistics and page index hold them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};

use crate::segment::statistics::{lower_text, upper_text};

/// Bounds of some values of one type; none where there are no values or no bounds can be told.
#[derive(Clone, Debug, Default)]
pub(super) enum Bounds {
    #[default]
    None,
    Int(i64, i64),
    Float(f64, f64),
    /// What no value lies below, what none lies above, and whether both are values.
    Text(Vec<u8>, Vec<u8>, bool),
}

impl Bounds {
    /// The bounds of all values of an array; `false` where some value has none, so that its page cannot be skipped.
    pub(super) fn of(array: &ArrayRef) -> (Self, bool) {
        if array.null_count() == array.len() {
            return (Self::None, true);
        }
        let found = match array.data_type() {
            DataType::Int64 => Self::ints::<Int64Type>(array),
            DataType::Timestamp(_, _) => Self::ints::<TimestampMicrosecondType>(array),
            DataType::Decimal128(_, _) => {
                let array = array.as_primitive::<Decimal128Type>();
                match (compute::min(array), compute::max(array)) {
                    (Some(min), Some(max)) => Self::Int(min as i64, max as i64),
                    _ => Self::None,
                }
            }
            DataType::Float64 => {
                let array = array.as_primitive::<Float64Type>();
                let nan = array.iter().flatten().any(f64::is_nan);
                match (compute::min(array), compute::max(array)) {
                    // Both zeros lie within a bound that is zero, however a reader compares them.
                    (Some(min), Some(max)) if !nan => {
                        Self::Float(if min == 0.0 { -0.0 } else { min }, if max == 0.0 { 0.0 } else { max })
                    }
                    _ => Self::None,
                }
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                let bound = |text: &str| upper_text(text).map(String::into_bytes);
                match (compute::min_string(array), compute::max_string(array).map(|max| (max, bound(max)))) {
                    (Some(min), Some((max, Some(upper)))) => {
                        let lower = lower_text(min);
                        let exact = lower == min && upper == max.as_bytes();
                        Self::Text(lower.as_bytes().to_vec(), upper, exact)
                    }
                    _ => Self::None,
                }
            }
            _ => Self::None,
        };
        let told = !matches!(found, Self::None);
        (found, told)
    }

    fn ints<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef) -> Self {
        let array = array.as_primitive::<T>();
        match (compute::min(array), compute::max(array)) {
            (Some(min), Some(max)) => Self::Int(min, max),
            _ => Self::None,
        }
    }

    pub(super) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, known) | (known, Self::None) => known,
            (Self::Int(min, max), Self::Int(low, high)) => Self::Int(min.min(low), max.max(high)),
            (Self::Float(min, max), Self::Float(low, high)) => Self::Float(min.min(low), max.max(high)),
            (Self::Text(min, max, exact), Self::Text(low, high, also)) => {
                Self::Text(min.min(low), max.max(high), exact && also)
            }
            // A column has one type.
            _ => Self::None,
        }
    }

    /// Both bounds in bytes, for the page index.
    pub(super) fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::None => (Vec::new(), Vec::new()),
            Self::Int(min, max) => (min.to_le_bytes().to_vec(), max.to_le_bytes().to_vec()),
            Self::Float(min, max) => (min.to_le_bytes().to_vec(), max.to_le_bytes().to_vec()),
            Self::Text(min, max, _) => (min.clone(), max.clone()),
        }
    }

    /// Statistics of a chunk with so many NULLs; `None` where no bounds are known.
    pub(super) fn statistics(&self, nulls: u64) -> Option<Statistics> {
        match self {
            Self::None => None,
            Self::Int(min, max) => Some(Statistics::int64(Some(*min), Some(*max), None, Some(nulls), false)),
            Self::Float(min, max) => Some(Statistics::double(Some(*min), Some(*max), None, Some(nulls), false)),
            Self::Text(min, max, exact) => {
                let (min, max) = (ByteArray::from(min.clone()), ByteArray::from(max.clone()));
                let statistics = ValueStatistics::new(Some(min), Some(max), None, Some(nulls), false);
                let statistics = statistics.with_min_is_exact(*exact).with_max_is_exact(*exact);
                Some(Statistics::ByteArray(statistics))
            }
        }
    }
}
