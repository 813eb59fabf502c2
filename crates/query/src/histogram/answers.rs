//! What histograms answer, column by column.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Float64Builder, Int64Array, Int64Builder, ListArray,
    NullBufferBuilder, StructArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::error::Result;
use spanlake_metrics::{Histogram, Kind};

use super::column::Reader;
use super::questions::{EXACT, What, bucket_fields, list_of};
use super::{is_list_of_numbers, refused};
use crate::QueryError;
use crate::functions::RESULT_LIMIT_BYTES;

/// Bytes of a bucket among the answers of `histogram_buckets`.
const BUCKET_BYTES: usize = 24;

/// Answers for every row of the columns, whose types were checked.
pub(super) fn answer(what: What, columns: &[ArrayRef]) -> Result<ArrayRef> {
    let name = what.name();
    let mut histograms = Reader::new(name, &columns[0])?;
    let number = |column: &ArrayRef| {
        Ok::<_, QueryError>(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
    };
    match what {
        What::Count => counts(name, &mut histograms, Histogram::count),
        What::NonFiniteCount => counts(name, &mut histograms, Histogram::non_finite_count),
        What::Sum => doubles(&mut histograms, Histogram::sum),
        What::Min => doubles(&mut histograms, Histogram::min),
        What::Max => doubles(&mut histograms, Histogram::max),
        What::Mean => doubles(&mut histograms, Histogram::mean),
        What::RelativeError => doubles(&mut histograms, |histogram| Some(histogram.relative_error())),
        What::SumExact => exact_numbers(name, &mut histograms, |histogram| match histogram.sum_units() {
            Some(units) => Ok(Some(units)),
            None => Err(refused(name, "the sum takes over 128 bits")),
        }),
        What::MinExact => exact_numbers(name, &mut histograms, |histogram| Ok(histogram.min_units())),
        What::MaxExact => exact_numbers(name, &mut histograms, |histogram| Ok(histogram.max_units())),
        What::Quantile if is_list_of_numbers(columns[1].data_type()) => {
            quantile_lists(name, &mut histograms, &columns[1])
        }
        What::Quantile => {
            with_number(name, &mut histograms, &number(&columns[1])?, check_quantile, Histogram::quantile)
        }
        What::FractionBelow => {
            with_number(name, &mut histograms, &number(&columns[1])?, check_number, Histogram::fraction_below)
        }
        What::Rank => with_number(name, &mut histograms, &number(&columns[1])?, check_number, Histogram::rank),
        What::Buckets => buckets(name, &mut histograms),
    }
}

fn check_quantile(name: &str, q: f64) -> Result<()> {
    if (0.0..=1.0).contains(&q) {
        Ok(())
    } else {
        Err(refused(name, format!("a quantile is from 0 to 1, and {q} is not")))
    }
}

fn check_number(name: &str, x: f64) -> Result<()> {
    if x.is_nan() { Err(refused(name, "NaN is neither above nor below a value")) } else { Ok(()) }
}

fn counts(name: &str, histograms: &mut Reader<'_>, count: impl Fn(&Histogram) -> u64) -> Result<ArrayRef> {
    let mut answers = Int64Builder::with_capacity(histograms.rows());
    for row in 0..histograms.rows() {
        let count = histograms.get(row)?.map(&count);
        answers.append_option(count.map(|count| fitting(name, count)).transpose()?);
    }
    Ok(Arc::new(answers.finish()))
}

/// A count as BIGINT.
fn fitting(name: &str, count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| refused(name, format!("{count} is more than BIGINT holds")))
}

fn doubles(histograms: &mut Reader<'_>, answer: impl Fn(&Histogram) -> Option<f64>) -> Result<ArrayRef> {
    let mut answers = Float64Builder::with_capacity(histograms.rows());
    for row in 0..histograms.rows() {
        answers.append_option(histograms.get(row)?.and_then(&answer));
    }
    Ok(Arc::new(answers.finish()))
}

fn with_number(
    name: &str,
    histograms: &mut Reader<'_>,
    numbers: &Float64Array,
    check: impl Fn(&str, f64) -> Result<()>,
    answer: impl Fn(&Histogram, f64) -> Option<f64>,
) -> Result<ArrayRef> {
    let mut answers = Float64Builder::with_capacity(histograms.rows());
    for (row, number) in numbers.iter().enumerate() {
        number.map_or(Ok(()), |number| check(name, number))?;
        let histogram = histograms.get(row)?;
        answers.append_option(histogram.zip(number).and_then(|(histogram, number)| answer(histogram, number)));
    }
    Ok(Arc::new(answers.finish()))
}

