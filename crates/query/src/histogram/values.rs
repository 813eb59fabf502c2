//! Numbers on their way into histograms.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options, prep_null_mask_filter};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float64Type, Int64Type, UInt64Type,
};
use datafusion::error::Result;
use spanlake_metrics::{DECIMAL_SCALE_MAX, Histogram, Kind};

use super::refused;

/// The kind of histogram that holds numbers of a type, `None` where none does.
pub(super) fn kind_of(data_type: &DataType) -> Option<Kind> {
    match data_type {
        DataType::Dictionary(_, values) => kind_of(values),
        DataType::Null => Some(Kind::INTEGER),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => {
            u8::try_from(*scale).ok().filter(|scale| *scale <= DECIMAL_SCALE_MAX).map(|scale| Kind::Decimal { scale })
        }
        integer if integer.is_integer() => Some(Kind::INTEGER),
        float if float.is_floating() => Some(Kind::Double),
        _ => None,
    }
}

/// A number that histograms take.
pub(super) trait Number: Copy + Default {
    /// Adds it as often as the weight says.
    fn insert(self, histogram: &mut Histogram, weight: u64) -> spanlake_metrics::Result<()>;

    /// Adds each once.
    fn insert_all(numbers: &[Self], histogram: &mut Histogram) -> spanlake_metrics::Result<()>;
}

impl Number for i64 {
    #[inline]
    fn insert(self, histogram: &mut Histogram, weight: u64) -> spanlake_metrics::Result<()> {
        histogram.insert_units(i128::from(self), weight)
    }

    fn insert_all(numbers: &[Self], histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        histogram.insert_all_units(numbers)
    }
}

impl Number for i128 {
    #[inline]
    fn insert(self, histogram: &mut Histogram, weight: u64) -> spanlake_metrics::Result<()> {
        histogram.insert_units(self, weight)
    }

    fn insert_all(numbers: &[Self], histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        numbers.iter().try_for_each(|&units| histogram.insert_units(units, 1))
    }
}

impl Number for f64 {
    #[inline]
    fn insert(self, histogram: &mut Histogram, weight: u64) -> spanlake_metrics::Result<()> {
        histogram.insert(self, weight)
    }

    fn insert_all(numbers: &[Self], histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        histogram.insert_all(numbers)
    }
}

/// The numbers of a batch, where a row that is NULL holds any.
pub(super) enum Numbers {
    /// Integers, or units of a decimal's last place.
    Units(ScalarBuffer<i64>),
    /// The same, beyond 64 bits.
    Wide(Vec<i128>),
    Doubles(ScalarBuffer<f64>),
}

impl Numbers {
    /// From a column of a type that [`kind_of`] knows.
    fn new(function: &str, column: &ArrayRef) -> Result<Self> {
        let to = |data_type: DataType| cast(column, &data_type);
        Ok(match column.data_type() {
            DataType::Int64 => Self::Units(column.as_primitive::<Int64Type>().values().clone()),
            DataType::UInt64 => narrow(column.as_primitive::<UInt64Type>().values()),
            DataType::Decimal32(..) => {
                Self::Units(column.as_primitive::<Decimal32Type>().values().iter().map(|&units| units.into()).collect())
            }
            DataType::Decimal64(..) => Self::Units(column.as_primitive::<Decimal64Type>().values().clone()),
            DataType::Decimal128(..) => narrow(column.as_primitive::<Decimal128Type>().values()),
            DataType::Decimal256(..) => {
                let units = column.as_primitive::<Decimal256Type>().iter().map(|units| match units {
                    None => Ok(0),
                    Some(units) => {
                        units.to_i128().ok_or_else(|| refused(function, format!("{units} takes over 128 bits")))
                    }
                });
                narrow(&units.collect::<Result<Vec<i128>>>()?)
            }
            DataType::Float64 => Self::Doubles(column.as_primitive::<Float64Type>().values().clone()),
            DataType::Float16 | DataType::Float32 => Self::new(function, &to(DataType::Float64)?)?,
            DataType::Dictionary(_, values) => Self::new(function, &to(values.as_ref().clone())?)?,
            _ => Self::new(function, &to(DataType::Int64)?)?,
        })
    }
}

/// Within 64 bits, where all of them fit: nearly always.
fn narrow<T: Copy + TryInto<i64> + Into<i128>>(units: &[T]) -> Numbers {
    let narrow: Option<Vec<i64>> = units.iter().map(|&units| units.try_into().ok()).collect();
    match narrow {
        Some(narrow) => Numbers::Units(narrow.into()),
        None => Numbers::Wide(units.iter().map(|&units| units.into()).collect()),
    }
}

