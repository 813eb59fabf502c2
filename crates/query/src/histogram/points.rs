//! Histograms of producers, as they stand in `metric_points`, as histograms of ours.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, FieldRef, Float64Type, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
};
use spanlake_metrics::{ExplicitHistogram, ExplicitPoint, ExponentialPoint, Histogram, OffsetCounts};

use super::column::Writer;
use super::questions::{list_of, once_for_constants};
use super::{SECTION, field, is_list_of_numbers, is_number, signature, wrong_types};

/// What a column of a point holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Column {
    Integer,
    Double,
    Integers,
    Doubles,
}

/// A function's arguments: names, types, and what they are. All after the first `required` may be left out together.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arguments {
    required: usize,
    columns: &'static [(&'static str, Column, &'static str)],
}

const EXPLICIT: Arguments = Arguments {
    required: 2,
    columns: &[
        ("explicit_bounds", Column::Doubles, "Upper bounds of the buckets but the last; for NULL the answer is NULL."),
        (
            "bucket_counts",
            Column::Integers,
            "Values in each bucket, one more than bounds; for NULL the answer is NULL.",
        ),
        ("count", Column::Integer, "How many values there are; NULL: what the buckets hold."),
        ("sum", Column::Double, "Their sum; NULL: unknown."),
        ("min", Column::Double, "The least; NULL: unknown."),
        ("max", Column::Double, "The greatest; NULL: unknown."),
    ],
};

const EXPONENTIAL: Arguments = Arguments {
    required: 7,
    columns: &[
        ("scale", Column::Integer, "An octave has 2^scale buckets; for NULL the answer is NULL."),
        ("zero_count", Column::Integer, "Values within zero_threshold; NULL: none."),
        ("zero_threshold", Column::Double, "Width of the zero bucket; NULL: 0."),
        ("positive_offset", Column::Integer, "Index of the first positive bucket; NULL: 0."),
        ("positive_bucket_counts", Column::Integers, "Values in each positive bucket; NULL: none."),
        ("negative_offset", Column::Integer, "Index of the first negative bucket; NULL: 0."),
        ("negative_bucket_counts", Column::Integers, "Values in each negative bucket; NULL: none."),
        ("count", Column::Integer, "How many values there are; NULL: what the buckets hold."),
        ("sum", Column::Double, "Their sum; NULL: unknown."),
        ("min", Column::Double, "The least; NULL: unknown."),
        ("max", Column::Double, "The greatest; NULL: unknown."),
    ],
};

/// `histogram_from_explicit` and `histogram_from_exponential`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FromPoint {
    name: &'static str,
    arguments: &'static Arguments,
    signature: Signature,
    documentation: Documentation,
}

pub(super) fn all() -> Vec<FromPoint> {
    let explicit = "The histogram of a point with explicit bounds. The values of each bucket are put where they are least wrong; \
        histogram_relative_error says how wrong that can be. NULL for a point that contradicts itself: bounds that do not ascend, \
        counts that do not add up, totals beyond the buckets.";
    let exponential = "The histogram of an exponential point, whose buckets are kept as they are, or those of scale 6 where they are \
        finer. NULL for a point that contradicts itself: counts that do not add up, buckets beyond all doubles, totals that \
        cannot be.";
    vec![
        FromPoint::new("histogram_from_explicit", &EXPLICIT, explicit),
        FromPoint::new("histogram_from_exponential", &EXPONENTIAL, exponential),
    ]
}

impl Column {
    fn data_type(self) -> DataType {
        match self {
            Self::Integer => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Integers => list_of(DataType::Int64),
            Self::Doubles => list_of(DataType::Float64),
        }
    }

    fn takes(self, data_type: &DataType) -> bool {
        match self {
            Self::Integer | Self::Double => is_number(data_type),
            Self::Integers | Self::Doubles => is_list_of_numbers(data_type) || data_type.is_null(),
        }
    }
}

impl FromPoint {
    fn new(name: &'static str, arguments: &'static Arguments, about: &str) -> Self {
        let names =
            |columns: &[(&str, Column, &str)]| columns.iter().map(|column| column.0).collect::<Vec<_>>().join(", ");
        let (required, further) = arguments.columns.split_at(arguments.required);
        let syntax = format!("{name}({} [, {}])", names(required), names(further));
        let documentation = Documentation::builder(SECTION, about, syntax);
        let documentation = arguments
            .columns
            .iter()
            .fold(documentation, |documentation, (name, _, about)| documentation.with_argument(*name, *about));
        let types = |columns: &[(&str, Column, &str)]| columns.iter().map(|column| column.1.data_type()).collect();
        let signature = signature(vec![types(required), types(arguments.columns)]);
        Self { name, arguments, signature, documentation: documentation.build() }
    }