fn quantile_lists(name: &str, histograms: &mut Reader<'_>, lists: &ArrayRef) -> Result<ArrayRef> {
    let lists = cast(lists, &list_of(DataType::Float64))?;
    let lists = lists.as_list::<i32>();
    let mut answers: Vec<Option<f64>> = Vec::new();
    let mut ends = vec![0];
    let mut present = NullBufferBuilder::new(lists.len());
    for (row, list) in lists.iter().enumerate() {
        let quantiles = list.as_ref().map(|list| list.as_primitive::<Float64Type>());
        quantiles.into_iter().flatten().flatten().try_for_each(|q| check_quantile(name, q))?;
        let asked = histograms.get(row)?.zip(quantiles);
        present.append(asked.is_some());
        if let Some((histogram, quantiles)) = asked {
            answers.extend(quantiles.iter().map(|q| histogram.quantile(q?)));
        }
        ends.push(ending(answers.len())?);
    }
    list_array(DataType::Float64, ends, Arc::new(Float64Array::from(answers)), present)
}

/// Where a list ends among the items of all.
fn ending(items: usize) -> Result<i32> {
    Ok(i32::try_from(items)
        .map_err(|_| QueryError::exhausted("the lists of one batch have more than 2147483647 items"))?)
}

fn list_array(item: DataType, ends: Vec<i32>, items: ArrayRef, mut present: NullBufferBuilder) -> Result<ArrayRef> {
    let item = Arc::new(Field::new_list_field(item, true));
    let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
    Ok(Arc::new(ListArray::try_new(item, ends, items, present.finish())?))
}

fn exact_numbers(
    name: &str,
    histograms: &mut Reader<'_>,
    units: impl Fn(&Histogram) -> Result<Option<i128>>,
) -> Result<ArrayRef> {
    let mut answers = Vec::with_capacity(histograms.rows());
    for row in 0..histograms.rows() {
        let answer = match histograms.get(row)? {
            None => None,
            Some(histogram) => {
                let Kind::Decimal { scale } = histogram.kind() else {
                    return Err(refused(
                        name,
                        "a histogram of doubles has no exact decimals; ask the function without _exact",
                    ));
                };
                units(histogram)?.map(|units| rescaled(name, units, scale)).transpose()?
            }
        };
        answers.push(answer);
    }
    Ok(Arc::new(Decimal128Array::from(answers).with_precision_and_scale(EXACT.0, EXACT.1)?))
}

/// Units of a decimal of some scale as units of [`EXACT`].
fn rescaled(name: &str, units: i128, scale: u8) -> Result<i128> {
    let places = i32::from(EXACT.1) - i32::from(scale);
    let power = 10i128.pow(places.unsigned_abs());
    let rescaled =
        if places >= 0 { units.checked_mul(power) } else { Some(units / power).filter(|_| units % power == 0) };
    let limit = 10i128.pow(u32::from(EXACT.0));
    rescaled.filter(|units| units.abs() < limit).ok_or_else(|| {
        let (precision, scale_held) = EXACT;
        refused(
            name,
            format!("{units} units of a decimal of scale {scale} do not fit DECIMAL({precision},{scale_held})"),
        )
    })
}

fn buckets(name: &str, histograms: &mut Reader<'_>) -> Result<ArrayRef> {
    let (mut lower, mut upper, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut ends = vec![0];
    let mut present = NullBufferBuilder::new(histograms.rows());
    for row in 0..histograms.rows() {
        let histogram = histograms.get(row)?;
        present.append(histogram.is_some());
        for bucket in histogram.into_iter().flat_map(Histogram::buckets) {
            lower.push(bucket.lower);
            upper.push(bucket.upper);
            counts.push(fitting(name, bucket.count)?);
        }
        let bytes = counts.len() * BUCKET_BYTES;
        if bytes as i128 > RESULT_LIMIT_BYTES {
            let message = format!("{name} would make more than {RESULT_LIMIT_BYTES} bytes at once; ask for fewer rows");
            return Err(QueryError::exhausted(message).into());
        }
        ends.push(ending(counts.len())?);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(lower)),
        Arc::new(Float64Array::from(upper)),
        Arc::new(Int64Array::from(counts)),
    ];
    let fields = bucket_fields();
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    list_array(DataType::Struct(fields), ends, Arc::new(items), present)
}