/// The arguments of `histogram` for a batch.
pub(super) struct Rows {
    pub(super) numbers: Numbers,
    /// How often each counts, where told. Not negative where the row counts.
    pub(super) weights: Option<ScalarBuffer<i64>>,
    /// Which rows count, `None` where all do.
    pub(super) counting: Option<NullBuffer>,
}

impl Rows {
    /// Of value and perhaps weight. A row counts where neither is NULL, and the filter, if there is one, says so.
    pub(super) fn new(function: &str, columns: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Self> {
        let (value, weight) = (&columns[0], columns.get(1));
        // The column as it was may be a dictionary, whose values can be NULL too.
        let value = flat(value)?;
        let checked = CastOptions { safe: false, ..CastOptions::default() };
        let weight = weight.map(|weight| cast_with_options(weight, &DataType::Int64, &checked)).transpose()?;
        let counting = NullBuffer::union(value.nulls(), weight.as_ref().and_then(|weight| weight.nulls()));
        let counting = NullBuffer::union(counting.as_ref(), passing(filter).as_ref());
        let counting = counting.filter(|counting| counting.null_count() > 0);
        let weights = weight.map(|weight| weight.as_primitive::<Int64Type>().values().clone());
        if let Some(weights) = &weights {
            let counts = |row: usize| counting.as_ref().is_none_or(|counting| counting.is_valid(row));
            if let Some(row) = (0..weights.len()).find(|&row| weights[row] < 0 && counts(row)) {
                return Err(refused(function, format!("a weight is not negative, and {} is", weights[row])));
            }
        }
        Ok(Self { numbers: Numbers::new(function, &value)?, weights, counting })
    }

    /// Adds all rows to one histogram.
    pub(super) fn insert_into(&self, histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        match &self.numbers {
            Numbers::Units(units) => self.insert_numbers(units, histogram),
            Numbers::Wide(units) => self.insert_numbers(units, histogram),
            Numbers::Doubles(doubles) => self.insert_numbers(doubles, histogram),
        }
    }

    /// Adds one row, which may count not at all.
    pub(super) fn insert_row(&self, row: usize, histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        let weight = self.weight(row);
        match &self.numbers {
            Numbers::Units(units) => units[row].insert(histogram, weight),
            Numbers::Wide(units) => units[row].insert(histogram, weight),
            Numbers::Doubles(doubles) => doubles[row].insert(histogram, weight),
        }
    }

    fn insert_numbers<T: Number>(&self, numbers: &[T], histogram: &mut Histogram) -> spanlake_metrics::Result<()> {
        if self.weights.is_some() {
            return (0..numbers.len())
                .filter(|&row| self.weight(row) > 0)
                .try_for_each(|row| numbers[row].insert(histogram, self.weight(row)));
        }
        match &self.counting {
            None => T::insert_all(numbers, histogram),
            Some(counting) => {
                counting.valid_slices().try_for_each(|(start, end)| T::insert_all(&numbers[start..end], histogram))
            }
        }
    }

    /// How often a row counts.
    pub(super) fn weight(&self, row: usize) -> u64 {
        if self.counting.as_ref().is_some_and(|counting| counting.is_null(row)) {
            return 0;
        }
        self.weights.as_ref().map_or(1, |weights| weights[row].unsigned_abs())
    }

    /// Whether any row counts.
    pub(super) fn any(&self) -> bool {
        let rows = match &self.numbers {
            Numbers::Units(units) => units.len(),
            Numbers::Wide(units) => units.len(),
            Numbers::Doubles(doubles) => doubles.len(),
        };
        match (&self.counting, &self.weights) {
            (None, None) => rows > 0,
            _ => (0..rows).any(|row| self.weight(row) > 0),
        }
    }
}

/// The column without dictionaries.
fn flat(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Dictionary(_, values) => cast(column, values)?,
        DataType::Null => cast(column, &DataType::Int64)?,
        _ => Arc::clone(column),
    })
}

/// The rows that a filter lets pass, `None` where there is no filter.
pub(super) fn passing(filter: Option<&BooleanArray>) -> Option<NullBuffer> {
    let filter = filter?;
    let filter = if filter.null_count() > 0 { prep_null_mask_filter(filter) } else { filter.clone() };
    Some(NullBuffer::new(filter.values().clone()))
}