    fn check(&self, types: &[DataType]) -> Result<()> {
        let columns = self.arguments.columns;
        let known = types.len() == self.arguments.required || types.len() == columns.len();
        if known && types.iter().zip(columns).all(|(given, column)| column.1.takes(given)) {
            return Ok(());
        }
        let takes = format!("the columns of metric_points that {} names", self.documentation.syntax_example);
        Err(wrong_types(self.name, &takes, types))
    }
}

impl ScalarUDFImpl for FromPoint {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.check(types).map(|()| DataType::Binary)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        self.check(&types).map(|()| field(self.name))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        once_for_constants(&arguments, |columns| {
            let typed = columns
                .iter()
                .zip(self.arguments.columns)
                .map(|(column, (.., kind, _))| cast(column, &kind.data_type()));
            let columns = Columns(typed.collect::<Result<_, _>>()?);
            let rows = columns.0[0].len();
            let mut writer = Writer::new(rows);
            for row in 0..rows {
                let histogram =
                    if self.arguments == &EXPLICIT { columns.explicit(row) } else { columns.exponential(row) };
                writer.push(histogram.as_ref())?;
            }
            Ok(Arc::new(writer.finish()))
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

/// The arguments, each of its type, as [`Arguments`] orders them.
struct Columns(Vec<ArrayRef>);

impl Columns {
    fn explicit(&self, row: usize) -> Option<Histogram> {
        let bounds = self.list::<Float64Type>(0, row)??;
        let counts = self.counts(1, row)??;
        let totals = self.totals(2, row, counts.iter().copied())?;
        let point =
            ExplicitPoint { bounds, counts, count: totals.count, sum: totals.sum, min: totals.min, max: totals.max };
        Some(ExplicitHistogram::new(&point).ok()?.to_histogram())
    }

    fn exponential(&self, row: usize) -> Option<Histogram> {
        let scale = i32::try_from(self.integer(0, row)?).ok()?;
        let zero_count = self.integer(1, row).map_or(0, i64::cast_unsigned);
        let run = |offset: usize, counts: usize| {
            let offset = i32::try_from(self.integer(offset, row).unwrap_or(0)).ok()?;
            Some(OffsetCounts { offset, counts: self.counts(counts, row)?.unwrap_or_default() })
        };
        let (positive, negative) = (run(3, 4)?, run(5, 6)?);
        let counts = positive.counts.iter().chain(&negative.counts).copied().chain([zero_count]);
        let totals = self.totals(7, row, counts)?;
        let point = ExponentialPoint {
            scale,
            count: totals.count,
            sum: totals.sum,
            min: totals.min,
            max: totals.max,
            zero_count,
            zero_threshold: self.double(2, row).unwrap_or(0.0),
            positive,
            negative,
        };
        Histogram::from_exponential(&point).ok()
    }

    fn integer(&self, place: usize, row: usize) -> Option<i64> {
        let column: &Int64Array = self.0.get(place)?.as_primitive();
        column.is_valid(row).then(|| column.value(row))
    }

    fn double(&self, place: usize, row: usize) -> Option<f64> {
        let column: &Float64Array = self.0.get(place)?.as_primitive();
        column.is_valid(row).then(|| column.value(row))
    }

    /// Nothing at all where an item is NULL, else the list, which may be NULL.
    fn list<T: ArrowPrimitiveType>(&self, place: usize, row: usize) -> Option<Option<Vec<T::Native>>> {
        let lists: &ListArray = self.0[place].as_list();
        if lists.is_null(row) {
            return Some(None);
        }
        let items = lists.value(row);
        (items.null_count() == 0).then(|| Some(items.as_primitive::<T>().values().to_vec()))
    }

    /// The same of counts, which stand in the column by their bits.
    fn counts(&self, place: usize, row: usize) -> Option<Option<Vec<u64>>> {
        let counts = self.list::<Int64Type>(place, row)?;
        Some(counts.map(|counts| counts.into_iter().map(i64::cast_unsigned).collect()))
    }

    /// Count, sum, least and greatest from a place on. Nothing where the count is not told and the counts overflow.
    fn totals(&self, place: usize, row: usize, mut counts: impl Iterator<Item = u64>) -> Option<Totals> {
        let count = match self.integer(place, row) {
            Some(count) => count.cast_unsigned(),
            None => counts.try_fold(0u64, u64::checked_add)?,
        };
        let [sum, min, max] = [1, 2, 3].map(|further| self.double(place + further, row));
        Some(Totals { count, sum, min, max })
    }
}

struct Totals {
    count: u64,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}
